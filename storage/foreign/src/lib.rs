//! Disk images of other products, to convert from: QCOW2, VMDK and VDI, read only.
//!
//! | module | what |
//! |---|---|
//! | `disk` | [`ForeignDisk`]: any of them as a [`bulkhead_disk::Node`] |
//! | `mapping` | what a format must answer: where a range of the disk is |
//! | `qcow2`, `vmdk`, `vdi` | headers, checked, and the walk through each format's tables |
//! | `tables` | a bounded cache of table pages: no table is ever held whole, whatever size a header claims |
//! | `unpack` | compressed clusters and grains |
//!
//! An image is one file. What would need a second one (backing files, external data, extents, parents) and what would need a
//! key is refused: nothing that an image says makes us open anything.

mod disk;
#[doc(hidden)]
pub mod fuzz;
mod mapping;
mod qcow2;
mod tables;
mod unpack;
mod vdi;
mod vmdk;
mod vmdk_descriptor;

pub use disk::{ForeignDisk, ForeignFormat};
pub use mapping::ForeignInfo;
