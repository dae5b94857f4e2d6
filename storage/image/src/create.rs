//! New images of every format and kind.

use bulkhead_disk::{DiskError, DiskFacts, ErrorKind, File, Layer, ParentLink, Result};
use bulkhead_vhdx::NewGuid;
use bulkhead_vhdx::format::parent_locator::ParentLocator;

use crate::format::{Format, Kind};

/// What to create.
#[derive(Clone)]
pub struct NewImage {
    /// Format.
    pub format: Format,
    /// Kind; differencing needs [`NewImage::parent`].
    pub kind: Kind,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes per block of dynamic and differencing images; `None` = the format's default.
    pub block_size: Option<u32>,
    /// Logical sector of VHDX images: 512 or 4096.
    pub logical_sector: u32,
    /// Fixed images leave holes instead of reserving their space.
    pub sparse: bool,
    /// The parent's link and facts.
    pub parent: Option<(ParentLink, DiskFacts)>,
    /// Seconds since 1970, for formats that note it.
    pub unix_time: u64,
    /// Source of new identities.
    pub new_guid: NewGuid,
}

impl NewImage {
    /// With the defaults of the format.
    pub fn new(format: Format, kind: Kind, size: u64, unix_time: u64, new_guid: NewGuid) -> Self {
        let (block_size, sparse, parent) = (None, false, None);
        Self { format, kind, size, block_size, logical_sector: 512, sparse, parent, unix_time, new_guid }
    }

    /// Makes it a child of `parent`, which children find under `paths` (relative first).
    #[must_use]
    pub fn child_of(mut self, parent: &dyn Layer, paths: Vec<String>) -> Self {
        let link = ParentLink { id: parent.link_id(), second_id: None, timestamp: parent.link_timestamp(), paths };
        let facts = parent.facts();
        (self.kind, self.size, self.logical_sector) = (Kind::Differencing, facts.size, facts.logical_sector);
        self.parent = Some((link, facts));
        self
    }
}

/// Writes a new image into the empty file.
///
/// # Errors
/// `Unsupported` for what the format lacks, `InvalidInput` for impossible sizes, and those of the file.
pub async fn create(file: &dyn File, new: &NewImage) -> Result<()> {
    let action = "create the image";
    if !new.format.kinds().contains(&new.kind) {
        let kinds: Vec<&str> = new.format.kinds().iter().map(|kind| kind.name()).collect();
        let can = if kinds.is_empty() { "it can only be read".into() } else { format!("it has {}", kinds.join(", ")) };
        let reason = format!("{} cannot be made as {}: {can}", new.format.name(), new.kind.name());
        return Err(DiskError::new(ErrorKind::Unsupported, action, reason).with_path(file.path()));
    }
    match new.format {
        Format::Vhd => bulkhead_vhd::create(file, &vhd_options(new, action)?).await,
        Format::Vhdx => bulkhead_vhdx::create(file, &vhdx_options(new, action)?).await,
        _ => create_raw(file, new).await,
    }
}

async fn create_raw(file: &dyn File, new: &NewImage) -> Result<()> {
    if new.size == 0 || !new.size.is_multiple_of(512) {
        let reason = format!("the size {} is not a positive multiple of 512", new.size);
        return Err(DiskError::new(ErrorKind::InvalidInput, "create the image", reason).with_path(file.path()));
    }
    if new.kind == Kind::Fixed && !new.sparse {
        file.allocate(0..new.size).await?;
    }
    file.set_len(new.size).await?;
    file.flush().await
}

fn vhd_options(new: &NewImage, action: &'static str) -> Result<bulkhead_vhd::CreateOptions> {
    let block_size = new.block_size.unwrap_or(2 << 20);
    let kind = match (new.kind, &new.parent) {
        (Kind::Fixed, _) => bulkhead_vhd::Kind::Fixed { reserve: !new.sparse },
        (Kind::Dynamic, _) => bulkhead_vhd::Kind::Dynamic { block_size },
        (Kind::Differencing, Some((parent, _))) => {
            bulkhead_vhd::Kind::Differencing { block_size, parent: parent.clone() }
        }
        (Kind::Differencing, None) => return Err(no_parent(action)),
    };
    let timestamp = u32::try_from(new.unix_time.saturating_sub(bulkhead_vhd::EPOCH)).unwrap_or(u32::MAX);
    Ok(bulkhead_vhd::CreateOptions { size: new.size, kind, id: (new.new_guid)(), timestamp })
}

fn vhdx_options(new: &NewImage, action: &'static str) -> Result<bulkhead_vhdx::CreateOptions> {
    let kind = match (new.kind, &new.parent) {
        (Kind::Fixed, _) => bulkhead_vhdx::Kind::Fixed,
        (Kind::Dynamic, _) => bulkhead_vhdx::Kind::Dynamic,
        (Kind::Differencing, Some((parent, _))) => {
            bulkhead_vhdx::Kind::Differencing(ParentLocator::new(parent.id, &parent.paths))
        }
        (Kind::Differencing, None) => return Err(no_parent(action)),
    };
    let mut options = bulkhead_vhdx::CreateOptions::new(new.size, kind, new.new_guid.clone());
    options.block_size = new.block_size.map_or(options.block_size, u64::from);
    options.logical_sector = new.logical_sector;
    options.sparse = new.sparse;
    if let Some((_, facts)) = &new.parent {
        (options.identity, options.physical_sector) = (facts.identity, facts.physical_sector);
    }
    Ok(options)
}

fn no_parent(action: &'static str) -> DiskError {
    DiskError::new(ErrorKind::InvalidInput, action, "a differencing image needs a parent")
        .advise("name it with --parent")
}
