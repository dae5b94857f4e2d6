//! What can be said after `bulkhead disk`.

use bulkhead_vm_description::{ImageFormat, Size};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a new virtual disk
    Create(Create),
    /// Shows what an image's headers say
    Info {
        #[command(flatten)]
        image: Image,
        /// Show its parents too
        #[arg(long)]
        chain: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Checks an image; exit code 1 if something is wrong
    Check {
        #[command(flatten)]
        image: Image,
        /// Check the links to all parents too
        #[arg(long)]
        chain: bool,
        /// Mend what can be mended without guessing
        #[arg(long)]
        repair: bool,
        /// Give up damaged blocks of a VHDX: they read as never written afterwards
        #[arg(long, requires = "repair")]
        drop_damaged: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Copies a disk into a new image of another format or kind
    Convert(Convert),
    /// Compares two disks; exit code 1 if they differ
    Compare {
        /// One disk
        a: PathBuf,
        /// The other disk
        b: PathBuf,
        /// Format of the first (default: by extension)
        #[arg(long, value_name = "FORMAT")]
        a_format: Option<ImageFormat>,
        /// Format of the second (default: by extension)
        #[arg(long, value_name = "FORMAT")]
        b_format: Option<ImageFormat>,
        #[command(flatten)]
        output: Output,
    },
    /// Shows which parts of a disk are stored, and in which file of its chain
    Map {
        #[command(flatten)]
        image: Image,
        #[command(flatten)]
        output: Output,
    },
    /// Shows the partition table, and how partitions are aligned
    Partitions {
        #[command(flatten)]
        image: Image,
        #[command(flatten)]
        output: Output,
    },
    /// Gives back space that the disk does not need
    Compact {
        #[command(flatten)]
        image: Image,
        /// Do not look for blocks that hold only zeros
        #[arg(long)]
        no_zeros: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Changes the size of a disk
    Resize {
        #[command(flatten)]
        image: Image,
        /// The new size: 512M, 2G, 1.5T
        #[arg(long, value_name = "SIZE")]
        size: Size,
        /// Allow a smaller size, if nothing is stored in the part that goes
        #[arg(long)]
        shrink: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Writes a differencing disk into its parent, or with --into its whole chain into a new disk
    Merge {
        #[command(flatten)]
        image: Image,
        /// Make a new disk of the whole chain and leave the chain as it is
        #[arg(long, value_name = "PATH")]
        into: Option<PathBuf>,
        /// Keep the differencing disk after it was merged
        #[arg(long, conflicts_with = "into")]
        keep: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Links a differencing disk to its parent, which was moved or copied
    SetParent {
        #[command(flatten)]
        image: Image,
        /// The parent
        parent: PathBuf,
        /// Take a parent that was changed since; the disk's contents may be wrong then
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Gives a copied disk an identity of its own
    SetIdentity {
        #[command(flatten)]
        image: Image,
        /// The identity (default: a new one)
        #[arg(long, value_name = "UUID")]
        id: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Shows and changes the bitmaps of a change tracking file (serve --track, boot --disk …,track=) while nobody uses it
    Bitmap {
        /// The tracking file
        file: PathBuf,
        #[command(subcommand)]
        action: Bitmap,
    },
    /// Serves a disk over NBD until the last client leaves
    Serve(Serve),
    /// Shows a disk and its partitions as files in a folder, until it is unmounted (Ctrl-C does that)
    Mount(Mount),
    /// Unmounts a disk, and waits until it is closed; removes what a crashed mount left
    Unmount {
        /// Where it is mounted
        mountpoint: PathBuf,
    },
}

/// What `disk bitmap` does.
#[derive(Debug, Subcommand)]
pub enum Bitmap {
    /// Shows the bitmaps
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Begins a bitmap: it notes what is written from now on
    Add {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Freezes what a bitmap holds under another name, for a backup that begins now; the bitmap begins anew
    Fork {
        /// The bitmap
        name: String,
        /// Name of the frozen one
        frozen: String,
        #[command(flatten)]
        output: Output,
    },
    /// Adds a frozen bitmap to another and removes it: the backup failed
    Merge {
        /// The frozen one
        frozen: String,
        /// Where it goes to
        into: String,
        #[command(flatten)]
        output: Output,
    },
    /// Removes a bitmap: the backup succeeded
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Shows which parts of the disk a bitmap counts as changed
    Changes {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

/// An existing image.
#[derive(Debug, Args)]
pub struct Image {
    /// The image file
    pub path: PathBuf,
    /// Its format (default: by extension; unknown extensions are raw)
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ImageFormat>,
}

/// How results are shown.
#[derive(Debug, Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `disk create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The new image file
    pub path: PathBuf,
    /// Size of the disk: 512M, 2G, 1.5T
    #[arg(long, value_name = "SIZE", required_unless_present = "parent", conflicts_with = "parent")]
    pub size: Option<Size>,
    /// vhd, vhdx or raw (default: by extension)
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ImageFormat>,
    /// fixed, dynamic or differencing (default: dynamic, with --parent differencing)
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Parent of a differencing disk
    #[arg(long, value_name = "PATH")]
    pub parent: Option<PathBuf>,
    /// Block size of dynamic and differencing disks
    #[arg(long, value_name = "SIZE")]
    pub block_size: Option<Size>,
    /// Logical sector of a VHDX: 512 or 4096
    #[arg(long, value_name = "BYTES")]
    pub sector_size: Option<u32>,
    /// Do not reserve the space of a fixed disk
    #[arg(long)]
    pub sparse: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `disk convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// The disk; a chain is read as one disk
    pub source: PathBuf,
    /// The new image file
    pub target: PathBuf,
    /// Format of the source (default: by extension)
    #[arg(long, value_name = "FORMAT")]
    pub source_format: Option<ImageFormat>,
    /// vhd, vhdx or raw (default: by extension)
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ImageFormat>,
    /// fixed or dynamic
    #[arg(long, value_name = "KIND", default_value = "dynamic")]
    pub kind: String,
    /// Block size of a dynamic disk
    #[arg(long, value_name = "SIZE")]
    pub block_size: Option<Size>,
    /// Do not reserve the space of a fixed disk
    #[arg(long)]
    pub sparse: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `disk serve`.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    pub image: Image,
    /// Where to listen: unix:SOCKET
    #[arg(long, value_name = "ADDRESS")]
    pub nbd: String,
    /// Name of the export
    #[arg(long, value_name = "NAME", default_value = "")]
    pub export: String,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
    /// direct (past the page cache) or writeback
    #[arg(long, value_name = "MODE", default_value = "writeback", value_parser = ["direct", "writeback"])]
    pub cache: String,
    /// Go on after the last client has left
    #[arg(long)]
    pub persistent: bool,
    /// Note what is written in this file (made if missing)
    #[arg(long, value_name = "FILE")]
    pub track: Option<PathBuf>,
    /// Begin this bitmap if it is not there; clients see it as qemu:dirty-bitmap:NAME
    #[arg(long, value_name = "NAME", requires = "track")]
    pub bitmap: Vec<String>,
    /// At most this many requests per second, counted in units of 8 KiB
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_iops: Option<u64>,
    /// At most this many bytes per second
    #[arg(long, value_name = "SIZE")]
    pub max_bandwidth: Option<Size>,
}

/// `disk mount`.
#[derive(Debug, Args)]
pub struct Mount {
    #[command(flatten)]
    pub image: Image,
    /// An empty folder: disk.raw and partition1.raw … appear there
    pub mountpoint: PathBuf,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
    /// Show only this partition
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,
    #[command(flatten)]
    pub output: Output,
}
