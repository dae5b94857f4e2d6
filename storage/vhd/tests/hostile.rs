//! Damaged and odd images: what is repaired, what is refused, and why. Each case is a class of known parser faults or a quirk
//! of another program.

mod support;

use bulkhead_disk::{ErrorKind, File, Layer, MemoryFile, read_bytes, run_now, write_bytes};
use bulkhead_vhd::{DiskType, Kind, VhdImage, check, create, inspect, repair};
use std::rc::Rc;
use support::{BLOCK, differencing, dynamic, new_file, open, options, stack};

const SIZE: u64 = 8 * BLOCK as u64;

fn filled(blocks: &[u64]) -> Rc<MemoryFile> {
    let file = Rc::new(new_file(&dynamic(SIZE)));
    let disk = stack(vec![open(file.clone())]);
    for block in blocks {
        run_now(write_bytes(&disk, block * u64::from(BLOCK), &[*block as u8 + 1; 4096])).unwrap();
    }
    run_now(disk.close()).unwrap();
    file
}

fn refused(file: Rc<MemoryFile>) -> (ErrorKind, String) {
    let error = run_now(VhdImage::open(file)).err().expect("the image is refused");
    (error.kind(), error.to_string())
}

fn table_entry(file: &MemoryFile, block: u64) -> u32 {
    let mut entry = [0; 4];
    file.peek(1536 + 4 * block, &mut entry);
    u32::from_be_bytes(entry)
}

#[test]
fn a_lost_end_footer_is_found_at_the_start_and_mended() {
    let file = filled(&[0, 3]);
    let len = file.len();
    for cut in [1, 512, 700] {
        let broken = Rc::new((*file).clone());
        run_now(broken.set_len(len - 512)).unwrap();
        run_now(broken.set_len(len - 512 + cut)).unwrap();
        let image = open(broken.clone());
        assert_eq!(run_now(image.resolve(0..SIZE)).unwrap().len(), 4);
        let report = run_now(repair(broken.clone())).unwrap();
        assert!(report.problems.len() == 1 && report.problems[0].repairable, "{report:?}");
        assert!(run_now(check(&*broken)).unwrap().is_clean());
        let data = run_now(read_bytes(&stack(vec![open(broken)]), 3 * u64::from(BLOCK), 4096)).unwrap();
        assert_eq!(data, [4; 4096]);
    }
}

#[test]
fn a_511_byte_footer_is_read() {
    for kind in [Kind::Fixed { reserve: false }, Kind::Dynamic { block_size: BLOCK }] {
        let file = new_file(&options(SIZE, kind));
        run_now(file.set_len(file.len() - 1)).unwrap();
        let image = open(Rc::new(file));
        assert_eq!(image.facts().size, SIZE);
    }
}

#[test]
fn without_any_footer_it_is_no_vhd() {
    let file = filled(&[1]);
    file.poke(0, &[0; 512]);
    file.poke(file.len() - 512, &[0; 512]);
    assert_eq!(refused(file).0, ErrorKind::Corrupt);
    for len in [0usize, 1, 511, 512, 1023] {
        assert_eq!(refused(Rc::new(MemoryFile::with_data("short", &vec![0; len]))).0, ErrorKind::Corrupt);
    }
    let (kind, text) = refused(Rc::new(MemoryFile::with_data("raw", &vec![7; 1 << 20])));
    assert!(kind == ErrorKind::Corrupt && text.contains("conectix"), "{text}");
}

#[test]
fn blocks_that_leave_the_file_or_overlap_are_refused_and_repair_drops_them() {
    let end = filled(&[0, 1, 2]).len();
    let second = table_entry(&filled(&[0, 1, 2]), 1);
    for (block, sector, why) in [
        (2u64, (end / 512) as u32 + 100, "behind the last usable byte"),
        (2, second, "overlaps another block"),
        (2, second + 1, "overlaps another block"),
        (2, 0, "overlaps the footer copy"),
        (2, 3, "overlaps the block table"),
        (5, 1, "overlaps the header"),
        (2, u32::MAX - 1, "behind the last usable byte"),
    ] {
        let file = filled(&[0, 1, 2]);
        file.poke(1536 + 4 * block, &sector.to_be_bytes());
        let (kind, text) = refused(file.clone());
        assert!(kind == ErrorKind::Corrupt && text.contains(why), "{text}");
        let report = run_now(repair(file.clone())).unwrap();
        assert!(report.problems.iter().any(|problem| problem.fatal && problem.loses_data), "{report:?}");
        assert!(run_now(check(&*file)).unwrap().is_clean());
        let data = run_now(read_bytes(&stack(vec![open(file)]), 0, 4096)).unwrap();
        assert_eq!(data, [1; 4096], "the innocent blocks stay");
    }
}

fn mend_header(file: &MemoryFile) {
    let mut header = [0; 1024];
    file.peek(512, &mut header);
    header[36..40].fill(0);
    let sum = !header.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    file.poke(512 + 36, &sum.to_be_bytes());
}

#[test]
fn impossible_headers_are_refused() {
    // Block size 0, no power of two, too small, too large (CVE-2014-0142/0148: divisions and loops by file values).
    for block_size in [0u32, 3, 4095, 0x0020_0001, 1 << 31, 512] {
        let file = filled(&[]);
        file.poke(512 + 32, &block_size.to_be_bytes());
        mend_header(&file);
        assert_eq!(refused(file).0, ErrorKind::Unsupported, "{block_size}");
    }
    // Too few entries, a table outside the file or at an odd place (CVE-2014-0144: table sizes).
    for (at, bytes) in [
        (28, vec![0, 0, 0, 1]),
        (16, u64::MAX.to_be_bytes().to_vec()),
        (16, (1u64 << 40).to_be_bytes().to_vec()),
        (16, 1537u64.to_be_bytes().to_vec()),
        (24, vec![0, 2, 0, 0]),
    ] {
        let file = filled(&[]);
        file.poke(512 + at, &bytes);
        mend_header(&file);
        assert_eq!(refused(file).0, ErrorKind::Corrupt, "{at}: {bytes:?}");
    }
    let file = filled(&[]);
    file.poke(600, &[9]);
    let (kind, text) = refused(file);
    assert!(kind == ErrorKind::Corrupt && text.contains("checksum"), "{text}");
}

#[test]
fn hostile_locators_are_refused() {
    let parent = open(filled(&[]));
    for (at, bytes) in [(8usize, u32::MAX.to_be_bytes().to_vec()), (16, u64::MAX.to_be_bytes().to_vec())] {
        let file = Rc::new(new_file(&differencing(SIZE, &parent, "p.vhd")));
        file.poke(512 + 576 + at as u64, &bytes);
        mend_header(&file);
        assert_eq!(refused(file.clone()).0, ErrorKind::Corrupt);
        let report = run_now(check(&*file)).unwrap();
        assert!(report.problems.iter().any(|problem| problem.fatal && !problem.repairable), "{report:?}");
        assert_eq!(run_now(repair(file)).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn the_size_limit_is_2040_gib_and_says_so() {
    const GIB: u64 = 1 << 30;
    let file = Rc::new(new_file(&options(2040 * GIB, Kind::Dynamic { block_size: 2 << 20 })));
    assert!(file.len() < 5 << 20);
    let disk = stack(vec![open(file.clone())]);
    run_now(write_bytes(&disk, 2040 * GIB - 512, &[5; 512])).unwrap();
    run_now(disk.close()).unwrap();
    drop(disk);
    let disk = stack(vec![open(file)]);
    assert_eq!(run_now(read_bytes(&disk, 2040 * GIB - 512, 512)).unwrap(), [5; 512]);
    let error = run_now(create(&MemoryFile::new("big"), &dynamic(2041 * GIB))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("2040 GiB") && error.to_string().contains("VHDX"), "{error}");
    for size in [0, 511, 1000] {
        assert_eq!(
            run_now(create(&MemoryFile::new("odd"), &dynamic(size))).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
    let full = MemoryFile::with_data("full", &[1]);
    assert_eq!(run_now(create(&full, &dynamic(SIZE))).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn unset_bits_of_a_dynamic_block_read_as_zeros_whatever_is_stored_there() {
    let file = filled(&[0]);
    let bitmap = u64::from(table_entry(&file, 0)) * 512;
    // Sectors 8.. of the block: bits off, garbage stored (a writer that sets bits as it goes).
    file.poke(bitmap + 1, &[0; 100]);
    file.poke(bitmap + 512 + 4096, &[0xEE; 512]);
    let disk = stack(vec![open(file.clone())]);
    let data = run_now(read_bytes(&disk, 0, 16384)).unwrap();
    assert!(data[..4096] == [1; 4096] && data[4096..].iter().all(|byte| *byte == 0));
    run_now(write_bytes(&disk, 8192, &[3; 512])).unwrap();
    run_now(disk.close()).unwrap();
    let mut bits = [0; 3];
    file.peek(bitmap, &mut bits);
    assert_eq!(bits, [0xFF, 0, 0x80]);
}

#[test]
fn saved_state_forbids_edits_but_not_use() {
    let file = filled(&[1]);
    let image = open(file);
    run_now(image.set_saved_state(true)).unwrap();
    let kinds = [
        run_now(image.resize(SIZE * 2)).unwrap_err().kind(),
        run_now(image.set_identity(uuid::Uuid::nil())).unwrap_err().kind(),
        run_now(image.compact(true, &|_| false, &mut |_, _| true)).unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::WrongState; 3]);
    let disk = stack(vec![image]);
    assert_eq!(run_now(read_bytes(&disk, u64::from(BLOCK), 512)).unwrap(), [2; 512]);
}

#[test]
fn info_shows_every_field() {
    let parent = open(filled(&[1]));
    let file = new_file(&differencing(SIZE, &parent, "p.vhd"));
    let info = run_now(inspect(&file)).unwrap();
    let sparse = info.sparse.clone().unwrap();
    assert_eq!((info.kind, info.size, info.creator.as_str()), ("differencing", SIZE, "win "));
    assert_eq!(info.created, 800_000_000 + bulkhead_vhd::EPOCH);
    assert_eq!(sparse.parent_id, Some(parent.link_id().to_string()));
    assert_eq!(sparse.parent_name.as_deref(), Some("p.vhd"));
    let paths: Vec<_> =
        sparse.locators.iter().map(|locator| (locator.code.as_str(), locator.path.as_deref())).collect();
    assert_eq!(paths, [("W2ru", Some(".\\p.vhd")), ("W2ku", Some("\\srv\\vm\\p.vhd"))]);
    let json = serde_json::to_value(&info).unwrap();
    assert_eq!(json["sparse"]["blockSize"], BLOCK);
    assert_eq!(open(Rc::new(file)).disk_type(), DiskType::Differencing);
}

#[test]
fn a_read_only_file_makes_a_read_only_disk() {
    let file = filled(&[1]);
    file.set_read_only(true);
    let disk = stack(vec![open(file)]);
    assert_eq!(run_now(write_bytes(&disk, 0, &[1; 512])).unwrap_err().kind(), ErrorKind::ReadOnly);
    run_now(disk.close()).unwrap();
}

#[test]
fn shrinking_over_data_is_refused() {
    let image = open(filled(&[7]));
    let error = run_now(image.resize(SIZE / 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("there is data"), "{error}");
    let child = open(Rc::new(new_file(&differencing(SIZE, &image, "p.vhd"))));
    assert_eq!(run_now(child.resize(SIZE * 2)).unwrap_err().kind(), ErrorKind::WrongState);
}
