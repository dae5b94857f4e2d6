//! INQUIRY: who the unit is, and its vital product data (SPC-4, 6.6 and 7.8; SBC-3, 6.6).

use crate::cdb::Cdb;
use crate::unit::{Step, UnitKind};
use crate::{CD_BLOCK, Sense};
use bulkhead_disk::DiskFacts;
use uuid::Uuid;

/// Names of a unit. Longer texts than the fields are cut; other bytes than printable ASCII become `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Eight characters: `Msft`.
    pub vendor: String,
    /// Sixteen characters: `Virtual Disk`.
    pub product: String,
    /// Four characters: `1.0`.
    pub revision: String,
    /// Up to 32 characters; empty for none.
    pub serial: String,
    /// What the disk's stable names are made of; nil for none.
    pub id: Uuid,
}

impl Identity {
    /// A disk: serial and stable names come from the disk's own identity, so they go with the image.
    pub fn disk(facts: &DiskFacts) -> Identity {
        let serial = if facts.identity.is_nil() { String::new() } else { facts.identity.simple().to_string() };
        Identity {
            vendor: "Msft".into(),
            product: "Virtual Disk".into(),
            revision: "1.0".into(),
            serial,
            id: facts.identity,
        }
    }

    /// A DVD drive.
    pub fn dvd() -> Identity {
        Identity {
            vendor: "Msft".into(),
            product: "Virtual CD/ROM".into(),
            revision: "1.0".into(),
            serial: String::new(),
            id: Uuid::nil(),
        }
    }
}

/// `text` in a field of `N` bytes, filled with spaces.
pub(crate) fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (byte, char) in field.iter_mut().zip(text.bytes()) {
        *byte = if (0x20..0x7f).contains(&char) { char } else { b'?' };
    }
    field
}

pub(crate) fn inquiry(cdb: &Cdb, kind: UnitKind, identity: &Identity, medium: Option<&DiskFacts>) -> Step {
    let allocation = usize::from(cdb.u16(3));
    let page = cdb.u8(2);
    if !cdb.bit(1, 0) {
        if page != 0 {
            return Step::Check(Sense::INVALID_FIELD);
        }
        return Step::data(standard(kind, identity), allocation);
    }
    let body = match page {
        0x00 => supported_pages(kind, identity),
        0x80 if !identity.serial.is_empty() => identity.serial.bytes().take(32).collect(),
        0x83 => device_identification(identity),
        0xb0 if kind == UnitKind::Disk => block_limits(medium),
        // Medium rotation rate 1: not rotating. Then guests do not reorder for heads that do not exist.
        0xb1 if kind == UnitKind::Disk => {
            let mut body = vec![0; 60];
            body[1] = 1;
            body
        }
        0xb2 if kind == UnitKind::Disk => {
            let discards = medium.is_some_and(|facts| facts.discard_granularity > 0 && !facts.read_only);
            // UNMAP, WRITE SAME (16) and (10) with UNMAP; thin provisioning.
            vec![0, if discards { 0xe0 } else { 0 }, if discards { 2 } else { 0 }, 0]
        }
        _ => return Step::Check(Sense::INVALID_FIELD),
    };
    let mut data = vec![kind.device_type(), page];
    data.extend((body.len() as u16).to_be_bytes());
    data.extend(body);
    Step::data(data, allocation)
}

fn standard(kind: UnitKind, identity: &Identity) -> Vec<u8> {
    let removable = if kind == UnitKind::Optical { 0x80 } else { 0 };
    // SPC-4 disks; drives on ATAPI say version 0 (SFF-8020).
    let version = if kind == UnitKind::Optical { 0 } else { 6 };
    let mut data = vec![kind.device_type(), removable, version, 2, 91 - 5 + 1, 0, 0, 2];
    if kind == UnitKind::Optical {
        (data[3], data[4], data[7]) = (0x21, 31, 0);
    }
    data.extend(field::<8>(&identity.vendor));
    data.extend(field::<16>(&identity.product));
    data.extend(field::<4>(&identity.revision));
    if kind == UnitKind::Disk {
        data.resize(58, 0);
        // SAM-5, SPC-4, SBC-3, without versions.
        data.extend([0x00, 0xa0, 0x04, 0x60, 0x04, 0xc0]);
        data.resize(92, 0);
    }
    data
}

fn supported_pages(kind: UnitKind, identity: &Identity) -> Vec<u8> {
    let mut pages = vec![0x00];
    if !identity.serial.is_empty() {
        pages.push(0x80);
    }
    pages.push(0x83);
    if kind == UnitKind::Disk {
        pages.extend([0xb0, 0xb1, 0xb2]);
    }
    pages
}

/// A T10 name and an NAA name (registered extended, the vendor's number and 12 bytes of the id): those that guests turn
/// into `/dev/disk/by-id`.
fn device_identification(identity: &Identity) -> Vec<u8> {
    let mut body = Vec::new();
    let mut name = field::<8>(&identity.vendor).to_vec();
    if identity.id.is_nil() {
        name.extend(field::<16>(&identity.product));
        name.extend(identity.serial.bytes().take(32));
    } else {
        name.extend(identity.id.as_bytes());
    }
    let code_set = if identity.id.is_nil() { 2 } else { 1 };
    body.extend([code_set, 0x01, 0, name.len() as u8]);
    body.extend(name);
    if !identity.id.is_nil() {
        body.extend([0x01, 0x03, 0, 16, 0x60, 0x02, 0x24, 0x80]);
        body.extend(&identity.id.as_bytes()[..12]);
    }
    body
}

fn block_limits(medium: Option<&DiskFacts>) -> Vec<u8> {
    let mut body = vec![0; 60];
    let Some(facts) = medium else { return body };
    // WRITE SAME of zero blocks ("to the end") is refused.
    body[0] = 1;
    let discards = facts.discard_granularity > 0 && !facts.read_only;
    if discards {
        let granularity = (facts.discard_granularity / facts.logical_sector.max(1)).max(1);
        body[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        body[20..24].copy_from_slice(&(crate::block::MAX_UNMAP_RANGES as u32).to_be_bytes());
        body[24..28].copy_from_slice(&granularity.to_be_bytes());
        // Alignment valid, and 0.
        body[28..32].copy_from_slice(&0x8000_0000u32.to_be_bytes());
    }
    let same = crate::block::MAX_WRITE_SAME / u64::from(facts.logical_sector.max(1));
    body[32..40].copy_from_slice(&same.to_be_bytes());
    body
}

impl UnitKind {
    /// Peripheral device type.
    pub(crate) fn device_type(self) -> u8 {
        match self {
            UnitKind::Disk => 0,
            UnitKind::Optical => 5,
        }
    }

    /// Bytes of a block of this medium.
    pub(crate) fn block(self, facts: &DiskFacts) -> u64 {
        match self {
            UnitKind::Disk => u64::from(facts.logical_sector.max(1)),
            UnitKind::Optical => CD_BLOCK,
        }
    }
}
