//! Receive-side scaling: which channel a frame goes to, by the Toeplitz hash of its flow ("RSS hashing types", Windows driver
//! documentation).

use crate::field::{u16_at, u32_at};

/// Entries of the table at most.
pub const TABLE: usize = 128;
/// Bytes of the key at most: enough for two IPv6 addresses and two ports.
pub const KEY: usize = 40;

/// Hash kinds, as in the parameters.
mod hash {
    pub const FUNCTION_TOEPLITZ: u32 = 1;
    pub const IPV4: u32 = 0x100;
    pub const TCP_IPV4: u32 = 0x200;
    pub const IPV6: u32 = 0x400;
    pub const TCP_IPV6: u32 = 0x1000;
    pub const UDP_IPV4: u32 = 0x4000;
    pub const UDP_IPV6: u32 = 0x8000;
}

/// `NDIS_RECEIVE_SCALE_CAPABILITIES` of revision 2: as many queues as channels.
pub fn capabilities(queues: u32) -> Vec<u8> {
    const OBJECT: u32 = 0x88;
    const SIZE: u32 = 20;
    let flags = hash::FUNCTION_TOEPLITZ | hash::IPV4 | hash::TCP_IPV4 | hash::IPV6 | hash::TCP_IPV6;
    crate::field::words(&[OBJECT | 2 << 8 | SIZE << 16, flags, queues, queues, TABLE as u32])
}

/// The guest's parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rss {
    /// Kinds of hash; 0 is off.
    pub kinds: u32,
    /// Channel of each hash, modulo the length.
    pub table: Vec<u8>,
    /// Secret of the hash.
    pub key: Vec<u8>,
}

impl Rss {
    /// What these become with `NDIS_RECEIVE_SCALE_PARAMETERS`. `None`: they make no sense for so many channels.
    pub fn set(&self, value: &[u8], channels: u32) -> Option<Rss> {
        const KINDS_UNCHANGED: u16 = 2;
        const TABLE_UNCHANGED: u16 = 4;
        const KEY_UNCHANGED: u16 = 8;
        const DISABLE: u16 = 0x10;
        let flags = u16_at(value, 4)?;
        if flags & DISABLE != 0 {
            return Some(Rss::default());
        }
        let part = |len_at, offset_at, most: usize| {
            let (len, offset) = (usize::from(u16_at(value, len_at)?), u32_at(value, offset_at)? as usize);
            (len <= most).then_some(value.get(offset..offset.checked_add(len)?)?)
        };
        let mut rss = self.clone();
        if flags & KINDS_UNCHANGED == 0 {
            rss.kinds = u32_at(value, 8)? & !0xFF;
        }
        if flags & TABLE_UNCHANGED == 0 {
            let entries = part(12, 16, 4 * TABLE)?;
            let numbers = entries.chunks_exact(4).map(|entry| u32_at(entry, 0));
            rss.table = numbers
                .map(|number| number.filter(|number| *number < channels).map(|n| n as u8))
                .collect::<Option<_>>()?;
            if !rss.table.len().is_power_of_two() {
                return None;
            }
        }
        if flags & KEY_UNCHANGED == 0 {
            rss.key = part(20, 24, KEY)?.to_vec();
        }
        Some(rss)
    }

    /// Hash and channel of a frame that begins with `headers`. Channel 0 where nothing tells flows apart.
    pub fn channel(&self, headers: &[u8]) -> u8 {
        if self.table.is_empty() || self.kinds == 0 {
            return 0;
        }
        let hash = flow(headers, self.kinds).map_or(0, |(input, len)| toeplitz(&self.key, &input[..len]));
        self.table[hash as usize & (self.table.len() - 1)]
    }
}

/// What is hashed: both addresses and, for the kinds that say so, both ports.
fn flow(headers: &[u8], kinds: u32) -> Option<([u8; 36], usize)> {
    let mut ether_type = u16::from_be_bytes([*headers.get(12)?, *headers.get(13)?]);
    let mut ip = 14;
    if ether_type == 0x8100 {
        ether_type = u16::from_be_bytes([*headers.get(16)?, *headers.get(17)?]);
        ip = 18;
    }
    let (addresses, protocol, transport, tcp, udp, plain) = match ether_type {
        0x0800 => {
            let first = *headers.get(ip)?;
            let fragment = u16::from_be_bytes([*headers.get(ip + 6)?, *headers.get(ip + 7)?]) & 0x3FFF;
            // Later pieces have no ports, so no piece is hashed by them.
            let protocol = if fragment == 0 { *headers.get(ip + 9)? } else { 0 };
            let transport = ip + usize::from(first & 0xF) * 4;
            (ip + 12..ip + 20, protocol, transport, hash::TCP_IPV4, hash::UDP_IPV4, hash::IPV4)
        }
        0x86DD => (ip + 8..ip + 40, *headers.get(ip + 6)?, ip + 40, hash::TCP_IPV6, hash::UDP_IPV6, hash::IPV6),
        _ => return None,
    };
    let addresses = headers.get(addresses)?;
    let mut input = [0; 36];
    let len = addresses.len();
    input[..len].copy_from_slice(addresses);
    let by_ports = protocol == 6 && kinds & tcp != 0 || protocol == 17 && kinds & udp != 0;
    if by_ports && let Some(ports) = headers.get(transport..transport + 4) {
        input[len..len + 4].copy_from_slice(ports);
        return Some((input, len + 4));
    }
    (kinds & plain != 0).then_some((input, len))
}

/// For each bit of the input that is set, the 32 bits of the key that begin there.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    let mut hash = 0;
    for (at, bits) in input.iter().enumerate() {
        let window = byte(at) << 32 | byte(at + 1) << 24 | byte(at + 2) << 16 | byte(at + 3) << 8 | byte(at + 4);
        for bit in 0..8 {
            if bits & (0x80 >> bit) != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and two of the vectors of "Verifying the RSS hash calculation".
    #[test]
    fn the_hash_is_microsofts() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
            0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
            0xbe, 0xac, 0x01, 0xfa,
        ];
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&key, &input), 0x51cc_c178);
        assert_eq!(toeplitz(&key, &input[..8]), 0x323e_8fc2);
    }
}
