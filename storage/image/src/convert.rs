//! A disk into a new image of another format or kind.

use std::rc::Rc;

use bulkhead_disk::{File, Node, Result, Stack};

use crate::copy::{Zeros, copy};
use crate::create::{NewImage, create};
use crate::{Control, open};

/// Creates the image `new` in the empty file, fills it with `source`, and closes it. `new.size` is the source's.
///
/// # Errors
/// Those of creating and copying. The file is then unfinished, and no image that should be kept.
pub async fn convert(source: &dyn Node, file: Rc<dyn File>, new: &NewImage, control: &dyn Control) -> Result<()> {
    let new = NewImage { size: source.facts().size, ..new.clone() };
    create(&*file, &new).await?;
    let layer = open::open_layer(file, new.format, new.new_guid.clone()).await?;
    let target = Stack::new(vec![layer.clone()]);
    copy(source, &target, Zeros::Skip, control).await?;
    layer.close().await
}
