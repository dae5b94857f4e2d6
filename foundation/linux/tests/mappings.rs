//! Sealed memory and shared mappings.
#![cfg(not(miri))]

use bulkhead_linux::{Mapping, OutOfMapping, SharedMapping, is_sealed_against_shrinking, sealed_memfd};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

const PAGE: u64 = 4096;

#[test]
fn a_sealed_memfd_keeps_its_length() {
    let memfd = sealed_memfd("test", 2 * PAGE).unwrap();
    assert!(is_sealed_against_shrinking(&memfd));
    let file = File::from(memfd);
    for len in [0, PAGE, 3 * PAGE] {
        assert_eq!(file.set_len(len).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    }
    assert!(rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE).is_err(), "no more seals either");
    assert_eq!(file.metadata().unwrap().len(), 2 * PAGE);
    assert!(!is_sealed_against_shrinking(tempfile::tempfile().unwrap()));
}

#[test]
fn two_mappings_of_a_memfd_are_one_memory() {
    let ours = SharedMapping::new(sealed_memfd("ring", 2 * PAGE).unwrap()).unwrap();
    let theirs = SharedMapping::new(ours.as_fd().try_clone_to_owned().unwrap()).unwrap();
    ours.write(PAGE - 2, b"four").unwrap();
    let mut bytes = [0; 4];
    theirs.read(PAGE - 2, &mut bytes).unwrap();
    assert_eq!(&bytes, b"four");
    ours.atomic_u32(8).unwrap().store(77, Ordering::Release);
    assert_eq!(theirs.atomic_u32(8).unwrap().load(Ordering::Acquire), 77);
    assert_eq!(theirs.atomic_u64(8).unwrap().fetch_add(1, Ordering::SeqCst), 77);
}

#[test]
fn nothing_outside_the_mapping_is_touched() {
    let mapping = SharedMapping::new(sealed_memfd("ring", PAGE).unwrap()).unwrap();
    assert_eq!(mapping.len(), PAGE);
    assert!(mapping.write(PAGE - 4, b"last").is_ok());
    assert!(mapping.write(PAGE, b"").is_ok());
    let error = OutOfMapping { offset: PAGE - 3, len: 4, size: PAGE };
    assert_eq!(mapping.write(PAGE - 3, b"over"), Err(error));
    assert!(mapping.read(u64::MAX, &mut [0; 2]).is_err());
    assert!(mapping.atomic_u32(PAGE).is_err());
    assert!(mapping.atomic_u32(PAGE - 4).is_ok());
    assert!(mapping.atomic_u32(2).is_err(), "misaligned");
    assert!(mapping.atomic_u64(4).is_err(), "misaligned");
}

#[test]
fn memory_that_can_be_cut_off_is_not_mapped() {
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(PAGE).unwrap();
    assert_eq!(SharedMapping::new(plain.into()).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    assert!(SharedMapping::new(sealed_memfd("empty", 0).unwrap()).is_err());
}

#[test]
fn zeros_replace_only_their_part() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[9; 3 * PAGE as usize], 0).unwrap();
    let mapping = Mapping::copy_on_write(&file, 0, 3 * PAGE as usize).unwrap();
    mapping.replace_by_zeros(PAGE as usize, PAGE as usize).unwrap();
    assert!(mapping.replace_by_zeros(2 * PAGE as usize, 2 * PAGE as usize).is_err());
    assert!(mapping.replace_by_zeros(usize::MAX, PAGE as usize).is_err());
    let mut bytes = vec![1; 3 * PAGE as usize];
    // SAFETY: the mapping has three pages, the vector too.
    unsafe { bulkhead_linux::volatile::copy(bytes.as_mut_ptr(), mapping.pointer().as_ptr(), bytes.len()) };
    let expected: Vec<u8> = [9u8, 0, 9].iter().flat_map(|&byte| [byte; PAGE as usize]).collect();
    assert!(bytes == expected);
    assert_eq!(mapping.len(), 3 * PAGE as usize);
}
