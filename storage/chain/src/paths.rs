//! From what an image says about its parent to host paths worth trying.

use bulkhead_disk::ParentLink;
use std::path::{Component, Path, PathBuf};

/// How parent paths are understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathRules {
    /// Prefixes of foreign paths and the folders that they stand for, such as `d:\vm` → `/srv/vm`. Compared without case.
    pub maps: Vec<(String, PathBuf)>,
    /// Folders to look in by file name when the paths lead nowhere.
    pub search: Vec<PathBuf>,
    /// Parents must lie in one of these (after `.` and `..` are resolved by name); empty = anywhere. The opener refuses symbolic
    /// links that lead out.
    pub roots: Vec<PathBuf>,
}

impl PathRules {
    /// Host paths to try for the parent of `child`, the most likely first.
    pub fn candidates(&self, child: &Path, link: &ParentLink) -> Vec<PathBuf> {
        let folder = child.parent().unwrap_or(Path::new(""));
        let mut found = Vec::new();
        for path in &link.paths {
            found.extend(self.translate(folder, path));
        }
        let names: Vec<&str> = link.paths.iter().map(|path| file_name(path)).filter(|name| !name.is_empty()).collect();
        let folders = std::iter::once(folder).chain(self.search.iter().map(PathBuf::as_path));
        for folder in folders {
            found.extend(names.iter().map(|name| folder.join(name)));
        }
        let mut out: Vec<PathBuf> = Vec::new();
        for path in found {
            let path = normalize(&path);
            if self.is_allowed(&path) && !out.contains(&path) {
                out.push(path);
            }
        }
        out
    }

    /// Which of the link's paths means `path`; None for one that was found by its file name.
    pub fn locator<'a>(&self, child: &Path, link: &'a ParentLink, path: &Path) -> Option<&'a str> {
        let folder = child.parent().unwrap_or(Path::new(""));
        let means = |said: &&String| self.translate(folder, said).is_some_and(|meant| normalize(&meant) == path);
        link.paths.iter().find(means).map(String::as_str)
    }

    /// True for a path inside the roots.
    pub fn is_allowed(&self, path: &Path) -> bool {
        let clean = !path.as_os_str().as_encoded_bytes().contains(&0) && path.file_name().is_some();
        clean && (self.roots.is_empty() || self.roots.iter().any(|root| path != root && path.starts_with(root)))
    }

    fn translate(&self, folder: &Path, path: &str) -> Option<PathBuf> {
        if let Some(url) = path.strip_prefix("file://") {
            // `file://host/path`: the host, if any, is this one.
            return Some(PathBuf::from(percent_decode(&url[url.find('/')?..])));
        }
        for (prefix, target) in &self.maps {
            if let (Some(head), Some(rest)) = (path.get(..prefix.len()), path.get(prefix.len()..))
                && head.eq_ignore_ascii_case(prefix)
            {
                return Some(target.join(slashes(rest).trim_start_matches('/')));
            }
        }
        let path = slashes(path);
        let foreign = path.starts_with("//") || path.as_bytes().get(1) == Some(&b':');
        if foreign {
            return None;
        }
        Some(if path.starts_with('/') { PathBuf::from(path) } else { folder.join(path) })
    }
}

fn slashes(path: &str) -> String {
    path.replace('\\', "/")
}

/// The last component with either separator.
pub(crate) fn file_name(path: &str) -> &str {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    if matches!(name, "." | "..") { "" } else { name }
}

/// Removes `.` and `..` by name only.
fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if out.file_name().is_some() => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn link(paths: &[&str]) -> ParentLink {
        ParentLink {
            id: Uuid::nil(),
            second_id: None,
            timestamp: None,
            paths: paths.iter().map(|path| (*path).into()).collect(),
        }
    }

    fn candidates(rules: &PathRules, paths: &[&str]) -> Vec<String> {
        let found = rules.candidates(Path::new("/srv/vm/snap/child.avhd"), &link(paths));
        found.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_notation_is_understood() {
        let rules = PathRules {
            maps: vec![("D:\\VM".into(), "/srv/vm".into())],
            search: vec!["/pool".into()],
            roots: vec!["/srv/vm".into(), "/pool".into()],
        };
        let paths =
            ["..\\disks\\p.vhd", "d:\\vm\\disks\\p.vhd", "file:///srv/vm/di%73ks/q%20r.vhd", "\\\\?\\Volume{1}\\p.vhd"];
        assert_eq!(
            candidates(&rules, &paths),
            [
                "/srv/vm/disks/p.vhd",
                "/srv/vm/disks/q r.vhd",
                "/srv/vm/snap/p.vhd",
                "/srv/vm/snap/q%20r.vhd",
                "/pool/p.vhd",
                "/pool/q%20r.vhd"
            ]
        );
    }

    #[test]
    fn nothing_outside_the_roots_is_tried() {
        let rules = PathRules { roots: vec!["/srv/vm".into()], ..PathRules::default() };
        let hostile = [
            "..\\..\\..\\..\\etc\\passwd",
            "\\etc\\passwd",
            "file:///etc/passwd",
            "/srv/vm/../../etc/passwd",
            "/srv/vmx/p",
            "a\0b",
            "..",
            "",
        ];
        for path in candidates(&rules, &hostile) {
            assert!(path.starts_with("/srv/vm/"), "{path}");
        }
    }
}
