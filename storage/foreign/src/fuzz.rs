//! The fuzz target: hostile bytes as an image yield a value or an error.

use std::rc::Rc;

use bulkhead_disk::{MemoryFile, Node, read_bytes, run_now};

use crate::{ForeignDisk, ForeignFormat};

/// Opens `data` as each format, asks for its map and reads at three places.
pub fn fuzz(data: &[u8]) {
    for format in [ForeignFormat::Qcow2, ForeignFormat::Vmdk, ForeignFormat::Vdi] {
        let file = Rc::new(MemoryFile::with_data("fuzz", data));
        let Ok(disk) = run_now(ForeignDisk::open(file, format)) else { continue };
        let size = disk.facts().size;
        let window = size.min(64 << 20);
        if let Ok(extents) = run_now(disk.status(0..window)) {
            let covered: u64 = extents.iter().map(|extent| extent.range.end - extent.range.start).sum();
            assert_eq!(covered, window, "the map has gaps");
        }
        for offset in [0, size / 2, size.saturating_sub(256 << 10)] {
            let offset = offset / 512 * 512;
            let len = (size - offset).min(256 << 10) as usize;
            if let Ok(read) = run_now(read_bytes(&disk, offset, len)) {
                assert_eq!(read.len(), len);
            }
        }
    }
}
