//! Ways out of a virtual switch: packet sockets, taps, teams.
//!
//! All of them are descriptors that somebody with privileges opened; from here on none are needed.

pub mod fuzz;
mod packet;
mod tap;
mod team;
mod virtio;

pub use packet::Packet;
pub use tap::Tap;
pub use team::Team;

use bulkhead_packets::FrameMeta;
use std::io;
use std::os::fd::BorrowedFd;

/// Something that frames can be sent through and received from, one system call each. Never waits.
pub trait Uplink: Send {
    /// The next frame, at the start of `buffer`, which has room for the longest: its length. `None` when there is none now.
    ///
    /// # Errors
    /// The interface is down or gone.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, FrameMeta)>>;

    /// Sends a frame. `WouldBlock` when it cannot take it now.
    ///
    /// # Errors
    /// The interface is down, gone, or refuses the frame.
    fn send(&mut self, frame: &[u8], meta: FrameMeta) -> io::Result<()>;

    /// Readable when frames come, writable when they go.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Looks at the state of its links; call it about ten times a second if [`needs_tending`](Self::needs_tending). `true` when frames
    /// now take another way: then the network should be told where its stations are.
    fn tend(&mut self) -> bool {
        false
    }

    /// Whether it has more than one link.
    fn needs_tending(&self) -> bool {
        false
    }

    /// The interface that carries the traffic now; `None` if none does.
    fn active(&self) -> Option<&str>;
}
