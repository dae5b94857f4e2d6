//! Random accesses against a plain byte vector: same bytes, same refusals, dirty bits exactly where bytes were written.
#![cfg(not(miri))]

use bulkhead_guest_memory::{AccessError, GuestMemory, GuestRange, PAGE_SIZE};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Two regions that touch, a hole of one page, a third region; pages 0–4 and 6–9.
const REGIONS: [(u64, u64); 3] = [(0, 3), (3, 2), (6, 4)];
const END: u64 = 10 * PAGE_SIZE;

fn memory() -> GuestMemory {
    let builder = REGIONS
        .iter()
        .rev()
        .fold(GuestMemory::builder(), |builder, &(page, pages)| builder.anonymous(page * PAGE_SIZE, pages * PAGE_SIZE));
    builder.build().unwrap()
}

/// All addresses below `END` (the hole stays zero), and the pages written.
struct Model {
    bytes: Vec<u8>,
    dirty: BTreeSet<u64>,
}

impl Model {
    fn is_ram(gpa: u64, len: u64) -> bool {
        let hole = 5 * PAGE_SIZE..6 * PAGE_SIZE;
        len == 0 || gpa.checked_add(len).is_some_and(|end| end <= END && (end <= hole.start || gpa >= hole.end))
    }

    fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let len = bytes.len() as u64;
        if !Self::is_ram(gpa, len) {
            return Err(AccessError::OutOfRange { gpa, len });
        }
        if len > 0 {
            self.bytes[gpa as usize..][..bytes.len()].copy_from_slice(bytes);
            self.dirty.extend(gpa / PAGE_SIZE..=(gpa + len - 1) / PAGE_SIZE);
        }
        Ok(())
    }

    fn read(&self, gpa: u64, len: u64) -> Result<Vec<u8>, AccessError> {
        if !Self::is_ram(gpa, len) {
            return Err(AccessError::OutOfRange { gpa, len });
        }
        Ok(if len == 0 { Vec::new() } else { self.bytes[gpa as usize..][..len as usize].to_vec() })
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Fill(u64, u64, u8),
    CopyWithin(u64, u64, u64),
    Integer(u64, u32, u64),
    CompareExchange(u64, bool, u32),
    FetchOr(u64, u64),
    FetchAnd(u64, u32),
    Scatter(Vec<(u64, u64)>, u8),
    Discard(u64, u64),
}

/// Mostly near the edges of regions, where mistakes live; sometimes anywhere.
fn gpa() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (prop::sample::select(vec![0u64, 1, 3, 5, 6, 10]), -40i64..40)
            .prop_map(|(page, near)| (page * PAGE_SIZE).saturating_add_signed(near)),
        4 => 0..END,
        1 => prop::sample::select(vec![u64::MAX, u64::MAX - 3, 1 << 52]),
    ]
}

fn len() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..80, 2 => 4000u64..9000, 1 => Just(u64::MAX)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (gpa(), prop::collection::vec(any::<u8>(), 0..6000)).prop_map(|(gpa, bytes)| Op::Write(gpa, bytes)),
        (gpa(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(gpa, bytes)| Op::Write(gpa, bytes)),
        (gpa(), len(), any::<u8>()).prop_map(|(gpa, len, byte)| Op::Fill(gpa, len, byte)),
        (gpa(), gpa(), len()).prop_map(|(from, to, len)| Op::CopyWithin(from, to, len)),
        (gpa(), 0u32..4, any::<u64>()).prop_map(|(gpa, size, value)| Op::Integer(gpa, size, value)),
        (gpa(), any::<bool>(), any::<u32>()).prop_map(|(gpa, hit, new)| Op::CompareExchange(gpa, hit, new)),
        (gpa(), any::<u64>()).prop_map(|(gpa, bits)| Op::FetchOr(gpa, bits)),
        (gpa(), any::<u32>()).prop_map(|(gpa, bits)| Op::FetchAnd(gpa, bits)),
        (prop::collection::vec((gpa(), 0u64..5000), 0..5), any::<u8>())
            .prop_map(|(ranges, seed)| Op::Scatter(ranges, seed)),
        (0u64..11, 0u64..4).prop_map(|(page, pages)| Op::Discard(page * PAGE_SIZE, pages * PAGE_SIZE)),
    ]
}

fn bytes_for(len: u64, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn aligned(gpa: u64, len: u64) -> Result<(), AccessError> {
    if gpa.is_multiple_of(len) { Ok(()) } else { Err(AccessError::Misaligned { gpa, len, align: len }) }
}

fn integer(memory: &GuestMemory, model: &mut Model, gpa: u64, size: u32, value: u64) {
    let bytes = &value.to_le_bytes()[..1 << size];
    let (written, read) = match size {
        0 => (memory.write_u8(gpa, value as u8), memory.read_u8(gpa).map(u64::from)),
        1 => (memory.write_u16(gpa, value as u16), memory.read_u16(gpa).map(u64::from)),
        2 => (memory.write_u32(gpa, value as u32), memory.read_u32(gpa).map(u64::from)),
        _ => (memory.write_u64(gpa, value), memory.read_u64(gpa)),
    };
    assert_eq!(written, model.write(gpa, bytes));
    assert_eq!(read, written.map(|()| value & u64::MAX >> (64 - (8 << size))));
}

fn scatter(memory: &GuestMemory, model: &mut Model, ranges: &[(u64, u64)], seed: u8) {
    let list = memory.scatter_list(ranges.iter().map(|&(gpa, len)| GuestRange { gpa, len }));
    if let Some(&(gpa, len)) = ranges.iter().find(|&&(gpa, len)| !Model::is_ram(gpa, len)) {
        assert_eq!(list.err(), Some(AccessError::OutOfRange { gpa, len }));
        return;
    }
    let list = list.unwrap();
    let total: u64 = ranges.iter().map(|&(_, len)| len).sum();
    assert_eq!(list.len(), total);
    assert_eq!(list.iovecs().iter().map(|iovec| iovec.iov_len as u64).sum::<u64>(), total);
    let data = bytes_for(total, seed);
    // In two parts, so that one begins in the middle of a range.
    let half = total / 3;
    let (head, tail) = data.split_at(half as usize);
    list.copy_from_slice(0, head).unwrap();
    list.slice(half, total - half).unwrap().copy_from_slice(0, tail).unwrap();
    let mut rest = &data[..];
    for &(gpa, len) in ranges {
        let (now, later) = rest.split_at(len as usize);
        model.write(gpa, now).unwrap();
        rest = later;
    }
    let mut back = vec![0; (total - half) as usize];
    list.copy_to_slice(half, &mut back).unwrap();
    let whole: Vec<u8> = ranges.iter().flat_map(|&(gpa, len)| model.read(gpa, len).unwrap()).collect();
    assert_eq!(back, &whole[half as usize..]);
    assert_eq!(list.copy_to_slice(half, &mut vec![0; (total - half) as usize + 1]), None);
}

fn apply(memory: &GuestMemory, model: &mut Model, op: Op) {
    match op {
        Op::Write(gpa, bytes) => assert_eq!(memory.write(gpa, &bytes), model.write(gpa, &bytes)),
        Op::Fill(gpa, len, byte) => {
            let expected = match Model::is_ram(gpa, len) {
                true => model.write(gpa, &vec![byte; len as usize]),
                false => Err(AccessError::OutOfRange { gpa, len }),
            };
            assert_eq!(memory.fill(gpa, len, byte), expected);
        }
        Op::CopyWithin(from, to, len) => {
            let expected = match (Model::is_ram(from, len), Model::is_ram(to, len)) {
                (true, true) => model.read(from, len).and_then(|bytes| model.write(to, &bytes)),
                (false, _) => Err(AccessError::OutOfRange { gpa: from, len }),
                _ => Err(AccessError::OutOfRange { gpa: to, len }),
            };
            assert_eq!(memory.copy_within(from, to, len), expected);
        }
        Op::Integer(gpa, size, value) => integer(memory, model, gpa, size, value),
        Op::CompareExchange(gpa, hit, new) => {
            let found = aligned(gpa, 4).and_then(|()| model.read(gpa, 4));
            let found = found.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
            let current = found.unwrap_or(0) ^ u32::from(!hit);
            let expected = found.map(|found| if hit { Ok(found) } else { Err(found) });
            if let Ok(Ok(_)) = expected {
                model.write(gpa, &new.to_le_bytes()).unwrap();
            }
            assert_eq!(memory.compare_exchange_u32(gpa, current, new), expected);
        }
        Op::FetchOr(gpa, bits) => {
            let found = aligned(gpa, 8).and_then(|()| model.read(gpa, 8));
            let found = found.map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
            assert_eq!(memory.fetch_or_u64(gpa, bits), found);
            let _ = found.map(|found| model.write(gpa, &(found | bits).to_le_bytes()));
        }
        Op::FetchAnd(gpa, bits) => {
            let found = aligned(gpa, 4).and_then(|()| model.read(gpa, 4));
            let found = found.map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
            assert_eq!(memory.fetch_and_u32(gpa, bits), found);
            let _ = found.map(|found| model.write(gpa, &(found & bits).to_le_bytes()));
        }
        Op::Scatter(ranges, seed) => scatter(memory, model, &ranges, seed),
        Op::Discard(gpa, len) => {
            let expected = Model::is_ram(gpa, len);
            assert_eq!(memory.discard(gpa, len).is_ok(), expected);
            let _ = expected.then(|| model.write(gpa, &vec![0; len as usize]));
        }
    }
}

fn compare(memory: &GuestMemory, model: &mut Model) {
    for (page, pages) in REGIONS {
        let (gpa, len) = (page * PAGE_SIZE, pages * PAGE_SIZE);
        let mut bytes = vec![0; len as usize];
        memory.read(gpa, &mut bytes).unwrap();
        assert!(bytes == model.bytes[gpa as usize..][..len as usize], "region at {gpa:#x} differs");
    }
    let dirty: BTreeSet<u64> = memory.dirty().harvest_ranges().into_iter().flatten().collect();
    assert_eq!(dirty, std::mem::take(&mut model.dirty));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_byte_vector(ops in prop::collection::vec(op(), 1..24)) {
        let memory = memory();
        memory.dirty().enable();
        let mut model = Model { bytes: vec![0; END as usize], dirty: BTreeSet::new() };
        for op in ops {
            apply(&memory, &mut model, op);
            compare(&memory, &mut model);
        }
    }
}

#[test]
fn reads_across_regions_and_refuses_the_hole() {
    let memory = memory();
    memory.write(3 * PAGE_SIZE - 3, b"abcdef").unwrap();
    assert_eq!(&memory.read_array::<6>(3 * PAGE_SIZE - 3).unwrap(), b"abcdef");
    assert_eq!(memory.read_u32(3 * PAGE_SIZE - 2).unwrap(), u32::from_le_bytes(*b"bcde"));
    assert!(memory.host_pointer(3 * PAGE_SIZE - 1, 2).is_none(), "not contiguous on the host");
    assert!(memory.host_pointer(3 * PAGE_SIZE - 1, 1).is_some());
    let error = memory.read(5 * PAGE_SIZE - 1, &mut [0; 2]).unwrap_err();
    assert_eq!(error, AccessError::OutOfRange { gpa: 0x4fff, len: 2 });
    assert!(error.to_string().contains("0x4fff, 0x2 bytes"), "{error}");
}

#[test]
fn long_overlapping_copies_move_every_byte() {
    for (from, to) in [(1000, 1100), (1100, 1000), (7, 8), (5000, 100)] {
        let memory = memory();
        let bytes = bytes_for(11_000, 3).into_iter().enumerate().map(|(at, byte)| byte ^ (at >> 8) as u8);
        let bytes: Vec<u8> = bytes.collect();
        memory.write(from, &bytes).unwrap();
        memory.copy_within(from, to, 11_000).unwrap();
        let mut moved = vec![0; 11_000];
        memory.read(to, &mut moved).unwrap();
        assert!(moved == bytes, "from {from} to {to}");
    }
}
