//! The table from addresses to devices, shared by both buses: few changes, many look-ups by all VPs at once.

use super::BusError;
use parking_lot::{Mutex, RwLock};
use std::sync::{Arc, Weak};

/// Devices do not live here: the machine owns them, and the ranges of a dropped device answer like unclaimed ones.
pub(super) struct AddressMap<D: ?Sized> {
    space: &'static str,
    last: u64,
    state: RwLock<State<D>>,
}

struct State<D: ?Sized> {
    /// In the order of their creation.
    slots: Vec<Slot<D>>,
    /// What each address leads to: sorted, without overlaps. Built from `slots` at every change.
    table: Vec<Entry<D>>,
    next_id: u64,
}

struct Slot<D: ?Sized> {
    id: u64,
    name: String,
    base: Option<u64>,
    len: u64,
    fixed: bool,
    device: Weak<Mutex<D>>,
    bank: u8,
}

struct Entry<D: ?Sized> {
    first: u64,
    last: u64,
    /// Where the region begins; less than `first` when its beginning is hidden.
    base: u64,
    device: Weak<Mutex<D>>,
    bank: u8,
}

/// The answer to a look-up.
pub(super) struct Found<D: ?Sized> {
    pub device: Arc<Mutex<D>>,
    pub bank: u8,
    /// From the beginning of the region.
    pub offset: u64,
    /// How many bytes from here on lead to the same region, at least 1.
    pub room: u64,
}

impl<D: ?Sized> AddressMap<D> {
    /// A map of the addresses `0..=last`.
    pub fn new(space: &'static str, last: u64) -> Arc<AddressMap<D>> {
        let state = State { slots: Vec::new(), table: Vec::new(), next_id: 0 };
        Arc::new(AddressMap { space, last, state: RwLock::new(state) })
    }

    /// Maps a range for good.
    pub fn map(&self, base: u64, len: u64, name: &str, device: Weak<Mutex<D>>, bank: u8) -> Result<(), BusError> {
        let space = self.space;
        let Some(last) = self.last_of(base, len) else {
            return Err(BusError::OutOfRange { space, base, len, device: name.into() });
        };
        let mut state = self.state.write();
        let fixed = state.slots.iter().filter(|slot| slot.fixed).filter_map(|slot| Some((slot, slot.base?)));
        for (slot, start) in fixed {
            if start <= last && base - start.min(base) < slot.len {
                let (device, other) = (name.into(), slot.name.clone());
                return Err(BusError::Overlap {
                    space,
                    base,
                    len,
                    device,
                    other,
                    other_base: start,
                    other_len: slot.len,
                });
            }
        }
        state.add(Slot { id: 0, name: name.into(), base: Some(base), len, fixed: true, device, bank });
        self.rebuild(&mut state);
        Ok(())
    }

    /// Makes a region that is nowhere yet.
    pub fn region(self: &Arc<Self>, len: u64, name: &str, device: Weak<Mutex<D>>, bank: u8) -> Region<D> {
        let slot = Slot { id: 0, name: name.into(), base: None, len, fixed: false, device, bank };
        let id = self.state.write().add(slot);
        Region { map: self.clone(), id, len }
    }

    pub fn find(&self, address: u64) -> Option<Found<D>> {
        let state = self.state.read();
        let index = state.table.partition_point(|entry| entry.last < address);
        let entry = state.table.get(index).filter(|entry| entry.first <= address)?;
        let device = entry.device.upgrade()?;
        Some(Found { device, bank: entry.bank, offset: address - entry.base, room: entry.last - address + 1 })
    }

    fn last_of(&self, base: u64, len: u64) -> Option<u64> {
        base.checked_add(len.checked_sub(1)?).filter(|last| *last <= self.last)
    }

    fn place(&self, id: u64, base: Option<u64>) {
        let mut state = self.state.write();
        let Some(slot) = state.slots.iter_mut().find(|slot| slot.id == id) else { return };
        if slot.base != base {
            slot.base = base;
            self.rebuild(&mut state);
        }
    }

    /// Fixed ranges first, then the others in the order of their creation; each gets what is still free.
    fn rebuild(&self, state: &mut State<D>) {
        let mut table: Vec<Entry<D>> = Vec::with_capacity(state.table.len() + 2);
        let (fixed, moving): (Vec<_>, Vec<_>) = state.slots.iter().partition(|slot| slot.fixed);
        for slot in fixed.into_iter().chain(moving) {
            let Some(base) = slot.base else { continue };
            let Some(last) = self.last_of(base, slot.len) else { continue };
            let mut free = base;
            let mut index = table.partition_point(|entry| entry.last < base);
            loop {
                let next = table.get(index).map_or((u64::MAX, u64::MAX), |entry| (entry.first, entry.last));
                if free < next.0 {
                    let end = last.min(next.0 - 1);
                    let (device, bank) = (slot.device.clone(), slot.bank);
                    table.insert(index, Entry { first: free, last: end, base, device, bank });
                    index += 1;
                }
                if next.1 >= last {
                    break;
                }
                free = next.1 + 1;
                index += 1;
            }
        }
        state.table = table;
    }
}

impl<D: ?Sized> State<D> {
    fn add(&mut self, slot: Slot<D>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.slots.push(Slot { id, ..slot });
        id
    }
}

/// A range of addresses that moves, such as that of a BAR. Made by [`PortBus::region`](super::PortBus::region) and
/// [`MmioBus::region`](super::MmioBus::region); dropping it takes the range away.
///
/// Guests place these, so an overlap is no error: ranges mapped for good win, then regions made earlier.
pub struct Region<D: ?Sized> {
    map: Arc<AddressMap<D>>,
    id: u64,
    len: u64,
}

impl<D: ?Sized> Region<D> {
    /// Moves the region to `base`. One that does not fit into the address space is nowhere.
    pub fn move_to(&self, base: u64) {
        self.map.place(self.id, Some(base));
    }

    /// Takes the region off the bus.
    pub fn unmap(&self) {
        self.map.place(self.id, None);
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the region has no bytes and so can never be found.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<D: ?Sized> Drop for Region<D> {
    fn drop(&mut self) {
        let mut state = self.map.state.write();
        state.slots.retain(|slot| slot.id != self.id);
        self.map.rebuild(&mut state);
    }
}

impl<D: ?Sized> std::fmt::Debug for Region<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("id", &self.id).field("len", &self.len).finish()
    }
}
