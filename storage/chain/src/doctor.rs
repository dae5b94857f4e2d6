//! The chain doctor: says what is wrong with each link, finds parents that moved, reconnects.

use crate::link::{Strictness, check_link};
use crate::merge::link_to;
use crate::open::{MAX_DEPTH, Opener, WARN_DEPTH, find_parent};
use crate::paths::PathRules;
use bulkhead_disk::{ErrorKind, Layer, ParentLink, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Finding {
    /// Nothing.
    Good,
    /// No file at any path that was tried.
    Missing,
    /// A file is there, but it is another disk or was changed.
    Changed,
    /// The right disk with another timestamp.
    Restamped,
    /// It is there and cannot be opened (damaged, locked, not allowed).
    Unreadable,
    /// It is the right disk but does not fit (size, format, sector size).
    Unfit,
    /// The chain comes back to a disk that is already in it.
    Cycle,
    /// The chain is deeper than is opened.
    TooDeep,
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkReport {
    /// The disk.
    pub child: PathBuf,
    /// Its parent, where it was found.
    pub parent: Option<PathBuf>,
    /// What is wrong.
    pub finding: Finding,
    /// The whole story.
    pub text: String,
    /// Disks with the wanted id, found elsewhere: reconnecting to one of them mends the link.
    pub remedies: Vec<PathBuf>,
}

/// The result of [`diagnose`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainReport {
    /// From the leaf down, as far as it could be followed.
    pub links: Vec<LinkReport>,
    /// Disks in the chain.
    pub depth: usize,
    /// So many disks that merging is advisable.
    pub deep: bool,
}

impl ChainReport {
    /// The whole chain can be opened.
    pub fn is_whole(&self) -> bool {
        self.links.iter().all(|link| link.finding == Finding::Good)
    }
}

/// Follows the chain from `leaf` as far as possible and looks for remedies in the folders of the chain and of the rules.
///
/// # Errors
/// Only when the leaf cannot be opened.
pub async fn diagnose(opener: &dyn Opener, leaf: &Path, rules: &PathRules) -> Result<ChainReport> {
    let mut links: Vec<LinkReport> = Vec::new();
    let mut path = leaf.to_owned();
    let mut layer = opener.open(leaf, true).await?;
    let mut ids = vec![layer.link_id()];
    while let Some(wanted) = layer.parent_link() {
        let (report, parent) = examine(opener, &path, &*layer, &wanted, rules, &ids).await;
        links.push(report);
        let Some((parent_path, parent)) = parent else { break };
        ids.push(parent.link_id());
        (path, layer) = (parent_path, parent);
    }
    let depth = ids.len();
    Ok(ChainReport { links, depth, deep: depth >= WARN_DEPTH })
}

type Found = (PathBuf, Rc<dyn Layer>);

/// One link: the report, and the parent when the chain can be followed further.
async fn examine(
    opener: &dyn Opener,
    child: &Path,
    layer: &dyn Layer,
    wanted: &ParentLink,
    rules: &PathRules,
    ids: &[uuid::Uuid],
) -> (LinkReport, Option<Found>) {
    let (finding, text, found) = match find_parent(opener, child, wanted, rules).await {
        Err(error) if error.kind() == ErrorKind::ParentMissing => (Finding::Missing, error.to_string(), None),
        Err(error) => (Finding::Unreadable, error.to_string(), None),
        Ok(found) => {
            let (finding, text) = judge(layer, &*found.layer, ids);
            (finding, text, Some((found.path, found.layer)))
        }
    };
    let follow = matches!(finding, Finding::Good | Finding::Restamped | Finding::Unfit);
    let remedies = if matches!(finding, Finding::Missing | Finding::Changed | Finding::Unreadable) {
        find_by_id(opener, child, wanted, rules).await
    } else {
        Vec::new()
    };
    let parent = found.as_ref().map(|(path, _)| path.clone());
    let report = LinkReport { child: child.to_owned(), parent, finding, text, remedies };
    (report, found.filter(|_| follow))
}

fn judge(child: &dyn Layer, parent: &dyn Layer, ids: &[uuid::Uuid]) -> (Finding, String) {
    if ids.contains(&parent.link_id()) {
        return (Finding::Cycle, format!("{} is already in the chain", parent.file().path().display()));
    }
    if ids.len() >= MAX_DEPTH {
        return (Finding::TooDeep, format!("the chain has more than {MAX_DEPTH} disks"));
    }
    let Err(error) = check_link(child, parent, Strictness::default()) else {
        return (Finding::Good, "the parent is there and unchanged".into());
    };
    let finding = match error.kind() {
        ErrorKind::ParentChanged if check_link(child, parent, Strictness { ignore_timestamp: true }).is_ok() => {
            Finding::Restamped
        }
        ErrorKind::ParentChanged => Finding::Changed,
        _ => Finding::Unfit,
    };
    (finding, error.to_string())
}

/// Looks through the child's folder and the search folders for a disk with the wanted id.
async fn find_by_id(opener: &dyn Opener, child: &Path, wanted: &ParentLink, rules: &PathRules) -> Vec<PathBuf> {
    let own = child.parent().map(Path::to_owned);
    let mut found = Vec::new();
    for folder in own.iter().chain(&rules.search) {
        for path in opener.list(folder).await.unwrap_or_default() {
            if path == child || found.contains(&path) || !rules.is_allowed(&path) {
                continue;
            }
            if let Ok(layer) = opener.open(&path, true).await
                && (layer.link_id() == wanted.id || Some(layer.link_id()) == wanted.second_id)
            {
                found.push(path);
            }
        }
    }
    found
}

/// Links `child` to `parent`, which was found at `paths` (the way the child shall write them down, relative first).
///
/// Without `force` the parent must be the one that the child was made from (its timestamp may differ). With `force` any fitting
/// parent is taken: the disk's contents may then be wrong, and only the caller can know.
///
/// # Errors
/// `ParentChanged`, `InvalidInput` (does not fit), those of the child's file.
pub async fn reconnect(child: &dyn Layer, parent: &dyn Layer, paths: &[String], force: bool) -> Result<()> {
    match check_link(child, parent, Strictness { ignore_timestamp: true }) {
        Err(error) if !(force && error.kind() == ErrorKind::ParentChanged) => return Err(error),
        _ => {}
    }
    child.set_parent_link(link_to(parent, paths)).await
}
