//! [`Packet`]: all frames of a NIC, by a packet socket.

use crate::{Uplink, virtio};
use bulkhead_linux::{has_link, receive_frame};
use bulkhead_packets::{FrameMeta, VlanTag, insert_tag, segments};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A packet socket that was opened with offload headers.
#[derive(Debug)]
pub struct Packet {
    socket: OwnedFd,
    name: String,
    piece: Vec<u8>,
}

impl Packet {
    /// Takes over the socket of the interface `name`.
    pub fn new(socket: OwnedFd, name: String) -> Packet {
        Packet { socket, name, piece: Vec::new() }
    }

    /// Whether the interface is up and its cable in.
    pub fn has_link(&self) -> bool {
        has_link(self.socket.as_fd(), &self.name).unwrap_or(false)
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn send_whole(&self, frame: &[u8], mut meta: FrameMeta) -> io::Result<()> {
        let tag = insert_tag(&mut meta);
        let header = virtio::encode(&meta);
        let (addresses, rest) = frame.split_at(frame.len().min(12));
        let tag = tag.as_ref().map_or(&[][..], |tag| tag);
        let parts = [IoSlice::new(&header), IoSlice::new(addresses), IoSlice::new(tag), IoSlice::new(rest)];
        rustix::io::writev(&self.socket, &parts)?;
        Ok(())
    }
}

impl Uplink for Packet {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, FrameMeta)>> {
        while let Some(received) = receive_frame(self.socket.as_fd(), buffer)? {
            if let Some(mut meta) = virtio::decode(&received.offload, received.len) {
                meta.vlan = received.vlan.map(VlanTag);
                return Ok(Some((received.len, meta)));
            }
        }
        Ok(None)
    }

    fn send(&mut self, frame: &[u8], meta: FrameMeta) -> io::Result<()> {
        match self.send_whole(frame, meta) {
            // The driver or the kernel cannot cut this one (tagged, or a kind of segment that it does not know).
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                let mut pieces = segments(frame, &meta).map_err(|_| error)?;
                let mut piece = std::mem::take(&mut self.piece);
                let mut result = Ok(());
                while let Some(meta) = pieces.next(&mut piece) {
                    result = self.send_whole(&piece, meta);
                    if result.is_err() {
                        break;
                    }
                }
                self.piece = piece;
                result
            }
            result => result,
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }

    fn active(&self) -> Option<&str> {
        self.has_link().then_some(&self.name)
    }
}
