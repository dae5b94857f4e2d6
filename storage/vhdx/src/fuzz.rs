//! Fuzz targets: every parser of untrusted bytes, and a whole image.

use crate::check::{CheckOptions, check};
use crate::format::bytes::{crc_without, put};
use crate::format::file_identifier::FileIdentifier;
use crate::format::header::Header;
use crate::format::log_replay::replay;
use crate::format::metadata::MetadataTable;
use crate::format::parent_locator::ParentLocator;
use crate::format::region_table::RegionTable;
use crate::format::{HEADER_OFFSETS, MIB, REGION_TABLE_OFFSETS};
use crate::image::{OpenOptions, Vhdx};
use bulkhead_disk::{File, Layer, MemoryFile, Node, Request, Stack, read_bytes, run_now, write_bytes};
use std::rc::Rc;
use uuid::Uuid;

/// The parsers, each on its own; the checksums of `data` are made right where there is one, so that fields are reached.
pub fn fuzz(data: &[u8]) {
    let _ = FileIdentifier::parse(data);
    let _ = ParentLocator::parse(data).map(|locator| ParentLocator::parse(&locator.to_bytes()));
    let padded = |size: usize| {
        let mut bytes = data[..data.len().min(size)].to_vec();
        bytes.resize(size, 0);
        bytes
    };
    let mut header = padded(4096);
    put(&mut header, 0, b"head");
    fix_crc(&mut header);
    let header = Header::parse(&header).and_then(|header| header.validate().map(|()| header));
    let mut regions = padded(64 << 10);
    put(&mut regions, 0, b"regi");
    fix_crc(&mut regions);
    let _ = RegionTable::parse(&regions);
    let mut table = padded(64 << 10);
    put(&mut table, 0, b"metadata");
    let _ = MetadataTable::parse(&table, MIB);
    fuzz_log(data, header.ok());
}

/// `data` as the sectors of a log whose entries have right signatures, GUIDs and checksums.
fn fuzz_log(data: &[u8], header: Option<Header>) {
    let guid = Uuid::from_u128(1);
    let base = Header { log_length: MIB as u32, log_offset: MIB, log_guid: guid, version: 1, ..Header::EMPTY };
    let header = header.map_or(base.clone(), |header| Header { log_guid: guid, ..header });
    let mut log = data.to_vec();
    log.truncate(256 << 10);
    log.resize(log.len().next_multiple_of(4096).max(4096), 0);
    let starts: Vec<usize> = (0..log.len()).step_by(4096).collect();
    for start in starts {
        let length = u32::from_le_bytes([log[start + 8], log[start + 9], log[start + 10], log[start + 11]]) as usize;
        if log[start].is_multiple_of(4) && length >= 4096 && start + length <= log.len() {
            put(&mut log, start, b"loge");
            put(&mut log, start + 32, &guid.to_bytes_le());
            fix_crc(&mut log[start..start + length]);
        }
    }
    if let Ok(replay) = replay(&log, &header, u64::MAX) {
        replay.patch(0, &mut [0; 8192]);
    }
}

fn fix_crc(bytes: &mut [u8]) {
    let crc = crc_without(bytes, 4);
    put(bytes, 4, &crc.to_le_bytes());
}

/// `data` as an image: the checksums of headers and region tables are made right, then it is opened, read, written, checked
/// and repaired.
pub fn fuzz_image(data: &[u8]) {
    let file = Rc::new(MemoryFile::with_data("fuzz", data));
    for (offset, size) in
        HEADER_OFFSETS.map(|at| (at, 4096)).into_iter().chain(REGION_TABLE_OFFSETS.map(|at| (at, 65536)))
    {
        if file.len() >= offset + size {
            let mut bytes = vec![0; size as usize];
            file.peek(offset, &mut bytes);
            fix_crc(&mut bytes);
            file.poke(offset, &bytes);
        }
    }
    run_now(async {
        let options = |read_only| OpenOptions { read_only, new_guid: Rc::new(|| Uuid::from_u128(2)) };
        for read_only in [true, false] {
            let copy: Rc<dyn File> = Rc::new((*file).clone());
            let Ok(opened) = Vhdx::open(copy, options(read_only)).await else { continue };
            let size = opened.image.facts().size;
            let sector = u64::from(opened.image.facts().logical_sector);
            let stack = Stack::new(vec![Rc::new(opened.image)]);
            for offset in [0, size / 2 / sector * sector, size - sector] {
                let _ = read_bytes(&stack, offset, sector as usize).await;
                let _ = write_bytes(&stack, offset, &vec![7; sector as usize]).await;
            }
            let _ = stack.run(Request::Discard { range: 0..size.min(64 * MIB) }).await.result;
            let _ = stack.close().await;
        }
        let repair = CheckOptions { repair: true, drop_damaged_blocks: true, new_guid: Rc::new(|| Uuid::from_u128(3)) };
        let _ = check(file, repair).await;
    });
}
