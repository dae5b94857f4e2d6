//! All timers of a reactor: a binary heap in which every timer knows its place, so that re-arming moves one entry and allocates
//! nothing. Order: deadline, then creation.

use crate::Time;

pub(crate) type Callback = Box<dyn FnMut(Time) + Send>;

/// Names a timer for as long as its handle lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey {
    slot: usize,
    created: u64,
}

struct Slot {
    created: u64,
    /// Place in `heap`; `None` while disarmed.
    place: Option<usize>,
    /// Absent while it runs, and after the reactor stopped.
    callback: Option<Callback>,
}

#[derive(Clone, Copy)]
struct Entry {
    deadline: Time,
    created: u64,
    slot: usize,
}

impl Entry {
    fn before(&self, other: &Entry) -> bool {
        (self.deadline, self.created) < (other.deadline, other.created)
    }
}

#[derive(Default)]
pub(crate) struct TimerQueue {
    slots: Vec<Slot>,
    free: Vec<usize>,
    heap: Vec<Entry>,
    created: u64,
}

impl TimerQueue {
    pub fn create(&mut self, callback: Callback) -> TimerKey {
        self.created += 1;
        let created = self.created;
        let slot = Slot { created, place: None, callback: Some(callback) };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        TimerKey { slot: index, created }
    }

    /// Ends a timer. The callback is returned so that the caller can drop it outside its lock.
    pub fn remove(&mut self, key: TimerKey) -> Option<Callback> {
        self.cancel(key);
        let slot = &mut self.slots[key.slot];
        slot.created = 0;
        self.free.push(key.slot);
        slot.callback.take()
    }

    pub fn set(&mut self, key: TimerKey, deadline: Time) {
        let entry = Entry { deadline, created: key.created, slot: key.slot };
        match self.slots[key.slot].place {
            Some(place) => {
                let sooner = entry.before(&self.heap[place]);
                self.heap[place] = entry;
                if sooner { self.sift_up(place) } else { self.sift_down(place) }
            }
            None => {
                self.heap.push(entry);
                self.sift_up(self.heap.len() - 1);
            }
        }
    }

    pub fn cancel(&mut self, key: TimerKey) {
        if let Some(place) = self.slots[key.slot].place {
            self.take_out(place);
        }
    }

    pub fn deadline(&self, key: TimerKey) -> Option<Time> {
        self.slots[key.slot].place.map(|place| self.heap[place].deadline)
    }

    /// Whether the timer's callback is lent out.
    pub fn is_running(&self, key: TimerKey) -> bool {
        self.slots[key.slot].callback.is_none()
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// How many timers are armed.
    pub fn armed(&self) -> usize {
        self.heap.len()
    }

    /// Disarms the first timer that is due at `now` and lends its callback out; [`TimerQueue::give_back`] returns it.
    pub fn pop_due(&mut self, now: Time) -> Option<(TimerKey, Option<Callback>)> {
        let first = *self.heap.first()?;
        if first.deadline > now {
            return None;
        }
        self.take_out(0);
        let key = TimerKey { slot: first.slot, created: first.created };
        Some((key, self.slots[first.slot].callback.take()))
    }

    /// Takes a lent callback back, or returns it when its timer was dropped meanwhile.
    pub fn give_back(&mut self, key: TimerKey, callback: Callback) -> Option<Callback> {
        let slot = &mut self.slots[key.slot];
        if slot.created != key.created {
            return Some(callback);
        }
        slot.callback = Some(callback);
        None
    }

    /// Disarms all timers and gives up all callbacks; handles stay valid.
    pub fn take_callbacks(&mut self) -> Vec<Callback> {
        self.heap.clear();
        self.slots
            .iter_mut()
            .filter_map(|slot| {
                slot.place = None;
                slot.callback.take()
            })
            .collect()
    }

    fn take_out(&mut self, place: usize) {
        let removed = self.heap.swap_remove(place);
        self.slots[removed.slot].place = None;
        if let Some(moved) = self.heap.get(place) {
            if moved.before(&removed) { self.sift_up(place) } else { self.sift_down(place) }
        }
    }

    fn sift_up(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / 2;
            if !entry.before(&self.heap[parent]) {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sift_down(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let left = 2 * place + 1;
            let Some(mut child) = self.heap.get(left).map(|_| left) else { break };
            if self.heap.get(left + 1).is_some_and(|right| right.before(&self.heap[left])) {
                child = left + 1;
            }
            if !self.heap[child].before(&entry) {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.heap[place] = entry;
        self.slots[entry.slot].place = Some(place);
    }
}
