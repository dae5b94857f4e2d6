//! The commands of SeaBIOS and Linux `sr` for a DVD drive, and media that come and go.

use bulkhead_disk::DiskFacts;
use bulkhead_scsi_target::{Action, EjectRefused, Identity, LogicalUnit, Sense, Step, UnitKind};

fn drive() -> LogicalUnit {
    let mut unit = LogicalUnit::new(UnitKind::Optical, Identity::dvd());
    assert_eq!(unit.command(&[0; 12], None), Step::Check(Sense::POWER_ON));
    unit
}

fn cd() -> DiskFacts {
    DiskFacts { read_only: true, ..DiskFacts::plain(100 * 2048, "raw") }
}

fn data(step: Step) -> Vec<u8> {
    match step {
        Step::DataIn(data) => data,
        other => panic!("{other:?}"),
    }
}

const EVENTS: [u8; 10] = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];

#[test]
fn ready_only_with_a_medium() {
    let (mut unit, cd) = (drive(), cd());
    assert_eq!(unit.command(&[0; 12], None), Step::Check(Sense::NO_MEDIUM));
    unit.hold(Sense::NO_MEDIUM);
    let sense = data(unit.command(&[3, 0, 0, 0, 18, 0], None));
    assert_eq!((sense[2], sense[12], sense[13]), (2, 0x3a, 1));
    unit.medium_changed(true);
    assert_eq!(unit.command(&[0; 12], Some(&cd)), Step::Check(Sense::MEDIUM_CHANGED));
    assert_eq!(unit.command(&[0; 12], Some(&cd)), Step::Good);
    assert_eq!(data(unit.command(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Some(&cd))), [0, 0, 0, 99, 0, 0, 8, 0]);
    let read = [0x28, 0, 0, 0, 0, 16, 0, 0, 2, 0];
    assert_eq!(unit.command(&read, Some(&cd)), Step::Disk(Action::Read { offset: 16 * 2048, len: 4096 }));
    let beyond = [0xa8, 0, 0, 0, 0, 99, 0, 0, 0, 2, 0, 0];
    assert_eq!(unit.command(&beyond, Some(&cd)), Step::Check(Sense::OUT_OF_RANGE));
}

#[test]
fn events_are_polled() {
    let (mut unit, cd) = (drive(), cd());
    unit.medium_changed(true);
    assert_eq!(data(unit.command(&EVENTS, Some(&cd))), [0, 6, 4, 0x10, 2, 2, 0, 0]);
    assert_eq!(data(unit.command(&EVENTS, Some(&cd)))[4], 0);
    // The attention is still to be told.
    assert_eq!(unit.command(&[0; 12], Some(&cd)), Step::Check(Sense::MEDIUM_CHANGED));
}

#[test]
fn a_locked_tray_stays_shut() {
    let (mut unit, cd) = (drive(), cd());
    assert_eq!(unit.command(&[0x1e, 0, 0, 0, 1, 0], Some(&cd)), Step::Good);
    assert_eq!(unit.command(&[0x1b, 0, 0, 0, 2, 0], Some(&cd)), Step::Check(Sense::REMOVAL_PREVENTED));
    assert_eq!(unit.press_eject(), Err(EjectRefused));
    assert_eq!(data(unit.command(&EVENTS, Some(&cd)))[4], 1);
    let unit_again = LogicalUnit::restored(UnitKind::Optical, Identity::dvd(), &unit.save());
    assert!(unit_again.locked());
    unit.command(&[0x1e, 0, 0, 0, 0, 0], Some(&cd));
    assert_eq!(unit.press_eject(), Ok(()));
    assert_eq!(unit.command(&[0x1b, 0, 0, 0, 2, 0], Some(&cd)), Step::Good);
    assert!(unit.tray_open());
    assert_eq!(unit.command(&[0; 12], Some(&cd)), Step::Check(Sense::TRAY_OPEN));
    assert_eq!(unit.command(&[0x1b, 0, 0, 0, 3, 0], Some(&cd)), Step::Good);
    assert_eq!(unit.command(&[0; 12], Some(&cd)), Step::Check(Sense::MEDIUM_CHANGED));
    assert_eq!(unit.command(&[0; 12], Some(&cd)), Step::Good);
}

#[test]
fn contents_and_capabilities() {
    let (mut unit, cd) = (drive(), cd());
    let toc = data(unit.command(&[0x43, 0, 0, 0, 0, 0, 0, 0, 255, 0], Some(&cd)));
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xaa, 0, 0, 0, 0, 100]);
    let toc = data(unit.command(&[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 12, 0], Some(&cd)));
    assert_eq!(toc[8..], [0, 0, 3, 25]);
    // Linux looks for the last session, with the format in the control byte.
    let sessions = data(unit.command(&[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40], Some(&cd)));
    assert_eq!(sessions, [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    let configuration = data(unit.command(&[0x46, 0, 0, 0, 0, 0, 0, 0, 200, 0], Some(&cd)));
    assert_eq!((configuration.len(), configuration[3]), (usize::from(configuration[3]) + 4, configuration[3]));
    assert_eq!(configuration[6..8], [0, 8]);
    let dvd = DiskFacts::plain(4 << 30, "raw");
    assert_eq!(data(unit.command(&[0x46, 2, 0, 0x1f, 0, 0, 0, 0, 200, 0], Some(&dvd)))[6..], [0, 16, 0, 0x1f, 1, 0]);
    let structure = data(unit.command(&[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4, 0, 0], Some(&dvd)));
    assert_eq!((structure.len(), &structure[..2]), (2052, &[8, 2][..]));
    let page = data(unit.command(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 128, 0], Some(&cd)));
    assert_eq!((page[1], page[2], page[8], page[9]), (28, 1, 0x2a, 20));
    assert_eq!(
        unit.command(&[0xbe, 0, 0, 0, 0, 1, 0, 0, 1, 0x10, 0, 0], Some(&cd)),
        Step::Disk(Action::Read { offset: 2048, len: 2048 })
    );
    assert_eq!(unit.command(&[0xff; 12], Some(&cd)), Step::Check(Sense::INVALID_OPCODE));
}
