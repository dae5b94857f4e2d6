//! The GUID partition table (UEFI specification, chapter 5).

use crate::{Area, Partition, Scheme, Table, alignment, types};
use bulkhead_disk::{Node, Result, read_bytes};
use uuid::Uuid;

/// Bytes of entries that are read at most: 16 times what everybody makes.
const MOST_BYTES: u64 = 256 << 10;
/// Bit of the attributes: a BIOS may boot from it.
const LEGACY_BOOT: u64 = 1 << 2;

struct Header {
    entries_at: u64,
    count: u64,
    entry_size: u64,
    entries_crc: u32,
}

/// Fills the table from the first header, or from the backup at the end of the disk if that is damaged.
pub async fn read(disk: &dyn Node, area: Area, table: &mut Table) -> Result<()> {
    table.scheme = Scheme::Gpt;
    let sectors = area.size / area.sector;
    for (name, at) in [("first", 1), ("backup", sectors.saturating_sub(1))] {
        match read_from(disk, area, at).await? {
            Ok(entries) => {
                add_all(area, &entries.0, entries.1, table);
                return Ok(());
            }
            Err(problem) => table.problems.push(format!("the {name} header of the GUID table: {problem}")),
        }
    }
    Ok(())
}

type Entries = (Vec<u8>, usize);

/// The entries named by the header in sector `at`, or what is wrong.
async fn read_from(disk: &dyn Node, area: Area, at: u64) -> Result<Result<Entries, String>> {
    let Some((offset, _)) = area.bytes(at, 1) else { return Ok(Err("it lies outside the disk".into())) };
    let sector = read_bytes(disk, offset, area.sector as usize).await?;
    let header = match parse_header(&sector, at) {
        Ok(header) => header,
        Err(problem) => return Ok(Err(problem)),
    };
    let len = header.count * header.entry_size;
    let Some((start, whole)) = area.bytes(header.entries_at, len.div_ceil(area.sector)) else {
        return Ok(Err("its entries lie outside the disk".into()));
    };
    let mut bytes = read_bytes(disk, start, whole as usize).await?;
    bytes.truncate(len as usize);
    if crc(&bytes) != header.entries_crc {
        return Ok(Err("its entries do not match their checksum".into()));
    }
    Ok(Ok((bytes, header.entry_size as usize)))
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn parse_header(sector: &[u8], at: u64) -> Result<Header, String> {
    let word = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().unwrap_or_default());
    let long = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().unwrap_or_default());
    if sector.len() < 512 || &sector[..8] != b"EFI PART" {
        return Err("there is none".into());
    }
    let len = word(12) as usize;
    if !(92..=sector.len()).contains(&len) {
        return Err(format!("its length is {len}"));
    }
    let mut covered = sector[..len].to_vec();
    covered[16..20].fill(0);
    if crc(&covered) != word(16) {
        return Err("it does not match its checksum".into());
    }
    if long(24) != at {
        return Err(format!("it says that it is in sector {}", long(24)));
    }
    let (count, entry_size) = (u64::from(word(80)), u64::from(word(84)));
    if entry_size < 128 || !entry_size.is_power_of_two() || count * entry_size > MOST_BYTES {
        return Err(format!("it has {count} entries of {entry_size} bytes"));
    }
    Ok(Header { entries_at: long(72), count, entry_size, entries_crc: word(88) })
}

fn add_all(area: Area, entries: &[u8], entry_size: usize, table: &mut Table) {
    for (raw, number) in entries.chunks_exact(entry_size).zip(1..) {
        let kind = guid(&raw[..16]);
        if kind.is_nil() {
            continue;
        }
        let long = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().unwrap_or_default());
        let (first, last) = (long(32), long(40));
        let len = last.checked_sub(first).and_then(|len| len.checked_add(1));
        let Some((start, size)) = len.and_then(|len| area.bytes(first, len)) else {
            table.problems.push(format!("partition {number} (sectors {first} to {last}) does not fit on the disk"));
            continue;
        };
        table.partitions.push(Partition {
            number,
            start,
            size,
            kind: types::of_gpt(kind).into(),
            type_id: kind.to_string(),
            id: Some(guid(&raw[16..32]).to_string()),
            name: name(&raw[56..128]),
            bootable: long(48) & LEGACY_BOOT != 0,
            aligned_to: alignment(start),
        });
    }
}

fn guid(bytes: &[u8]) -> Uuid {
    Uuid::from_bytes_le(bytes.try_into().unwrap_or_default())
}

/// UTF-16 up to the first zero; what a terminal would act on is replaced.
fn name(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let decoded = char::decode_utf16(units.take_while(|unit| *unit != 0));
    decoded.map(|letter| letter.ok().filter(|letter| !letter.is_control()).unwrap_or('\u{FFFD}')).collect()
}
