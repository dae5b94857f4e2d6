//! Opening: identifier, headers, log replay, regions, metadata (MS-VHDX 2.1 and 2.3.3).

use super::{Inner, NewGuid, State, Vhdx, format_error, read_padded};
use crate::format::bat;
use crate::format::file_identifier::{self, FileIdentifier};
use crate::format::geometry::{BAT_ENTRY, MAX_DISK_SIZE};
use crate::format::header::{self, Header, choose};
use crate::format::log_replay::{MAX_DIRTY_LOG, Replay, replay};
use crate::format::metadata::{Metadata, MetadataTable, TABLE_SIZE};
use crate::format::region_table::{self, RegionTable};
use crate::format::{FormatError, HEADER_AREA, HEADER_OFFSETS, MIB, REGION_TABLE_OFFSETS, REGION_TABLE_SIZE, SECTOR};
use crate::sector_cache::SectorCache;
use crate::space::SpaceMap;
use bulkhead_disk::{Buffer, DiskError, Durability, ErrorKind, File, LocalLock, Result};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

/// BATs up to this size (2 TiB with 2 MiB blocks) are read at a writable open, so that gaps in the file can be used.
const SCAN_LIMIT: u64 = 8 * MIB;

/// A sparse file can claim any length; beyond this nothing of a valid image can be.
const MAX_FILE: u64 = 2 * MAX_DISK_SIZE;

/// How to open.
#[derive(Clone)]
pub struct OpenOptions {
    /// Never write to the file: a dirty log is replayed in memory.
    pub read_only: bool,
    /// Source of new GUIDs (randomness comes from the reactor).
    pub new_guid: NewGuid,
}

/// An opened image, and what opening found.
pub struct Opened {
    /// The image.
    pub image: Vhdx,
    /// Log entries that were replayed (to the file, or in memory when read-only).
    pub replayed_entries: usize,
    /// Damage that the redundancy of the format covered: a bad copy of a header or region table.
    pub warnings: Vec<String>,
}

/// Both header slots as they are in the file.
pub(crate) async fn read_headers(file: &dyn File) -> Result<[Result<Header, FormatError>; 2]> {
    let first = read_padded(file, None, HEADER_OFFSETS[0], header::SIZE).await?;
    let second = read_padded(file, None, HEADER_OFFSETS[1], header::SIZE).await?;
    Ok([Header::parse(&first), Header::parse(&second)])
}

/// Both copies of the region table.
pub(crate) async fn read_region_tables(
    file: &dyn File,
    overlay: Option<&Replay>,
) -> Result<[Result<RegionTable, FormatError>; 2]> {
    let first = read_padded(file, overlay, REGION_TABLE_OFFSETS[0], REGION_TABLE_SIZE as usize).await?;
    let second = read_padded(file, overlay, REGION_TABLE_OFFSETS[1], REGION_TABLE_SIZE as usize).await?;
    Ok([RegionTable::parse(&first), RegionTable::parse(&second)])
}

/// The creator's name.
pub(crate) async fn read_identifier(file: &dyn File) -> Result<FileIdentifier> {
    let length = file.len().min(file_identifier::SIZE as u64) as usize;
    let bytes = read_padded(file, None, 0, length).await?;
    FileIdentifier::parse(&bytes).map_err(format_error("open the VHDX image"))
}

/// What the log of a file asks for: nothing when it is empty.
async fn read_log(file: &dyn File, header: &Header) -> Result<Option<Replay>> {
    if header.log_guid.is_nil() {
        return Ok(None);
    }
    if header.log_length > MAX_DIRTY_LOG {
        let reason = format!("its log of {} bytes is in use (at most {MAX_DIRTY_LOG} are handled)", header.log_length);
        return Err(DiskError::new(ErrorKind::Unsupported, "replay the log", reason));
    }
    let log = read_padded(file, None, header.log_offset, header.log_length as usize).await?;
    replay(&log, header, file.len()).map(Some).map_err(format_error("replay the log"))
}

/// Writes the changes of a log to their places and makes them durable. Harmless to repeat.
async fn apply_replay(file: &dyn File, replay: &Replay) -> Result<()> {
    if file.len() < replay.file_size {
        file.set_len(replay.file_size).await?;
    }
    for (offset, length) in &replay.zeros {
        file.zero_range(*offset..offset + length).await?;
    }
    for (offset, content) in &replay.sectors {
        file.write(*offset, Buffer::copy_of(content), Durability::Cached).await.result?;
    }
    file.flush().await
}

impl Vhdx {
    /// Opens an image. A dirty log is replayed first.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported` with the structure and the rule; those of the file.
    pub async fn open(file: Rc<dyn File>, options: OpenOptions) -> Result<Opened> {
        let path = file.path().to_owned();
        let result = async {
            let opened = open(file, options).await?;
            let inner = opened.image.inner();
            if !inner.read_only && inner.geometry().bat_bytes() <= SCAN_LIMIT {
                inner.scan_bat().await?;
            }
            Ok(opened)
        };
        result.await.map_err(|error: DiskError| error.with_path(path))
    }

    /// As [`Vhdx::open`], but looks at no BAT entry: for the check, which reports damaged ones instead of stopping.
    pub(crate) async fn open_unscanned(file: Rc<dyn File>, options: OpenOptions) -> Result<Opened> {
        let path = file.path().to_owned();
        open(file, options).await.map_err(|error| error.with_path(path))
    }
}

async fn open(file: Rc<dyn File>, options: OpenOptions) -> Result<Opened> {
    let read_only = options.read_only || file.facts().read_only;
    read_identifier(&*file).await?;
    let slots = read_headers(&*file).await?;
    let opening = format_error("open the VHDX image");
    let (header, current_slot) = choose(&slots).map_err(&opening)?;
    header.validate().map_err(&opening)?;
    let mut warnings = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        if let Err(error) = slot {
            warnings.push(format!("header {}: {error}", index + 1));
        }
    }
    let mut overlay = read_log(&*file, &header).await?;
    let replayed_entries = overlay.as_ref().map_or(0, |replay| replay.entries);
    if !read_only && let Some(replay) = overlay.take() {
        apply_replay(&*file, &replay).await?;
    }
    let (regions, table, metadata) = read_structures(&*file, overlay.as_ref(), &mut warnings).await?;
    let file_len = overlay.as_ref().map_or(0, |replay| replay.file_size).max(file.len());
    let space = fixed_structures(&header, &regions, file_len).map_err(&opening)?;
    let state = State {
        next_data_write_guid: (options.new_guid)(),
        header,
        current_slot,
        regions,
        table,
        metadata,
        cache: SectorCache::default(),
        space,
        scanned: BTreeSet::new(),
        anchors: HashMap::new(),
        next_epoch: 0,
        abandoned: Vec::new(),
        freed: Vec::new(),
        logged: VecDeque::new(),
        ring: None,
        flushed_len: file.len(),
        data_changed: false,
        committing: false,
    };
    let inner = Rc::new(Inner {
        file,
        read_only,
        new_guid: options.new_guid,
        overlay,
        state: RefCell::new(state),
        allocation: LocalLock::default(),
        starting: LocalLock::default(),
        gate: bulkhead_disk::FlushGate::default(),
        poisoned: Cell::new(false),
    });
    if !read_only && replayed_entries > 0 {
        inner.close_log().await?;
    }
    Ok(Opened { image: Vhdx { inner }, replayed_entries, warnings })
}

/// Regions and metadata, as the log leaves them.
pub(crate) async fn read_structures(
    file: &dyn File,
    overlay: Option<&Replay>,
    warnings: &mut Vec<String>,
) -> Result<(RegionTable, MetadataTable, Metadata)> {
    let opening = format_error("open the VHDX image");
    let regions = match read_region_tables(file, overlay).await? {
        [Ok(first), Ok(second)] => {
            if first != second {
                warnings.push("the two region tables differ: the first counts".into());
            }
            first
        }
        [Ok(first), Err(error)] => {
            warnings.push(format!("region table 2: {error}"));
            first
        }
        [Err(error @ FormatError::Unsupported { .. }), _] => return Err(opening(error)),
        [Err(error), Ok(second)] => {
            warnings.push(format!("region table 1: {error}"));
            second
        }
        [Err(error), Err(_)] => return Err(opening(error)),
    };
    let region = regions.find(region_table::METADATA).map_err(&opening)?.clone();
    let bytes = read_padded(file, overlay, region.offset, TABLE_SIZE as usize).await?;
    let table = MetadataTable::parse(&bytes, u64::from(region.length)).map_err(&opening)?;
    let mut contents = HashMap::new();
    for item in &table.items {
        // Items that nobody asks for may be large and many; the known ones are small or bounded by the table's rules.
        if !item.is_user && item.is_required && item.length > 0 {
            let bytes =
                read_padded(file, overlay, region.offset + u64::from(item.offset), item.length as usize).await?;
            contents.insert(item.guid, bytes);
        }
    }
    let metadata = Metadata::decode(&table, |item| {
        let missing = || FormatError::Damaged {
            structure: "metadata",
            problem: format!("item {} is empty or not marked as required", item.guid),
        };
        contents.remove(&item.guid).ok_or_else(missing)
    })
    .map_err(&opening)?;
    let bat = regions.find(region_table::BAT).map_err(&opening)?;
    let needed = metadata.geometry.bat_entries() * BAT_ENTRY;
    if u64::from(bat.length) < needed {
        let reason = format!(
            "the BAT region has {} bytes, a disk of {} bytes needs {needed}",
            bat.length,
            metadata.geometry.disk_size()
        );
        return Err(DiskError::corrupt("open the VHDX image", reason));
    }
    Ok((regions, table, metadata))
}

/// The space map with everything but blocks in it: structures that overlap each other are refused here.
pub(crate) fn fixed_structures(header: &Header, regions: &RegionTable, file_len: u64) -> Result<SpaceMap, FormatError> {
    let mut space = SpaceMap::new(file_len.min(MAX_FILE));
    space.own(0..HEADER_AREA)?;
    let log_end = header.log_offset + u64::from(header.log_length);
    let mut ranges = vec![("log", header.log_offset..log_end)];
    ranges.extend(regions.regions.iter().map(|region| ("region", region.offset..region.end())));
    for (name, range) in ranges {
        if range.end > file_len.next_multiple_of(MIB).min(MAX_FILE) {
            let problem = format!("the {name} at {:#x} lies outside of the file ({file_len} bytes)", range.start);
            return Err(FormatError::Damaged { structure: "file layout", problem });
        }
        space.own(range)?;
    }
    Ok(space)
}

impl Inner {
    /// Reads the whole BAT once: every owner of file space is known afterwards.
    pub(crate) async fn scan_bat(&self) -> Result<()> {
        let geometry = self.geometry();
        let mut at = 0;
        while at < geometry.bat_bytes() {
            let length = (geometry.bat_bytes() - at).min(MIB);
            if self.is_bat_hole(at..at + length).await? {
                self.state.borrow_mut().scanned.extend(at / SECTOR..(at + length) / SECTOR);
                at += length;
                continue;
            }
            let bytes = self.read_raw(self.bat_offset()? + at, length as usize).await?;
            for (index, sector) in bytes.chunks(SECTOR as usize).enumerate() {
                let number = at / SECTOR + index as u64;
                if sector.iter().any(|byte| *byte != 0) {
                    self.note_owners(number, sector)?;
                } else {
                    self.state.borrow_mut().scanned.insert(number);
                }
            }
            at += length;
        }
        self.state.borrow_mut().space.complete();
        Ok(())
    }

    /// Enters the blocks of one BAT sector into the space map; the first time that the sector is seen.
    pub(crate) fn note_owners(&self, number: u64, sector: &[u8]) -> Result<()> {
        let state = &mut *self.state.borrow_mut();
        if state.scanned.contains(&number) {
            return Ok(());
        }
        let geometry = state.metadata.geometry;
        let differencing = geometry.is_differencing();
        let file_end = self.known_len();
        let first = number * SECTOR / BAT_ENTRY;
        let failed = format_error("read the block allocation table");
        for (position, raw) in sector.chunks_exact(BAT_ENTRY as usize).enumerate() {
            let raw = crate::format::bytes::u64_at(raw, 0);
            let index = first + position as u64;
            if raw == 0 || index >= geometry.bat_entries() {
                continue;
            }
            let owned = match geometry.slot(index) {
                crate::format::geometry::BatSlot::Payload(_) => {
                    let entry = bat::PayloadEntry::decode(raw, differencing, geometry.block_size(), file_end)
                        .map_err(&failed)?;
                    entry.state.is_allocated().then(|| entry.offset..entry.offset + geometry.block_size())
                }
                crate::format::geometry::BatSlot::Bitmap(_) => {
                    let offset = bat::decode_bitmap(raw, differencing, file_end).map_err(&failed)?;
                    offset.map(|offset| offset..offset + MIB)
                }
            };
            if let Some(range) = owned {
                state.space.own(range).map_err(&failed)?;
            }
        }
        state.scanned.insert(number);
        Ok(())
    }

    /// Length of the file as the log leaves it, capped at what a valid image can use.
    pub(crate) fn known_len(&self) -> u64 {
        let replayed = self.overlay.as_ref().map_or(0, |replay| replay.file_size);
        self.file.len().max(replayed).min(MAX_FILE)
    }
}
