//! The commands of Linux `sd` at start and during work.

use bulkhead_disk::{DiskError, DiskFacts, ErrorKind};
use bulkhead_scsi_target::{Action, Identity, LogicalUnit, Sense, Step, UnitKind};
use uuid::Uuid;

fn facts() -> DiskFacts {
    DiskFacts {
        discard_granularity: 2 << 20,
        identity: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        ..DiskFacts::plain(8 << 30, "vhdx")
    }
}

fn disk() -> LogicalUnit {
    let mut unit = LogicalUnit::new(UnitKind::Disk, Identity::disk(&facts()));
    assert_eq!(unit.command(&[0; 6], Some(&facts())), Step::Check(Sense::POWER_ON));
    unit
}

fn data(step: Step) -> Vec<u8> {
    match step {
        Step::DataIn(data) => data,
        other => panic!("{other:?}"),
    }
}

#[test]
fn scanned() {
    let (mut unit, facts) = (disk(), facts());
    let inquiry = data(unit.command(&[0x12, 0, 0, 0, 36, 0], Some(&facts)));
    assert_eq!((inquiry.len(), inquiry[0], inquiry[2]), (36, 0, 6));
    assert_eq!(&inquiry[8..36], b"Msft    Virtual Disk    1.0 ");
    let whole = data(unit.command(&[0x12, 0, 0, 0, 255, 0], Some(&facts)));
    assert_eq!(whole.len(), usize::from(whole[4]) + 5);
    assert_eq!(data(unit.command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Some(&facts))), [0, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
    let capacity = data(unit.command(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], Some(&facts)));
    assert_eq!((&capacity[..8], capacity[13], capacity[14]), (&(0xff_ffffu64.to_be_bytes())[..], 3, 0x80));
    let caching = data(unit.command(&[0x1a, 8, 8, 0, 255, 0], Some(&facts)));
    assert_eq!((caching[0], caching[2], &caching[4..7]), (23, 0x10, &[8, 18, 4][..]));
    assert_eq!(unit.command(&[0x1a, 0, 0xc8, 0, 255, 0], Some(&facts)), Step::Check(Sense::NO_SAVED_PAGES));
    let luns = data(unit.command(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], Some(&facts)));
    assert_eq!((luns[3], luns.len()), (8, 16));
}

#[test]
fn names_come_from_the_disk() {
    let (mut unit, facts) = (disk(), facts());
    let pages = data(unit.command(&[0x12, 1, 0, 0, 255, 0], Some(&facts)));
    assert_eq!(pages, [0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    let serial = data(unit.command(&[0x12, 1, 0x80, 0, 255, 0], Some(&facts)));
    assert_eq!(&serial[4..], b"00112233445566778899aabbccddeeff");
    let names = data(unit.command(&[0x12, 1, 0x83, 0, 255, 0], Some(&facts)));
    assert_eq!(
        names[names.len() - 16..],
        [0x60, 2, 0x24, 0x80, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb]
    );
    let limits = data(unit.command(&[0x12, 1, 0xb0, 0, 255, 0], Some(&facts)));
    assert_eq!((&limits[20..24], &limits[28..32]), (&[0xff; 4][..], &[0, 0, 0x10, 0][..]));
    assert_eq!(unit.command(&[0x12, 1, 0xc7, 0, 255, 0], Some(&facts)), Step::Check(Sense::INVALID_FIELD));
}

#[test]
fn reads_and_writes_in_all_lengths() {
    let (mut unit, facts) = (disk(), facts());
    let read = Step::Disk(Action::Read { offset: 0x10 * 512, len: 8 * 512 });
    assert_eq!(unit.command(&[0x08, 0, 0, 0x10, 8, 0], Some(&facts)), read);
    assert_eq!(unit.command(&[0x28, 0, 0, 0, 0, 0x10, 0, 0, 8, 0], Some(&facts)), read);
    assert_eq!(unit.command(&[0xa8, 0, 0, 0, 0, 0x10, 0, 0, 0, 8, 0, 0], Some(&facts)), read);
    assert_eq!(unit.command(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 8, 0, 0], Some(&facts)), read);
    let all = Step::Disk(Action::Read { offset: 0, len: 256 * 512 });
    assert_eq!(unit.command(&[0x08, 0, 0, 0, 0, 0], Some(&facts)), all);
    let write = Step::Disk(Action::Write { offset: 512, len: 512, fua: true });
    assert_eq!(unit.command(&[0x2a, 8, 0, 0, 0, 1, 0, 0, 1, 0], Some(&facts)), write);
    let end = [0x28, 0, 0, 0xff, 0xff, 0xff, 0, 0, 2, 0];
    assert_eq!(unit.command(&end, Some(&facts)), Step::Check(Sense::OUT_OF_RANGE));
    let far = [0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
    assert_eq!(unit.command(&far, Some(&facts)), Step::Check(Sense::OUT_OF_RANGE));
    let read_only = DiskFacts { read_only: true, ..facts.clone() };
    assert_eq!(unit.command(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1, 0], Some(&read_only)), Step::Check(Sense::WRITE_PROTECTED));
    assert_eq!(unit.command(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], Some(&facts)), Step::Disk(Action::Flush));
}

#[test]
fn unmaps_and_clears() {
    let (mut unit, facts) = (disk(), facts());
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0];
    assert_eq!(unit.command(&unmap, Some(&facts)), Step::DataOut(40));
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (block, count) in [(8u64, 16u32), (100, 0)] {
        list.extend(block.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    let ranges = std::iter::once(8 * 512..24 * 512).collect();
    assert_eq!(unit.parameters(&unmap, &list, Some(&facts)), Step::Disk(Action::Discard(ranges)));
    assert_eq!(unit.parameters(&unmap, &list[..30], Some(&facts)), Step::Check(Sense::PARAMETER_LENGTH));
    let same = [0x93, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0];
    assert_eq!(unit.command(&same, Some(&facts)), Step::DataOut(512));
    let zero = Step::Disk(Action::Zero { range: 1024..3072, may_unmap: true });
    assert_eq!(unit.parameters(&same, &[0; 512], Some(&facts)), zero);
    let fill = Step::Disk(Action::Fill { range: 1024..3072, block: vec![7; 512] });
    assert_eq!(unit.parameters(&same, &[7; 512], Some(&facts)), fill);
}

#[test]
fn errors_of_the_disk_have_a_sense() {
    let sense = |kind, write| Sense::from_disk_error(&DiskError::new(kind, "read", "test"), write);
    assert_eq!(sense(ErrorKind::Io, false), Sense::READ_ERROR);
    assert_eq!(sense(ErrorKind::Io, true), Sense::WRITE_ERROR);
    assert_eq!(sense(ErrorKind::NoSpace, true), Sense::SPACE_EXHAUSTED);
    assert_eq!(sense(ErrorKind::ReadOnly, true), Sense::WRITE_PROTECTED);
    assert_eq!(Sense::READ_ERROR.fixed(), [0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0]);
}
