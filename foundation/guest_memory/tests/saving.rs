//! Saving RAM into a sparse file, mapping it back copy-on-write, and giving pages back to the host.
#![cfg(not(miri))]

use bulkhead_guest_memory::{GuestMemory, GuestRange, MemoryError, PAGE_SIZE};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn fresh() -> GuestMemory {
    GuestMemory::builder().anonymous(0, 2 * MIB).anonymous(16 * MIB, 6 * MIB).build().unwrap()
}

/// The same layout over a saved file.
fn mapped_back(file: &File) -> GuestMemory {
    let file = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
    let builder = GuestMemory::builder().copy_on_write(0, 2 * MIB, file.clone(), 0);
    builder.copy_on_write(16 * MIB, 6 * MIB, file, 2 * MIB).build().unwrap()
}

fn content(memory: &GuestMemory) -> Vec<u8> {
    let mut all = vec![0; memory.total_len() as usize];
    let mut rest = &mut all[..];
    for region in memory.regions() {
        let (now, later) = rest.split_at_mut(region.len() as usize);
        memory.read(region.gpa(), now).unwrap();
        rest = later;
    }
    all
}

fn data_extents(memory: &GuestMemory) -> Vec<(u64, u64)> {
    let mut extents = Vec::new();
    let visited: Result<(), MemoryError> = memory.visit_data(|GuestRange { gpa, len }| {
        extents.push((gpa, len));
        Ok(())
    });
    visited.unwrap();
    extents
}

fn allocated(memory: &GuestMemory) -> u64 {
    let memfd = memory.regions()[0].memfd().unwrap().try_clone_to_owned().unwrap();
    File::from(memfd).metadata().unwrap().blocks() * 512
}

#[test]
fn saved_ram_is_sparse_and_maps_back() {
    let memory = fresh();
    memory.write(0x1ffe, b"edge").unwrap();
    memory.fill(16 * MIB, 5 * MIB, 0x77).unwrap();
    memory.write_u8(22 * MIB - 1, 9).unwrap();
    memory.fill(0x10_000, 0x3000, 0).unwrap(); // touched, but zero
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[0xEE; 9000], 12 * MIB).unwrap(); // what was in it must go
    assert_eq!(memory.save(&file).unwrap(), 2 * PAGE_SIZE + 5 * MIB + PAGE_SIZE);
    assert_eq!(file.metadata().unwrap().len(), memory.saved_len());
    assert!(file.metadata().unwrap().blocks() * 512 < 5 * MIB + 64 * 1024, "zero pages are holes");
    assert_eq!(memory.saved_offset(16 * MIB + 5), Some(2 * MIB + 5));
    assert_eq!(memory.saved_offset(2 * MIB), None);

    let back = mapped_back(&file);
    assert_eq!(content(&back), content(&memory));
    assert!(back.regions()[0].memfd().is_none());
    assert_eq!(data_extents(&back), data_extents(&memory));
}

#[test]
fn looking_for_data_allocates_nothing() {
    let memory = fresh();
    memory.write_u8(0x5000, 1).unwrap();
    memory.write_u8(16 * MIB, 1).unwrap();
    let before = allocated(&memory);
    assert_eq!(data_extents(&memory), [(0x5000, PAGE_SIZE), (16 * MIB, PAGE_SIZE)]);
    assert_eq!(allocated(&memory), before);
    memory.fill(16 * MIB, 6 * MIB, 1).unwrap();
    let extents = data_extents(&memory);
    assert_eq!(extents, [(0x5000, PAGE_SIZE), (16 * MIB, 4 * MIB), (20 * MIB, 2 * MIB)]);
}

#[test]
fn a_visit_can_be_cancelled() {
    let memory = fresh();
    memory.fill(16 * MIB, 6 * MIB, 1).unwrap();
    let mut visits = 0;
    let stop = |_| {
        visits += 1;
        Err(MemoryError::BadRegion { gpa: 0, len: 0, reason: "enough" })
    };
    assert!(memory.visit_data(stop).is_err());
    assert_eq!(visits, 1);
}

#[test]
fn dirty_rounds_bring_the_file_up_to_date() {
    let memory = fresh();
    memory.fill(16 * MIB, 64 * PAGE_SIZE, 0x33).unwrap();
    memory.dirty().enable();
    let file = tempfile::tempfile().unwrap();
    memory.save(&file).unwrap();
    memory.write(0x3000, b"new").unwrap();
    memory.fill(16 * MIB + PAGE_SIZE, 2 * PAGE_SIZE, 0).unwrap();
    memory.write(16 * MIB + 3 * PAGE_SIZE, b"mixed run").unwrap();
    memory.discard(16 * MIB + 9 * PAGE_SIZE, PAGE_SIZE).unwrap();
    for pages in memory.dirty().harvest_ranges() {
        memory.save_range(&file, pages.start * PAGE_SIZE, (pages.end - pages.start) * PAGE_SIZE).unwrap();
    }
    assert_eq!(content(&mapped_back(&file)), content(&memory));
    assert!(memory.save_range(&file, 0x800, PAGE_SIZE).is_err());
    assert!(memory.save_range(&file, 2 * MIB - PAGE_SIZE, 2 * PAGE_SIZE).is_err());
}

#[test]
fn copy_on_write_never_changes_the_file() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 * MIB).unwrap();
    file.write_all_at(&[0x42; 3 * PAGE_SIZE as usize], MIB).unwrap();
    let memory = mapped_back(&file);
    assert_eq!(memory.read_u8(0).unwrap(), 0, "holes read as zeros");
    assert_eq!(memory.read_u8(MIB + 5).unwrap(), 0x42);
    memory.write(MIB, b"private").unwrap();
    memory.write(0x7000, b"into a hole").unwrap();
    memory.fill(20 * MIB, MIB, 0xFF).unwrap();
    let mut bytes = vec![0; 8 * MIB as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let page = MIB as usize..MIB as usize + 3 * PAGE_SIZE as usize;
    assert!(bytes[page.clone()].iter().all(|&byte| byte == 0x42));
    assert!(bytes[..page.start].iter().chain(&bytes[page.end..]).all(|&byte| byte == 0));

    // Saving the resumed VM again finds the file's pages and its own.
    assert_eq!(data_extents(&memory), [(0x7000, PAGE_SIZE), (MIB, 3 * PAGE_SIZE), (20 * MIB, MIB)]);
    let again = tempfile::tempfile().unwrap();
    memory.save(&again).unwrap();
    assert_eq!(content(&mapped_back(&again)), content(&memory));
}

#[test]
fn discarded_pages_are_freed_and_zero() {
    let memory = fresh();
    memory.fill(16 * MIB, 4 * MIB, 1).unwrap();
    let before = allocated(&memory);
    memory.discard(17 * MIB, 2 * MIB).unwrap();
    assert_eq!(before - allocated(&memory), 2 * MIB);
    assert_eq!(memory.read_u64(17 * MIB).unwrap(), 0);
    assert_eq!(memory.read_u8(17 * MIB - 1).unwrap(), 1);
    memory.write_u8(17 * MIB, 5).unwrap();
    assert!(memory.discard(17 * MIB + 1, PAGE_SIZE).is_err());
    assert!(memory.discard(21 * MIB, 2 * MIB).is_err());

    let file = tempfile::tempfile().unwrap();
    memory.save(&file).unwrap();
    let back = mapped_back(&file);
    back.write(16 * MIB, b"written, then given back").unwrap();
    back.discard(16 * MIB, PAGE_SIZE).unwrap();
    back.discard(19 * MIB, PAGE_SIZE).unwrap();
    assert_eq!(back.read_u64(16 * MIB).unwrap(), 0, "not what the file holds");
    assert_eq!(back.read_u64(19 * MIB).unwrap(), 0);
    assert_eq!(back.read_u8(16 * MIB + PAGE_SIZE).unwrap(), 1);
    assert_eq!(data_extents(&back)[0].0, 16 * MIB + PAGE_SIZE);
}

#[test]
fn a_short_file_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MIB).unwrap();
    let file = Arc::new(OwnedFd::from(file));
    let error = GuestMemory::builder().copy_on_write(0, MIB, file, PAGE_SIZE).build().unwrap_err();
    assert!(matches!(error, MemoryError::FileTooShort { file_len: MIB, needed, .. } if needed == MIB + PAGE_SIZE));
}

#[test]
fn file_io_goes_straight_into_scattered_ram() {
    let memory = fresh();
    memory.dirty().enable();
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..10_000u32).map(|at| (at % 251) as u8).collect();
    file.write_all_at(&bytes, 100).unwrap();
    let ranges = [(0x1f00, 0x300), (18 * MIB, 7000), (2 * MIB - 8, 8)];
    let list = memory.scatter_list(ranges.map(|(gpa, len)| GuestRange { gpa, len })).unwrap();
    assert_eq!(list.read_file_at(file.as_fd(), 100).unwrap(), 0x300 + 7000 + 8);
    let mut found = vec![0; list.len() as usize];
    list.copy_to_slice(0, &mut found).unwrap();
    assert_eq!(found, &bytes[..found.len()]);
    assert_eq!(memory.dirty().harvest_ranges(), [1..3, 511..512, 18 * 256..18 * 256 + 2]);
    // At the end of the file: only what was read is dirty.
    assert_eq!(list.read_file_at(&file, 100 + 10_000 - 5).unwrap(), 5);
    assert!(memory.dirty().harvest_ranges().into_iter().eq(std::iter::once(1..2)));

    let other = tempfile::tempfile().unwrap();
    assert_eq!(list.write_file_at(&other, 7).unwrap(), list.len());
    let mut written = vec![0; found.len()];
    other.read_exact_at(&mut written, 7).unwrap();
    list.copy_to_slice(0, &mut found).unwrap();
    assert_eq!(written, found);
    assert!(list.write_file_at(&other, u64::MAX).is_err());
}

#[test]
fn more_pieces_than_one_call_takes() {
    let memory = fresh();
    let ranges = (0..2500).map(|piece| GuestRange { gpa: 16 * MIB + piece * 16, len: 8 });
    let list = memory.scatter_list(ranges).unwrap();
    let bytes: Vec<u8> = (0..list.len()).map(|at| (at / 3) as u8).collect();
    list.copy_from_slice(0, &bytes).unwrap();
    let file = tempfile::tempfile().unwrap();
    assert_eq!(list.write_file_at(&file, 0).unwrap(), 20_000);
    list.fill(0, list.len(), 0).unwrap();
    assert_eq!(list.read_file_at(&file, 0).unwrap(), 20_000);
    let mut back = vec![0; bytes.len()];
    list.copy_to_slice(0, &mut back).unwrap();
    assert_eq!(back, bytes);
}
