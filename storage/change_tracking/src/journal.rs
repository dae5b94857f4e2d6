//! When what becomes durable, and what is made of the file after a crash.
//!
//! Orders that must hold, and why:
//! 1. A region is named in a durable head before a write into it reaches the disk: otherwise a crash loses the change.
//! 2. A bitmap is named in a durable head before one of its pages is written: otherwise an older head would take the page of
//!    the slot's new bitmap for an empty one of its old bitmap.
//! 3. Pages are durable before a head leaves their regions out.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use bulkhead_disk::{DiskError, File, LocalLock, Result, read_vec, write_vec};

use crate::granules::{GRANULE, Granules, granules_of};
use crate::head::{HEAD, Head, MAX_BITMAPS, Regions};
use crate::page::{self, PAGE, PAGE_GRANULES, PageBits, PageContents};

const PAGES_AT: u64 = 2 * HEAD;
const ROW: u64 = PAGE * MAX_BITMAPS as u64;
/// Bytes of the disk that a page speaks of.
const SPAN: u64 = PAGE_GRANULES * GRANULE;

/// The bitmaps in memory and how far the file knows them.
pub struct Journal {
    file: Rc<dyn File>,
    pub state: RefCell<State>,
    /// Held by whoever writes to the file.
    lock: LocalLock,
}

/// What is known now. `head.regions` are the regions of the durable head.
pub struct State {
    pub head: Head,
    pub sets: [Granules; MAX_BITMAPS],
    /// Pages that the file does not have yet.
    unsaved: [BTreeSet<u32>; MAX_BITMAPS],
    /// Regions that were written since the last snapshot of pages.
    touched: Regions,
    /// Regions whose writers wait for the head.
    wanted: Regions,
    /// The durable head names the bitmaps that there are.
    named: bool,
}

impl State {
    fn new(head: Head) -> Self {
        let none = Regions::none(head.size);
        Self {
            head,
            sets: Default::default(),
            unsaved: Default::default(),
            touched: none.clone(),
            wanted: none,
            named: true,
        }
    }

    /// Adds a range of bytes to the bitmaps that `which` chooses.
    pub fn insert(&mut self, bytes: &Range<u64>, which: impl Fn(usize, &Head) -> bool) {
        for slot in 0..MAX_BITMAPS {
            if which(slot, &self.head) {
                let unsaved = &mut self.unsaved[slot];
                self.sets[slot].insert(granules_of(bytes), |page| {
                    unsaved.insert(page);
                });
            }
        }
    }

    /// Notes a write: its granules in every bitmap that tracks, and its regions.
    pub fn note_write(&mut self, bytes: &Range<u64>) {
        self.insert(bytes, |slot, head| head.slots[slot].as_ref().is_some_and(|slot| slot.tracking));
        self.touched.insert(bytes);
    }

    /// Adds everything of one bitmap to another.
    pub fn union(&mut self, from: usize, into: usize) {
        let source = self.sets[from].clone();
        let unsaved = &mut self.unsaved[into];
        self.sets[into].union(&source, |page| {
            unsaved.insert(page);
        });
    }

    /// Forgets what a slot held.
    pub fn clear(&mut self, slot: usize) {
        self.sets[slot] = Granules::default();
        self.unsaved[slot].clear();
    }
}

impl Journal {
    /// Reads the file, or begins it if it is empty; `expected` is the head that a new file gets.
    pub async fn open(file: Rc<dyn File>, expected: Head) -> Result<Self> {
        let found = if file.is_empty() { None } else { Some(read_head(&*file).await?) };
        let is_new = found.is_none();
        let journal = Self { file, state: RefCell::new(State::new(expected.clone())), lock: LocalLock::default() };
        if let Some(found) = found {
            journal.recover(found, expected).await?;
        }
        if is_new {
            // Both heads exist from the start: writing one never needs space.
            write_vec(&*journal.file, HEAD, &[0; HEAD as usize]).await?;
        }
        journal.save().await?;
        Ok(journal)
    }

    /// Reads a file that is there, for the disk and the state that it names itself.
    pub async fn reopen(file: Rc<dyn File>) -> Result<Self> {
        let found = read_head(&*file).await?;
        let expected = Head::new(found.size, found.stamps);
        Self::open(file, expected).await
    }

    /// Takes over what the file says, and counts as changed what it cannot know.
    async fn recover(&self, found: Head, expected: Head) -> Result<()> {
        let mut suspects = found.regions.ranges(expected.size);
        if !found.stamps.contains(&expected.stamps[0]) {
            suspects.clear();
            suspects.push(0..expected.size);
        } else if expected.size > found.size {
            suspects.push(found.size..expected.size);
        }
        let mut sets: [Granules; MAX_BITMAPS] = Default::default();
        for (number, slot) in found.slots.iter().enumerate() {
            if let Some(slot) = slot {
                let place = (number, slot.id);
                read_pages(&*self.file, place, expected.size, &mut sets[number]).await?;
            }
        }
        let mut state = self.state.borrow_mut();
        *state = State::new(Head { size: expected.size, stamps: expected.stamps, ..found });
        state.sets = sets;
        // The old regions stay in the head until their granules are saved; their size may be another now.
        let mut regions = Regions::none(expected.size);
        for range in &suspects {
            state.insert(range, |slot, head| head.slots[slot].is_some());
            regions.insert(range);
        }
        state.head.regions = regions;
        Ok(())
    }

    /// Returns when a crash from now on would count `bytes` as changed.
    pub async fn cover(&self, bytes: &Range<u64>) -> Result<()> {
        if self.state.borrow().head.regions.contains(bytes) {
            return Ok(());
        }
        self.state.borrow_mut().wanted.insert(bytes);
        let _guard = self.lock.lock().await;
        if self.state.borrow().head.regions.contains(bytes) {
            return Ok(());
        }
        // All who wait are served by this one head.
        let head = {
            let mut state = self.state.borrow_mut();
            let none = Regions::none(state.head.size);
            let wanted = std::mem::replace(&mut state.wanted, none);
            let mut head = state.head.clone();
            head.regions.union(&wanted);
            // Somebody else's failed head may have taken this one's wish along.
            head.regions.insert(bytes);
            head
        };
        self.write_head(head).await
    }

    /// Makes the bitmaps themselves durable; afterwards only later writes count as changed after a crash.
    pub async fn save(&self) -> Result<()> {
        let _guard = self.lock.lock().await;
        self.save_locked().await
    }

    /// Changes which bitmaps there are, at once for writers, and durably.
    pub async fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let _guard = self.lock.lock().await;
        let value = {
            let mut state = self.state.borrow_mut();
            let value = change(&mut state)?;
            state.named = false;
            value
        };
        self.save_locked().await?;
        Ok(value)
    }

    async fn save_locked(&self) -> Result<()> {
        if !self.state.borrow().named {
            let head = self.state.borrow().head.clone();
            self.write_head(head).await?;
            self.state.borrow_mut().named = true;
        }
        let pages = self.snapshot();
        if let Err(error) = self.write_pages(&pages).await {
            let mut state = self.state.borrow_mut();
            for (slot, number, _) in pages {
                state.unsaved[slot].insert(number);
            }
            return Err(error);
        }
        let head = {
            let mut state = self.state.borrow_mut();
            let State { head, touched, .. } = &mut *state;
            let next = Head { regions: touched.clone(), ..head.clone() };
            // Writers may go on at once only into regions that the old head and the new one name.
            head.regions.intersect(touched);
            next
        };
        self.write_head(head).await
    }

    /// The pages to save, and a new count of what is touched.
    fn snapshot(&self) -> Vec<(usize, u32, Vec<u8>)> {
        let mut state = self.state.borrow_mut();
        state.touched = Regions::none(state.head.size);
        let mut pages = Vec::new();
        for slot in 0..MAX_BITMAPS {
            let unsaved = std::mem::take(&mut state.unsaved[slot]);
            let Some(id) = state.head.slots[slot].as_ref().map(|slot| slot.id) else { continue };
            let full = |number| state.sets[slot].page(number).map(|bits| (slot, number, bits.encode(id, number)));
            pages.extend(unsaved.into_iter().filter_map(full));
        }
        pages
    }

    async fn write_pages(&self, pages: &[(usize, u32, Vec<u8>)]) -> Result<()> {
        for (slot, number, page) in pages {
            write_vec(&*self.file, page_offset(*slot, *number), page).await?;
        }
        if pages.is_empty() { Ok(()) } else { self.file.flush().await }
    }

    /// Writes the next head, makes it durable, and only then lets writers believe in it.
    async fn write_head(&self, mut head: Head) -> Result<()> {
        head.generation += 1;
        write_vec(&*self.file, head.generation % 2 * HEAD, &head.encode()).await?;
        self.file.flush().await?;
        let mut state = self.state.borrow_mut();
        (state.head.generation, state.head.regions) = (head.generation, head.regions);
        Ok(())
    }
}

fn page_offset(slot: usize, number: u32) -> u64 {
    PAGES_AT + u64::from(number) * ROW + slot as u64 * PAGE
}

/// The newer of the two heads.
async fn read_head(file: &dyn File) -> Result<Head> {
    let mut best: Option<Head> = None;
    let mut reasons = Vec::new();
    for offset in [0, HEAD] {
        let len = HEAD.min(file.len().saturating_sub(offset)) as usize;
        match Head::decode(&read_vec(file, offset, len).await?) {
            Ok(head) if best.as_ref().is_none_or(|best| best.generation < head.generation) => best = Some(head),
            Ok(_) => {}
            Err(reason) => reasons.push(reason),
        }
    }
    best.ok_or_else(|| {
        DiskError::corrupt(
            "read the change tracking file",
            format!("none of its heads is right ({})", reasons.join(", ")),
        )
        .with_path(file.path())
        .advise("delete it: the next backup is then a full one")
    })
}

/// Reads the pages of the bitmap `id` in a slot.
async fn read_pages(file: &dyn File, (slot, id): (usize, u32), size: u64, set: &mut Granules) -> Result<()> {
    let count = u32::try_from(size.div_ceil(SPAN)).unwrap_or(u32::MAX);
    let mut number = 0;
    while number < count {
        // The file is as sparse as the changes.
        let Some(data) = file.data_after(page_offset(slot, number)).await? else { return Ok(()) };
        let row = (data.start.saturating_sub(PAGES_AT) / ROW) as u32;
        number = number.max(row);
        let offset = page_offset(slot, number);
        if number >= count || offset + PAGE > file.len() {
            return Ok(());
        }
        let bits = match page::decode(&read_vec(file, offset, PAGE as usize).await?, id, number) {
            PageContents::Empty => Box::default(),
            PageContents::Bits(bits) => bits,
            PageContents::Damaged => Box::new(PageBits::full()),
        };
        set.set_page(number, bits);
        number += 1;
    }
    Ok(())
}
