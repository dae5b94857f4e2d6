//! The fuzz target: hostile bytes as a tracking file yield a value or an error.

use std::rc::Rc;

use bulkhead_disk::{MemoryFile, RamDisk, run_now, write_bytes};
use uuid::Uuid;

use crate::{ChangeTracker, Stamp};

/// Opens `data` as the tracking file of a disk, and uses it.
pub fn fuzz(data: &[u8]) {
    let file = Rc::new(MemoryFile::with_data("fuzz", data));
    let disk = Rc::new(RamDisk::new(5 << 30));
    let stamp = Stamp { now: Uuid::nil(), next: Uuid::nil() };
    let Ok(tracker) = run_now(ChangeTracker::open(disk, file.clone(), stamp)) else { return };
    drop(run_now(tracker.add("one more")));
    run_now(write_bytes(&tracker, 3 << 30, &[1; 512])).expect("the disk works");
    for bitmap in tracker.bitmaps() {
        let runs = tracker.changes(&bitmap.name, 0..5 << 30).expect("it is there");
        assert_eq!(runs.iter().map(|(range, _)| range.end - range.start).sum::<u64>(), 5 << 30);
        let written = tracker.changes(&bitmap.name, 3 << 30..(3 << 30) + 512).expect("it is there");
        assert!(!bitmap.tracking || written[0].1, "a write is missing");
    }
    run_now(tracker.close(Uuid::nil())).expect("it closes");
}
