//! What `bulkhead-vm --image` and its starter say to each other: one job, its files, its progress, its result.
//!
//! The process handles images that nobody trusts, so it opens no path: the starter passes descriptors, and when an image
//! turns out to have a parent, the process asks for it by the paths that the image names ([`FromImage::NeedParent`]) and
//! the starter decides.
//!
//! ```text
//! starter                                     image process
//!   run {job} + descriptors            →
//!                                      ←      need_parent {child, candidates}
//!   parent {path} + descriptor         →
//!                                      ←      progress {done, total}
//!                                      ←      finished {result}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Problem;

/// A packet to the image process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToImage {
    /// The job; once. Each file of the job is one of the packet's descriptors.
    Run(Box<ImageJob>),
    /// The answer to `need_parent`: the file that was opened is the packet's descriptor; no path = there is none.
    Parent {
        /// Where the parent was found.
        path: Option<String>,
    },
    /// The answer to `need_folder`; absent = it cannot be read.
    Folder {
        /// Paths of the images in it.
        images: Option<Vec<String>>,
    },
    /// The answer to `need_mount`: the mounted `/dev/fuse` is the packet's descriptor.
    Mounted,
    /// Stop; what was begun is undone or left as it was.
    Cancel,
}

/// A packet from the image process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromImage {
    /// The parent of an image is needed.
    NeedParent {
        /// Path of the child, as the starter named it.
        child: String,
        /// Paths to try, in this order. Relative ones are relative to the child's folder.
        candidates: Vec<String>,
        /// It is going to be written.
        #[serde(default)]
        writable: bool,
    },
    /// Images that lie beside others are needed: a parent is not where its child says.
    NeedFolder {
        /// The folder.
        folder: String,
    },
    /// The disk is open and can be mounted.
    NeedMount {
        /// What will be there, for whoever waits for it.
        result: Value,
    },
    /// Bytes done so far.
    Progress {
        /// Done.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// The job is done; what came of it, as JSON.
    Finished {
        /// Depends on the job.
        result: Value,
    },
    /// The job failed.
    Failed(Problem),
}

/// An existing image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// For messages, and where relative parents are looked for.
    pub path: String,
    /// Name of its format: `raw`, `vhd`, `vhdx`, `qcow2`, `vmdk`, `vdi`.
    pub format: String,
    /// Index of its descriptor in the packet.
    pub descriptor: usize,
    /// Never write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// An image to be made in an empty file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewImageFile {
    /// The empty file.
    pub file: ImageFile,
    /// `fixed`, `dynamic` or `differencing`.
    pub kind: String,
    /// Bytes of the disk; not for conversions and children.
    #[serde(default)]
    pub size: Option<u64>,
    /// Bytes per block.
    #[serde(default)]
    pub block_size: Option<u32>,
    /// 512 or 4096.
    #[serde(default)]
    pub logical_sector: Option<u32>,
    /// Leave holes in a fixed image.
    #[serde(default)]
    pub sparse: bool,
}

/// Changed-block tracking of a served disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// The tracking file, empty or of an earlier time. Its format is not looked at.
    pub file: ImageFile,
    /// Bitmaps that are begun if they are not there. All of the file's are exported as `qemu:dirty-bitmap:NAME`.
    pub bitmaps: Vec<String>,
}

/// What to do with bitmaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BitmapAction {
    /// Names them.
    List,
    /// Begins one.
    Add {
        /// Its name.
        name: String,
    },
    /// Freezes one under another name, for a backup that begins now; under its own name it begins anew.
    Fork {
        /// Its name.
        name: String,
        /// The name of what it held until now.
        frozen: String,
    },
    /// Adds a frozen one to another and removes it: the backup failed.
    Merge {
        /// What goes.
        frozen: String,
        /// Where it goes to.
        into: String,
    },
    /// Removes one.
    Remove {
        /// Its name.
        name: String,
    },
    /// Which parts of the disk one counts as changed.
    Changes {
        /// Its name.
        name: String,
    },
}

/// Limits of a served disk; absent = none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeLimits {
    /// Units of 8 KiB per second.
    #[serde(default)]
    pub max_iops: Option<u64>,
    /// Bytes per second.
    #[serde(default)]
    pub max_bandwidth: Option<u64>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageJob {
    /// A new image, or a child of `parent`.
    Create {
        /// The new one.
        new: NewImageFile,
        /// Parent of a differencing image, and the paths under which the child will look for it.
        parent: Option<(ImageFile, Vec<String>)>,
    },
    /// Everything that the headers say.
    Info {
        /// Of this image.
        image: ImageFile,
        /// And of its parents.
        chain: bool,
    },
    /// Which files a disk consists of, the image itself first: what whoever opens the disk has to open.
    Chain {
        /// The image.
        image: ImageFile,
    },
    /// Whether an image is right.
    Check {
        /// The image.
        image: ImageFile,
        /// Mend what can be mended without guessing.
        repair: bool,
        /// With `repair`: give up damaged blocks, which read as never written afterwards.
        #[serde(default)]
        drop_damaged: bool,
        /// Look at the links to all parents too.
        #[serde(default)]
        chain: bool,
    },
    /// A disk into a new image.
    Convert {
        /// The disk, with its parents.
        source: ImageFile,
        /// The new image.
        new: NewImageFile,
    },
    /// Whether two disks hold the same bytes.
    Compare {
        /// One.
        a: ImageFile,
        /// The other.
        b: ImageFile,
    },
    /// Which parts of a disk hold data, and in which file.
    Map {
        /// The disk, with its parents.
        image: ImageFile,
    },
    /// Gives back space that the disk does not need.
    Compact {
        /// The image.
        image: ImageFile,
        /// Look for blocks that hold only zeros.
        zeros: bool,
    },
    /// Another size.
    Resize {
        /// The image.
        image: ImageFile,
        /// Bytes.
        size: u64,
        /// Allow a smaller size, if nothing is stored in the part that goes.
        shrink: bool,
    },
    /// Writes a child's data into its parent; the child may be deleted afterwards.
    Merge {
        /// The child. Its parent is asked for, writable.
        image: ImageFile,
    },
    /// Another parent, or the same one at another place.
    SetParent {
        /// The child.
        image: ImageFile,
        /// Its parent.
        parent: ImageFile,
        /// Paths under which the child will look for it, relative first.
        paths: Vec<String>,
        /// Accept a parent that changed since.
        force: bool,
    },
    /// A new identity, so that a copy is another disk.
    SetIdentity {
        /// The image.
        image: ImageFile,
        /// The identity; a new one if absent.
        identity: Option<String>,
    },
    /// The bitmaps of a change tracking file whose disk nobody tracks now.
    Bitmaps {
        /// The file. Its format is not looked at.
        file: ImageFile,
        /// What to do with them.
        action: BitmapAction,
    },
    /// The partition table.
    Partitions {
        /// The disk, with its parents.
        image: ImageFile,
    },
    /// Serves the disk and its partitions as files of a FUSE file system until that is unmounted.
    Mount {
        /// The disk, with its parents.
        image: ImageFile,
        /// Only this partition.
        partition: Option<u32>,
    },
    /// Serves the disk over NBD until nobody is connected any more.
    Serve {
        /// The disk, with its parents.
        image: ImageFile,
        /// Index of the listening Unix socket's descriptor.
        socket: usize,
        /// Name of the export.
        export: String,
        /// `direct` or `writeback`.
        cache: String,
        /// Goes on after the last client has left.
        persistent: bool,
        /// Notes what is written.
        #[serde(default)]
        tracking: Option<Tracking>,
        /// What the clients get at most.
        #[serde(default)]
        limits: ServeLimits,
    },
}
