//! Images made to hurt: each is refused with a reason, or handled without harm, quickly and in little memory.

mod support;

use bulkhead_disk::{ErrorKind, File, Layer, MemoryFile, Result, read_bytes, run_now, write_bytes};
use bulkhead_vhdx::check::{CheckOptions, Severity, check};
use bulkhead_vhdx::format::bytes::{crc_without, put};
use bulkhead_vhdx::info::info;
use bulkhead_vhdx::{CreateOptions, Kind, Vhdx};
use std::rc::Rc;
use support::*;

const METADATA: u64 = 2 * MIB;
const BAT: u64 = 3 * MIB;
/// Places of our own items behind the 64 KiB of the table.
const PARAMETERS: u64 = METADATA + 65536;
const SIZE: u64 = PARAMETERS + 8;
const LOGICAL: u64 = SIZE + 8 + 16;

fn image() -> MemoryFile {
    let file = Rc::new(new_image(&create_options(8 * MIB, Kind::Dynamic, MIB)));
    let disk = stack(&open(file.clone(), 1).image);
    for block in [0, 2, 5] {
        run_now(write_bytes(&disk, block * MIB, &[7; 512])).unwrap();
    }
    run_now(disk.close()).unwrap();
    (*file).clone()
}

fn refused(file: &MemoryFile, kind: ErrorKind, word: &str) {
    for read_only in [true, false] {
        let opened: Result<_> = run_now(Vhdx::open(Rc::new(file.clone()), options(read_only, 9)));
        let error = match opened {
            Err(error) => error,
            Ok(opened) => {
                // A read-only open looks at BAT entries when they are needed.
                let facts = opened.image.facts();
                run_now(read_bytes(&stack(&opened.image), 0, facts.size as usize)).map(drop).expect_err(word)
            }
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

fn patched(patches: &[(u64, &[u8])]) -> MemoryFile {
    let file = image();
    patches.iter().for_each(|(offset, bytes)| file.poke(*offset, bytes));
    file
}

/// Changes bytes inside of both copies of a checksummed structure.
fn resealed(copies: [u64; 2], size: usize, at: usize, bytes: &[u8]) -> MemoryFile {
    let file = image();
    for offset in copies {
        let mut data = vec![0; size];
        file.peek(offset, &mut data);
        put(&mut data, at, bytes);
        let crc = crc_without(&data, 4);
        put(&mut data, 4, &crc.to_le_bytes());
        file.poke(offset, &data);
    }
    file
}

fn header(at: usize, bytes: &[u8]) -> MemoryFile {
    resealed([65536, 131_072], 4096, at, bytes)
}

fn regions(at: usize, bytes: &[u8]) -> MemoryFile {
    resealed([196_608, 262_144], 65536, at, bytes)
}

/// Block and sector sizes that made others loop or divide by zero (CVE-2014-0148, CVE-2014-0142).
#[test]
fn sizes_that_break_arithmetic() {
    for block_size in [0u32, 1, 512, (1 << 20) + 1, 3 << 20, 1 << 29, u32::MAX] {
        refused(&patched(&[(PARAMETERS, &block_size.to_le_bytes())]), ErrorKind::Corrupt, "block size");
    }
    for sector in [0u32, 1, 511, 513, 8192, u32::MAX] {
        refused(&patched(&[(LOGICAL, &sector.to_le_bytes())]), ErrorKind::Corrupt, "sector size");
    }
    for size in [0, 1, 8 * MIB + 1, (64 << 40) + 512, u64::MAX - 511, u64::MAX] {
        refused(&patched(&[(SIZE, &size.to_le_bytes())]), ErrorKind::Corrupt, "disk size");
    }
}

/// A tiny file that claims a huge disk has no BAT for it (CVE-2015-5162).
#[test]
fn a_large_claim_without_a_bat() {
    refused(&patched(&[(SIZE, &(64u64 << 40).to_le_bytes())]), ErrorKind::Corrupt, "BAT region");
    let lies = 513u32 << 20;
    let file = regions(16 + 32 + 24, &lies.to_le_bytes());
    file.poke(SIZE, &(64u64 << 40).to_le_bytes());
    refused(&file, ErrorKind::Corrupt, "outside of the file");
}

#[test]
fn headers() {
    refused(&header(66, &[2, 0]), ErrorKind::Unsupported, "version 2");
    refused(&header(68, &[0; 4]), ErrorKind::Corrupt, "the log");
    refused(&header(72, &[0; 8]), ErrorKind::Corrupt, "the log");
    refused(&header(72, &u64::MAX.to_le_bytes()), ErrorKind::Corrupt, "the log");
    refused(&header(72, &(1u64 << 50).to_le_bytes()), ErrorKind::Corrupt, "outside of the file");
    refused(&header(72, &METADATA.to_le_bytes()), ErrorKind::Corrupt, "share the file space");
    // A log GUID without any entry, and with a version that we do not know.
    refused(&header(48, &[1; 16]), ErrorKind::Corrupt, "no complete sequence");
    let file = header(48, &[1; 18]);
    refused(&file, ErrorKind::Unsupported, "log version");
    // Equal sequence numbers, different content: nobody knows which counts.
    let file = header(8, &[9, 0, 0, 0, 0, 0, 0, 0]);
    let mut second = vec![0; 4096];
    file.peek(131_072, &mut second);
    put(&mut second, 16, &[3; 16]);
    let crc = crc_without(&second, 4);
    put(&mut second, 4, &crc.to_le_bytes());
    file.poke(131_072, &second);
    refused(&file, ErrorKind::Corrupt, "differ");
    refused(&MemoryFile::with_data("short", b"vhdxfile"), ErrorKind::Corrupt, "file identifier");
    refused(&MemoryFile::with_data("raw", &[0; 1 << 20]), ErrorKind::Corrupt, "not a VHDX file");
}

#[test]
fn region_tables() {
    refused(&regions(8, &u32::MAX.to_le_bytes()), ErrorKind::Corrupt, "entries");
    refused(&regions(16, &[5; 16]), ErrorKind::Unsupported, "required and unknown");
    refused(&regions(16 + 16, &BAT.to_le_bytes()), ErrorKind::Corrupt, "overlap");
    refused(&regions(16 + 16, &512u64.to_le_bytes()), ErrorKind::Corrupt, "MiB multiples");
    refused(&regions(16 + 16, &(u64::MAX << 20).to_le_bytes()), ErrorKind::Corrupt, "MiB multiples");
    refused(&regions(16 + 32 + 16, &MIB.to_le_bytes()), ErrorKind::Corrupt, "share the file space");
}

#[test]
fn metadata_tables() {
    refused(&patched(&[(METADATA, b"x")]), ErrorKind::Corrupt, "signature");
    refused(&patched(&[(METADATA + 10, &[0xFF, 0xFF])]), ErrorKind::Corrupt, "items");
    refused(&patched(&[(METADATA + 32, &[1; 16])]), ErrorKind::Unsupported, "required and unknown");
    refused(&patched(&[(METADATA + 32 + 16, &u32::MAX.to_le_bytes())]), ErrorKind::Corrupt, "bytes at");
    refused(&patched(&[(METADATA + 32 + 20, &u32::MAX.to_le_bytes())]), ErrorKind::Corrupt, "bytes at");
    refused(&patched(&[(METADATA + 64 + 16, &65536u32.to_le_bytes())]), ErrorKind::Corrupt, "overlap");
    // A parent flag without a locator.
    refused(&patched(&[(PARAMETERS + 4, &[2])]), ErrorKind::Corrupt, "missing");
}

/// BAT entries that point to the headers, to each other, behind the file, or mean nothing.
#[test]
fn block_tables() {
    let entry = |index: u64, raw: u64| patched(&[(BAT + index * 8, &raw.to_le_bytes())]);
    refused(&entry(1, 6), ErrorKind::Corrupt, "outside of the file");
    refused(&entry(1, MIB | 6), ErrorKind::Corrupt, "share the file space");
    refused(&entry(1, BAT | 6), ErrorKind::Corrupt, "share the file space");
    refused(&entry(1, (1 << 63) | 6), ErrorKind::Corrupt, "outside of the file");
    refused(&entry(1, u64::MAX), ErrorKind::Corrupt, "state 7");
    refused(&entry(1, (4 * MIB) | 4), ErrorKind::Corrupt, "state 4");
    refused(&entry(1, (4 * MIB) | (1 << 10) | 6), ErrorKind::Corrupt, "reserved");
    let first = {
        let mut raw = [0; 8];
        image().peek(BAT, &mut raw);
        u64::from_le_bytes(raw)
    };
    refused(&entry(1, first), ErrorKind::Corrupt, "share the file space");
}

/// Check names the damage, repairs what redundancy covers, and drops what cannot be saved only when told to.
#[test]
fn check_and_repair() {
    let check_with = |file: &Rc<MemoryFile>, repair, drop_damaged_blocks| {
        let options = CheckOptions { repair, drop_damaged_blocks, new_guid: guids(3) };
        run_now(check(Rc::clone(file) as Rc<dyn File>, options)).unwrap()
    };
    // One header and the other region table destroyed, one block shared, one in the void.
    let file =
        Rc::new(patched(&[(65536 + 100, &[1]), (262_144 + 50, &[1]), (BAT + 8, &((1u64 << 40) | 6).to_le_bytes())]));
    let mut first = [0; 8];
    file.peek(BAT, &mut first);
    file.poke(BAT + 24, &first);
    let report = check_with(&file, false, false);
    assert_eq!((report.findings.len(), report.damaged_entries, report.is_clean()), (4, 2, false), "{report:?}");
    let report = check_with(&file, true, false);
    assert!(!report.is_clean(), "data is not dropped without permission");
    let report = check_with(&file, false, false);
    assert!(
        report.findings.iter().all(|finding| finding.severity == Severity::Error),
        "copies are restored: {report:?}"
    );
    assert!(check_with(&file, true, true).is_clean());
    assert_eq!(check_with(&file, false, false).findings, []);
    let disk = stack(&open(file, 4).image);
    assert_eq!(run_now(read_bytes(&disk, 0, 512)).unwrap(), [7; 512]);
    assert_eq!(run_now(read_bytes(&disk, MIB, 512)).unwrap(), [0; 512]);
}

/// Old qemu versions end the file inside the last block: its missing part reads as zeros, and the first write pads it.
#[test]
fn a_short_last_block() {
    let file = Rc::new(image());
    let length = file.len() - MIB + 512;
    run_now(file.set_len(length)).unwrap();
    let disk = stack(&open_read_only(&file));
    assert_eq!(run_now(read_bytes(&disk, 5 * MIB, 1024)).unwrap(), [[7; 512], [0; 512]].concat());
    let disk = stack(&open(file.clone(), 2).image);
    run_now(write_bytes(&disk, 5 * MIB + 512, &[8; 512])).unwrap();
    run_now(disk.close()).unwrap();
    assert_eq!(file.len() % MIB, 0);
    let disk = stack(&open_read_only(&file));
    assert_eq!(run_now(read_bytes(&disk, 5 * MIB, 1536)).unwrap(), [[7; 512], [8; 512], [0; 512]].concat());
}

/// Nothing is read or kept in proportion to the disk: a 64 TiB image with the largest BAT (513 MiB).
#[test]
fn the_largest_disk_costs_nothing_to_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.vhdx");
    let largest = CreateOptions { size: 64 << 40, ..create_options(MIB, Kind::Dynamic, MIB) };
    let file = Rc::new(new_image(&largest));
    save(&file, &path);
    assert!(file.len() > 513 * MIB);
    let shown = run_now(info(file.clone())).unwrap();
    assert_eq!(shown.bat_entries, (64 << 20) + (64 << 20) / 4096 - 1);
    let disk = stack(&open(file, 3).image);
    run_now(write_bytes(&disk, (64 << 40) - 4096, &[1; 4096])).unwrap();
    assert_eq!(run_now(read_bytes(&disk, (64 << 40) - 4096, 4096)).unwrap(), [1; 4096]);
    run_now(disk.close()).unwrap();
    if has("qemu-img", "the_largest_disk") {
        assert!(run("qemu-img", &["info", "-f", "vhdx", path.to_str().unwrap()]).contains("64 TiB"));
    }
}

/// A log that would overwrite the headers, or grow the file to anything, is refused.
#[test]
fn logs_with_hostile_targets() {
    use bulkhead_vhdx::format::header::Header;
    use bulkhead_vhdx::format::log_entry::{EntryHeader, encode};
    use bulkhead_vhdx::format::log_replay::replay;
    let guid = guids(1)();
    let header = Header { log_guid: guid, log_length: MIB as u32, log_offset: MIB, version: 1, ..Header::EMPTY };
    let entry = |tail, sequence, last| EntryHeader {
        length: 0,
        tail,
        sequence,
        descriptors: 0,
        log_guid: guid,
        flushed_file_offset: 0,
        last_file_offset: last,
    };
    let sector = vec![1; 4096];
    let log_of = |bytes: Vec<u8>| {
        let mut log = vec![0; MIB as usize];
        log[..bytes.len()].copy_from_slice(&bytes);
        log
    };
    for target in [0, 65536, 131_072, MIB, MIB + 4096, u64::MAX - 4095] {
        let log = log_of(encode(entry(0, 1, 8 * MIB), &[(target, &sector)]));
        assert!(replay(&log, &header, 8 * MIB).is_err(), "target {target:#x}");
    }
    let log = log_of(encode(entry(0, 1, 1 << 60), &[]));
    assert!(replay(&log, &header, 8 * MIB).is_err());
    // A tail that lies in no entry.
    let log = log_of(encode(entry(8192, 1, 8 * MIB), &[(2 * MIB, &sector)]));
    assert!(replay(&log, &header, 8 * MIB).is_err());
    // Every sector claims to begin an entry over the whole log: bounded work, then refusal.
    let mut log = vec![0; 32 << 20];
    for start in (0..log.len()).step_by(4096) {
        let mut bytes = encode(entry(0, 1, 8 * MIB), &[]);
        put(&mut bytes, 8, &(32u32 << 20).to_le_bytes());
        log[start..start + 4096].copy_from_slice(&bytes);
    }
    let large = Header { log_length: 32 << 20, ..header };
    assert!(replay(&log, &large, 64 * MIB).is_err());
}
