//! Images from descriptors, and chains from what the starter opens.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bulkhead_block_io::{Cache, Holder, IoContext, OpenOptions};
use bulkhead_chain::{ChainReport, MAX_DEPTH, Opener, PathRules, Strictness, diagnose, find_parent, open_chain};
use bulkhead_disk::{DiskError, ErrorKind, File, Layer, LocalFuture, Node, Result, Stack};
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
        let leaf = self.layer(image).await?;
        let opener = ChainOpener { files: self, leaf, image, format: format(image)? };
        open_chain(&opener, image.path.as_ref(), image.read_only, &PathRules::default(), strictness).await
    }

    /// What is wrong with the links from an open image to its parents, and where lost parents may be.
    pub async fn diagnose(&self, image: &ImageFile, file: Rc<dyn File>) -> Result<ChainReport> {
        let format = format(image)?;
        let leaf = open_layer(file, format, new_guid()).await?;
        let opener = ChainOpener { files: self, leaf, image, format };
        diagnose(&opener, image.path.as_ref(), &PathRules::default()).await
    }

    /// A disk to read: of whatever format, with its parents.
    pub async fn disk(&mut self, image: &ImageFile) -> Result<Rc<dyn Node>> {
        let format = format(image)?;
        // What is in the page cache is read from there: a disk that was just made or copied usually is.
        let cache = std::mem::replace(&mut self.cache, Cache::Writeback);
        let disk = self.disk_of(image, format).await;
        self.cache = cache;
        disk
    }

    async fn disk_of(&mut self, image: &ImageFile, format: Format) -> Result<Rc<dyn Node>> {
        if format.foreign().is_none() {
            return Ok(Rc::new(self.chain(image, Strictness::default()).await?));
        }
        let file = self.file(&ImageFile { read_only: true, ..image.clone() })?;
        open_disk(file, format, new_guid()).await
    }

    /// The images of a chain, the leaf first, as far as there are parents; whether they fit together is not asked.
    pub async fn images(&mut self, image: &ImageFile) -> Result<Vec<Image>> {
        let file = self.file(image)?;
        let format = format(image)?;
        let mut images = vec![Image { path: image.path.clone(), file: file.clone(), locator: None }];
        if format.foreign().is_some() {
            return Ok(images);
        }
        let leaf = open_layer(file, format, new_guid()).await?;
        let opener = ChainOpener { files: self, leaf: leaf.clone(), image, format };
        let mut child = (PathBuf::from(&image.path), leaf);
        while let Some(link) = child.1.parent_link().filter(|_| images.len() < MAX_DEPTH) {
            let parent = find_parent(&opener, &child.0, &link, &PathRules::default()).await?;
            let path = parent.path.to_string_lossy().into_owned();
            images.push(Image { path, file: parent.layer.file(), locator: parent.locator });
            child = (parent.path, parent.layer);
        }
        Ok(images)
    }

    /// The parent of an open image, for writing: the file from which the chain would be read.
    pub async fn writable_parent(&self, image: &ImageFile, child: &Rc<dyn Layer>) -> Result<Image> {
        let Some(link) = child.parent_link() else {
            let reason = "it has no parent";
            return Err(DiskError::new(ErrorKind::InvalidInput, "open the parent", reason).with_path(&image.path));
        };
        let opener = ChainOpener { files: self, leaf: child.clone(), image, format: format(image)? };
        let found = find_parent(&opener, image.path.as_ref(), &link, &PathRules::default()).await?;
        // Read-only was enough to look who it is; its lock must go before the writer's.
        let (path, locator) = (found.path.to_string_lossy().into_owned(), found.locator);
        drop(found.layer);
        let Some((path, fd)) = self.starter.parent(&image.path, vec![path.clone()], true)? else {
            return Err(DiskError::new(ErrorKind::NotFound, "open the parent", "it is gone").with_path(path));
        };
        let file = self.host_file(fd, &path, false)?;
        Ok(Image { path, file, locator })
    }
}

/// One image of a chain.
pub struct Image {
    /// Where it is.
    pub path: String,
    /// Its file.
    pub file: Rc<dyn File>,
    /// What its child says that led there; none for the leaf, and where only the file's name did.
    pub locator: Option<String>,
}

/// Opens the disks of a chain through the starter. A parent has its child's format, whatever its name says.
struct ChainOpener<'a> {
    files: &'a Files,
    leaf: Rc<dyn Layer>,
    image: &'a ImageFile,
    format: Format,
}

impl Opener for ChainOpener<'_> {
    fn open<'a>(&'a self, path: &'a Path, read_only: bool) -> LocalFuture<'a, Result<Rc<dyn Layer>>> {
        Box::pin(async move {
            if path == Path::new(&self.image.path) {
                return Ok(self.leaf.clone());
            }
            let wanted = vec![path.to_string_lossy().into_owned()];
            let Some((found, fd)) = self.files.starter.parent(&self.image.path, wanted, false)? else {
                return Err(
                    DiskError::new(ErrorKind::NotFound, "open the disk", "there is no such file").with_path(path)
                );
            };
            open_layer(self.files.host_file(fd, &found, read_only)?, self.format, new_guid()).await
        })
    }

    fn list<'a>(&'a self, folder: &'a Path) -> LocalFuture<'a, Option<Vec<PathBuf>>> {
        let images = self.files.starter.folder(&folder.to_string_lossy()).ok().flatten();
        let fitting = |path: &PathBuf| Format::of(path) == self.format;
        let images = images.map(|images| images.into_iter().map(PathBuf::from).filter(fitting).collect());
        Box::pin(std::future::ready(images))
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
