//! The two buffers of guest memory: the receive buffer, divided into sections that the guest gives back one by one, and the send
//! buffer, whose sections the guest manages itself.

use bulkhead_guest_memory::GuestRange;
use bulkhead_packets::MAX_FRAME;
use bulkhead_vmbus_channel::{Gpadl, GpadlError};

/// Bytes of a section of the send buffer: what Hyper-V says too.
pub const SEND_SECTION: u32 = 6144;
/// Most sections of a receive buffer; with less than this a buffer is not used to its end.
const MOST_SECTIONS: u32 = 1 << 14;
/// The end of a chain of sections.
const END: u32 = u32::MAX;

/// The receive buffer.
#[derive(Debug)]
pub struct ReceiveBuffer {
    gpadl: Gpadl,
    /// What the guest calls its GPADL; saved.
    pub handle: u32,
    /// What it is called in packets.
    pub id: u16,
    /// What its sections were made for; saved.
    pub max_frame: u32,
    /// Bytes of a section.
    pub section: u32,
    free: Vec<u32>,
    /// Behind each section that the guest has, the next one of the same packet.
    next: Vec<Option<u32>>,
}

impl ReceiveBuffer {
    /// Divides a buffer into sections for frames of up to `max_frame` bytes.
    pub fn new(gpadl: Gpadl, handle: u32, id: u16, max_frame: u32) -> Option<ReceiveBuffer> {
        // Room for the RNDIS header and information, and for the longest answer to a control message.
        let section = (max_frame.min(MAX_FRAME as u32) + 256).max(1024).next_multiple_of(64);
        let count = u32::try_from(gpadl.len()).ok()?.checked_div(section)?.min(MOST_SECTIONS);
        (count > 0).then(|| ReceiveBuffer {
            gpadl,
            handle,
            id,
            max_frame,
            section,
            free: (0..count).rev().collect(),
            next: vec![None; count as usize],
        })
    }

    /// Number of sections.
    pub fn count(&self) -> u32 {
        self.next.len() as u32
    }

    /// Sections that can be filled now.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Puts `parts` into a free section, which becomes the last of the chain that begins with `first`, if any. Returns where they
    /// are. `None` when no section is free, or they do not fit.
    pub fn fill(&mut self, parts: &[&[u8]], chain: &mut Chain) -> Option<Result<(u32, u32), GpadlError>> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > self.section as usize {
            return None;
        }
        let section = self.free.pop()?;
        let mut at = u64::from(section) * u64::from(self.section);
        for part in parts {
            if let Err(error) = self.gpadl.write(at, part) {
                return Some(Err(error));
            }
            at += part.len() as u64;
        }
        self.next[section as usize] = Some(END);
        match chain.last.replace(section) {
            Some(last) => self.next[last as usize] = Some(section),
            None => chain.first = Some(section),
        }
        Some(Ok((len as u32, section * self.section)))
    }

    /// Takes back the sections of the packet that began with `first`. False: the guest does not have them.
    pub fn release(&mut self, first: u64) -> bool {
        let mut at = match u32::try_from(first) {
            Ok(first) => first,
            Err(_) => return false,
        };
        let mut found = false;
        while let Some(next) = self.next.get_mut(at as usize).and_then(Option::take) {
            self.free.push(at);
            found = true;
            at = next;
        }
        found
    }

    /// The chains that the guest has: for saving.
    pub fn lent(&self) -> Vec<Vec<u32>> {
        let mut is_first = vec![true; self.next.len()];
        for next in self.next.iter().flatten().filter(|next| **next != END) {
            is_first[*next as usize] = false;
        }
        let firsts =
            (0..self.count()).filter(|section| self.next[*section as usize].is_some() && is_first[*section as usize]);
        let chain =
            |first| std::iter::successors(Some(first), |at| self.next[*at as usize].filter(|next| *next != END));
        firsts.map(|first| chain(first).collect()).collect()
    }

    /// Lends them again: for restoring a buffer that was just made. `None`: they are no such chains.
    pub fn lend(&mut self, chains: &[Vec<u32>]) -> Option<()> {
        for chain in chains {
            for (at, section) in chain.iter().enumerate() {
                let next = chain.get(at + 1).copied().unwrap_or(END);
                let slot = self.next.get_mut(*section as usize)?;
                if slot.replace(next).is_some() {
                    return None;
                }
            }
        }
        self.free.retain(|section| self.next[*section as usize].is_none());
        Some(())
    }
}

/// Sections of one packet, in the making.
#[derive(Debug, Default)]
pub struct Chain {
    first: Option<u32>,
    last: Option<u32>,
}

impl Chain {
    /// Names the packet: its first section.
    pub fn transaction(&self) -> Option<u64> {
        self.first.map(u64::from)
    }
}

/// The send buffer.
#[derive(Debug)]
pub struct SendBuffer {
    /// Its memory.
    pub gpadl: Gpadl,
    /// What the guest calls its GPADL; saved.
    pub handle: u32,
}

impl SendBuffer {
    /// The first `len` bytes of a section.
    pub fn section(&self, section: u32, len: u32) -> Result<impl Iterator<Item = GuestRange> + '_, GpadlError> {
        let at = u64::from(section) * u64::from(SEND_SECTION);
        if len > SEND_SECTION {
            return Err(GpadlError::OutOfRange { at, len: len.into(), size: SEND_SECTION.into() });
        }
        self.gpadl.ranges(at, len.into())
    }
}
