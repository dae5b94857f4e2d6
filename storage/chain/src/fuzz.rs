//! The fuzz target: whatever an image says about its parent, only paths inside the roots are tried.

use crate::PathRules;
use bulkhead_disk::ParentLink;
use std::path::{Component, Path, PathBuf};
use uuid::Uuid;

/// Takes `data` as lines of parent paths.
pub fn fuzz(data: &[u8]) {
    let paths = data.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let link = ParentLink { id: Uuid::nil(), second_id: None, timestamp: None, paths };
    let rules = PathRules {
        maps: vec![("d:\\vm".into(), PathBuf::from("/srv/vm"))],
        search: vec!["/pool".into()],
        roots: vec!["/srv/vm".into(), "/pool".into()],
    };
    for path in rules.candidates(Path::new("/srv/vm/snapshots/child.avhd"), &link) {
        let inside = rules.roots.iter().any(|root| path.starts_with(root) && path != *root);
        assert!(inside && !path.components().any(|part| part == Component::ParentDir), "{}", path.display());
    }
}
