//! Linux calls that the standard library and rustix do not offer safely; what rustix has is used directly, not wrapped.
//!
//! | to … | use |
//! |---|---|
//! | wake another thread or process | [`EventFd`] |
//! | exchange messages and descriptors between processes | [`SeqPacket`], [`SeqPacketListener`] |
//! | make memory that others can map and nobody can cut off | [`sealed_memfd`] |
//! | share a ring with another process | [`SharedMapping`] |
//! | keep two processes from opening a disk twice | [`OfdLock`], [`lock_holders`] |
//! | take signals without a handler | [`SignalFd`] |
//! | be a station of a network, with privileges | [`open_tap`], [`open_packet_socket`] |
//! | peek into the middle of a stream | [`set_peek_offset`] |
//! | map memory, copy bytes that others change meanwhile | [`Mapping`], [`volatile`] |

mod event_fd;
mod mapping;
mod memfd;
mod ofd_lock;
mod packet_socket;
mod peek_offset;
mod seqpacket;
mod shared_mapping;
mod signal_fd;
mod tap;
pub mod volatile;

pub use event_fd::EventFd;
pub use mapping::Mapping;
pub use memfd::{is_sealed_against_shrinking, sealed_memfd};
pub use ofd_lock::{LockError, LockKind, LockRange, OfdLock, conflicting_lock, lock_holders};
pub use packet_socket::{ReceivedFrame, has_link, interface_index, open_packet_socket, receive_frame};
pub use peek_offset::set_peek_offset;
pub use seqpacket::{
    MAX_DESCRIPTORS, MAX_MESSAGE, Message, MessageError, PeerCredentials, SeqPacket, SeqPacketListener,
};
pub use shared_mapping::{OutOfMapping, SharedMapping};
pub use signal_fd::{Signal, SignalFd};
pub use tap::{open_macvtap, open_tap};
