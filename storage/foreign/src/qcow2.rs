//! QCOW2, versions 2 and 3: two levels of tables, compressed clusters, subclusters.
//!
//! Only the active state is read; internal snapshots are left out. Reference counts matter to writers alone.

use std::ops::Range;

use bulkhead_disk::{DiskError, ErrorKind, LocalFuture, Result, SECTOR};

use crate::mapping::{ForeignInfo, MAX_SIZE, Mapping, PackedUnit, Place, Run, push_run};
use crate::tables::{Tables, bytes};
use crate::unpack::Packing;

const MAGIC: u32 = 0x5146_49FB;
/// Incompatible features: bit, what it is, and what to do; the rest is read.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// Bits 9–55 of a table entry: an offset in the file.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const COMPRESSED: u64 = 1 << 62;
const SUBCLUSTERS: u64 = 32;

/// An open QCOW2 image.
pub struct Qcow2 {
    version: u32,
    size: u64,
    cluster_bits: u32,
    l1_offset: u64,
    packing: Packing,
    extended: bool,
    dirty: bool,
    snapshots: u32,
}

impl Qcow2 {
    pub async fn open(tables: &Tables) -> Result<Self> {
        let file = &tables.file;
        let header = tables.read("QCOW2 header", 0, 112.min(file.len().max(72))).await?;
        if let Some((offset, len)) = backing(&header) {
            let name = tables.read("backing file name", offset, len).await.unwrap_or_default();
            let reason = format!("it is an overlay of {:?}", String::from_utf8_lossy(&name));
            return Err(refuse(reason)
                .advise("flatten it first: qemu-img convert -O qcow2 OVERLAY WHOLE")
                .with_path(file.path()));
        }
        let image = Self::parse(&header, file.len()).map_err(|error| error.with_path(file.path()))?;
        Ok(image)
    }

    fn parse(header: &[u8], file_len: u64) -> Result<Self> {
        let u32_at = |at| u32::from_be_bytes(bytes(header, at));
        let u64_at = |at| u64::from_be_bytes(bytes(header, at));
        if u32_at(0) != MAGIC {
            return Err(corrupt("it has no QCOW2 signature".into()).advise("name its true format with format="));
        }
        let version = u32_at(4);
        if !(2..=3).contains(&version) {
            return Err(refuse(format!("its version is {version}, only 2 and 3 are known")));
        }
        if u32_at(32) != 0 {
            return Err(refuse("it is encrypted".into()).advise("decrypt it with the product that made it"));
        }
        let features = if version == 3 { u64_at(72) } else { 0 };
        let packing = check_features(features, if version == 3 { header.get(104).copied() } else { None })?;
        let (cluster_bits, size) = (u32_at(20), u64_at(24));
        let extended = features & EXTENDED_L2 != 0;
        if !(9..=21).contains(&cluster_bits) || extended && cluster_bits < 14 {
            return Err(corrupt(format!("its cluster size is 2^{cluster_bits} bytes")));
        }
        if size > MAX_SIZE {
            return Err(corrupt(format!("its size {size} is above 64 TiB")));
        }
        let (l1_entries, l1_offset) = (u64::from(u32_at(36)), u64_at(40));
        let cluster = 1u64 << cluster_bits;
        if !l1_offset.is_multiple_of(cluster) || l1_offset.checked_add(l1_entries * 8).is_none_or(|end| end > file_len)
        {
            return Err(corrupt(format!(
                "its first table ({l1_entries} entries at {l1_offset}) is not inside the file"
            )));
        }
        let image = Self {
            version,
            size: size.next_multiple_of(SECTOR),
            cluster_bits,
            l1_offset,
            packing,
            extended,
            dirty: features & DIRTY != 0,
            snapshots: u32_at(60),
        };
        if l1_entries < size.div_ceil(image.table_span()) {
            return Err(corrupt(format!("its first table has {l1_entries} entries, too few for {size} bytes")));
        }
        Ok(image)
    }

    fn entry_len(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Bytes of the disk that one second-level table covers.
    fn table_span(&self) -> u64 {
        ((1 << self.cluster_bits) / self.entry_len()) << self.cluster_bits
    }

    async fn walk(&self, tables: &Tables, range: Range<u64>) -> Result<Vec<Run>> {
        let (span, cluster) = (self.table_span(), 1u64 << self.cluster_bits);
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / span;
            let end = range.end.min((number + 1) * span);
            let entry = tables.read("first table", self.l1_offset + number * 8, 8).await?;
            let table = u64::from_be_bytes(bytes(&entry, 0)) & OFFSET;
            if table == 0 {
                push_run(&mut runs, end - at, Place::Hole);
                at = end;
                continue;
            }
            if !table.is_multiple_of(cluster) {
                return Err(tables.corrupt(format!("table {number} is at {table}, which is no cluster border")));
            }
            let (first, last) = ((at % span) / cluster, ((end - 1) % span) / cluster);
            let offset = table + first * self.entry_len();
            let entries = tables.read("second table", offset, (last - first + 1) * self.entry_len()).await?;
            for (index, entry) in entries.chunks_exact(self.entry_len() as usize).enumerate() {
                let start = number * span + (first + index as u64) * cluster;
                let part = at.max(start)..end.min(start + cluster);
                self.cluster(tables, &mut runs, entry, start, part)?;
            }
            at = end;
        }
        Ok(runs)
    }

    /// Adds the runs of `part` of the cluster that begins at `start`.
    fn cluster(&self, tables: &Tables, runs: &mut Vec<Run>, entry: &[u8], start: u64, part: Range<u64>) -> Result<()> {
        let descriptor = u64::from_be_bytes(bytes(entry, 0));
        let len = part.end - part.start;
        if descriptor & COMPRESSED != 0 {
            push_run(runs, len, Place::Packed(self.packed(descriptor, start)));
            return Ok(());
        }
        let offset = descriptor & OFFSET;
        if !offset.is_multiple_of(1 << self.cluster_bits) {
            let reason = format!("the cluster of byte {start} is at {offset}, which is no cluster border");
            return Err(tables.corrupt(reason));
        }
        if !self.extended {
            let place = match offset {
                _ if self.version == 3 && descriptor & 1 != 0 => Place::Zero,
                0 => Place::Hole,
                _ => Place::File(offset + (part.start - start)),
            };
            push_run(runs, len, place);
            return Ok(());
        }
        let bitmap = u64::from_be_bytes(bytes(entry, 8));
        let unit = (1u64 << self.cluster_bits) / SUBCLUSTERS;
        for index in 0..SUBCLUSTERS {
            let begin = start + index * unit;
            let (from, until) = (part.start.max(begin), part.end.min(begin + unit));
            if from >= until {
                continue;
            }
            let (stored, zero) = (bitmap >> index & 1 != 0, bitmap >> (32 + index) & 1 != 0);
            let place = match (stored, zero) {
                (true, false) if offset != 0 => Place::File(offset + (from - start)),
                (false, true) => Place::Zero,
                (false, false) => Place::Hole,
                _ => return Err(tables.corrupt(format!("the subclusters of byte {start} contradict each other"))),
            };
            push_run(runs, until - from, place);
        }
        Ok(())
    }

    fn packed(&self, descriptor: u64, start: u64) -> PackedUnit {
        // The count of further sectors begins above the offset, whose width follows the cluster size.
        let width = 62 - (self.cluster_bits - 8);
        let offset = descriptor & ((1 << width) - 1);
        let sectors = (descriptor & (COMPRESSED - 1)) >> width;
        let packed_len = (sectors + 1) * SECTOR - offset % SECTOR;
        PackedUnit { start, len: 1 << self.cluster_bits, offset, packed_len, packing: self.packing }
    }
}

/// Refuses what is not understood; returns how clusters are packed.
fn check_features(features: u64, compression: Option<u8>) -> Result<Packing> {
    if features & CORRUPT != 0 {
        return Err(corrupt("it is marked as corrupt".into()).advise("mend it first: qemu-img check -r all IMAGE"));
    }
    if features & EXTERNAL_DATA != 0 {
        return Err(refuse("its data is in another file".into())
            .advise("make it one file first: qemu-img convert -O qcow2 IMAGE WHOLE"));
    }
    let unknown = features & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2);
    if unknown != 0 {
        return Err(refuse(format!("it has incompatible features that are not known here (bits {unknown:#x})")));
    }
    match (features & COMPRESSION != 0, compression.unwrap_or(0)) {
        (false, _) | (true, 0) => Ok(Packing::Deflate),
        (true, 1) => Ok(Packing::Zstd),
        (true, other) => Err(refuse(format!("its compression is number {other}, only 0 and 1 are known"))),
    }
}

/// Where the name of its backing file is.
fn backing(header: &[u8]) -> Option<(u64, u64)> {
    let is_qcow2 = u32::from_be_bytes(bytes(header, 0)) == MAGIC;
    let (offset, len) = (u64::from_be_bytes(bytes(header, 8)), u32::from_be_bytes(bytes(header, 16)));
    (is_qcow2 && offset != 0).then_some((offset, u64::from(len.min(1023))))
}

fn corrupt(reason: String) -> DiskError {
    DiskError::corrupt("open the QCOW2 image", reason)
}

fn refuse(reason: String) -> DiskError {
    DiskError::new(ErrorKind::Unsupported, "open the QCOW2 image", reason)
}

impl Mapping for Qcow2 {
    fn find<'a>(&'a self, tables: &'a Tables, range: Range<u64>) -> LocalFuture<'a, Result<Vec<Run>>> {
        Box::pin(self.walk(tables, range))
    }

    fn info(&self) -> ForeignInfo {
        let mut notes = Vec::new();
        if self.dirty {
            notes.push("it was not closed: the program that wrote it may have crashed".into());
        }
        if self.snapshots > 0 {
            notes.push(format!("its {} internal snapshots are not converted", self.snapshots));
        }
        let subclusters = if self.extended { " with subclusters" } else { "" };
        ForeignInfo {
            kind: "dynamic",
            variant: format!("version {}{subclusters}", self.version),
            size: self.size,
            unit: 1 << self.cluster_bits,
            compression: Some(if self.packing == Packing::Zstd { "zstd" } else { "deflate" }),
            notes,
        }
    }
}
