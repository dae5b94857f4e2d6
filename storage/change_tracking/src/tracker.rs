//! The filter over a disk, and what one does with bitmaps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::rc::Rc;

use bulkhead_disk::{
    Completion, DiskError, DiskFacts, ErrorKind, File, LocalFuture, Node, Request, Result, StatusExtent, check_range,
};
use uuid::Uuid;

use crate::granules::GRANULE;
use crate::head::{Head, MAX_BITMAPS, MAX_NAME, Slot};
use crate::journal::{Journal, State};

/// What the disk shows as its state, so that changes by others are noticed: VHDX has a data write id. A constant where the
/// format has nothing of the kind; then whoever writes to the disk must do it through a tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Now.
    pub now: Uuid,
    /// After the first write that we make.
    pub next: Uuid,
}

/// A bitmap, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// New writes are added to it.
    pub tracking: bool,
    /// Bytes that it counts as changed.
    pub changed: u64,
}

/// The bitmaps of a tracking file.
pub struct Bitmaps {
    journal: Journal,
    /// Writes that were noted and are not done: a bitmap that begins meanwhile must have them too. A write whose future was
    /// dropped stays here, because it may still reach the disk.
    in_flight: RefCell<BTreeMap<u64, Range<u64>>>,
}

/// A disk whose writes are noted in bitmaps.
pub struct ChangeTracker {
    node: Rc<dyn Node>,
    bitmaps: Bitmaps,
    next: Cell<u64>,
}

impl ChangeTracker {
    /// Begins or continues to track `node` in `file`, which is empty or was written by a tracker.
    ///
    /// A disk whose state is not the one of the last time, and every region that was written before a crash, count as changed.
    ///
    /// # Errors
    /// `Corrupt` for a file that is no tracking file (an empty one may take its place), and those of the file.
    pub async fn open(node: Rc<dyn Node>, file: Rc<dyn File>, stamp: Stamp) -> Result<Self> {
        let head = Head::new(node.facts().size, [stamp.now, stamp.next]);
        let bitmaps = Bitmaps::new(Journal::open(file, head).await?);
        Ok(Self { node, bitmaps, next: Cell::new(0) })
    }

    /// Saves the bitmaps for the last time; `stamp` is the state in which the disk was closed.
    ///
    /// # Errors
    /// Those of the file.
    pub async fn close(&self, stamp: Uuid) -> Result<()> {
        self.journal.state.borrow_mut().head.stamps = [stamp; 2];
        self.journal.save().await
    }

    async fn write(&self, request: Request) -> Completion {
        let range = request.range();
        if let Err(error) = check_range(&self.node.facts(), &range, true) {
            return Completion::failed(error, request.into_buffer());
        }
        let is_tracked = self.journal.state.borrow().head.slots.iter().flatten().any(|slot| slot.tracking);
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        self.in_flight.borrow_mut().insert(ticket, range.clone());
        let mut covered = Ok(());
        if is_tracked && !range.is_empty() {
            self.journal.state.borrow_mut().note_write(&range);
            covered = self.journal.cover(&range).await;
        }
        let completion = match covered {
            Ok(()) => self.node.run(request).await,
            Err(error) => Completion::failed(error, request.into_buffer()),
        };
        self.in_flight.borrow_mut().remove(&ticket);
        completion
    }
}

impl Deref for ChangeTracker {
    type Target = Bitmaps;

    fn deref(&self) -> &Bitmaps {
        &self.bitmaps
    }
}

impl Bitmaps {
    fn new(journal: Journal) -> Self {
        Self { journal, in_flight: RefCell::default() }
    }

    /// Opens the file of a disk that nobody tracks now. What was written before a crash counts as changed.
    ///
    /// # Errors
    /// `Corrupt` for a file that is no tracking file, and those of the file.
    pub async fn open(file: Rc<dyn File>) -> Result<Self> {
        Ok(Self::new(Journal::reopen(file).await?))
    }

    /// Bytes of the disk.
    pub fn disk_size(&self) -> u64 {
        self.journal.state.borrow().head.size
    }

    /// The bitmaps there are.
    pub fn bitmaps(&self) -> Vec<BitmapInfo> {
        let state = self.journal.state.borrow();
        let described = |(slot, set): (&Option<Slot>, &crate::granules::Granules)| {
            let slot = slot.as_ref()?;
            Some(BitmapInfo { name: slot.name.clone(), tracking: slot.tracking, changed: set.count() * GRANULE })
        };
        state.head.slots.iter().zip(&state.sets).filter_map(described).collect()
    }

    /// Begins a bitmap: it has the writes from now on.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is empty, longer than [`MAX_NAME`] bytes or taken, or when there are [`MAX_BITMAPS`];
    /// those of the file.
    pub async fn add(&self, name: &str) -> Result<()> {
        self.journal.change(|state| self.begin_bitmap(state, name)).await
    }

    /// Freezes a bitmap under the name `frozen`, for a backup that begins now, and lets `name` begin anew, in one step.
    /// Writes that are in flight are in both.
    ///
    /// # Errors
    /// As for [`ChangeTracker::add`], and `NotFound`.
    pub async fn fork(&self, name: &str, frozen: &str) -> Result<()> {
        let forked = self.journal.change(|state| {
            let slot = find(state, name)?;
            check_name(state, frozen)?;
            let old = state.head.slots[slot].clone();
            state.head.slots[slot] = Some(Slot { tracking: false, name: frozen.to_owned(), ..taken(&old) });
            let begun = self.begin_bitmap(state, name);
            if begun.is_err() {
                state.head.slots[slot] = old;
            }
            begun
        });
        forked.await
    }

    /// Adds a frozen bitmap to another and removes it: the backup that it was frozen for failed.
    ///
    /// # Errors
    /// `NotFound`, `InvalidInput` if both are the same; those of the file.
    pub async fn merge(&self, frozen: &str, into: &str) -> Result<()> {
        // First the union alone: until it is durable, the frozen one must still be in the head.
        self.journal
            .change(|state| {
                let (from, to) = (find(state, frozen)?, find(state, into)?);
                if from == to {
                    return Err(DiskError::new(ErrorKind::InvalidInput, "merge the bitmaps", "they are the same"));
                }
                state.union(from, to);
                Ok(())
            })
            .await?;
        self.remove(frozen).await
    }

    /// Removes a bitmap.
    ///
    /// # Errors
    /// `NotFound`; those of the file.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let removed = self.journal.change(|state| {
            let slot = find(state, name)?;
            state.head.slots[slot] = None;
            state.clear(slot);
            Ok(())
        });
        removed.await
    }

    /// `range` of the disk as runs of changed (true) and unchanged bytes.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn changes(&self, name: &str, range: Range<u64>) -> Result<Vec<(Range<u64>, bool)>> {
        let state = self.journal.state.borrow();
        Ok(state.sets[find(&state, name)?].runs(range))
    }

    /// Makes the bitmaps durable, so that a crash counts less as changed: now and then, and before a backup.
    ///
    /// # Errors
    /// Those of the file; nothing is lost by them.
    pub async fn save(&self) -> Result<()> {
        self.journal.save().await
    }

    /// Puts a new bitmap into a free slot; it has what is in flight.
    fn begin_bitmap(&self, state: &mut State, name: &str) -> Result<()> {
        check_name(state, name)?;
        let Some(slot) = state.head.slots.iter().position(Option::is_none) else {
            let reason = format!("there are {MAX_BITMAPS} already");
            return Err(DiskError::new(ErrorKind::InvalidInput, "add a bitmap", reason).advise("remove one first"));
        };
        let id = state.head.next_id.max(1);
        state.head.next_id = id.wrapping_add(1);
        state.clear(slot);
        state.head.slots[slot] = Some(Slot { id, tracking: true, name: name.to_owned() });
        for range in self.in_flight.borrow().values() {
            state.insert(range, |other, _| other == slot);
        }
        Ok(())
    }
}

/// What was found in a slot a moment ago.
fn taken(slot: &Option<Slot>) -> Slot {
    slot.clone().unwrap_or(Slot { id: 0, tracking: false, name: String::new() })
}

fn find(state: &State, name: &str) -> Result<usize> {
    let found = state.head.slots.iter().position(|slot| slot.as_ref().is_some_and(|slot| slot.name == name));
    found.ok_or_else(|| {
        let names: Vec<&str> = state.head.slots.iter().flatten().map(|slot| slot.name.as_str()).collect();
        let reason = format!("there is no bitmap {name:?}; there are: {}", names.join(", "));
        DiskError::new(ErrorKind::NotFound, "find the bitmap", reason)
    })
}

fn check_name(state: &State, name: &str) -> Result<()> {
    let reason = if name.is_empty() || name.len() > MAX_NAME {
        format!("its name must have 1 to {MAX_NAME} bytes")
    } else if find(state, name).is_ok() {
        format!("there is a bitmap {name:?} already")
    } else {
        return Ok(());
    };
    Err(DiskError::new(ErrorKind::InvalidInput, "add a bitmap", reason))
}

impl Node for ChangeTracker {
    fn facts(&self) -> DiskFacts {
        self.node.facts()
    }

    fn run(&self, request: Request) -> LocalFuture<'_, Completion> {
        if request.is_write() { Box::pin(self.write(request)) } else { self.node.run(request) }
    }

    fn status(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        self.node.status(range)
    }
}
