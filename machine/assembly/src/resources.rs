//! Files and disks that the outside has opened, by the names that the description uses.

use crate::MachineError;
use bulkhead_disk::Disk;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Firmware images are multiples of this, and end at 4 GiB.
const FIRMWARE_UNIT: u64 = 64 << 10;
/// Largest firmware: what SeaBIOS and OVMF together never need.
const MAX_FIRMWARE: u64 = 16 << 20;
/// Largest kernel or initial RAM disk.
const MAX_IMAGE: u64 = 3 << 30;

/// What the outside gave.
#[derive(Default)]
pub struct Resources {
    files: BTreeMap<String, File>,
    disks: BTreeMap<String, Arc<dyn Disk>>,
}

impl Resources {
    /// Adds a file under a name; one with the same name is replaced.
    pub fn add_file(&mut self, name: impl Into<String>, file: File) {
        self.files.insert(name.into(), file);
    }

    /// Adds an open disk, ISO or floppy image under the name of its file; one with the same name is replaced.
    pub fn add_disk(&mut self, name: impl Into<String>, disk: Arc<dyn Disk>) {
        self.disks.insert(name.into(), disk);
    }

    /// An open image.
    ///
    /// # Errors
    /// It was not given.
    pub fn disk(&self, name: &str) -> Result<Arc<dyn Disk>, MachineError> {
        let missing = || MachineError::File { what: name.to_owned(), source: io::Error::other("it was not opened") };
        self.disks.get(name).cloned().ok_or_else(missing)
    }

    /// A file, for those who read it again and again.
    pub fn file(&self, name: &str) -> Option<&File> {
        self.files.get(name)
    }

    /// Takes a file out.
    pub fn take_file(&mut self, name: &str) -> Option<File> {
        self.files.remove(name)
    }

    /// A whole file, from its start, whatever has been read from it before.
    ///
    /// # Errors
    /// It was not given, cannot be read, or is larger than any kernel.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, MachineError> {
        let failed = |source| MachineError::File { what: name.to_owned(), source };
        let file = self.files.get(name).ok_or_else(|| failed(io::Error::other("its descriptor was not passed")))?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("it is not a regular file")));
        }
        if metadata.len() > MAX_IMAGE {
            let reason = format!("it has {} bytes; at most {MAX_IMAGE} can be loaded", metadata.len());
            return Err(MachineError::BadFile { what: name.to_owned(), reason });
        }
        let mut bytes = vec![0; metadata.len() as usize];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        Ok(bytes)
    }

    /// The BIOS image.
    ///
    /// # Errors
    /// As [`Resources::read`]; a length that no BIOS has.
    pub fn firmware(&self) -> Result<Vec<u8>, MachineError> {
        let image = self.read(FIRMWARE)?;
        let len = image.len() as u64;
        if !(2 * FIRMWARE_UNIT..=MAX_FIRMWARE).contains(&len) || !len.is_multiple_of(FIRMWARE_UNIT) {
            let reason = format!("it has {len} bytes; a BIOS has a multiple of 64 KiB, from 128 KiB to 16 MiB");
            return Err(MachineError::BadFile { what: FIRMWARE.into(), reason });
        }
        Ok(image)
    }
}

/// Name of the BIOS image.
pub const FIRMWARE: &str = "firmware";
/// Name of the display adapter's BIOS.
pub const VGA_FIRMWARE: &str = "firmware.vga";
/// Name of the program that boots from the network.
pub const NETWORK_BOOT: &str = "firmware.network";
