//! The formats and kinds of images, and which file name means which.
//!
//! Content is never looked at to find a format: a guest writes the first bytes of its raw disk.

use std::path::Path;

/// An image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Every byte of the file is a byte of the disk.
    Raw,
    /// VHD 1.0.
    Vhd,
    /// VHDX.
    Vhdx,
    /// QEMU's format; read only.
    Qcow2,
    /// VMware's; read only.
    Vmdk,
    /// VirtualBox's; read only.
    Vdi,
}

/// How an image takes space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All at once.
    Fixed,
    /// As it is written.
    Dynamic,
    /// Only what differs from a parent.
    Differencing,
}

/// Every format: its name, the extensions that mean it, and the kinds that can be made.
const FORMATS: &[(Format, &str, &[&str], &[Kind])] = &[
    (Format::Raw, "raw", &["raw", "img", "iso"], &[Kind::Fixed, Kind::Dynamic]),
    (Format::Vhd, "vhd", &["vhd", "avhd"], &[Kind::Fixed, Kind::Dynamic, Kind::Differencing]),
    (Format::Vhdx, "vhdx", &["vhdx", "avhdx"], &[Kind::Fixed, Kind::Dynamic, Kind::Differencing]),
    (Format::Qcow2, "qcow2", &["qcow2"], &[]),
    (Format::Vmdk, "vmdk", &["vmdk"], &[]),
    (Format::Vdi, "vdi", &["vdi"], &[]),
];

impl Format {
    fn row(self) -> &'static (Format, &'static str, &'static [&'static str], &'static [Kind]) {
        FORMATS.iter().find(|row| row.0 == self).unwrap_or(&FORMATS[0])
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        FORMATS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// What a file's extension says; anything unknown is raw.
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("").to_ascii_lowercase();
        FORMATS.iter().find(|row| row.2.contains(&extension.as_str())).map_or(Self::Raw, |row| row.0)
    }

    /// The kinds of it that can be created.
    pub fn kinds(self) -> &'static [Kind] {
        self.row().3
    }

    /// The names of all formats.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().map(|row| row.1)
    }
}

impl Kind {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fixed, Self::Dynamic, Self::Differencing].into_iter().find(|kind| kind.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_decides_and_the_unknown_is_raw() {
        for (name, format) in [
            ("a.vhd", Format::Vhd),
            ("a.AVHDX", Format::Vhdx),
            ("a.iso", Format::Raw),
            ("a.qcow2", Format::Qcow2),
            ("a", Format::Raw),
            ("a.vhdx.bak", Format::Raw),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
