//! MODE SENSE: pages of disks and DVD drives (SPC-4, 6.11; SBC-3, 6.5; MMC-6, 7). Nothing can be changed.

use crate::cdb::Cdb;
use crate::unit::{Step, UnitKind};
use crate::{LogicalUnit, Sense};
use bulkhead_disk::DiskFacts;

const ALL_PAGES: u8 = 0x3f;

pub(crate) fn mode_sense(cdb: &Cdb, unit: &LogicalUnit, medium: Option<&DiskFacts>) -> Step {
    let long = cdb.opcode() == 0x5a;
    let allocation = if long { usize::from(cdb.u16(7)) } else { usize::from(cdb.u8(4)) };
    let (control, page, sub_page) = (cdb.u8(2) >> 6, cdb.u8(2) & 0x3f, cdb.u8(3));
    if control == 3 {
        return Step::Check(Sense::NO_SAVED_PAGES);
    }
    let all = match unit.kind() {
        UnitKind::Disk => disk_pages(),
        UnitKind::Optical => optical_pages(unit),
    };
    let known = sub_page == 0 || sub_page == 0xff && page == ALL_PAGES;
    let mut pages: Vec<Vec<u8>> = all.into_iter().filter(|data| page == ALL_PAGES || data[0] == page).collect();
    if pages.is_empty() || !known {
        return Step::Check(Sense::INVALID_FIELD);
    }
    if control == 1 {
        // The mask of what can be changed: nothing.
        pages.iter_mut().for_each(|data| data[2..].fill(0));
    }
    let (medium_type, specific) = match (unit.kind(), medium) {
        (UnitKind::Disk, Some(facts)) => (0, 0x10 | u8::from(facts.read_only) << 7),
        (UnitKind::Disk, None) => (0, 0x10),
        // 120 mm data disc in a closed tray; 70h: no disc; 71h: open.
        (UnitKind::Optical, Some(_)) => (0x01, 0),
        (UnitKind::Optical, None) => (if unit.tray_open() { 0x71 } else { 0x70 }, 0),
    };
    let descriptor = block_descriptor(cdb, unit.kind(), medium, long);
    let pages = pages.concat();
    let mut data = Vec::with_capacity(8 + descriptor.len() + pages.len());
    if long {
        let len = 6 + descriptor.len() + pages.len();
        data.extend((len as u16).to_be_bytes());
        data.extend([medium_type, specific, u8::from(descriptor.len() == 16), 0]);
        data.extend((descriptor.len() as u16).to_be_bytes());
    } else {
        let len = 3 + descriptor.len() + pages.len();
        data.extend([len as u8, medium_type, specific, descriptor.len() as u8]);
    }
    data.extend(descriptor);
    data.extend(pages);
    Step::data(data, allocation)
}

/// Count and size of blocks; drives for discs have none, and guests can do without (DBD).
fn block_descriptor(cdb: &Cdb, kind: UnitKind, medium: Option<&DiskFacts>, long: bool) -> Vec<u8> {
    let Some(facts) = medium.filter(|_| kind == UnitKind::Disk && !cdb.bit(1, 3)) else { return Vec::new() };
    let block = kind.block(facts);
    let count = facts.size / block;
    let mut descriptor = Vec::new();
    if long && cdb.bit(1, 4) {
        descriptor.extend(count.to_be_bytes());
        descriptor.extend([0; 4]);
        descriptor.extend((block as u32).to_be_bytes());
    } else {
        descriptor.extend(u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
        descriptor.extend((block as u32).to_be_bytes());
    }
    descriptor
}

fn page(code: u8, len: usize, set: &[(usize, u8)]) -> Vec<u8> {
    let mut data = vec![0; 2 + len];
    (data[0], data[1]) = (code, len as u8);
    for (at, value) in set {
        data[*at] = *value;
    }
    data
}

/// Error recovery, caching (the host's page cache or image cache: write-back), control, informational exceptions.
fn disk_pages() -> Vec<Vec<u8>> {
    vec![page(0x01, 10, &[(2, 0xc0)]), page(0x08, 18, &[(2, 0x04)]), page(0x0a, 10, &[(3, 0x10)]), page(0x1c, 10, &[])]
}

/// Error recovery, power condition, informational exceptions, capabilities (MMC-3, 5.5.10).
fn optical_pages(unit: &LogicalUnit) -> Vec<Vec<u8>> {
    // Reads CD-R, CD-RW, DVD-ROM; multi-session; tray, locks, ejects; 706 kB/s buffer figures as of a 4x drive.
    let locked = u8::from(unit.locked());
    let capabilities =
        [(2, 0x0b), (4, 0x70), (6, 0x29 | locked << 1), (8, 0x02), (9, 0xc2), (11, 2), (12, 2), (14, 0x02), (15, 0xc2)];
    vec![page(0x01, 6, &[(3, 5)]), page(0x1a, 10, &[]), page(0x1c, 10, &[]), page(0x2a, 20, &capabilities)]
}
