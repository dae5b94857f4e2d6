//! Fuzz target: a disk of anything has a table that fits on it, or none.

use bulkhead_disk::{File as _, MemoryFile, RawImage, Stack, run_now, write_vec};
use std::rc::Rc;

/// Reads the table of a disk that begins with `data`.
pub fn fuzz(data: &[u8]) {
    const SIZE: u64 = 256 << 10;
    let file = MemoryFile::new("fuzz");
    let disk = run_now(async {
        file.set_len(SIZE).await?;
        write_vec(&file, 0, &data[..data.len().min(SIZE as usize)]).await?;
        RawImage::open(Rc::new(file)).await
    });
    let Ok(disk) = disk else { return };
    let disk = Stack::new(vec![Rc::new(disk)]);
    if let Ok(table) = run_now(crate::read_table(&disk)) {
        for partition in &table.partitions {
            assert!(partition.size > 0 && partition.start + partition.size <= SIZE, "{partition:?}");
            assert!(partition.start.is_multiple_of(partition.aligned_to));
        }
    }
}
