//! Makes new VHD files.

use crate::allocate::DATA_ALIGN;
use crate::footer::{DiskType, FOOTER, Footer, MAX_SIZE};
use crate::header::{HEADER, Header};
use crate::link::place_link;
use bulkhead_disk::{DiskError, ErrorKind, File, ParentLink, Result, SECTOR, write_vec};
use uuid::Uuid;

/// Which kind of disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All space at once; `reserve` = really reserve it, else the file is sparse.
    Fixed {
        /// Reserve the space on the host.
        reserve: bool,
    },
    /// Grows as it is written.
    Dynamic {
        /// Bytes per block: a power of two, 512 KiB … 256 MiB (2 MiB is usual).
        block_size: u32,
    },
    /// Holds what differs from a parent of the same size.
    Differencing {
        /// Bytes per block.
        block_size: u32,
        /// The parent: its id, its footer's timestamp, its paths (relative first).
        parent: ParentLink,
    },
}

/// What to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes of the disk: a multiple of 512, at most 2040 GiB.
    pub size: u64,
    /// Which kind.
    pub kind: Kind,
    /// The new disk's identity.
    pub id: Uuid,
    /// Seconds since [`crate::EPOCH`].
    pub timestamp: u32,
}

/// Default bytes per block.
pub(crate) const DEFAULT_BLOCK: u32 = 2 << 20;
/// Smallest block for new disks.
const MIN_NEW_BLOCK: u32 = 512 << 10;

impl CreateOptions {
    /// A dynamic disk with 2 MiB blocks.
    pub fn dynamic(size: u64, id: Uuid, timestamp: u32) -> Self {
        Self { size, kind: Kind::Dynamic { block_size: DEFAULT_BLOCK }, id, timestamp }
    }

    /// A fixed disk with its space reserved.
    pub fn fixed(size: u64, id: Uuid, timestamp: u32) -> Self {
        Self { size, kind: Kind::Fixed { reserve: true }, id, timestamp }
    }

    /// A child of `parent` with 2 MiB blocks.
    pub fn differencing(size: u64, parent: ParentLink, id: Uuid, timestamp: u32) -> Self {
        Self { size, kind: Kind::Differencing { block_size: DEFAULT_BLOCK, parent }, id, timestamp }
    }
}

/// Checks a size for a VHD.
///
/// # Errors
/// `InvalidInput` with the reason.
pub(crate) fn check_size(action: &'static str, size: u64) -> Result<()> {
    let invalid = |reason: String| DiskError::new(ErrorKind::InvalidInput, action, reason);
    if size > MAX_SIZE {
        let reason = format!(
            "{size} bytes are more than 2040 GiB, the most that VHD's 32-bit block addresses and Windows allow"
        );
        return Err(invalid(reason).advise("use VHDX (up to 64 TiB)"));
    }
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(invalid(format!("the size {size} is not a positive multiple of 512")));
    }
    Ok(())
}

/// Writes a new VHD into the empty file and flushes it. A power cut leaves a file that is no VHD, or a whole one.
///
/// # Errors
/// `InvalidInput` for impossible sizes and block sizes and for a file that is not empty; those of the file.
pub async fn create(file: &dyn File, options: &CreateOptions) -> Result<()> {
    create_inner(file, options).await.map_err(|error| error.with_path(file.path()))
}

async fn create_inner(file: &dyn File, options: &CreateOptions) -> Result<()> {
    check_size("create the VHD", options.size)?;
    if !file.is_empty() {
        return Err(DiskError::new(ErrorKind::InvalidInput, "create the VHD", "the file is not empty"));
    }
    match &options.kind {
        Kind::Fixed { reserve } => create_fixed(file, options, *reserve).await,
        Kind::Dynamic { block_size } => create_sparse(file, options, *block_size, None).await,
        Kind::Differencing { block_size, parent } => create_sparse(file, options, *block_size, Some(parent)).await,
    }
}

async fn create_fixed(file: &dyn File, options: &CreateOptions, reserve: bool) -> Result<()> {
    if reserve {
        file.allocate(0..options.size + FOOTER).await?;
    }
    let footer = Footer::new(DiskType::Fixed, options.size, options.id, options.timestamp);
    write_vec(file, options.size, &footer.encode()).await?;
    file.flush().await
}

async fn create_sparse(
    file: &dyn File,
    options: &CreateOptions,
    block_size: u32,
    parent: Option<&ParentLink>,
) -> Result<()> {
    if !block_size.is_power_of_two() || !(MIN_NEW_BLOCK..=256 << 20).contains(&block_size) {
        let reason = format!("the block size {block_size} is no power of two from 512 KiB to 256 MiB");
        return Err(DiskError::new(ErrorKind::InvalidInput, "create the VHD", reason));
    }
    let kind = if parent.is_some() { DiskType::Differencing } else { DiskType::Dynamic };
    let footer = Footer::new(kind, options.size, options.id, options.timestamp).encode();
    let table_offset = FOOTER + HEADER;
    // At most 2040 GiB / 512 KiB entries.
    let entries = options.size.div_ceil(block_size.into()) as u32;
    let mut header = Header::new(table_offset, entries, block_size);
    let table = vec![0xFF; (u64::from(entries) * 4).next_multiple_of(SECTOR) as usize];
    let mut end = table_offset + table.len() as u64;
    let texts = parent.map(|parent| place_link(&mut header, parent, end)).unwrap_or_default();
    if let Some((offset, text)) = texts.last() {
        end = offset + text.len() as u64;
    }
    // The first block's bitmap directly follows, and its data begins at a multiple of 4 KiB.
    end = end.next_multiple_of(DATA_ALIGN);
    write_vec(file, FOOTER, &header.encode()).await?;
    write_vec(file, table_offset, &table).await?;
    for (offset, text) in &texts {
        write_vec(file, *offset, text).await?;
    }
    // Without a footer the file is no VHD: the footers come last.
    file.flush().await?;
    write_vec(file, end, &footer).await?;
    write_vec(file, 0, &footer).await?;
    file.flush().await
}
