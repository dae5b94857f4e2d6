//! VMDK as one file: hosted sparse extents, plain (`monolithicSparse`) and compressed (`streamOptimized`).

use std::ops::Range;

use bulkhead_disk::{DiskError, ErrorKind, LocalFuture, Result, SECTOR};

use crate::mapping::{ForeignInfo, MAX_SIZE, Mapping, PackedUnit, Place, Run, push_run};
use crate::tables::{Tables, bytes};
use crate::unpack::Packing;
use crate::vmdk_descriptor;

const MAGIC: &[u8] = b"KDMV";
const ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// The directory is at the end of the file, in a second header.
const AT_END: u64 = u64::MAX;
/// A descriptor is a page of text; more than this is none.
const MOST_TEXT: u64 = 1 << 20;

/// An open VMDK.
pub struct Vmdk {
    version: u32,
    create_type: String,
    /// Bytes of the disk.
    size: u64,
    /// Bytes of a grain.
    grain: u64,
    /// Entries of a grain table.
    entries: u64,
    /// Where the directory is, bytes.
    directory: u64,
    zero_grains: bool,
    compressed: bool,
}

/// The fields of a sparse extent's header.
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    grain: u64,
    text: Range<u64>,
    entries: u64,
    directory: u64,
    compression: u16,
}

impl Vmdk {
    pub async fn open(tables: &Tables) -> Result<Self> {
        let named = |error: DiskError| error.with_path(tables.file.path());
        let len = tables.file.len();
        let start = tables.read("VMDK header", 0, len.min(SECTOR)).await?;
        if !start.starts_with(MAGIC) {
            return Err(named(Self::not_sparse(tables, &start).await));
        }
        let first = Header::parse(&start).map_err(named)?;
        let mut create_type = "without a descriptor".to_owned();
        if !first.text.is_empty() {
            let count = (first.text.end - first.text.start).min(MOST_TEXT);
            let text = tables.read("descriptor", first.text.start, count).await?;
            let descriptor = parse_text(&text).map_err(named)?;
            descriptor.expect_one_file(false).map_err(named)?;
            create_type = descriptor.create_type;
        }
        let header = if first.directory == AT_END {
            // The footer stands before the end marker.
            let footer = tables.read("VMDK footer", len.saturating_sub(2 * SECTOR), SECTOR).await?;
            Header::parse(&footer).map_err(named)?
        } else {
            first
        };
        Self::check(&header, create_type, len).map_err(named)
    }

    /// The error for a file that is no sparse extent: a descriptor's own, if it is one.
    async fn not_sparse(tables: &Tables, start: &[u8]) -> DiskError {
        if start.starts_with(b"COWD") {
            return refuse("it is an extent of ESX's older format (COWD)".into());
        }
        if !start.starts_with(b"# Disk Desc") {
            return corrupt("it has no VMDK signature".into()).advise("name its true format with format=");
        }
        let text = tables.read("descriptor", 0, tables.file.len().min(MOST_TEXT)).await;
        let refused = text.and_then(|text| parse_text(&text)?.expect_one_file(true));
        refused.err().unwrap_or_else(|| refuse("it names no extent".into()))
    }

    fn check(header: &Header, create_type: String, file_len: u64) -> Result<Self> {
        let grain = header.grain.checked_mul(SECTOR).filter(|grain| (4096..=8 << 20).contains(grain));
        let Some(grain) = grain.filter(|grain| grain.is_power_of_two()) else {
            return Err(corrupt(format!("its grains of {} sectors are no power of two from 8 to 16384", header.grain)));
        };
        let size = header.capacity.checked_mul(SECTOR).filter(|size| *size <= MAX_SIZE);
        let Some(size) = size else {
            return Err(corrupt(format!("its size of {} sectors is above 64 TiB", header.capacity)));
        };
        if !(1..=4096).contains(&header.entries) {
            return Err(corrupt(format!("its tables have {} entries", header.entries)));
        }
        let Some(directory) = header.directory.checked_mul(SECTOR).filter(|at| *at > 0 && *at < file_len) else {
            return Err(corrupt(format!("its directory is at sector {}", header.directory)));
        };
        let compressed = header.flags & COMPRESSED != 0;
        if compressed && (header.compression != 1 || header.flags & MARKERS == 0) {
            return Err(refuse(format!(
                "its compression is number {}, only 1 with markers is known",
                header.compression
            )));
        }
        Ok(Self {
            version: header.version,
            create_type,
            size,
            grain,
            entries: header.entries,
            directory,
            zero_grains: header.flags & ZERO_GRAINS != 0,
            compressed,
        })
    }

    async fn walk(&self, tables: &Tables, range: Range<u64>) -> Result<Vec<Run>> {
        let span = self.grain * self.entries;
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / span;
            let end = range.end.min((number + 1) * span);
            let entry = tables.read("grain directory", self.directory + number * 4, 4).await?;
            let table = u64::from(u32::from_le_bytes(bytes(&entry, 0))) * SECTOR;
            if table == 0 {
                push_run(&mut runs, end - at, Place::Hole);
                at = end;
                continue;
            }
            let (first, last) = ((at % span) / self.grain, ((end - 1) % span) / self.grain);
            let entries = tables.read("grain table", table + first * 4, (last - first + 1) * 4).await?;
            for (index, entry) in entries.chunks_exact(4).enumerate() {
                let start = number * span + (first + index as u64) * self.grain;
                let part = at.max(start)..end.min(start + self.grain);
                let place = self.place(u32::from_le_bytes(bytes(entry, 0)), start, part.start);
                push_run(&mut runs, part.end - part.start, place);
            }
            at = end;
        }
        Ok(runs)
    }

    /// Where byte `at` of the grain that begins at `start` is.
    fn place(&self, sector: u32, start: u64, at: u64) -> Place {
        let offset = u64::from(sector) * SECTOR;
        match sector {
            0 => Place::Hole,
            1 if self.zero_grains => Place::Zero,
            // Deflate never makes more than a few bytes per 16 KiB out of nothing; the marker has its own 12.
            _ if self.compressed => Place::Packed(PackedUnit {
                start,
                // The last grain may hold only what the disk has of it.
                len: self.grain.min(self.size - start),
                offset,
                packed_len: self.grain + self.grain / 8 + 512,
                packing: Packing::Grain,
            }),
            _ => Place::File(offset + (at - start)),
        }
    }
}

impl Header {
    fn parse(data: &[u8]) -> Result<Self> {
        let u32_at = |at| u32::from_le_bytes(bytes(data, at));
        let u64_at = |at| u64::from_le_bytes(bytes(data, at));
        if !data.starts_with(MAGIC) {
            return Err(corrupt("its footer has no signature".into()).advise("the file was probably cut off"));
        }
        let (version, flags) = (u32_at(4), u32_at(8));
        if !(1..=3).contains(&version) {
            return Err(refuse(format!("its version is {version}, only 1 to 3 are known")));
        }
        if bytes::<4>(data, 73) != *b"\n \r\n" {
            return Err(
                corrupt("its line ends were changed by a text transfer".into()).advise("copy it again, as binary")
            );
        }
        let (text, count) = (u64_at(28).checked_mul(SECTOR), u64_at(36).checked_mul(SECTOR));
        let text = text.zip(count).and_then(|(start, count)| Some(start..start.checked_add(count)?));
        let Some(text) = text else { return Err(corrupt("its descriptor is nowhere in the file".into())) };
        Ok(Self {
            version,
            flags,
            capacity: u64_at(12),
            grain: u64_at(20),
            text,
            entries: u64::from(u32_at(44)),
            directory: u64_at(56),
            compression: u16::from_le_bytes(bytes(data, 77)),
        })
    }
}

fn parse_text(text: &[u8]) -> Result<vmdk_descriptor::Descriptor> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    vmdk_descriptor::parse(&String::from_utf8_lossy(&text[..end]))
}

fn corrupt(reason: String) -> DiskError {
    DiskError::corrupt("open the VMDK image", reason)
}

fn refuse(reason: String) -> DiskError {
    DiskError::new(ErrorKind::Unsupported, "open the VMDK image", reason)
}

impl Mapping for Vmdk {
    fn find<'a>(&'a self, tables: &'a Tables, range: Range<u64>) -> LocalFuture<'a, Result<Vec<Run>>> {
        Box::pin(self.walk(tables, range))
    }

    fn info(&self) -> ForeignInfo {
        ForeignInfo {
            kind: "dynamic",
            variant: format!("version {}, {}", self.version, self.create_type),
            size: self.size,
            unit: self.grain,
            compression: self.compressed.then_some("deflate"),
            notes: Vec::new(),
        }
    }
}
