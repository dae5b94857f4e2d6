//! MAC addresses for ports that name none: 256 of the host's own, as Hyper-V has them.

use bulkhead_packets::MacAddress;
use std::collections::BTreeMap;

/// 00-15-5D-xx-xx-00 to …-FF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacPool([u8; 2]);

/// Every address is taken.
#[derive(Debug, thiserror::Error)]
#[error(
    "all 256 addresses of this host, {first} to {last}, are taken: remove ports, or give the new one an address of its own"
)]
pub struct Exhausted {
    first: MacAddress,
    last: MacAddress,
}

impl MacPool {
    /// The pool of a host, made of what identifies it.
    pub fn of_host(identity: &[u8]) -> MacPool {
        // FNV-1a: two hosts rarely get the same of 65 536 ranges, and the same host always gets its own.
        let hash = identity
            .iter()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        let [.., high, low] = (hash ^ hash >> 32).to_be_bytes();
        MacPool([high, low])
    }

    fn address(self, last: u8) -> MacAddress {
        MacAddress([0x00, 0x15, 0x5D, self.0[0], self.0[1], last])
    }

    /// The first address that nobody in `taken` has.
    ///
    /// # Errors
    /// There is none.
    pub fn free(self, taken: &BTreeMap<MacAddress, String>) -> Result<MacAddress, Exhausted> {
        let mut addresses = (0..=255).map(|last| self.address(last));
        let free = addresses.find(|address| !taken.contains_key(address));
        free.ok_or(Exhausted { first: self.address(0), last: self.address(255) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_gives_out_256_addresses_and_says_when_they_are_gone() {
        let pool = MacPool::of_host(b"host a");
        assert_eq!(pool, MacPool::of_host(b"host a"));
        assert_ne!(pool, MacPool::of_host(b"host b"));
        let mut taken = BTreeMap::new();
        for _ in 0..256 {
            let address = pool.free(&taken).unwrap();
            assert_eq!(address.0[..3], [0x00, 0x15, 0x5D]);
            taken.insert(address, "vm".into());
        }
        assert_eq!(taken.len(), 256);
        let words = pool.free(&taken).unwrap_err().to_string();
        assert!(words.contains("all 256 addresses"), "{words}");
    }
}
