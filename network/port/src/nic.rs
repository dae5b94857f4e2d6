//! [`Nic`]: a network adapter, as whoever plugs its cable sees it.

use crate::PortRing;
use std::io;

/// A network adapter of any kind.
pub trait Nic: Send {
    /// Plugs the cable into a port, in place of the one it was in.
    ///
    /// # Errors
    /// The host has no descriptors left; the cable is then out.
    fn connect(&mut self, ring: PortRing) -> io::Result<()>;

    /// Pulls the cable out: the guest sees its link go down.
    fn disconnect(&mut self);
}
