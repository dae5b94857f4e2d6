//! All connections: found by their addresses and by the number of their socket, visited when their deadlines come.

use super::flow::{Flow, Guest, LARGEST, Tools, Verdict};
use crate::host::{Link, SocketId, Stream};
use crate::wire::Tcp;
use bulkhead_reactor::Time;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Connections at the same time; each needs a descriptor.
const MOST: usize = 8192;
/// Bytes from guests that are kept because the host does not take them, over all connections.
const MOST_PENDING: usize = 64 << 20;
/// A far deadline is looked at this often, so that the heap does not fill with those that have become earlier.
const REVISIT: Duration = Duration::from_secs(30);
/// What a socket id of a connection has in its top byte.
const KIND: u64 = 1;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    pub guest: SocketAddrV4,
    pub outside: SocketAddrV4,
}

struct Entry<S> {
    key: FlowKey,
    flow: Flow<S>,
    /// When the heap has it; never later than its deadline.
    scheduled: Time,
}

struct Slot<S> {
    /// Counts the uses, so that readiness of a socket that is gone means nobody.
    uses: u32,
    entry: Option<Entry<S>>,
}

/// The connections.
pub(crate) struct Table<S> {
    by_key: HashMap<FlowKey, u32>,
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
    deadlines: BinaryHeap<Reverse<(Time, u32, u32)>>,
    /// Whose acknowledgement is due at the end of the batch.
    due: Vec<u32>,
    /// Who waits for room on the link.
    blocked: Vec<u32>,
    pending: usize,
    scratch: Vec<u8>,
    pub opened: u64,
    pub refused: u64,
}

/// A place for a connection that is about to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    index: u32,
    pub id: SocketId,
}

impl<S: Stream> Table<S> {
    pub fn new() -> Table<S> {
        Table {
            by_key: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: BinaryHeap::new(),
            due: Vec::new(),
            blocked: Vec::new(),
            pending: 0,
            scratch: vec![0; LARGEST],
            opened: 0,
            refused: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn contains(&self, key: &FlowKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// A number for a new connection; `None` when there are too many.
    pub fn open(&mut self) -> Option<Opening> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < MOST => {
                self.slots.push(Slot { uses: 0, entry: None });
                self.slots.len() as u32 - 1
            }
            None => {
                self.refused += 1;
                return None;
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.uses = slot.uses.wrapping_add(1) & 0xff_ffff;
        Some(Opening { index, id: SocketId(KIND << 56 | u64::from(slot.uses) << 32 | u64::from(index)) })
    }

    /// Gives the number of an attempt that failed back.
    pub fn abandon(&mut self, opening: Opening) {
        self.free.push(opening.index);
    }

    /// Puts a connection into its place.
    pub fn insert(&mut self, opening: Opening, key: FlowKey, flow: Flow<S>) {
        let deadline = flow.deadline;
        let slot = &mut self.slots[opening.index as usize];
        self.deadlines.push(Reverse((deadline, opening.index, slot.uses)));
        slot.entry = Some(Entry { key, flow, scheduled: deadline });
        self.by_key.insert(key, opening.index);
        self.opened += 1;
    }

    /// A segment from a guest. False if there is no such connection.
    pub fn segment(&mut self, key: &FlowKey, segment: &Tcp<'_>, now: Time, link: &mut impl Link) -> bool {
        let Some(&index) = self.by_key.get(key) else { return false };
        self.step(index, now, link, |flow, tools| flow.segment(segment, tools));
        true
    }

    /// A socket is ready. False if it is none of a connection.
    pub fn ready(&mut self, id: SocketId, now: Time, link: &mut impl Link) -> bool {
        if id.0 >> 56 != KIND {
            return false;
        }
        let (index, uses) = (id.0 as u32, (id.0 >> 32) as u32 & 0xff_ffff);
        if self.slots.get(index as usize).is_some_and(|slot| slot.uses == uses) {
            self.step(index, now, link, |flow, tools| flow.stream_ready(tools));
        }
        true
    }

    /// The connection with this number.
    pub fn key_of(&self, id: SocketId) -> Option<FlowKey> {
        let slot = self.slots.get(id.0 as u32 as usize)?;
        let current = id.0 >> 56 == KIND && slot.uses == (id.0 >> 32) as u32 & 0xff_ffff;
        slot.entry.as_ref().filter(|_| current).map(|entry| entry.key)
    }

    /// Lets something be done to the far end of a connection, and sends what comes of it.
    pub fn far_end(&mut self, key: &FlowKey, now: Time, link: &mut impl Link, act: impl FnOnce(&mut S)) {
        let Some(&index) = self.by_key.get(key) else { return };
        self.step(index, now, link, |flow, tools| {
            act(flow.far_end());
            flow.stream_ready(tools)
        });
    }

    /// The guest at an address answered ARP: what waits for that goes out.
    pub fn resolved(&mut self, guest: Ipv4Addr, now: Time, link: &mut impl Link, set: impl Fn(&mut Guest)) {
        let keys = self.by_key.iter().filter(|(key, _)| *key.guest.ip() == guest);
        let waiting: Vec<u32> = keys.map(|(_, index)| *index).collect();
        for index in waiting {
            self.step(index, now, link, |flow, tools| {
                if !flow.unresolved {
                    return Verdict::Stays;
                }
                flow.unresolved = false;
                set(&mut flow.guest);
                flow.expired(tools)
            });
        }
    }

    /// There is room on the link again.
    pub fn link_ready(&mut self, now: Time, link: &mut impl Link) {
        for index in std::mem::take(&mut self.blocked) {
            self.step(index, now, link, |flow, tools| if flow.blocked { flow.push(tools) } else { Verdict::Stays });
        }
    }

    /// Sends the acknowledgements that are due.
    pub fn flush(&mut self, link: &mut impl Link) {
        for index in self.due.drain(..) {
            if let Some(entry) = &mut self.slots[index as usize].entry
                && entry.flow.ack_due
            {
                entry.flow.acknowledge(link);
            }
        }
    }

    /// The next deadline, or somewhat before.
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.peek().map(|Reverse((at, ..))| *at)
    }

    /// Visits the connections whose deadline has come. `ask` is told guests whose MAC address is not known.
    pub fn tick(&mut self, now: Time, link: &mut impl Link, mut ask: impl FnMut(Ipv4Addr, &mut Guest) -> bool) {
        while let Some(Reverse((at, index, uses))) = self.deadlines.peek().copied()
            && at <= now
        {
            self.deadlines.pop();
            let slot = &mut self.slots[index as usize];
            let Some(entry) = slot.entry.as_mut().filter(|_| slot.uses == uses) else { continue };
            if entry.scheduled != at {
                // A later entry of the heap is the one that counts.
                continue;
            }
            entry.scheduled = Time::MAX;
            let expired = entry.flow.deadline <= now;
            let key = entry.key;
            self.step(index, now, link, |flow, tools| {
                if !expired {
                    return Verdict::Stays;
                }
                if flow.unresolved {
                    flow.unresolved = !ask(*key.guest.ip(), &mut flow.guest);
                }
                flow.expired(tools)
            });
        }
    }

    /// One step of a connection, and what follows from it.
    fn step<L: Link>(
        &mut self,
        index: u32,
        now: Time,
        link: &mut L,
        act: impl FnOnce(&mut Flow<S>, &mut Tools<'_, L>) -> Verdict,
    ) {
        let slot = &mut self.slots[index as usize];
        let Some(entry) = &mut slot.entry else { return };
        let flow = &mut entry.flow;
        let (was_due, was_blocked, kept) = (flow.ack_due, flow.blocked, flow.pending());
        let room = MOST_PENDING.saturating_sub(self.pending);
        let verdict = act(flow, &mut Tools { now, link, scratch: &mut self.scratch, room });
        self.pending = self.pending - kept + flow.pending();
        if verdict == Verdict::Gone {
            self.pending -= flow.pending();
            let key = entry.key;
            slot.entry = None;
            self.by_key.remove(&key);
            self.free.push(index);
            return;
        }
        if flow.ack_due && !was_due {
            self.due.push(index);
        }
        if flow.blocked && !was_blocked {
            self.blocked.push(index);
        }
        let visit = flow.deadline.min(now + REVISIT);
        if visit < entry.scheduled {
            entry.scheduled = visit;
            self.deadlines.push(Reverse((visit, index, slot.uses)));
        }
    }

    /// All connections, for people.
    pub fn describe(&self) -> impl Iterator<Item = (FlowKey, &'static str, usize, u32)> {
        self.slots.iter().filter_map(|slot| {
            let entry = slot.entry.as_ref()?;
            let (state, pending, flying) = entry.flow.describe();
            Some((entry.key, state, pending, flying))
        })
    }
}
