//! The worker protocol: what the process of one VM and whoever started it say to each other.
//!
//! One JSON message per packet of a SEQPACKET socket ([`Channel`]), at most 64 KiB; files travel as descriptors. The starter
//! sends [`Request`]s with an id of its choice; the worker answers each one with a [`Reply`] of the same id, in any order, and
//! sends [`Event`]s in between.
//!
//! ```text
//! starter                                    worker
//!   hello {version, features}           →
//!                                       ←    reply: hello {version, features}
//!   resources {names} + descriptors     →
//!   start {description}                 →
//!                                       ←    reply: done
//!                                       ←    event: state running
//!                                       ←    event: ended {by: power_off, stats}
//! ```
//!
//! Unknown fields are ignored on both sides; an unknown request is answered with [`ProblemKind::Unsupported`]. A version speaks
//! with itself and the one before it.

mod channel;
#[doc(hidden)]
pub mod fuzz;
mod guest;
pub mod image;
mod message;
mod stats;

pub use channel::{Channel, ChannelError, Incoming};
pub use guest::{GuestAnswer, GuestMemoryState, GuestRequest, GuestState, KeyPool, KeyStroke, ShutDownKind};
pub use message::{
    Answer, EndedBy, Event, FromWorker, Hello, MergeNews, Problem, ProblemKind, Reply, Request, ToWorker, VmState,
};
pub use stats::{DiskStats, Stats};

/// The version that this build speaks.
pub const VERSION: u32 = 1;
/// The oldest version that this build understands.
pub const OLDEST: u32 = 1;

/// Names of the resources that are not named by the description.
pub mod resource {
    /// System firmware: the BIOS image.
    pub const FIRMWARE: &str = "firmware";
    /// The BIOS of the display adapter.
    pub const VGA_FIRMWARE: &str = "firmware.vga";
    /// The program that boots from the network: iPXE.
    pub const NETWORK_BOOT: &str = "firmware.network";
    /// The directory with the socket at which ports of virtual switches are attached.
    pub const SWITCH: &str = "switch";
    /// The host's memory, in the form of `/proc/meminfo`: keeps dynamic memory from taking more than there is.
    pub const HOST_MEMORY: &str = "host.meminfo";
    /// The saved state of a VM: written by `save`, read by `restore`.
    pub const SAVED_STATE: &str = "saved.state";
    /// The saved RAM of a VM.
    pub const SAVED_MEMORY: &str = "saved.memory";

    /// The image below `leaf` in its chain: `depth` 1 is the parent, 2 its parent, and so on. They are passed as far as there
    /// are any.
    pub fn parent(leaf: &str, depth: usize) -> String {
        format!("{leaf} (parent {depth})")
    }

    /// The parent of `leaf`, open for writing, in place of the first of [`parent`]: the disk is going to be merged into it.
    pub fn merge_target(leaf: &str) -> String {
        format!("{leaf} (parent, to merge into)")
    }
}
