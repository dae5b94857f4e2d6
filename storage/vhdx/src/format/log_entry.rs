//! One entry of the metadata log: header, descriptors and 4 KiB data sectors (MS-VHDX 2.3).

use super::bytes::{crc_without, guid_at, put, put_guid, u32_at, u64_at};
use super::{MIB, SECTOR};
use uuid::Uuid;

const HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
/// Descriptors that fit beside the header in the first sector, and into every further one.
const FIRST_DESCRIPTORS: usize = (SECTOR as usize - HEADER) / DESCRIPTOR;
const MORE_DESCRIPTORS: usize = SECTOR as usize / DESCRIPTOR;

/// Header of a log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// Bytes of the whole entry, a multiple of 4 KiB.
    pub length: u32,
    /// Log offset of the oldest entry that is still needed.
    pub tail: u32,
    /// Grows by one from entry to entry; never 0.
    pub sequence: u64,
    /// Number of descriptors.
    pub descriptors: u32,
    /// Must equal the header's log GUID.
    pub log_guid: Uuid,
    /// The file had at least this size, durably, when the entry was written.
    pub flushed_file_offset: u64,
    /// The size that the file must have after replay.
    pub last_file_offset: u64,
}

/// A change that an entry makes to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// 4 KiB at `offset`: first 8 bytes, middle 4084, last 4.
    Data {
        /// Place in the file.
        offset: u64,
        /// Bytes 0..8.
        leading: &'a [u8],
        /// Bytes 8..4092.
        middle: &'a [u8],
        /// Bytes 4092..4096.
        trailing: &'a [u8],
    },
    /// Zeros.
    Zero {
        /// Place in the file.
        offset: u64,
        /// Multiple of 4 KiB.
        length: u64,
    },
}

/// Sectors that an entry of `data` data descriptors needs.
pub fn sectors_for(data: usize) -> usize {
    descriptor_sectors(data) + data
}

fn descriptor_sectors(descriptors: usize) -> usize {
    1 + descriptors.saturating_sub(FIRST_DESCRIPTORS).div_ceil(MORE_DESCRIPTORS)
}

/// Byte position of descriptor `index` in the entry: they follow the header without gaps.
fn descriptor_at(index: usize) -> usize {
    HEADER + index * DESCRIPTOR
}

/// Serialises an entry that overwrites each `(file offset, 4 KiB)` of `sectors`. `header.length` and
/// `header.descriptors` are filled in from `sectors`.
pub fn encode(header: EntryHeader, sectors: &[(u64, &[u8])]) -> Vec<u8> {
    let first_data = descriptor_sectors(sectors.len()) * SECTOR as usize;
    let mut bytes = vec![0; sectors_for(sectors.len()) * SECTOR as usize];
    let length = bytes.len() as u32;
    put(&mut bytes, 0, b"loge");
    put(&mut bytes, 8, &length.to_le_bytes());
    put(&mut bytes, 12, &header.tail.to_le_bytes());
    put(&mut bytes, 16, &header.sequence.to_le_bytes());
    put(&mut bytes, 24, &(sectors.len() as u32).to_le_bytes());
    put_guid(&mut bytes, 32, header.log_guid);
    put(&mut bytes, 48, &header.flushed_file_offset.to_le_bytes());
    put(&mut bytes, 56, &header.last_file_offset.to_le_bytes());
    for (index, (offset, content)) in sectors.iter().enumerate() {
        let at = descriptor_at(index);
        put(&mut bytes, at, b"desc");
        put(&mut bytes, at + 4, &content[4092..4096]);
        put(&mut bytes, at + 8, &content[..8]);
        put(&mut bytes, at + 16, &offset.to_le_bytes());
        put(&mut bytes, at + 24, &header.sequence.to_le_bytes());
        let at = first_data + index * SECTOR as usize;
        put(&mut bytes, at, b"data");
        put(&mut bytes, at + 4, &((header.sequence >> 32) as u32).to_le_bytes());
        put(&mut bytes, at + 8, &content[8..4092]);
        put(&mut bytes, at + 4092, &(header.sequence as u32).to_le_bytes());
    }
    let crc = crc_without(&bytes, 4);
    put(&mut bytes, 4, &crc.to_le_bytes());
    bytes
}

/// Reads the header fields of the sector that may begin an entry, when signature, GUID and ranges fit a log of
/// `log_length` bytes. The checksum is not looked at.
pub fn parse_header(sector: &[u8], log_guid: Uuid, log_length: u64) -> Option<EntryHeader> {
    if sector.len() < HEADER || &sector[..4] != b"loge" {
        return None;
    }
    let header = EntryHeader {
        length: u32_at(sector, 8),
        tail: u32_at(sector, 12),
        sequence: u64_at(sector, 16),
        descriptors: u32_at(sector, 24),
        log_guid: guid_at(sector, 32),
        flushed_file_offset: u64_at(sector, 48),
        last_file_offset: u64_at(sector, 56),
    };
    let length = u64::from(header.length);
    let aligned = length % SECTOR == 0 && u64::from(header.tail) % SECTOR == 0;
    let offsets = header.flushed_file_offset.is_multiple_of(MIB) && header.last_file_offset.is_multiple_of(MIB);
    let fits = length >= SECTOR && length <= log_length && u64::from(header.tail) < log_length;
    let descriptors = descriptor_sectors(header.descriptors as usize) as u64 * SECTOR <= length;
    let valid = aligned && offsets && fits && descriptors && header.sequence > 0 && header.log_guid == log_guid;
    valid.then_some(header)
}

/// The changes of an entry. Nothing when checksum, a signature, a sequence number or a range is wrong.
pub fn parse<'a>(entry: &'a [u8], header: &EntryHeader) -> Option<Vec<Change<'a>>> {
    let count = header.descriptors as usize;
    let mut data_at = descriptor_sectors(count) * SECTOR as usize;
    if entry.len() != header.length as usize || data_at > entry.len() || u32_at(entry, 4) != crc_without(entry, 4) {
        return None;
    }
    let mut changes = Vec::with_capacity(count);
    for index in 0..count {
        let descriptor = &entry[descriptor_at(index)..descriptor_at(index + 1)];
        let offset = u64_at(descriptor, 16);
        if u64_at(descriptor, 24) != header.sequence || !offset.is_multiple_of(SECTOR) {
            return None;
        }
        match &descriptor[..4] {
            b"desc" => {
                let sector = entry.get(data_at..data_at + SECTOR as usize)?;
                data_at += SECTOR as usize;
                changes.push(data_change(descriptor, sector, offset, header.sequence)?);
            }
            b"zero" => {
                let length = u64_at(descriptor, 8);
                offset.checked_add(length).filter(|_| length.is_multiple_of(SECTOR))?;
                changes.push(Change::Zero { offset, length });
            }
            _ => return None,
        }
    }
    Some(changes)
}

fn data_change<'a>(descriptor: &'a [u8], sector: &'a [u8], offset: u64, sequence: u64) -> Option<Change<'a>> {
    let stamp = (u64::from(u32_at(sector, 4)) << 32) | u64::from(u32_at(sector, 4092));
    if &sector[..4] != b"data" || stamp != sequence || offset.checked_add(SECTOR).is_none() {
        return None;
    }
    let (leading, trailing) = (&descriptor[8..16], &descriptor[4..8]);
    Some(Change::Data { offset, leading, middle: &sector[8..4092], trailing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_many_sizes_survive_the_round_trip() {
        for count in [0, 1, 126, 127, 254, 255, 300] {
            let contents: Vec<Vec<u8>> = (0..count).map(|n| vec![n as u8 ^ 0x5A; 4096]).collect();
            let sectors: Vec<(u64, &[u8])> =
                contents.iter().enumerate().map(|(n, content)| (n as u64 * SECTOR + MIB, &content[..])).collect();
            let guid = Uuid::from_u128(7);
            let header = EntryHeader {
                length: 0,
                tail: 4096,
                sequence: (3 << 32) + 9,
                descriptors: 0,
                log_guid: guid,
                flushed_file_offset: MIB,
                last_file_offset: 2 * MIB,
            };
            let bytes = encode(header, &sectors);
            let parsed = parse_header(&bytes, guid, 64 * MIB).unwrap();
            assert_eq!((parsed.sequence, parsed.descriptors as usize), (header.sequence, count));
            for (change, (offset, content)) in parse(&bytes, &parsed).unwrap().into_iter().zip(&sectors) {
                let Change::Data { offset: at, leading, middle, trailing } = change else { panic!("data expected") };
                assert_eq!((at, [leading, middle, trailing].concat()), (*offset, content.to_vec()));
            }
        }
    }
}
