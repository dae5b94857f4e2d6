//! Images from descriptors, and chains from what the starter opens.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use bulkhead_block_io::{Cache, Holder, IoContext, OpenOptions};
use bulkhead_chain::{ChainBuilder, Strictness};
use bulkhead_disk::{DiskError, ErrorKind, File, Layer, Node, Result, Stack};
use bulkhead_image::format::Format;
use bulkhead_image::open::{open_disk, open_layer};
use bulkhead_vhdx::NewGuid;
use bulkhead_worker_protocol::image::ImageFile;
use uuid::Uuid;

use crate::starter::Starter;

/// The files of a job, and where more come from.
pub struct Files {
    pub context: IoContext,
    pub starter: Starter,
    descriptors: Vec<Option<OwnedFd>>,
    cache: Cache,
}

/// New identities.
pub fn new_guid() -> NewGuid {
    Rc::new(Uuid::now_v7)
}

impl Files {
    pub fn new(descriptors: Vec<OwnedFd>, context: IoContext, starter: Starter) -> Self {
        // Images are written once and read once: the page cache would only push out what others need.
        Self { context, starter, descriptors: descriptors.into_iter().map(Some).collect(), cache: Cache::Direct }
    }

    pub fn set_cache(&mut self, cache: Cache) {
        self.cache = cache;
    }

    /// Takes a descriptor that the job named by index.
    pub fn descriptor(&mut self, index: usize) -> Result<OwnedFd> {
        let found = self.descriptors.get_mut(index).and_then(Option::take);
        found.ok_or_else(|| {
            DiskError::new(ErrorKind::InvalidInput, "start the job", format!("descriptor {index} is missing"))
        })
    }

    /// The host file of an image.
    pub fn file(&mut self, image: &ImageFile) -> Result<Rc<dyn File>> {
        let fd = self.descriptor(image.descriptor)?;
        self.host_file(fd, &image.path, image.read_only)
    }

    fn host_file(&self, fd: OwnedFd, path: &str, read_only: bool) -> Result<Rc<dyn File>> {
        let options = OpenOptions::new().read_only(read_only).cache(self.cache).holder(Holder::this_process(""));
        Ok(Rc::new(options.from_fd(&self.context, fd, path)?))
    }

    /// One image, without its parents.
    pub async fn layer(&mut self, image: &ImageFile) -> Result<Rc<dyn Layer>> {
        let format = format(image)?;
        let file = self.file(image)?;
        open_layer(file, format, new_guid()).await
    }

    /// An image with its parents, as far as the starter opens them.
    pub async fn chain(&mut self, image: &ImageFile, strictness: Strictness) -> Result<Stack> {
        let mut builder = ChainBuilder::new(strictness);
        let mut path = image.path.clone();
        let mut link = builder.push(self.layer(image).await?)?;
        while let Some(wanted) = link {
            let (parent, layer) = self.parent(&path, wanted.paths, true).await?;
            link = builder.push(layer)?;
            path = parent;
        }
        builder.finish()
    }

    /// A disk to read: of whatever format, with its parents.
    pub async fn disk(&mut self, image: &ImageFile) -> Result<Rc<dyn Node>> {
        let format = format(image)?;
        if format.foreign().is_none() {
            return Ok(Rc::new(self.chain(image, Strictness::default()).await?));
        }
        let file = self.file(&ImageFile { read_only: true, ..image.clone() })?;
        open_disk(file, format, new_guid()).await
    }

    /// The parent of `child`.
    pub async fn parent(&self, child: &str, paths: Vec<String>, read_only: bool) -> Result<(String, Rc<dyn Layer>)> {
        let listed = paths.join(", ");
        let Some((path, fd)) = self.starter.parent(child, paths)? else {
            let reason = format!("its parent was found at none of: {listed}");
            return Err(DiskError::new(ErrorKind::ParentMissing, "open the chain", reason)
                .with_path(child)
                .advise("move it back, or name its new place with `disk set-parent`"));
        };
        let file = self.host_file(fd, &path, read_only)?;
        let layer = open_layer(file, Format::of(path.as_ref()), new_guid()).await?;
        Ok((path, layer))
    }
}

/// The format that the starter named.
pub fn format(image: &ImageFile) -> Result<Format> {
    Format::from_name(&image.format).ok_or_else(|| {
        let names: Vec<&str> = Format::names().collect();
        let reason = format!("there is no format {}; there are {}", image.format, names.join(", "));
        DiskError::new(ErrorKind::InvalidInput, "open the image", reason).with_path(&image.path)
    })
}
