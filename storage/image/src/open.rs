//! An image as a layer or as a whole disk, by its format.

use std::rc::Rc;

use bulkhead_disk::{DiskError, ErrorKind, File, Layer, Node, RawImage, Result, Stack};
use bulkhead_foreign::{ForeignDisk, ForeignFormat};
use bulkhead_vhd::VhdImage;
use bulkhead_vhdx::{NewGuid, OpenOptions, Vhdx};

use crate::format::Format;

/// Opens the image in `file` as a disk, whatever its format; a differencing image is not one without its parents.
///
/// # Errors
/// `ParentMissing` for a differencing image, and those of the format.
pub async fn open_disk(file: Rc<dyn File>, format: Format, new_guid: NewGuid) -> Result<Rc<dyn Node>> {
    if let Some(foreign) = format.foreign() {
        return Ok(Rc::new(ForeignDisk::open(file, foreign).await?));
    }
    let path = file.path().to_owned();
    let layer = open_layer(file, format, new_guid).await?;
    if layer.parent_link().is_some() {
        let reason = "it is a differencing image, and its parents are not open";
        return Err(DiskError::new(ErrorKind::ParentMissing, "open the disk", reason).with_path(path));
    }
    Ok(Rc::new(Stack::new(vec![layer])))
}

/// Opens the image in `file`. Whether it may be written is the file's own fact.
///
/// # Errors
/// `Unsupported` for formats that are no layers ([`open_disk`] opens them whole), and those of the format.
pub async fn open_layer(file: Rc<dyn File>, format: Format, new_guid: NewGuid) -> Result<Rc<dyn Layer>> {
    Ok(match format {
        Format::Raw => Rc::new(RawImage::open(file).await?),
        Format::Vhd => Rc::new(VhdImage::open(file).await?),
        Format::Vhdx => {
            let options = OpenOptions { read_only: file.facts().read_only, new_guid };
            Rc::new(Vhdx::open(file, options).await?.image)
        }
        Format::Qcow2 | Format::Vmdk | Format::Vdi => {
            let reason = format!("{} images can only be read", format.name());
            return Err(DiskError::new(ErrorKind::Unsupported, "open the image for this", reason)
                .with_path(file.path())
                .advise("convert it to vhdx first"));
        }
    })
}

impl Format {
    /// Set for formats of other products, which are read whole and never written.
    pub fn foreign(self) -> Option<ForeignFormat> {
        match self {
            Self::Raw | Self::Vhd | Self::Vhdx => None,
            Self::Qcow2 => Some(ForeignFormat::Qcow2),
            Self::Vmdk => Some(ForeignFormat::Vmdk),
            Self::Vdi => Some(ForeignFormat::Vdi),
        }
    }
}
