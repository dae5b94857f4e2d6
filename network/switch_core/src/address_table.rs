//! [`AddressTable`]: behind which ports an address is.

use crate::{PortId, SECOND};
use bulkhead_packets::MacAddress;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

/// Learned addresses are forgotten when nothing was heard for so long.
const MAX_AGE: u64 = 300 * SECOND;
/// Addresses in the table.
const CAPACITY: usize = 65_536;
/// Addresses that one guest may have learned, so that it cannot fill the table.
const CAPACITY_OF_GUEST: u32 = 1024;

/// Addresses per VLAN, with the ports that they are behind. Most have one; stations of a load-balancing cluster share theirs.
#[derive(Debug)]
pub struct AddressTable {
    entries: HashMap<u64, Entry, Seed>,
    learned: HashMap<PortId, u32>,
}

#[derive(Debug)]
struct Entry {
    first: Owner,
    others: Vec<Owner>,
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    port: PortId,
    fixed: bool,
    /// It allows spoofing, so that it may share the address with another that does.
    shares: bool,
    seen: u64,
}

impl Owner {
    #[inline]
    fn is_fresh(&self, now: u64) -> bool {
        self.fixed || now.saturating_sub(self.seen) < MAX_AGE
    }
}

impl Entry {
    fn owners(&self) -> impl Iterator<Item = &Owner> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Keeps some owners; `false` when none is left.
    fn retain(&mut self, mut keep: impl FnMut(&Owner) -> bool) -> bool {
        self.others.retain(&mut keep);
        if keep(&self.first) {
            return true;
        }
        let next = self.others.pop();
        next.is_some_and(|owner| {
            self.first = owner;
            true
        })
    }
}

/// Who sent from an address, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// The table knows.
    Known,
    /// The table is full, or the guest's part of it.
    Full,
    /// It is another port's own address.
    InUse,
}

impl AddressTable {
    /// An empty table; `seed` should be random, so that nobody can choose addresses that collide.
    pub fn new(seed: u64) -> AddressTable {
        AddressTable { entries: HashMap::with_hasher(Seed(seed | 1)), learned: HashMap::new() }
    }

    #[inline]
    fn key(vlan: u16, mac: MacAddress) -> u64 {
        u64::from(vlan) << 48 | mac.to_u64()
    }

    /// Calls `found` with the ports behind an address, if there are any.
    #[inline]
    pub(crate) fn find(&self, vlan: u16, mac: MacAddress, now: u64, mut found: impl FnMut(PortId)) -> bool {
        let Some(entry) = self.entries.get(&Self::key(vlan, mac)) else { return false };
        let mut any = false;
        for owner in entry.owners().filter(|owner| owner.is_fresh(now)) {
            any = true;
            found(owner.port);
        }
        any
    }

    /// Adds a port's own address, which does not age.
    pub(crate) fn fix(&mut self, vlan: u16, mac: MacAddress, port: PortId, shares: bool) {
        let owner = Owner { port, fixed: true, shares, seen: 0 };
        let Some(entry) = self.entries.get_mut(&Self::key(vlan, mac)) else {
            self.entries.insert(Self::key(vlan, mac), Entry { first: owner, others: Vec::new() });
            return;
        };
        let learned = &mut self.learned;
        let left = entry.retain(|other| {
            let stays = other.port != port && shares && other.shares;
            if !stays && !other.fixed {
                forget(learned, other.port);
            }
            stays
        });
        if left { entry.others.push(owner) } else { entry.first = owner }
    }

    /// Notes that `port` sent from an address. `guest`: it shares the table with others like it.
    #[inline]
    pub(crate) fn learn(&mut self, vlan: u16, mac: MacAddress, port: PortId, guest: bool, now: u64) -> Learned {
        let key = Self::key(vlan, mac);
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.first.port == port {
                entry.first.seen = now;
                return Learned::Known;
            }
            return self.learn_elsewhere(key, port, guest, now);
        }
        if self.entries.len() >= CAPACITY {
            return Learned::Full;
        }
        let count = self.learned.entry(port).or_default();
        if guest && *count >= CAPACITY_OF_GUEST {
            return Learned::Full;
        }
        *count += 1;
        let first = Owner { port, fixed: false, shares: guest, seen: now };
        self.entries.insert(key, Entry { first, others: Vec::new() });
        Learned::Known
    }

    /// The address is known at another port: it has moved, is shared, or is not this port's to use.
    #[cold]
    fn learn_elsewhere(&mut self, key: u64, port: PortId, guest: bool, now: u64) -> Learned {
        let Some(entry) = self.entries.get_mut(&key) else { return Learned::Full };
        if let Some(owner) = entry.others.iter_mut().find(|owner| owner.port == port) {
            owner.seen = now;
            return Learned::Known;
        }
        if entry.owners().any(|owner| owner.fixed && !(owner.shares && guest)) {
            return Learned::InUse;
        }
        let count = self.learned.entry(port).or_default();
        if guest && *count >= CAPACITY_OF_GUEST {
            return Learned::Full;
        }
        *count += 1;
        let owner = Owner { port, fixed: false, shares: guest, seen: now };
        let learned = &mut self.learned;
        let left = entry.retain(|other| {
            let stays = guest && other.shares && other.is_fresh(now);
            if !stays && !other.fixed {
                forget(learned, other.port);
            }
            stays
        });
        if left {
            entry.others.push(owner)
        } else {
            entry.first = owner
        }
        Learned::Known
    }

    /// Forgets everything about a port.
    pub(crate) fn remove_port(&mut self, port: PortId) {
        self.entries.retain(|_, entry| entry.retain(|owner| owner.port != port));
        self.learned.remove(&port);
    }

    /// Forgets what has not been heard of for five minutes.
    pub fn age(&mut self, now: u64) {
        let learned = &mut self.learned;
        self.entries.retain(|_, entry| {
            entry.retain(|owner| {
                let stays = owner.is_fresh(now);
                if !stays {
                    forget(learned, owner.port);
                }
                stays
            })
        });
    }

    /// Addresses in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every address: VLAN, address, port, whether it is the port's own.
    pub fn iter(&self) -> impl Iterator<Item = (u16, MacAddress, PortId, bool)> {
        self.entries.iter().flat_map(|(key, entry)| {
            let [v0, v1, mac @ ..] = key.to_be_bytes();
            entry.owners().map(move |owner| (u16::from_be_bytes([v0, v1]), MacAddress(mac), owner.port, owner.fixed))
        })
    }
}

fn forget(learned: &mut HashMap<PortId, u32>, port: PortId) {
    if let Some(count) = learned.get_mut(&port) {
        *count = count.saturating_sub(1);
    }
}

/// A hash of one integer: a multiplication by a secret, folded.
#[derive(Clone, Copy, Debug)]
struct Seed(u64);

struct Folded {
    seed: u64,
    hash: u64,
}

impl BuildHasher for Seed {
    type Hasher = Folded;

    #[inline]
    fn build_hasher(&self) -> Folded {
        Folded { seed: self.0, hash: 0 }
    }
}

impl Hasher for Folded {
    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.hash ^ u64::from(byte)));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        let wide = u128::from(value ^ self.seed.rotate_left(32)) * u128::from(self.seed);
        self.hash = (wide as u64) ^ (wide >> 64) as u64;
    }
}
