//! The text part of a VMDK: which extents there are, and what the image hangs on.

use bulkhead_disk::{DiskError, ErrorKind, Result};

/// What of the text matters to a reader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// `monolithicSparse`, `streamOptimized`, …
    pub create_type: String,
    /// The extent lines' types and file names.
    pub extents: Vec<(String, String)>,
}

/// Reads the text and refuses what one file cannot hold.
pub fn parse(text: &str) -> Result<Descriptor> {
    let mut descriptor = Descriptor::default();
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        if let Some("RW" | "RDONLY" | "NOACCESS") = words.next() {
            let kind = words.nth(1).unwrap_or("").to_owned();
            let name = line.split('"').nth(1).unwrap_or("").to_owned();
            descriptor.extents.push((kind, name));
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "createType" => descriptor.create_type = value.to_owned(),
            "parentCID" if !value.eq_ignore_ascii_case("ffffffff") => {
                return Err(refuse("it is a child of another image".into())
                    .advise("consolidate its snapshots, or flatten it: qemu-img convert -O vmdk CHILD WHOLE"));
            }
            _ => {}
        }
    }
    for (_, name) in &descriptor.extents {
        if !is_plain_name(name) {
            return Err(refuse(format!("it names {name:?} as an extent, which is no plain file name")));
        }
    }
    Ok(descriptor)
}

impl Descriptor {
    /// Refuses images whose data is elsewhere, with what to do.
    pub fn expect_one_file(&self, text_only: bool) -> Result<()> {
        let listed: Vec<&str> = self.extents.iter().map(|(_, name)| name.as_str()).take(8).collect();
        let elsewhere = |advice: String| {
            let reason = format!("it is a {:?} image whose data is in {}", self.create_type, listed.join(", "));
            Err(refuse(reason).advise(advice))
        };
        match &self.extents[..] {
            [(kind, name)] if text_only && (kind == "FLAT" || kind == "VMFS") => {
                elsewhere(format!("that file is a raw image: convert {name} with format=raw"))
            }
            [] | [_] if !text_only => Ok(()),
            _ => elsewhere("make it one file first: qemu-img convert -O vmdk IMAGE WHOLE".into()),
        }
    }
}

/// A name in the image's own folder.
fn is_plain_name(name: &str) -> bool {
    let hostile = ['/', '\\', ':', '\0'];
    !name.contains(hostile) && !matches!(name, "." | "..")
}

fn refuse(reason: String) -> DiskError {
    DiskError::new(ErrorKind::Unsupported, "open the VMDK image", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(extent: &str) -> String {
        format!("# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"x\"\n{extent}\nddb.a = \"b\"\n")
    }

    #[test]
    fn names_with_paths_children_and_several_files_are_refused() {
        let parsed = parse(&descriptor("RW 2048 SPARSE \"a disk.vmdk\"")).unwrap();
        assert_eq!(parsed.extents, [("SPARSE".to_owned(), "a disk.vmdk".to_owned())]);
        assert!(parsed.expect_one_file(false).is_ok() && parsed.expect_one_file(true).is_err());
        for name in ["/etc/passwd", "../up.vmdk", "a\\b", "c:x", ".."] {
            let error = parse(&descriptor(&format!("RW 2048 FLAT \"{name}\" 0"))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
        }
        assert!(parse("parentCID=12345678\n").is_err());
        let two = parse(&descriptor("RW 1 SPARSE \"a\"\nRW 1 SPARSE \"b\"")).unwrap();
        assert!(two.expect_one_file(false).is_err());
        let flat = parse(&descriptor("RW 1 FLAT \"a-flat.vmdk\" 0")).unwrap();
        assert!(flat.expect_one_file(true).unwrap_err().to_string().contains("convert a-flat.vmdk with format=raw"));
    }
}
