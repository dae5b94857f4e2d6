//! Random guests: bytes become port accesses, memory accesses and time, for the fuzz targets of all devices.

use bulkhead_saved_state::SavedState;
use minicbor::{Decode, Encode};

/// One step of a random guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// IN of 1, 2 or 4 bytes; the number is reduced by the caller to a port of its device.
    PortRead(u16, u8),
    /// OUT.
    PortWrite(u16, u8, u32),
    /// A read of 1, 2, 4 or 8 bytes.
    MmioRead(u32, u8),
    /// A write of 1, 2, 4 or 8 bytes.
    MmioWrite(u32, u8, u64),
    /// Time passes, in nanoseconds, up to about 20 minutes.
    Advance(u64),
    /// Something else that happens to the device, at the caller's choice.
    Event(u32),
}

/// Reads steps from bytes until they are used up.
#[derive(Debug)]
pub struct Steps<'a> {
    data: &'a [u8],
}

impl<'a> Steps<'a> {
    /// Steps of `data`.
    pub fn new(data: &'a [u8]) -> Steps<'a> {
        Steps { data }
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        let (head, rest) = self.data.split_at_checked(bytes)?;
        self.data = rest;
        Some(head.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let kind = self.number(1)? as u8;
        let size = 1 << (kind >> 3 & 3);
        let narrow = if size == 8 { 1 } else { size };
        Some(match kind & 7 {
            0 | 1 => Step::PortRead(self.number(2)? as u16, narrow),
            2 | 3 => Step::PortWrite(self.number(2)? as u16, narrow, self.number(usize::from(narrow))? as u32),
            4 => Step::MmioRead(self.number(3)? as u32, size),
            5 => Step::MmioWrite(self.number(3)? as u32, size, self.number(usize::from(size))?),
            // Few bits of value, many of magnitude: from nanoseconds to minutes.
            6 => Step::Advance(self.number(1)? << (kind >> 3)),
            _ => Step::Event(self.number(2)? as u32),
        })
    }
}

/// A state with a few bytes changed, as `data` chooses, that still decodes as a `T`: a hostile or damaged file. Restoring it
/// must give a device, or an error, and a device must stand whatever the guest then does.
pub fn damaged<T: Encode<()> + for<'b> Decode<'b, ()>>(state: &SavedState, data: &[u8]) -> Option<SavedState> {
    let mut body = state.body().to_vec();
    let mut steps = Steps::new(data);
    for _ in 0..4 {
        let place = steps.number(2)? as usize % body.len().max(1);
        *body.get_mut(place)? = steps.number(1)? as u8;
    }
    let value: T = minicbor::decode(&body).ok()?;
    SavedState::encode(state.kind(), state.version(), &value).ok()
}

/// Calls `target` with `rounds` random inputs of up to `longest` bytes, the same ones for the same seed.
pub fn seeded_rounds(seed: u64, rounds: usize, longest: usize, target: fn(&[u8])) {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..rounds {
        let len = next() as usize % (longest + 1);
        let data: Vec<u8> = (0..len).map(|_| (next() >> 32) as u8).collect();
        target(&data);
    }
}
