//! DHCP messages on the wire (RFC 2131, ch. 2; RFC 2132).

use bulkhead_packets::MacAddress;
use std::net::Ipv4Addr;

/// Bytes before the options, with the magic number.
const FIXED: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// BOOTP messages have at least this many bytes; some clients insist.
const SHORTEST: usize = 300;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Numbers of options.
pub(crate) mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const REQUESTED: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    pub const USER_CLASS: u8 = 77;
    pub const ARCHITECTURE: u8 = 93;
    pub const END: u8 = 255;
}

/// Kinds of messages.
pub(crate) mod kind {
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const DECLINE: u8 = 4;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
    pub const RELEASE: u8 = 7;
    pub const INFORM: u8 = 8;
}

/// A request of a guest on the same network: no relay has touched it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    bytes: &'a [u8],
    pub mac: MacAddress,
    /// The guest's address, if it has one.
    pub client: Ipv4Addr,
    pub kind: u8,
}

impl<'a> Request<'a> {
    /// `None` for everything that is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Request<'a>> {
        let relay = bytes.get(24..28)?;
        let ethernet = bytes[..3] == [REQUEST, 1, 6];
        if !ethernet || relay != [0; 4] || bytes.get(FIXED - 4..FIXED)? != MAGIC {
            return None;
        }
        let mac = MacAddress::from_slice(&bytes[28..]).filter(|mac| !mac.is_group())?;
        let mut request = Request { bytes, mac, client: address(&bytes[12..16])?, kind: 0 };
        request.kind = *request.option(option::MESSAGE_TYPE)?.first()?;
        Some(request)
    }

    /// The first option with this number.
    pub fn option(&self, number: u8) -> Option<&'a [u8]> {
        let mut rest = &self.bytes[FIXED..];
        loop {
            match rest {
                [option::PAD, tail @ ..] => rest = tail,
                [] | [option::END, ..] | [_] => return None,
                [found, len, tail @ ..] => {
                    let (value, tail) = tail.split_at_checked(usize::from(*len))?;
                    if *found == number {
                        return Some(value);
                    }
                    rest = tail;
                }
            }
        }
    }

    /// An option that is an address.
    pub fn address(&self, number: u8) -> Option<Ipv4Addr> {
        self.option(number).and_then(address)
    }

    /// The guest cannot receive what is sent to its new address.
    pub fn wants_broadcast(&self) -> bool {
        self.bytes[10] & 0x80 != 0
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

/// A reply that is being made.
#[derive(Debug)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    /// An answer to `request` that gives `yours`; `server` is where boot files are.
    pub fn new(request: &Request<'_>, kind: u8, yours: Ipv4Addr, server: Ipv4Addr) -> Reply {
        let mut bytes = vec![0; FIXED];
        bytes[..3].copy_from_slice(&[REPLY, 1, 6]);
        // Transaction and flags come back.
        bytes[4..8].copy_from_slice(&request.bytes[4..8]);
        bytes[10..12].copy_from_slice(&request.bytes[10..12]);
        bytes[16..20].copy_from_slice(&yours.octets());
        bytes[20..24].copy_from_slice(&server.octets());
        bytes[28..34].copy_from_slice(&request.mac.0);
        bytes[FIXED - 4..].copy_from_slice(&MAGIC);
        let mut reply = Reply { bytes };
        reply.option(option::MESSAGE_TYPE, &[kind]);
        reply
    }

    /// Adds an option of up to 255 bytes; more are cut off.
    pub fn option(&mut self, number: u8, value: &[u8]) {
        let value = &value[..value.len().min(255)];
        self.bytes.extend([number, value.len() as u8]);
        self.bytes.extend(value);
    }

    /// The boot file, as an option and in the old place, for boot ROMs that look only there.
    pub fn boot_file(&mut self, name: &str) {
        self.option(option::BOOT_FILE, name.as_bytes());
        if name.len() < 128 {
            self.bytes[108..108 + name.len()].copy_from_slice(name.as_bytes());
        }
    }

    /// The message.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(option::END);
        self.bytes.resize(self.bytes.len().max(SHORTEST), 0);
        self.bytes
    }
}
