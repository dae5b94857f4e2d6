//! Fuzz target: command blocks and parameters from anybody.

use crate::{Action, Identity, LogicalUnit, Step, UnitKind};
use bulkhead_disk::DiskFacts;
use std::ops::Range;

/// Takes `data` as pairs of a kind and a command block, with the rest as parameters.
///
/// # Panics
/// When a plan leaves the disk, or data is longer than any allocation length.
pub fn fuzz(data: &[u8]) {
    let Some((sizes, data)) = data.split_at_checked(2) else { return };
    let size = (u64::from(sizes[0]) << (sizes[1] % 40)) * 2048;
    let facts = DiskFacts {
        discard_granularity: 4096 * u32::from(sizes[1] & 1),
        read_only: sizes[1] & 0x80 != 0,
        ..DiskFacts::plain(size, "ram")
    };
    let mut disk = LogicalUnit::new(UnitKind::Disk, Identity::disk(&facts));
    let mut optical = LogicalUnit::new(UnitKind::Optical, Identity::dvd());
    for (index, command) in data.chunks(17).enumerate() {
        let unit = if command[0] & 1 == 0 { &mut disk } else { &mut optical };
        let medium = (command[0] & 6 != 0).then_some(&facts);
        if command[0] & 0x70 == 0 {
            unit.medium_changed(medium.is_some());
        }
        let cdb = &command[1..];
        let step = match unit.command(cdb, medium) {
            Step::DataOut(len) => {
                let list = &data[index * 17..];
                unit.parameters(cdb, &list[..list.len().min(len as usize)], medium)
            }
            step => step,
        };
        check(&step, size);
        let again = LogicalUnit::restored(unit.kind(), unit.identity().clone(), &unit.save());
        assert_eq!(again.save(), unit.save());
    }
}

fn check(step: &Step, size: u64) {
    let inside = |range: &Range<u64>| assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
    match step {
        Step::Disk(
            Action::Read { offset, len } | Action::Write { offset, len, .. } | Action::Verify { offset, len },
        ) => {
            inside(&(*offset..offset + len));
        }
        Step::Disk(Action::Zero { range, .. } | Action::Fill { range, .. }) => inside(range),
        Step::Disk(Action::Discard(ranges)) => ranges.iter().for_each(inside),
        Step::DataIn(data) => assert!(data.len() <= 0x1_0000),
        _ => {}
    }
}
