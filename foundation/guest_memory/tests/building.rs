//! What can be a region, and memory shared between two mappings and two processes.
#![cfg(not(miri))]

use bulkhead_guest_memory::{AccessError, Backing, GuestMemory, MemoryError, PAGE_SIZE};
use bulkhead_linux::{SharedMapping, sealed_memfd};
use std::os::fd::OwnedFd;
use std::sync::Arc;

fn reason(result: Result<GuestMemory, MemoryError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn impossible_regions_are_refused_by_name() {
    let page = PAGE_SIZE;
    let build = |gpa, len| GuestMemory::builder().anonymous(0x10_000, 2 * page).anonymous(gpa, len).build();
    assert!(reason(build(0x11_000, page)).contains("0x11000, 0x1000 bytes: overlaps"));
    assert!(reason(build(0xf000, 2 * page)).contains("overlaps"));
    assert!(reason(build(0, 0)).contains("empty"));
    assert!(reason(build(0x800, page)).contains("4096"));
    assert!(reason(build(0, 0x800)).contains("4096"));
    assert!(reason(build(u64::MAX - 0xfff, page)).contains("2^52"));
    assert!(reason(build(1 << 52, page)).contains("2^52"));
    assert!(reason(build(page, u64::MAX - 0xfff)).contains("2^52"));
    assert!(build(0x12_000, page).is_ok());
}

#[test]
fn no_memory_at_all_is_fine_and_empty() {
    let memory = GuestMemory::builder().build().unwrap();
    assert_eq!((memory.total_len(), memory.end(), memory.regions().len()), (0, 0, 0));
    assert!(memory.read_u8(0).is_err());
    assert!(memory.read(77, &mut []).is_ok());
    memory.mark_written(0, 1);
    memory.dirty().enable();
    assert_eq!(memory.dirty().harvest(), []);
}

#[test]
fn a_second_mapping_of_the_memfd_is_the_same_ram() {
    let memory = GuestMemory::builder().anonymous(0, 4 * PAGE_SIZE).anonymous(1 << 32, PAGE_SIZE).build().unwrap();
    let region = &memory.regions()[1];
    let Backing::Shared(memfd) = region.backing() else { panic!("anonymous RAM is shared") };
    assert_eq!(region.file_offset(), 4 * PAGE_SIZE);
    let other = GuestMemory::builder().shared(0, PAGE_SIZE, memfd.clone(), region.file_offset()).build().unwrap();
    memory.write(1 << 32, b"seen by both").unwrap();
    assert_eq!(&other.read_array::<12>(0).unwrap(), b"seen by both");
    let beyond = GuestMemory::builder().shared(0, 2 * PAGE_SIZE, memfd.clone(), region.file_offset()).build();
    assert!(matches!(beyond, Err(MemoryError::FileTooShort { .. })));
}

#[test]
fn shared_memory_must_be_sealed_and_ours_is() {
    let memory = GuestMemory::builder().anonymous(0, PAGE_SIZE).build().unwrap();
    let memfd = memory.regions()[0].memfd().unwrap();
    assert_eq!(rustix::fs::ftruncate(memfd, 0), Err(rustix::io::Errno::PERM));
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(PAGE_SIZE).unwrap();
    let result = GuestMemory::builder().shared(0, PAGE_SIZE, Arc::new(OwnedFd::from(plain)), 0).build();
    assert!(reason(result).contains("sealed"));
}

#[test]
fn packets_go_between_ram_and_a_ring_in_one_copy() {
    let memory = GuestMemory::builder().anonymous(0, PAGE_SIZE).anonymous(PAGE_SIZE, PAGE_SIZE).build().unwrap();
    let ring = SharedMapping::new(sealed_memfd("ring", PAGE_SIZE).unwrap()).unwrap();
    memory.dirty().enable();
    ring.write(10, b"packet").unwrap();
    memory.copy_from_mapping(PAGE_SIZE - 2, 6, &ring, 10).unwrap();
    assert_eq!(&memory.read_array::<6>(PAGE_SIZE - 2).unwrap(), b"packet");
    assert!(memory.dirty().test(0) && memory.dirty().test(1));
    memory.copy_to_mapping(PAGE_SIZE - 2, 6, &ring, 100).unwrap();
    let mut bytes = [0; 6];
    ring.read(100, &mut bytes).unwrap();
    assert_eq!(&bytes, b"packet");
    let error = memory.copy_to_mapping(0, 6, &ring, PAGE_SIZE - 5).unwrap_err();
    assert!(matches!(error, AccessError::OutOfMapping(_)));

    let list = memory
        .scatter_list([(PAGE_SIZE - 1, 3), (0, 3)].map(|(gpa, len)| bulkhead_guest_memory::GuestRange { gpa, len }));
    let list = list.unwrap();
    list.copy_from_mapping(0, 6, &ring, 10).unwrap();
    list.copy_to_mapping(1, 5, &ring, 200).unwrap();
    ring.read(200, &mut bytes).unwrap();
    assert_eq!(&bytes, b"acket\0");
    assert_eq!(list.copy_to_mapping(1, 6, &ring, 0), None);
    assert_eq!(list.copy_to_mapping(0, 6, &ring, u64::MAX), None);
}
