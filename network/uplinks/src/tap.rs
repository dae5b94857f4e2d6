//! [`Tap`]: an interface of the host, a port of one of its bridges, or a macvtap.

use crate::{Uplink, virtio};
use bulkhead_packets::{ETHERNET_HEADER, FrameMeta, insert_tag};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A tap that was opened with offload headers.
#[derive(Debug)]
pub struct Tap {
    device: OwnedFd,
    name: String,
}

impl Tap {
    /// Takes over the descriptor of the interface `name`.
    pub fn new(device: OwnedFd, name: String) -> Tap {
        Tap { device, name }
    }
}

impl Uplink for Tap {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, FrameMeta)>> {
        loop {
            let mut header = [0; virtio::HEADER];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
            let read = match rustix::io::readv(&self.device, &mut parts) {
                Ok(read) => read,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let len = read.saturating_sub(virtio::HEADER);
            if let Some(meta) = virtio::decode(&header, len).filter(|_| len >= ETHERNET_HEADER) {
                return Ok(Some((len, meta)));
            }
        }
    }

    fn send(&mut self, frame: &[u8], mut meta: FrameMeta) -> io::Result<()> {
        let tag = insert_tag(&mut meta);
        let header = virtio::encode(&meta);
        let (addresses, rest) = frame.split_at(frame.len().min(12));
        let tag = tag.as_ref().map_or(&[][..], |tag| tag);
        let parts = [IoSlice::new(&header), IoSlice::new(addresses), IoSlice::new(tag), IoSlice::new(rest)];
        rustix::io::writev(&self.device, &parts)?;
        Ok(())
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.device.as_fd()]
    }

    fn active(&self) -> Option<&str> {
        Some(&self.name)
    }
}
