//! IDE drives and the floppy drive.

use crate::Size;
use serde::{Deserialize, Serialize};

/// A drive on one of the two IDE controllers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdeDrive {
    /// Controller: 0 or 1.
    pub controller: u8,
    /// Place on its cable: 0 or 1.
    pub device: u8,
    /// What the drive is.
    pub kind: DriveKind,
    /// What is in it. A disk has one; a CD drive may be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
}

impl IdeDrive {
    /// The drive's name in messages and requests: `ide0.1`.
    pub fn name(&self) -> String {
        format!("ide{}.{}", self.controller, self.device)
    }
}

/// Kind of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveKind {
    /// A hard disk.
    Disk,
    /// A CD or DVD drive (ATAPI).
    Cd,
}

/// The floppy drive, 1.44 MB.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floppy {
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
}

/// A disk image, ISO or floppy image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Medium {
    /// Its file.
    pub file: String,
    /// Its format, if the file's extension does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Guests cannot write to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Notes which parts of a hard disk are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<ChangeTracking>,
    /// What guests get of a hard disk at most.
    #[serde(default, skip_serializing_if = "IoLimits::is_none")]
    pub limits: IoLimits,
}

/// Changed-block tracking of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeTracking {
    /// The tracking file: empty, or of an earlier time.
    pub file: String,
    /// Bitmaps that are begun if they are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bitmaps: Vec<String>,
}

/// Limits of a disk; absent = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoLimits {
    /// Requests per second, counted in units of 8 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_iops: Option<u64>,
    /// Bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<Size>,
}

impl IoLimits {
    /// There is no limit.
    pub fn is_none(&self) -> bool {
        *self == IoLimits::default()
    }
}

impl Medium {
    /// The format: the stated one, or that of the extension; anything unknown is raw.
    pub fn format(&self) -> ImageFormat {
        self.format.unwrap_or_else(|| ImageFormat::of_name(&self.file))
    }
}

/// Formats of disk images. Contents are never probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Byte for byte; ISO and floppy images too.
    Raw,
    /// VHD and its children, AVHD.
    Vhd,
    /// VHDX and its children, AVHDX.
    Vhdx,
    /// QEMU's format.
    Qcow2,
    /// VMware's format.
    Vmdk,
    /// VirtualBox's format.
    Vdi,
}

impl ImageFormat {
    /// The name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Vhd => "vhd",
            ImageFormat::Vhdx => "vhdx",
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Vmdk => "vmdk",
            ImageFormat::Vdi => "vdi",
        }
    }

    /// The format that a file's extension says.
    pub fn of_name(file: &str) -> ImageFormat {
        let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
        match extension.as_str() {
            "vhd" | "avhd" => ImageFormat::Vhd,
            "vhdx" | "avhdx" => ImageFormat::Vhdx,
            "qcow2" => ImageFormat::Qcow2,
            "vmdk" => ImageFormat::Vmdk,
            "vdi" => ImageFormat::Vdi,
            _ => ImageFormat::Raw,
        }
    }
}

impl std::str::FromStr for ImageFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<ImageFormat, String> {
        use ImageFormat::{Qcow2, Raw, Vdi, Vhd, Vhdx, Vmdk};
        let all = [Raw, Vhd, Vhdx, Qcow2, Vmdk, Vdi];
        all.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            format!("there is no disk format {text}; the formats are {}", all.map(ImageFormat::name).join(", "))
        })
    }
}
