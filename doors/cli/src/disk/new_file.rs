//! A file that appears under its name only when it is complete.

use crate::exit::Failure;
use anyhow::Context;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A new file. Dropped before [`NewFile::keep`], it leaves nothing behind.
pub struct NewFile {
    path: PathBuf,
    file: OwnedFd,
    /// Its name so far, where the file system has no nameless files.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Makes it in the folder of `path`.
    ///
    /// # Errors
    /// `path` exists already; the folder is missing or cannot be written.
    pub fn create(path: &Path) -> Result<NewFile, Failure> {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = Mode::RUSR | Mode::WUSR;
        match rustix::fs::open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
            Ok(file) => return Ok(NewFile { path: path.to_owned(), file, temporary: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) if folder.is_dir() => {}
            Err(error) => {
                let text = format!("cannot create a file in {}", folder.display());
                return Err(Failure::of(std::io::Error::from(error), text));
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!(".{name}.{}.part", std::process::id()));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&temporary, flags, mode).map_err(std::io::Error::from);
        let file = file.with_context(|| format!("cannot create {}", temporary.display()))?;
        Ok(NewFile { path: path.to_owned(), file, temporary: Some(temporary) })
    }

    /// A copy of its descriptor.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn descriptor(&self) -> Result<OwnedFd, Failure> {
        Ok(self.file.try_clone().context("cannot pass the new file on")?)
    }

    /// Gives the finished file its name; durable when this returns.
    ///
    /// # Errors
    /// Somebody else took the name meanwhile.
    pub fn keep(mut self) -> Result<(), Failure> {
        let named = match self.temporary.take() {
            Some(temporary) => rustix::fs::renameat_with(CWD, &temporary, CWD, &self.path, RenameFlags::NOREPLACE)
                .inspect_err(|_| self.temporary = Some(temporary)),
            None => {
                let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, link, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)
            }
        };
        match named {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(exists(&self.path)),
            Err(error) => {
                let text = format!("cannot give the new file its name {}", self.path.display());
                return Err(Failure::of(std::io::Error::from(error), text));
            }
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        Ok(synced.with_context(|| format!("cannot make the name in {} durable", folder.display()))?)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It is unfinished, and its name says so if it stays.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn exists(path: &Path) -> Failure {
    Failure::Conflict(format!("{} exists already; choose another name or delete it first", path.display()))
}
