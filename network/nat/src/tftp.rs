//! The TFTP server for network boot: reading only (RFC 1350), with block size, transfer size, timeout and window (RFC 2347–2349,
//! 7440). Blocks are numbered past 65,535 by starting over.

use crate::host::BootFile;
use bulkhead_reactor::Time;
use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddrV4;
use std::time::Duration;

/// Transfers at the same time.
const MOST: usize = 256;
/// Largest block that fits into an Ethernet frame.
const LARGEST_BLOCK: usize = 1468;
const LARGEST_WINDOW: u16 = 64;
const RETRIES: u32 = 6;
const TIMEOUT: Duration = Duration::from_secs(1);

/// First port of transfers; each has its own.
const FIRST_PORT: u16 = 40_000;

mod opcode {
    pub const READ: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const DATA: u16 = 3;
    pub const ACK: u16 = 4;
    pub const ERROR: u16 = 5;
    pub const OPTIONS: u16 = 6;
}

/// A datagram to a client: from which port of the gateway, to whom, what.
pub(crate) type Packet = (u16, SocketAddrV4, Vec<u8>);

struct Transfer {
    client: SocketAddrV4,
    file: Box<dyn BootFile>,
    block: usize,
    window: u16,
    timeout: Duration,
    /// The answer to the options, until it is acknowledged.
    options: Option<Vec<u8>>,
    /// Blocks that are acknowledged.
    done: u64,
    retries: u32,
    deadline: Time,
}

/// The server.
pub(crate) struct Tftp {
    /// By our port.
    transfers: HashMap<u16, Transfer>,
    last: u16,
    pub served: u64,
}

impl Tftp {
    pub fn new() -> Tftp {
        Tftp { transfers: HashMap::new(), last: 0, served: 0 }
    }

    /// A datagram to port 69. `open` finds files.
    pub fn request(
        &mut self,
        now: Time,
        client: SocketAddrV4,
        bytes: &[u8],
        open: impl FnOnce(&str) -> std::io::Result<Box<dyn BootFile>>,
    ) -> Vec<Packet> {
        let Some((port, number)) = self.free_port().zip(opcode_of(bytes)) else { return Vec::new() };
        let refuse = |code, text| vec![(port, client, error(code, text))];
        if number != opcode::READ {
            return if number == opcode::WRITE { refuse(2, "only reading is possible") } else { Vec::new() };
        }
        let mut fields = bytes[2..].split(|byte| *byte == 0).map(|field| std::str::from_utf8(field).unwrap_or("\0"));
        let (Some(name), Some(mode)) = (fields.next(), fields.next()) else { return refuse(0, "malformed request") };
        if !mode.eq_ignore_ascii_case("octet") && !mode.eq_ignore_ascii_case("netascii") {
            return refuse(0, "the mode must be octet");
        }
        let file = match open(name) {
            Ok(file) => file,
            Err(_) => return refuse(1, "file not found"),
        };
        // A client that asks again has not got the first answer.
        self.transfers.retain(|_, transfer| transfer.client != client);
        let mut transfer = Transfer {
            client,
            file,
            block: 512,
            window: 1,
            timeout: TIMEOUT,
            options: None,
            done: 0,
            retries: 0,
            deadline: now + TIMEOUT,
        };
        let options: Vec<&str> = fields.collect();
        transfer.negotiate(&options);
        self.served += 1;
        let packets = transfer.send(port);
        self.transfers.insert(port, transfer);
        packets
    }

    /// A datagram to a transfer's port.
    pub fn datagram(&mut self, now: Time, port: u16, client: SocketAddrV4, bytes: &[u8]) -> Vec<Packet> {
        let Some(transfer) = self.transfers.get_mut(&port) else { return Vec::new() };
        if transfer.client != client {
            return vec![(port, client, error(5, "unknown transfer"))];
        }
        match (opcode_of(bytes), bytes.get(2..4)) {
            (Some(opcode::ACK), Some(&[high, low])) => {
                if !transfer.acknowledged(u16::from_be_bytes([high, low])) {
                    // Of an older window: answering it would double every block from here on.
                    return Vec::new();
                }
                (transfer.retries, transfer.deadline) = (0, now + transfer.timeout);
                if transfer.is_done() {
                    self.transfers.remove(&port);
                    return Vec::new();
                }
                transfer.send(port)
            }
            (Some(opcode::ERROR), _) => {
                self.transfers.remove(&port);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Whether a port is one of a transfer.
    pub fn owns(&self, port: u16) -> bool {
        self.transfers.contains_key(&port)
    }

    pub fn deadline(&self) -> Option<Time> {
        self.transfers.values().map(|transfer| transfer.deadline).min()
    }

    /// Sends again what was not acknowledged in time.
    pub fn tick(&mut self, now: Time) -> Vec<Packet> {
        let mut packets = Vec::new();
        self.transfers.retain(|port, transfer| {
            if transfer.deadline > now {
                return true;
            }
            transfer.retries += 1;
            transfer.deadline = now + transfer.timeout;
            if transfer.retries <= RETRIES {
                packets.extend(transfer.send(*port));
            }
            transfer.retries <= RETRIES
        });
        packets
    }

    fn free_port(&mut self) -> Option<u16> {
        if self.transfers.len() >= MOST {
            return None;
        }
        loop {
            self.last = (self.last + 1) % 4096;
            let port = FIRST_PORT + self.last;
            if !self.transfers.contains_key(&port) {
                return Some(port);
            }
        }
    }
}

impl Transfer {
    /// Takes the options that make sense, and prepares the answer to them.
    fn negotiate(&mut self, options: &[&str]) {
        let mut answer = String::new();
        for pair in options.chunks_exact(2) {
            let (name, Ok(value)) = (pair[0].to_ascii_lowercase(), pair[1].parse::<u64>()) else { continue };
            let granted = match name.as_str() {
                "blksize" if value >= 8 => {
                    self.block = (value as usize).min(LARGEST_BLOCK);
                    self.block as u64
                }
                "tsize" => self.file.len(),
                "timeout" if (1..=255).contains(&value) => {
                    self.timeout = Duration::from_secs(value);
                    value
                }
                "windowsize" if value >= 1 => {
                    self.window = value.min(LARGEST_WINDOW.into()) as u16;
                    self.window.into()
                }
                _ => continue,
            };
            // Writing to a string cannot fail.
            let _ = write!(answer, "{name}\0{granted}\0");
        }
        if !answer.is_empty() {
            let mut bytes = opcode::OPTIONS.to_be_bytes().to_vec();
            bytes.extend(answer.into_bytes());
            self.options = Some(bytes);
        }
    }

    /// Blocks of the file; the last one is short, and may be empty.
    fn blocks(&self) -> u64 {
        self.file.len() / self.block as u64 + 1
    }

    fn is_done(&self) -> bool {
        self.options.is_none() && self.done >= self.blocks()
    }

    /// An acknowledgement of the block with this number. False if it is of none that is in flight.
    fn acknowledged(&mut self, number: u16) -> bool {
        if self.options.is_some() {
            let accepted = number == 0;
            if accepted {
                self.options = None;
            }
            return accepted;
        }
        let newly = number.wrapping_sub(self.done as u16);
        if newly > self.window {
            return false;
        }
        // Zero: blocks were lost on the way, from the first of the window on (RFC 7440). With a window of one it is a
        // duplicate, and answering those doubles everything (the "sorcerer's apprentice").
        self.done += u64::from(newly);
        newly > 0 || self.window > 1
    }

    fn send(&self, port: u16) -> Vec<Packet> {
        if let Some(options) = &self.options {
            return vec![(port, self.client, options.clone())];
        }
        let mut packets = Vec::new();
        for number in self.done..(self.done + u64::from(self.window)).min(self.blocks()) {
            let mut bytes = opcode::DATA.to_be_bytes().to_vec();
            bytes.extend(((number + 1) as u16).to_be_bytes());
            let at = number * self.block as u64;
            let len = (self.file.len() - at).min(self.block as u64) as usize;
            bytes.resize(4 + len, 0);
            match self.file.read_at(&mut bytes[4..], at) {
                Ok(read) if read == len => packets.push((port, self.client, bytes)),
                _ => return vec![(port, self.client, error(0, "the file cannot be read"))],
            }
        }
        packets
    }
}

fn opcode_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}

fn error(code: u16, text: &str) -> Vec<u8> {
    let mut bytes = opcode::ERROR.to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}
