//! An image as a layer, by its format.

use std::rc::Rc;

use bulkhead_disk::{DiskError, ErrorKind, File, Layer, RawImage, Result};
use bulkhead_vhd::VhdImage;
use bulkhead_vhdx::{NewGuid, OpenOptions, Vhdx};

use crate::format::Format;

/// Opens the image in `file`. Whether it may be written is the file's own fact.
///
/// # Errors
/// `Unsupported` for formats that are no layers (they are opened whole), and those of the format.
pub async fn open_layer(file: Rc<dyn File>, format: Format, new_guid: NewGuid) -> Result<Rc<dyn Layer>> {
    Ok(match format {
        Format::Raw => Rc::new(RawImage::open(file).await?),
        Format::Vhd => Rc::new(VhdImage::open(file).await?),
        Format::Vhdx => {
            let options = OpenOptions { read_only: file.facts().read_only, new_guid };
            Rc::new(Vhdx::open(file, options).await?.image)
        }
        Format::Qcow2 | Format::Vmdk | Format::Vdi => {
            let reason = format!("{} images can only be converted from", format.name());
            return Err(DiskError::new(ErrorKind::Unsupported, "open the image as a disk", reason)
                .with_path(file.path())
                .advise("convert it to vhdx first"));
        }
    })
}
