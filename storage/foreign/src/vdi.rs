//! VDI: a header, a map of 32-bit block numbers, blocks.

use std::ops::Range;

use bulkhead_disk::{DiskError, ErrorKind, LocalFuture, Result, SECTOR};

use crate::mapping::{ForeignInfo, MAX_SIZE, Mapping, Place, Run, push_run};
use crate::tables::{Tables, bytes};

const SIGNATURE: u32 = 0xBEDA_107F;
const VERSION: u32 = 0x0001_0001;
const FREE: u32 = 0xFFFF_FFFF;
const ZERO: u32 = 0xFFFF_FFFE;

/// An open VDI.
pub struct Vdi {
    size: u64,
    block: u64,
    map: u64,
    data: u64,
    fixed: bool,
}

impl Vdi {
    pub async fn open(tables: &Tables) -> Result<Self> {
        let header = tables.read("VDI header", 0, 512).await?;
        Self::parse(&header).map_err(|error| error.with_path(tables.file.path()))
    }

    fn parse(header: &[u8]) -> Result<Self> {
        let action = "open the VDI image";
        let corrupt = |reason: String| DiskError::corrupt(action, reason);
        let refuse = |reason: String| DiskError::new(ErrorKind::Unsupported, action, reason);
        let u32_at = |at| u32::from_le_bytes(bytes(header, at));
        if u32_at(64) != SIGNATURE {
            return Err(corrupt("it has no VDI signature".into()).advise("name its true format with format="));
        }
        if u32_at(68) != VERSION {
            return Err(refuse(format!("its version is {:#x}, only 1.1 is known", u32_at(68))));
        }
        let fixed = match u32_at(76) {
            1 => false,
            2 => true,
            kind => {
                let reason = format!("it is of type {kind} (3 = undo, 4 = differencing) and needs another image");
                return Err(refuse(reason).advise("clone it into one file first"));
            }
        };
        let parent: [u8; 16] = bytes(header, 424);
        if parent != [0; 16] {
            return Err(refuse("it is a differencing image".into()).advise("clone it into one file first"));
        }
        let (map, data) = (u64::from(u32_at(340)), u64::from(u32_at(344)));
        let size = u64::from_le_bytes(bytes(header, 368));
        let block = u64::from(u32_at(376));
        if u32_at(360) != 512 || u32_at(380) != 0 {
            return Err(refuse("it has sectors other than 512 bytes, or extra bytes before its blocks".into()));
        }
        if !block.is_power_of_two() || !(4096..=256 << 20).contains(&block) {
            return Err(corrupt(format!("its block size {block} is no power of two from 4 KiB to 256 MiB")));
        }
        if size == 0 || size > MAX_SIZE {
            return Err(corrupt(format!("its size {size} is 0 or above 64 TiB")));
        }
        let blocks = u64::from(u32_at(384));
        if blocks < size.div_ceil(block) {
            return Err(corrupt(format!("{blocks} blocks of {block} bytes are fewer than its size {size} needs")));
        }
        if map < 512 || data < map {
            return Err(corrupt(format!("its map at {map} or its data at {data} lies in the header")));
        }
        Ok(Self { size: size.next_multiple_of(SECTOR), block, map, data, fixed })
    }

    async fn walk(&self, tables: &Tables, range: Range<u64>) -> Result<Vec<Run>> {
        let (first, last) = (range.start / self.block, (range.end - 1) / self.block);
        let table = tables.read("block map", self.map + first * 4, (last - first + 1) * 4).await?;
        let mut runs = Vec::new();
        for (index, entry) in table.chunks_exact(4).enumerate() {
            let start = (first + index as u64) * self.block;
            let part = range.start.max(start)..range.end.min(start + self.block);
            let place = match u32::from_le_bytes(bytes(entry, 0)) {
                FREE => Place::Hole,
                ZERO => Place::Zero,
                number => Place::File(self.data + u64::from(number) * self.block + (part.start - start)),
            };
            push_run(&mut runs, part.end - part.start, place);
        }
        Ok(runs)
    }
}

impl Mapping for Vdi {
    fn find<'a>(&'a self, tables: &'a Tables, range: Range<u64>) -> LocalFuture<'a, Result<Vec<Run>>> {
        Box::pin(self.walk(tables, range))
    }

    fn info(&self) -> ForeignInfo {
        ForeignInfo {
            kind: if self.fixed { "fixed" } else { "dynamic" },
            variant: "VDI 1.1".into(),
            size: self.size,
            unit: self.block,
            compression: None,
            notes: Vec::new(),
        }
    }
}
