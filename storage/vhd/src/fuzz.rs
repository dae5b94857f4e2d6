//! The fuzz target: hostile bytes as a VHD file yield a value or an error.

use crate::{VhdImage, check, inspect, repair};
use bulkhead_disk::{MemoryFile, Node, Stack, read_bytes, run_now, write_bytes};
use std::rc::Rc;

/// Opens `data` as a VHD, reads, writes, checks and repairs it.
pub fn fuzz(data: &[u8]) {
    let file = Rc::new(MemoryFile::with_data("fuzz", data));
    drop(run_now(inspect(&*file)));
    drop(run_now(check(&*file)));
    drop(run_now(repair(file.clone())));
    let Ok(image) = run_now(VhdImage::open(file)) else { return };
    let disk = Stack::new(vec![Rc::new(image)]);
    let size = disk.facts().size;
    for offset in [0, size / 2, size.saturating_sub(4096)] {
        let offset = offset / 512 * 512;
        let len = (size - offset).min(4096) as usize;
        drop(run_now(read_bytes(&disk, offset, len)));
        if run_now(write_bytes(&disk, offset, &vec![0xA5; len])).is_ok()
            && let Ok(back) = run_now(read_bytes(&disk, offset, len))
        {
            assert!(back.iter().all(|byte| *byte == 0xA5), "what was written is not read back");
        }
    }
    drop(run_now(disk.status(0..size.min(1 << 30) / 512 * 512)));
    drop(run_now(disk.close()));
}
