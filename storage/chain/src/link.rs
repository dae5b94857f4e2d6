//! Is this layer the parent of that one?

use bulkhead_disk::{DiskError, ErrorKind, Layer, Result};

/// How strictly a link is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strictness {
    /// Accept a parent whose timestamp differs (its identity must still match): a copied or re-stamped VHD.
    pub ignore_timestamp: bool,
}

/// Checks that `parent` is the parent that `child` was made from, and that both fit together.
///
/// # Errors
/// `ParentChanged` (identity or timestamp), `InvalidInput` (formats, sizes or sector sizes that do not fit, or a child that has no
/// parent).
pub fn check_link(child: &dyn Layer, parent: &dyn Layer, strictness: Strictness) -> Result<()> {
    let (child_file, parent_file) = (child.file(), parent.file());
    let name = parent_file.path().display();
    let action = || format!("use {name} as parent");
    let fail = |kind, reason: String| Err(DiskError::new(kind, action(), reason).with_path(child_file.path()));
    let Some(link) = child.parent_link() else {
        return fail(ErrorKind::InvalidInput, "the disk has no parent".into());
    };
    let (facts, parent_facts) = (child.facts(), parent.facts());
    if facts.format != parent_facts.format {
        let reason = format!("a {} disk cannot have a {} parent", facts.format, parent_facts.format);
        return fail(ErrorKind::InvalidInput, reason);
    }
    let id = parent.link_id();
    if id != link.id && Some(id) != link.second_id {
        let reason =
            format!("its id is {id}, the child was made from {}: it is another disk, or it was changed since", link.id);
        return fail(ErrorKind::ParentChanged, reason).map_err(|error| {
            error.advise("find the right parent, or reconnect if the contents are known to be the same")
        });
    }
    if let (Some(want), Some(have)) = (link.timestamp, parent.link_timestamp())
        && want != have
        && !strictness.ignore_timestamp
    {
        let reason = format!("its timestamp is {have}, the child expects {want}: it may have been changed or restored");
        return fail(ErrorKind::ParentChanged, reason).map_err(|error| {
            error.advise("if its contents are known to be the same, reconnect and ignore the timestamp")
        });
    }
    if facts.logical_sector != parent_facts.logical_sector {
        let reason =
            format!("it has sectors of {} bytes, the child of {}", parent_facts.logical_sector, facts.logical_sector);
        return fail(ErrorKind::InvalidInput, reason);
    }
    // VHD children have exactly their parent's size; VHDX children may have grown.
    let fits = if facts.format == "vhd" { facts.size == parent_facts.size } else { facts.size >= parent_facts.size };
    if !fits {
        let reason = format!("it has {} bytes, the child {}", parent_facts.size, facts.size);
        return fail(ErrorKind::InvalidInput, reason);
    }
    Ok(())
}
