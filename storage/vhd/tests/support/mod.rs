//! Makes and opens images in memory.
#![allow(dead_code, reason = "every test binary uses its part")]

use bulkhead_disk::{File, Layer, MemoryFile, ParentLink, Stack, run_now};
use bulkhead_vhd::{CreateOptions, Kind, VhdImage, create};
use std::rc::Rc;
use uuid::Uuid;

pub const BLOCK: u32 = 512 << 10;

pub fn options(size: u64, kind: Kind) -> CreateOptions {
    CreateOptions { size, kind, id: Uuid::from_u128(0x1234), timestamp: 800_000_000 }
}

pub fn dynamic(size: u64) -> CreateOptions {
    options(size, Kind::Dynamic { block_size: BLOCK })
}

pub fn differencing(size: u64, parent: &VhdImage, name: &str) -> CreateOptions {
    let parent = ParentLink {
        id: parent.link_id(),
        second_id: None,
        timestamp: parent.link_timestamp(),
        paths: vec![format!("./{name}"), format!("/srv/vm/{name}")],
    };
    let mut options = options(size, Kind::Differencing { block_size: BLOCK, parent });
    options.id = Uuid::from_u128(0x5678);
    options
}

pub fn new_file(options: &CreateOptions) -> MemoryFile {
    let file = MemoryFile::new("test.vhd");
    run_now(create(&file, options)).unwrap();
    file
}

pub fn open(file: Rc<dyn File>) -> VhdImage {
    run_now(VhdImage::open(file)).unwrap()
}

pub fn stack(images: Vec<VhdImage>) -> Stack {
    Stack::new(images.into_iter().map(|image| Rc::new(image) as Rc<dyn Layer>).collect())
}
