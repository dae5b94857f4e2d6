//! `bulkhead disk`: virtual disks as files, without a service. Images are handled by a short-lived image process, which gets
//! descriptors and opens no path; this side opens, and shows what comes back.

mod arguments;
mod image_process;
mod jobs;
mod mount;
mod new_file;
mod print;

pub use arguments::Command;
pub use jobs::{chain_of, open_tracking, run};
