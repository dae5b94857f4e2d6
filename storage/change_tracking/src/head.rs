//! The file's head: names of bitmaps, and the regions that count as changed after a crash; pure.

use std::ops::Range;

use uuid::Uuid;

use crate::granules::GRANULE;

/// Bytes of a head.
pub const HEAD: u64 = 4096;
/// Bitmaps in one file.
pub const MAX_BITMAPS: usize = 8;
/// Bytes of a bitmap's name.
pub const MAX_NAME: usize = 64;

const MAGIC: &[u8; 8] = b"BLKHDCBT";
const VERSION: u32 = 1;
const SLOTS_AT: usize = 128;
const SLOT: usize = 96;
const REGIONS_AT: usize = 2048;
/// Regions of a disk.
const MOST_REGIONS: u64 = (HEAD - REGIONS_AT as u64) * 8;
const SMALLEST_REGION: u64 = 256 << 20;

/// A bitmap's place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Never used twice in one file: pages of older bitmaps in the same slot are recognised by it.
    pub id: u32,
    /// New writes are added to it.
    pub tracking: bool,
    /// What its user calls it.
    pub name: String,
}

/// A head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Higher is newer.
    pub generation: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// What the disk may show as its state, if nobody else changed it.
    pub stamps: [Uuid; 2],
    /// The id that the next bitmap gets.
    pub next_id: u32,
    /// The bitmaps, by slot.
    pub slots: [Option<Slot>; MAX_BITMAPS],
    /// The regions that were written since the pages were saved.
    pub regions: Regions,
}

/// A set of regions of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regions {
    region: u64,
    bits: Vec<u64>,
}

impl Regions {
    /// No region of a disk of `size` bytes.
    pub fn none(size: u64) -> Self {
        let region = size.div_ceil(MOST_REGIONS).next_power_of_two().max(SMALLEST_REGION);
        Self { region, bits: vec![0; MOST_REGIONS as usize / 64] }
    }

    /// The regions that a range of bytes touches. What lies behind the disk's end (it grew meanwhile) is the last region.
    fn numbers(&self, bytes: &Range<u64>) -> Range<usize> {
        if bytes.is_empty() {
            return 0..0;
        }
        let number = |at: u64| (at / self.region).min(MOST_REGIONS - 1) as usize;
        number(bytes.start)..number(bytes.end - 1) + 1
    }

    pub fn contains(&self, bytes: &Range<u64>) -> bool {
        self.numbers(bytes).all(|number| self.bits[number / 64] >> (number % 64) & 1 != 0)
    }

    pub fn insert(&mut self, bytes: &Range<u64>) {
        for number in self.numbers(bytes) {
            self.bits[number / 64] |= 1 << (number % 64);
        }
    }

    pub fn union(&mut self, other: &Self) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(word, more)| *word |= more);
    }

    pub fn intersect(&mut self, other: &Self) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(word, other)| *word &= other);
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|word| *word == 0)
    }

    /// The bytes of every region in the set, for a disk of `size` bytes.
    pub fn ranges(&self, size: u64) -> Vec<Range<u64>> {
        let set = (0..MOST_REGIONS).filter(|number| self.bits[(number / 64) as usize] >> (number % 64) & 1 != 0);
        let end = |number: u64| if number == MOST_REGIONS - 1 { size } else { size.min((number + 1) * self.region) };
        set.map(|number| number * self.region..end(number)).filter(|range| range.start < range.end).collect()
    }
}

impl Head {
    /// Of a new file.
    pub fn new(size: u64, stamps: [Uuid; 2]) -> Self {
        let slots = [const { None }; MAX_BITMAPS];
        Self { generation: 0, size, stamps, next_id: 1, slots, regions: Regions::none(size) }
    }

    /// The bytes of the head.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = vec![0; HEAD as usize];
        data[..8].copy_from_slice(MAGIC);
        data[12..16].copy_from_slice(&VERSION.to_le_bytes());
        data[16..24].copy_from_slice(&self.generation.to_le_bytes());
        data[24..32].copy_from_slice(&self.size.to_le_bytes());
        data[32..40].copy_from_slice(&GRANULE.to_le_bytes());
        data[40..48].copy_from_slice(&self.regions.region.to_le_bytes());
        data[48..52].copy_from_slice(&self.next_id.to_le_bytes());
        data[64..80].copy_from_slice(self.stamps[0].as_bytes());
        data[80..96].copy_from_slice(self.stamps[1].as_bytes());
        for (slot, place) in self.slots.iter().zip(data[SLOTS_AT..].chunks_exact_mut(SLOT)) {
            let Some(slot) = slot else { continue };
            place[..4].copy_from_slice(&slot.id.to_le_bytes());
            place[4] = u8::from(slot.tracking);
            place[5] = slot.name.len() as u8;
            place[16..16 + slot.name.len()].copy_from_slice(slot.name.as_bytes());
        }
        for (word, place) in self.regions.bits.iter().zip(data[REGIONS_AT..].chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&data);
        data[8..12].copy_from_slice(&sum.to_le_bytes());
        data
    }

    /// Reads a head.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(data: &[u8]) -> Result<Self, String> {
        if data.len() as u64 != HEAD || data[..8] != *MAGIC {
            return Err("no signature".into());
        }
        let u32_at = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap_or([0; 4]));
        let u64_at = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap_or([0; 8]));
        if checksum(data) != u32_at(8) {
            return Err("wrong checksum".into());
        }
        if u32_at(12) != VERSION || u64_at(32) != GRANULE {
            return Err(format!("version {} with granules of {} bytes is not known", u32_at(12), u64_at(32)));
        }
        let region = u64_at(40);
        if region < SMALLEST_REGION || !region.is_power_of_two() || region > 1 << 48 {
            return Err(format!("regions of {region} bytes"));
        }
        let mut head = Self::new(u64_at(24), [uuid_at(data, 64), uuid_at(data, 80)]);
        (head.generation, head.next_id) = (u64_at(16), u32_at(48));
        head.regions.region = region;
        for (slot, place) in head.slots.iter_mut().zip(data[SLOTS_AT..].chunks_exact(SLOT)) {
            *slot = decode_slot(place)?;
        }
        for (word, place) in head.regions.bits.iter_mut().zip(data[REGIONS_AT..].chunks_exact(8)) {
            *word = u64::from_le_bytes(place.try_into().unwrap_or([0xFF; 8]));
        }
        Ok(head)
    }
}

fn decode_slot(place: &[u8]) -> Result<Option<Slot>, String> {
    let id = u32::from_le_bytes(place[..4].try_into().unwrap_or([0; 4]));
    if id == 0 {
        return Ok(None);
    }
    let len = usize::from(place[5]);
    let name = place.get(16..16 + len).filter(|_| (1..=MAX_NAME).contains(&len));
    let name = name.and_then(|name| std::str::from_utf8(name).ok()).ok_or("a bitmap has no right name")?;
    Ok(Some(Slot { id, tracking: place[4] != 0, name: name.to_owned() }))
}

fn uuid_at(data: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes(data[at..at + 16].try_into().unwrap_or([0; 16]))
}

/// Over everything but the checksum itself.
fn checksum(data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&data[..8]), &data[12..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_and_damage_is_seen() {
        let mut head = Head::new(5 << 40, [Uuid::from_u128(1), Uuid::from_u128(2)]);
        (head.generation, head.next_id) = (9, 4);
        head.slots[2] = Some(Slot { id: 3, tracking: true, name: "nightly é".into() });
        head.regions.insert(&(1 << 40..(1 << 40) + 512));
        let data = head.encode();
        assert_eq!(Head::decode(&data), Ok(head));
        for at in (0..4096).step_by(61) {
            let mut bad = data.clone();
            bad[at] ^= 1;
            assert!(Head::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Head::decode(&data[..100]).is_err());
    }

    #[test]
    fn regions_cover_every_size() {
        for size in [512, 4 << 40, (4 << 40) + 512, 64 << 40] {
            let mut regions = Regions::none(size);
            assert!(regions.is_empty());
            let last = size - 512..size;
            regions.insert(&last);
            assert!(regions.contains(&last));
            let ranges = regions.ranges(size);
            assert!(ranges.len() == 1 && ranges[0].start <= last.start && ranges[0].end == size, "{ranges:?}");
            // The disk grew.
            regions.insert(&(size * 2..size * 2 + 1));
        }
    }
}
