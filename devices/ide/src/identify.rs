//! The 512 bytes of IDENTIFY DEVICE and IDENTIFY PACKET DEVICE (ATA8-ACS, 7.16; ATA/ATAPI-7, 6.18).

use crate::drive::{AtaDisk, Drive, DriveKind};
use crate::geometry::shown_geometry;
use bulkhead_disk::{DiskFacts, SECTOR};

/// Largest block of READ and WRITE MULTIPLE, in sectors.
pub(crate) const MAX_MULTIPLE: u8 = 16;
/// Largest list of DATA SET MANAGEMENT, in blocks of 64 ranges.
pub(crate) const MAX_TRIM_BLOCKS: u32 = 8;
const MAX_LBA28: u64 = 0x0fff_ffff;

struct Words([u16; 256]);

impl Words {
    fn set(&mut self, first: usize, values: &[u16]) {
        self.0[first..first + values.len()].copy_from_slice(values);
    }

    /// ASCII, two characters to a word, the first in the upper half.
    fn text(&mut self, first: usize, len: usize, text: &str) {
        let mut bytes: Vec<u8> = text.bytes().take(2 * len).collect();
        bytes.resize(2 * len, b' ');
        for (word, pair) in self.0[first..first + len].iter_mut().zip(bytes.chunks_exact(2)) {
            *word = u16::from_be_bytes([pair[0], pair[1]]);
        }
    }

    fn u32(&mut self, first: usize, value: u32) {
        self.set(first, &[value as u16, (value >> 16) as u16]);
    }

    /// The bytes, with the checksum that makes their sum zero.
    fn finish(mut self) -> Vec<u8> {
        self.0[255] = 0x00a5;
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes[511] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
        bytes
    }
}

/// `second`: the drive is device 1.
pub(crate) fn identify(drive: &Drive, second: bool) -> Vec<u8> {
    let mut words = Words([0; 256]);
    match &drive.kind {
        DriveKind::Ata(ata) => {
            words.text(27, 20, "Virtual HD");
            disk(&mut words, ata, &ata.disk.facts());
        }
        DriveKind::Atapi(_) => {
            words.text(27, 20, "Msft Virtual CD/ROM");
            dvd(&mut words);
        }
    }
    words.text(10, 10, &drive.serial);
    words.text(23, 4, "1.0");
    // DMA, LBA, IORDY, standby timer as the standard says.
    words.set(49, &[0x0f00, 0x4000, 0x0200, 0x0200]);
    // Words 54 to 58, 64 to 70 and 88 are valid.
    words.0[53] = 7;
    let chosen = |base: u8| match drive.transfer_mode.checked_sub(base) {
        Some(mode @ 0..8) => 0x100 << mode,
        _ => 0,
    };
    words.0[63] = 7 | chosen(0x20);
    words.set(64, &[3, 120, 120, 120, 120]);
    words.0[88] = 0x3f | chosen(0x40);
    // Hardware reset passed, 80-wire cable.
    words.0[93] = if second { 0x6100 } else { 0x6001 };
    words.finish()
}

fn disk(words: &mut Words, ata: &AtaDisk, facts: &DiskFacts) {
    let sectors = facts.size / SECTOR;
    let shown = shown_geometry(facts);
    words.0[0] = 0x0040;
    words.0[1] = shown.cylinders;
    words.0[3] = shown.heads.into();
    words.0[6] = shown.sectors.into();
    words.0[47] = 0x8000 | u16::from(MAX_MULTIPLE);
    // No trusted computing, which drivers would ask logs about.
    words.0[48] = 0x4000;
    let per_cylinder = u64::from(ata.heads) * u64::from(ata.sectors);
    let cylinders = (sectors / per_cylinder.max(1)).min(16383).min(u64::from(shown.cylinders));
    words.set(54, &[cylinders as u16, ata.heads.into(), ata.sectors.into()]);
    words.u32(57, (cylinders * per_cylinder) as u32);
    words.0[59] = if ata.multiple > 0 { 0x0100 | u16::from(ata.multiple) } else { 0 };
    words.u32(60, sectors.min(MAX_LBA28) as u32);
    // ATA-4 to ATA8-ACS.
    words.0[80] = 0x01f0;
    // NOP, write cache, power management, SMART; FLUSH (EXT), 48-bit; WRITE FUA. Then what of it is on.
    words.set(82, &[0x4029, 0x7400, 0x4040, 0x4008, 0x3400, 0x4040]);
    words.0[85] |= u16::from(ata.smart) | u16::from(ata.write_cache) << 5;
    words.u32(100, sectors as u32);
    words.u32(102, (sectors >> 32) as u32);
    let physical = (facts.physical_sector / SECTOR as u32).max(1).ilog2().min(15) as u16;
    if physical > 0 {
        words.0[106] = 0x6000 | physical;
    }
    // Not rotating.
    words.0[217] = 1;
    if facts.discard_granularity > 0 && !facts.read_only {
        words.0[105] = MAX_TRIM_BLOCKS as u16;
        words.0[169] = 1;
    }
    if !facts.identity.is_nil() {
        // World wide name: NAA 5 with Microsoft's OUI, as on Hyper-V, and 36 bits of the identity.
        let id = u64::from_be_bytes(facts.identity.as_bytes()[8..].try_into().unwrap_or_default());
        let name = 0x5002_2480_0000_0000 | id & 0xf_ffff_ffff;
        words.set(108, &[(name >> 48) as u16, (name >> 32) as u16, (name >> 16) as u16, name as u16]);
        words.0[84] |= 0x0100;
        words.0[87] |= 0x0100;
    }
}

fn dvd(words: &mut Words) {
    // ATAPI, CD-ROM, removable, DRQ within 50 µs, packets of 12 bytes.
    words.0[0] = 0x85c0;
    words.0[80] = 0x01f0;
    // NOP, DEVICE RESET, PACKET, power management.
    words.set(82, &[0x4218, 0x4000, 0x4000, 0x4218, 0, 0x4000]);
}
