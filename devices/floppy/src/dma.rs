//! Both 8237A controllers with their page registers, as one device.

use crate::saved_state::{DMA_KIND, DMA_VERSION, SavedDma, SavedDmaChannel};
use bulkhead_device::{BusError, Device, PortBus, PortIo};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;

/// Banks of ports: channels 0–3, channels 4–7 (at every second port), page registers.
const LOW: u8 = 0;
const HIGH: u8 = 1;
const PAGES: u8 = 2;

/// Which page register belongs to which channel.
const PAGE_OF_CHANNEL: [usize; 8] = [7, 3, 1, 2, 0xf, 0xb, 9, 0xa];

const AUTO_INITIALIZE: u8 = 0x10;
const DECREMENT: u8 = 0x20;

/// DMA controllers that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// Another device has their ports.
    #[error("DMA controllers `{name}` cannot have their ports")]
    Ports {
        /// The device.
        name: String,
        /// Who is in the way.
        #[source]
        source: BusError,
    },
    /// The saved state cannot be read.
    #[error("DMA controllers `{name}` cannot be restored")]
    SavedState {
        /// The device.
        name: String,
        /// Why.
        #[source]
        source: SavedStateError,
    },
}

/// The direction that a channel is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Verify,
    ToMemory,
    FromMemory,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    pub base_address: u16,
    pub base_count: u16,
    pub address: u16,
    /// Transfers left, less one; FFFFh after the last.
    pub count: u16,
    pub mode: u8,
    pub masked: bool,
    /// Reached the end since the status was read.
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Half {
    pub channels: [Channel; 4],
    pub command: u8,
    /// The next byte of an address or count is the upper one.
    pub upper: bool,
}

/// The ISA DMA controllers. Devices move bytes with [`DmaController::to_memory`] and [`DmaController::from_memory`].
pub struct DmaController {
    name: String,
    memory: GuestMemory,
    halves: [Half; 2],
    pages: [u8; 16],
}

impl DmaController {
    /// Controllers after power-on, at their ports on `ports`.
    ///
    /// # Errors
    /// `Ports`.
    pub fn new(name: &str, memory: GuestMemory, ports: &PortBus) -> Result<Arc<Mutex<DmaController>>, DmaError> {
        let mut halves = [Half::default(); 2];
        halves.iter_mut().for_each(Half::clear);
        DmaController { name: name.into(), memory, halves, pages: [0; 16] }.mapped(ports)
    }

    /// The controllers as they were saved.
    ///
    /// # Errors
    /// `Ports`, `SavedState`.
    pub fn restored(
        name: &str,
        memory: GuestMemory,
        ports: &PortBus,
        saved: &SavedState,
    ) -> Result<Arc<Mutex<DmaController>>, DmaError> {
        let saved = saved.decode(DMA_VERSION..=DMA_VERSION);
        let saved: SavedDma = saved.map_err(|source| DmaError::SavedState { name: name.into(), source })?;
        let mut halves = [Half::default(); 2];
        for (half, (command, upper)) in halves.iter_mut().zip(saved.halves) {
            (half.command, half.upper) = (command, upper);
        }
        for (channel, saved) in halves.iter_mut().flat_map(|half| &mut half.channels).zip(saved.channels) {
            *channel = saved.restored();
        }
        DmaController { name: name.into(), memory, halves, pages: saved.pages }.mapped(ports)
    }

    fn mapped(self, ports: &PortBus) -> Result<Arc<Mutex<DmaController>>, DmaError> {
        let name = self.name.clone();
        let controller = Arc::new(Mutex::new(self));
        for (range, bank) in [(0x00..=0x0f, LOW), (0xc0..=0xdf, HIGH), (0x80..=0x8f, PAGES)] {
            let mapped = ports.map(range, &controller, bank);
            mapped.map_err(|source| DmaError::Ports { name: name.clone(), source })?;
        }
        Ok(controller)
    }

    /// Bytes that an 8-bit channel (0 to 3) would move now, and where to; `None` when it is masked or off.
    pub(crate) fn ready(&self, number: usize) -> Option<(Direction, usize)> {
        let half = &self.halves[0];
        let channel = half.channels.get(number)?;
        if channel.masked || half.command & 4 != 0 {
            return None;
        }
        let direction = match channel.mode >> 2 & 3 {
            1 => Direction::ToMemory,
            2 => Direction::FromMemory,
            _ => Direction::Verify,
        };
        Some((direction, usize::from(channel.count) + 1))
    }

    /// A device's data for memory. Moves as much as the channel is set up for; true when that was its last byte.
    pub fn to_memory(&mut self, number: usize, data: &[u8]) -> bool {
        let Some((direction, len)) = self.ready(number) else { return false };
        let len = len.min(data.len());
        if direction == Direction::ToMemory {
            for (at, part) in self.parts(number, len) {
                if self.halves[0].channels[number].mode & DECREMENT == 0 {
                    // Where there is no RAM, the data is lost.
                    let _ = self.memory.write(at, &data[part]);
                } else {
                    let reversed: Vec<u8> = data[part].iter().rev().copied().collect();
                    let _ = self.memory.write(at, &reversed);
                }
            }
        }
        self.advance(number, len)
    }

    /// Fills `data` from memory. Returns how many bytes the channel had, and whether that was its last one.
    pub fn from_memory(&mut self, number: usize, data: &mut [u8]) -> (usize, bool) {
        let Some((direction, len)) = self.ready(number) else { return (0, false) };
        let len = len.min(data.len());
        data[..len].fill(0);
        if direction == Direction::FromMemory {
            for (at, part) in self.parts(number, len) {
                if self.memory.read(at, &mut data[part.clone()]).is_err() {
                    data[part].fill(0xff);
                } else if self.halves[0].channels[number].mode & DECREMENT != 0 {
                    data[part].reverse();
                }
            }
        }
        (len, self.advance(number, len))
    }

    /// Where `len` bytes are: addresses do not leave their 64 KiB page, they wrap.
    fn parts(&self, number: usize, len: usize) -> Vec<(u64, std::ops::Range<usize>)> {
        let channel = &self.halves[0].channels[number];
        let page = u64::from(self.pages[PAGE_OF_CHANNEL[number]]) << 16;
        let start = usize::from(channel.address);
        let len = len.min(0x1_0000);
        let first;
        if channel.mode & DECREMENT == 0 {
            first = len.min(0x1_0000 - start);
            vec![(page + start as u64, 0..first), (page, first..len)]
        } else {
            first = len.min(start + 1);
            let wrapped = len - first;
            vec![(page + (start + 1 - first) as u64, 0..first), (page + 0x1_0000 - wrapped as u64, first..len)]
        }
    }

    /// Counts `len` bytes; true at the end.
    fn advance(&mut self, number: usize, len: usize) -> bool {
        let channel = &mut self.halves[0].channels[number];
        let moved = len as u16;
        let ended = len > usize::from(channel.count);
        channel.count = channel.count.wrapping_sub(moved);
        channel.address = match channel.mode & DECREMENT {
            0 => channel.address.wrapping_add(moved),
            _ => channel.address.wrapping_sub(moved),
        };
        if ended {
            channel.ended = true;
            if channel.mode & AUTO_INITIALIZE != 0 {
                (channel.address, channel.count) = (channel.base_address, channel.base_count);
            } else {
                channel.masked = true;
            }
        }
        ended
    }
}

impl Half {
    /// Master clear.
    fn clear(&mut self) {
        self.command = 0;
        self.upper = false;
        for channel in &mut self.channels {
            (channel.masked, channel.ended) = (true, false);
        }
    }

    fn read(&mut self, register: u16) -> u8 {
        match register {
            0..8 => {
                let channel = &self.channels[usize::from(register / 2)];
                let value = if register.is_multiple_of(2) { channel.address } else { channel.count };
                self.upper = !self.upper;
                if self.upper { value as u8 } else { (value >> 8) as u8 }
            }
            8 => {
                let ended = (0..4).fold(0, |bits, n| bits | u8::from(self.channels[n].ended) << n);
                self.channels.iter_mut().for_each(|channel| channel.ended = false);
                ended
            }
            0xf => (0..4).fold(0xf0, |bits, n| bits | u8::from(self.channels[n].masked) << n),
            _ => 0,
        }
    }

    fn write(&mut self, register: u16, value: u8) {
        match register {
            0..8 => {
                let upper = self.upper;
                self.upper = !upper;
                let channel = &mut self.channels[usize::from(register / 2)];
                let base = if register.is_multiple_of(2) { &mut channel.base_address } else { &mut channel.base_count };
                *base = match upper {
                    false => *base & 0xff00 | u16::from(value),
                    true => *base & 0x00ff | u16::from(value) << 8,
                };
                (channel.address, channel.count) = match register % 2 {
                    0 => (channel.base_address, channel.count),
                    _ => (channel.address, channel.base_count),
                };
            }
            8 => self.command = value,
            0xa => self.channels[usize::from(value & 3)].masked = value & 4 != 0,
            0xb => self.channels[usize::from(value & 3)].mode = value & 0xfc,
            0xc => self.upper = false,
            0xd => self.clear(),
            0xe => self.channels.iter_mut().for_each(|channel| channel.masked = false),
            0xf => (0..4).for_each(|n| self.channels[n].masked = value >> n & 1 != 0),
            // Requests by software: there is nothing between memory and memory.
            _ => {}
        }
    }
}

impl Device for DmaController {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let [low, high] = &self.halves;
        let channel = |n: usize| SavedDmaChannel::of(&self.halves[n / 4].channels[n % 4]);
        let saved = SavedDma {
            channels: std::array::from_fn(channel),
            halves: [(low.command, low.upper), (high.command, high.upper)],
            pages: self.pages,
        };
        SavedState::encode(DMA_KIND, DMA_VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let channel = |n: usize| {
            let channel = &self.halves[n / 4].channels[n % 4];
            json!({ "page": self.pages[PAGE_OF_CHANNEL[n]], "address": channel.address, "count": channel.count,
                "mode": channel.mode, "masked": channel.masked })
        };
        json!((0..8).map(channel).collect::<Vec<_>>())
    }

    fn reset(&mut self) {
        self.halves.iter_mut().for_each(Half::clear);
    }
}

impl PortIo for DmaController {
    fn port_read(&mut self, bank: u8, offset: u16, _size: u8) -> u32 {
        let value = match bank {
            LOW => self.halves[0].read(offset),
            HIGH => self.halves[1].read(offset / 2),
            _ => self.pages[usize::from(offset & 15)],
        };
        value.into()
    }

    fn port_write(&mut self, bank: u8, offset: u16, _size: u8, value: u32) {
        match bank {
            LOW => self.halves[0].write(offset, value as u8),
            HIGH => self.halves[1].write(offset / 2, value as u8),
            _ => self.pages[usize::from(offset & 15)] = value as u8,
        }
    }
}
