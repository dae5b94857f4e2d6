//! [`Team`]: two NICs in the same network, of which one works and one stands by.

use crate::{Packet, Uplink};
use bulkhead_packets::FrameMeta;
use std::io;
use std::os::fd::BorrowedFd;

/// Several packet sockets, one of them in use. What the others receive is thrown away: the network sends broadcasts to each.
#[derive(Debug)]
pub struct Team {
    members: Vec<Packet>,
    active: usize,
}

impl Team {
    /// A team of at least one member; the first is preferred at the start, and later whichever works stays.
    pub fn new(members: Vec<Packet>) -> Option<Team> {
        let active = members.iter().position(Packet::has_link).unwrap_or(0);
        (!members.is_empty()).then_some(Team { members, active })
    }
}

impl Uplink for Team {
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, FrameMeta)>> {
        let active = self.active;
        for (index, member) in self.members.iter_mut().enumerate() {
            if index != active {
                // A bounded share, so that a flood on the idle link cannot hold up the other; errors of it matter to nobody.
                for _ in 0..64 {
                    if !matches!(member.receive(buffer), Ok(Some(_))) {
                        break;
                    }
                }
            }
        }
        match self.members[active].receive(buffer) {
            // Down for now: the other one takes over, or it comes back.
            Err(_) if self.members.len() > 1 => Ok(None),
            result => result,
        }
    }

    fn send(&mut self, frame: &[u8], meta: FrameMeta) -> io::Result<()> {
        self.members[self.active].send(frame, meta)
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.members.iter().flat_map(|member| member.descriptors()).collect()
    }

    fn tend(&mut self) -> bool {
        if self.members[self.active].has_link() {
            return false;
        }
        match self.members.iter().position(Packet::has_link) {
            Some(other) => {
                self.active = other;
                true
            }
            None => false,
        }
    }

    fn needs_tending(&self) -> bool {
        self.members.len() > 1
    }

    fn active(&self) -> Option<&str> {
        self.members[self.active].active()
    }
}
