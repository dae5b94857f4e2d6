//! Captures in the pcapng format (draft-ietf-opsawg-pcapng), little-endian, nanoseconds.

use std::io::{self, Write};

/// The way of a frame, seen from the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came to the port's owner.
    Inbound,
    /// The port's owner sent it.
    Outbound,
}

/// Writes a capture of one interface.
#[derive(Debug)]
pub struct PcapngWriter<W> {
    to: W,
    snap: u32,
}

impl<W: Write> PcapngWriter<W> {
    /// Starts a capture of the interface `name`, keeping the first `snap` bytes of each frame.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(to: W, name: &str, snap: u32) -> io::Result<Self> {
        let mut writer = PcapngWriter { to, snap };
        // Section header: byte order, version 1.0, length unknown.
        let mut section = 0x1A2B_3C4D_u32.to_le_bytes().to_vec();
        section.extend([1, 0, 0, 0]);
        section.extend([0xFF; 8]);
        option(&mut section, 4, b"Bulkhead");
        option(&mut section, 0, &[]);
        writer.block(0x0A0D_0D0A, &section)?;
        // Interface: Ethernet, its name, resolution of 10⁻⁹ s.
        let mut interface = vec![1, 0, 0, 0];
        interface.extend(snap.to_le_bytes());
        option(&mut interface, 2, name.as_bytes());
        option(&mut interface, 9, &[9]);
        option(&mut interface, 0, &[]);
        writer.block(1, &interface)?;
        Ok(writer)
    }

    /// Adds a frame of `len` bytes, of which `bytes` are at hand, at `time`: nanoseconds since 1970.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn frame(&mut self, time: u64, direction: Direction, bytes: &[u8], len: usize) -> io::Result<()> {
        let kept = &bytes[..bytes.len().min(self.snap as usize)];
        let mut body = Vec::with_capacity(kept.len() + 40);
        body.extend(0u32.to_le_bytes());
        body.extend(((time >> 32) as u32).to_le_bytes());
        body.extend((time as u32).to_le_bytes());
        body.extend((kept.len() as u32).to_le_bytes());
        body.extend((len as u32).to_le_bytes());
        body.extend_from_slice(kept);
        body.resize(body.len().next_multiple_of(4), 0);
        let flags: u32 = if direction == Direction::Inbound { 1 } else { 2 };
        option(&mut body, 2, &flags.to_le_bytes());
        option(&mut body, 0, &[]);
        self.block(6, &body)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let len = (body.len() + 12) as u32;
        let mut block = Vec::with_capacity(len as usize);
        block.extend(kind.to_le_bytes());
        block.extend(len.to_le_bytes());
        block.extend_from_slice(body);
        block.extend(len.to_le_bytes());
        self.to.write_all(&block)
    }

    /// The writer.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.to
    }
}

/// Adds an option, padded to four bytes.
fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    to.extend(code.to_le_bytes());
    to.extend((value.len() as u16).to_le_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
