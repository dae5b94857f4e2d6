//! Which received frames the adapter takes: the addresses or hash table of the last setup frame (manual, 4.2.3).

use crate::regs::{mode, tdes};
use minicbor::{Decode, Encode};

/// Bytes of a setup frame; of each group of four the first two count.
pub(crate) const SETUP_LEN: usize = 192;
/// Where a hash setup frame has its one perfect address.
const HASH_ADDRESS: usize = 156;

/// How the setup frame is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
enum Kind {
    /// Sixteen addresses.
    #[n(0)]
    Perfect,
    /// A hash table for multicast, one address for the rest.
    #[n(1)]
    Hash,
    /// All but sixteen addresses.
    #[n(2)]
    Inverse,
    /// A hash table for everything.
    #[n(3)]
    HashOnly,
}

/// The filter.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Filter {
    #[n(0)]
    kind: Kind,
    #[cbor(n(1), with = "minicbor::bytes")]
    frame: [u8; SETUP_LEN],
}

impl Filter {
    /// A filter that takes no address: that after reset.
    pub fn none() -> Filter {
        Filter { kind: Kind::Perfect, frame: [0; SETUP_LEN] }
    }

    /// The filter of a setup frame whose descriptor has this word 1.
    pub fn new(word_1: u32, frame: [u8; SETUP_LEN]) -> Filter {
        let kind = match (word_1 & tdes::FILTER_1 != 0, word_1 & tdes::FILTER_0 != 0) {
            (false, false) => Kind::Perfect,
            (false, true) => Kind::Hash,
            (true, false) => Kind::Inverse,
            (true, true) => Kind::HashOnly,
        };
        Filter { kind, frame }
    }

    /// Whether a frame to `to` is taken in operation mode `csr6`.
    pub fn takes(&self, csr6: u32, to: [u8; 6]) -> bool {
        let multicast = to[0] & 1 != 0;
        if csr6 & mode::PROMISCUOUS != 0 || multicast && csr6 & mode::ALL_MULTICAST != 0 {
            return true;
        }
        match self.kind {
            Kind::Perfect => self.listed(to),
            Kind::Inverse => !self.listed(to),
            Kind::Hash if !multicast => self.address(HASH_ADDRESS) == to,
            Kind::Hash | Kind::HashOnly => self.hashed(to),
        }
    }

    fn address(&self, at: usize) -> [u8; 6] {
        [0, 1, 4, 5, 8, 9].map(|offset| self.frame[at + offset])
    }

    fn listed(&self, to: [u8; 6]) -> bool {
        to != [0; 6] && (0..16).any(|entry| self.address(entry * 12) == to)
    }

    fn hashed(&self, to: [u8; 6]) -> bool {
        let hash = !crc32fast::hash(&to) as usize & 0x1ff;
        let (word, bit) = (hash / 16, hash % 16);
        self.frame[word * 4 + bit / 8] >> (bit % 8) & 1 != 0
    }
}
