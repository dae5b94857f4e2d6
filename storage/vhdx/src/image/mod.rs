//! An open VHDX image: what it keeps in memory, and the pieces that all operations share.

mod bat_access;
mod bitmap_access;
mod commit;
mod layer;
mod metadata_access;
pub(crate) mod open;
mod resolve;
mod session;
mod write;
mod zero;

pub use open::{OpenOptions, Opened};

use crate::format::geometry::Geometry;
use crate::format::header::Header;
use crate::format::log_replay::Replay;
use crate::format::metadata::{Metadata, MetadataTable};
use crate::format::region_table::RegionTable;
use crate::format::{FormatError, MIB, SECTOR};
use crate::log_ring::LogRing;
use crate::sector_cache::{Batch, SectorCache};
use crate::space::SpaceMap;
use bulkhead_disk::{Buffer, DiskError, Durability, ErrorKind, File, FlushGate, LocalLock, Result};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use uuid::Uuid;

/// Makes a new random GUID.
pub type NewGuid = Rc<dyn Fn() -> Uuid>;

/// An open VHDX image. Clones are handles of the same image.
#[derive(Clone)]
pub struct Vhdx {
    inner: Rc<Inner>,
}

/// A place in the file that belongs to a block without the BAT saying so: just planned, abandoned, or freed by a trim.
/// No other block gets it before the file is reopened, because reads and writes planned earlier may still be in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anchor {
    pub(crate) offset: u64,
    /// Certainly zeros, durably: nothing else was ever there.
    pub(crate) fresh: bool,
    /// Plans that are out.
    pub(crate) users: u32,
    /// Tells this stay from earlier ones of the same block.
    pub(crate) epoch: u64,
}

/// What changes while the image is open. Borrowed only between two `await`s.
pub(crate) struct State {
    pub(crate) header: Header,
    pub(crate) current_slot: usize,
    pub(crate) regions: RegionTable,
    pub(crate) table: MetadataTable,
    pub(crate) metadata: Metadata,
    pub(crate) cache: SectorCache,
    pub(crate) space: SpaceMap,
    /// BAT sectors whose entries are in `space`.
    pub(crate) scanned: BTreeSet<u64>,
    pub(crate) anchors: HashMap<u64, Anchor>,
    pub(crate) next_epoch: u64,
    /// Space that held metadata until now: it becomes free when the log, which may still name it, is emptied.
    pub(crate) abandoned: Vec<Range<u64>>,
    /// Blocks whose place can be punched once the BAT change is durable.
    pub(crate) freed: Vec<u64>,
    /// Batches that are durable in the log and not yet in their place.
    pub(crate) logged: VecDeque<Batch>,
    /// The log as this session uses it; none before the first change.
    pub(crate) ring: Option<LogRing>,
    /// The file had this length at the start of the last successful flush.
    pub(crate) flushed_len: u64,
    /// DataWriteGuid was renewed.
    pub(crate) data_changed: bool,
    pub(crate) next_data_write_guid: Uuid,
    /// A commit is between taking its batch and having it durable.
    pub(crate) committing: bool,
}

pub(crate) struct Inner {
    pub(crate) file: Rc<dyn File>,
    pub(crate) read_only: bool,
    pub(crate) new_guid: NewGuid,
    /// Changes of a log that a read-only open must not write back.
    pub(crate) overlay: Option<Replay>,
    pub(crate) state: RefCell<State>,
    /// Serialises allocation, freeing and punching.
    pub(crate) allocation: LocalLock,
    /// Serialises the start of a session.
    pub(crate) starting: LocalLock,
    pub(crate) gate: FlushGate,
    /// Set when the log or a flush failed in a way that leaves the file unknown.
    pub(crate) poisoned: Cell<bool>,
}

/// Error of the format core, with what was being tried.
pub(crate) fn format_error(action: &'static str) -> impl Fn(FormatError) -> DiskError {
    move |error| {
        let kind = match error {
            FormatError::Damaged { .. } => ErrorKind::Corrupt,
            FormatError::Unsupported { .. } => ErrorKind::Unsupported,
        };
        DiskError::new(kind, action, error.to_string())
    }
}

impl Inner {
    pub(crate) fn geometry(&self) -> Geometry {
        self.state.borrow().metadata.geometry
    }

    /// Names the file in an error.
    pub(crate) fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.with_path(self.file.path()))
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        if !self.poisoned.get() {
            return Ok(());
        }
        let reason = "an earlier write of its metadata failed, so what is on disk is unknown";
        Err(DiskError::new(ErrorKind::Poisoned, "change the image", reason)
            .with_path(self.file.path())
            .advise("close it, then open it again: the log is replayed"))
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            let reason = "it was opened read-only";
            return Err(DiskError::new(ErrorKind::ReadOnly, "change the image", reason).with_path(self.file.path()));
        }
        self.check_alive()
    }

    /// Reads metadata bytes; behind the end of the file there are zeros, and the overlay of a dirty log is applied.
    pub(crate) async fn read_raw(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        read_padded(&*self.file, self.overlay.as_ref(), offset, length).await
    }

    /// Makes sure that the metadata sector at `offset` is cached.
    pub(crate) async fn load_sector(&self, offset: u64) -> Result<()> {
        if self.state.borrow_mut().cache.get(offset).is_some() {
            return Ok(());
        }
        let data = self.read_raw(offset, SECTOR as usize).await?;
        self.state.borrow_mut().cache.insert(offset, &data);
        Ok(())
    }

    /// Waits until `count` more sectors may become dirty: what is dirty together must fit into one log entry, because
    /// entries are the unit that is atomic.
    pub(crate) async fn reserve_dirty(&self, count: usize) -> Result<()> {
        loop {
            let limit = LogRing::batch_limit(u64::from(self.state.borrow().header.log_length));
            if self.state.borrow().cache.dirty_count() + count <= limit {
                return Ok(());
            }
            self.flush_now().await?;
        }
    }

    /// Changes a metadata sector. `change` runs with no `await` between loading and marking.
    pub(crate) async fn change_sector(&self, offset: u64, barrier: bool, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut change = Some(change);
        loop {
            self.load_sector(offset).await?;
            self.reserve_dirty(1).await?;
            let mut state = self.state.borrow_mut();
            let apply = |data: &mut [u8]| {
                if let Some(change) = change.take() {
                    change(data);
                }
            };
            // Evicted while waiting for the commit: load it again.
            if state.cache.modify(offset, barrier, apply) {
                return Ok(());
            }
        }
    }

    /// Overwrites metadata bytes in several places as one change: all of it is in one commit, or nothing.
    pub(crate) async fn write_metadata(&self, patches: &[(u64, &[u8])]) -> Result<()> {
        let sectors = sectors_of(patches);
        loop {
            for sector in sectors.keys() {
                self.load_sector(*sector).await?;
            }
            self.reserve_dirty(sectors.len()).await?;
            let cache = &mut self.state.borrow_mut().cache;
            // Loading and waiting may have evicted some of them: then again. From here on nothing is awaited.
            if !sectors.keys().all(|sector| cache.get(*sector).is_some()) {
                continue;
            }
            for (sector, pieces) in &sectors {
                cache.modify(*sector, false, |data| {
                    for (inside, piece) in pieces {
                        data[*inside..*inside + piece.len()].copy_from_slice(piece);
                    }
                });
            }
            return Ok(());
        }
    }

    pub(crate) async fn write_file(&self, offset: u64, data: Vec<u8>) -> Result<()> {
        self.file.write(offset, Buffer::copy_of(&data), Durability::Cached).await.result
    }
}

/// For each metadata sector: what the patches write into it, with the position inside.
fn sectors_of<'a>(patches: &[(u64, &'a [u8])]) -> BTreeMap<u64, Vec<(usize, &'a [u8])>> {
    let mut sectors: BTreeMap<u64, Vec<(usize, &[u8])>> = BTreeMap::new();
    for (offset, bytes) in patches {
        let mut done = 0;
        while done < bytes.len() {
            let (sector, inside) = crate::sector_cache::locate(offset + done as u64);
            let count = (bytes.len() - done).min(SECTOR as usize - inside);
            sectors.entry(sector).or_default().push((inside, &bytes[done..done + count]));
            done += count;
        }
    }
    sectors
}

/// Reads `length` bytes, zeros behind the end of the file, with `overlay` applied.
async fn read_padded(file: &dyn File, overlay: Option<&Replay>, offset: u64, length: usize) -> Result<Vec<u8>> {
    let inside = file.len().saturating_sub(offset).min(length as u64) as usize;
    let mut bytes = if inside > 0 { bulkhead_disk::read_vec(file, offset, inside).await? } else { Vec::new() };
    bytes.resize(length, 0);
    if let Some(overlay) = overlay {
        overlay.patch(offset, &mut bytes);
    }
    Ok(bytes)
}

/// The largest whole number of MiB that is not above `length`.
fn floor_mib(length: u64) -> u64 {
    length - length % MIB
}
