//! Opening a chain: from the leaf down to a disk without a parent.

use crate::link::{Strictness, check_link};
use crate::paths::PathRules;
use bulkhead_disk::{DiskError, ErrorKind, Layer, LocalFuture, ParentLink, Result, Stack};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Deepest chain that is opened.
pub const MAX_DEPTH: usize = 64;
/// From this depth on people should be told to merge.
pub const WARN_DEPTH: usize = 20;

/// Opens layers: decides the format by the path, locks, authorizes.
pub trait Opener {
    /// Opens the image at `path`. A path that is not there is `NotFound`.
    fn open<'a>(&'a self, path: &'a Path, read_only: bool) -> LocalFuture<'a, Result<Rc<dyn Layer>>>;

    /// Looks at the images in a folder (for the chain doctor): their paths. None = the folder cannot be read.
    fn list<'a>(&'a self, folder: &'a Path) -> LocalFuture<'a, Option<Vec<PathBuf>>>;
}

/// Puts a chain together layer by layer, for whoever gets descriptors instead of opening paths.
#[derive(Default)]
pub struct ChainBuilder {
    layers: Vec<Rc<dyn Layer>>,
    strictness: Strictness,
}

impl ChainBuilder {
    /// Nothing yet.
    pub fn new(strictness: Strictness) -> Self {
        Self { layers: Vec::new(), strictness }
    }

    /// Adds the next layer: first the leaf, then each parent. Returns the link to the parent that is still needed, None when
    /// the chain is complete.
    ///
    /// # Errors
    /// [`check_link`]'s, and `Corrupt` for a cycle or more than [`MAX_DEPTH`] layers.
    pub fn push(&mut self, layer: Rc<dyn Layer>) -> Result<Option<ParentLink>> {
        if let Some(child) = self.layers.last() {
            check_link(&**child, &*layer, self.strictness)?;
        }
        let file = layer.file();
        let wrong = |reason: String| Err(DiskError::corrupt("open the chain", reason).with_path(file.path()));
        let id = layer.link_id();
        if let Some(twin) = self.layers.iter().find(|other| !id.is_nil() && other.link_id() == id) {
            return wrong(format!("it is its own ancestor: {} has the same id {id}", twin.file().path().display()));
        }
        if self.layers.len() >= MAX_DEPTH {
            return wrong(format!("the chain has more than {MAX_DEPTH} disks"));
        }
        let link = layer.parent_link();
        self.layers.push(layer);
        Ok(link)
    }

    /// The layers so far, the leaf first.
    pub fn layers(&self) -> &[Rc<dyn Layer>] {
        &self.layers
    }

    /// The disk.
    ///
    /// # Errors
    /// `ParentMissing` when a parent is still needed.
    pub fn finish(self) -> Result<Stack> {
        match self.layers.last() {
            Some(last) if last.parent_link().is_none() => Ok(Stack::new(self.layers)),
            last => {
                let error = DiskError::new(ErrorKind::ParentMissing, "open the chain", "a parent is missing");
                Err(match last {
                    Some(layer) => error.with_path(layer.file().path()),
                    None => error,
                })
            }
        }
    }
}

/// Opens the chain whose leaf is `leaf`; parents are opened read-only.
///
/// # Errors
/// `ParentMissing` naming every path that was tried, `ParentChanged`, `Corrupt` (cycle, depth), and those of the opener.
pub async fn open_chain(
    opener: &dyn Opener,
    leaf: &Path,
    read_only: bool,
    rules: &PathRules,
    strictness: Strictness,
) -> Result<Stack> {
    let mut builder = ChainBuilder::new(strictness);
    let mut path = leaf.to_owned();
    let mut link = builder.push(opener.open(leaf, read_only).await?)?;
    while let Some(wanted) = link {
        let parent = find_parent(opener, &path, &wanted, rules).await?;
        link = builder.push(parent.layer)?;
        path = parent.path;
    }
    builder.finish()
}

/// A parent that was found.
pub struct FoundParent {
    /// Where.
    pub path: PathBuf,
    /// Itself, read-only.
    pub layer: Rc<dyn Layer>,
    /// The path in the child's link that led there; None when only a file's name did.
    pub locator: Option<String>,
}

/// Opens the first candidate with the wanted id, read-only; else the first that opens (its mismatch is then the error to
/// report).
///
/// # Errors
/// `ParentMissing` naming every path that was tried, and those of the opener.
pub async fn find_parent(
    opener: &dyn Opener,
    child: &Path,
    link: &ParentLink,
    rules: &PathRules,
) -> Result<FoundParent> {
    let mut second_best = None;
    let mut refused = None;
    let candidates = rules.candidates(child, link);
    for path in &candidates {
        match opener.open(path, true).await {
            Ok(layer) => {
                let id = layer.link_id();
                let locator = rules.locator(child, link, path).map(str::to_owned);
                let found = FoundParent { path: path.clone(), layer, locator };
                if id == link.id || Some(id) == link.second_id {
                    return Ok(found);
                }
                second_best.get_or_insert(found);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    if let Some(found) = second_best {
        return Ok(found);
    }
    Err(refused.unwrap_or_else(|| missing(child, link, &candidates)))
}

fn missing(child: &Path, link: &ParentLink, tried: &[PathBuf]) -> DiskError {
    let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    let tried = if tried.is_empty() { "no allowed path".to_owned() } else { tried.join(", ") };
    let said = link.paths.join(", ");
    let reason = format!("its parent {} ({said}) is not there; tried {tried}", link.id);
    DiskError::new(ErrorKind::ParentMissing, "open the chain", reason)
        .with_path(child)
        .advise("put the parent back, or reconnect the disk to where it is now")
}
