//! `disk mount` and `disk unmount`: a disk and its partitions as files, without root.
//!
//! `fusermount3` (which may mount for everybody) makes the mount and hands its `/dev/fuse` over; the image process gets that
//! and serves it. The mount's entry in `/proc/self/mountinfo` names the image, so that a mount whose process died is known
//! as ours and can be removed.

use super::arguments::Mount;
use super::image_process::{Attendant, run_attended};
use super::jobs::{Files, for_reading};
use super::print;
use crate::exit::Failure;
use anyhow::{Context, anyhow};
use bulkhead_linux::{LockKind, LockRange, SeqPacket, conflicting_lock};
use bulkhead_worker_protocol::image::ImageJob;
use rustix::io::Errno;
use serde_json::Value;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// How `mountinfo` calls our mounts.
const KIND: &str = "fuse.bulkhead";
/// The bytes of an image's file that whoever uses it locks.
const LOCKS: LockRange = LockRange { start: 100, len: 200 };
/// Time for the image process to close the disk after its mount is gone.
const CLOSING: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// Mounts, and serves until somebody unmounts.
///
/// # Errors
/// [`Failure`].
pub fn mount(arguments: &Mount) -> Result<ExitCode, Failure> {
    let point = resolve(&arguments.mountpoint)?;
    match find(&point)? {
        Some(mount) if mount.is_alive() => {
            let (point, image) = (point.display(), mount.image.display());
            let text = format!("{image} is mounted at {point}; `bulkhead disk unmount {point}` first");
            return Err(Failure::Conflict(text));
        }
        Some(_) => remove_stale(&point)?,
        None => {}
    }
    if !point.is_dir() {
        let text = format!("{} is no folder to mount at; make it first", point.display());
        return Err(Failure::NotFound(anyhow!(text)));
    }
    let (image, read_only) = (&arguments.image, for_reading(&arguments.image, arguments.read_only));
    let mut files = Files::default();
    let file = files.image(&image.path, image.format, read_only)?;
    let path = file.path.clone();
    let job = files.job(ImageJob::Mount { image: file, partition: arguments.partition });
    let mut mounted = Mounted { point: point.clone(), image: path, read_only, json: arguments.output.json, signals: 0 };
    let ended = run_attended(job, &mut mounted);
    // After a crash of the image process the mount is still there, and dead.
    if find(&point)?.is_some_and(|mount| !mount.is_alive()) {
        remove_stale(&point)?;
    }
    ended.map(|_| ExitCode::SUCCESS)
}

/// Unmounts, and waits until the disk is closed.
///
/// # Errors
/// [`Failure`].
pub fn unmount(mountpoint: &Path) -> Result<ExitCode, Failure> {
    let point = resolve(mountpoint)?;
    let Some(mount) = find(&point)? else {
        let text = format!("no disk is mounted at {}", point.display());
        return Err(Failure::NotFound(anyhow!(text)));
    };
    if !mount.is_alive() {
        remove_stale(&point)?;
        eprintln!("bulkhead: {} was left by a process that is gone; it is removed", point.display());
        return Ok(ExitCode::SUCCESS);
    }
    fusermount(&["-u"], &point)?;
    if !mount.read_only && !is_free_soon(&mount.image) {
        let text = format!("{} is unmounted, but {} is still in use", point.display(), mount.image.display());
        return Err(Failure::Conflict(text));
    }
    Ok(ExitCode::SUCCESS)
}

/// The helper of a mount's job.
struct Mounted {
    point: PathBuf,
    image: String,
    read_only: bool,
    json: bool,
    signals: u32,
}

impl Attendant for Mounted {
    fn mount(&mut self, what: &Value) -> Result<OwnedFd, Failure> {
        let device = open_device(&self.point, &self.image, self.read_only)?;
        let mut result = what.clone();
        result["mountpoint"] = self.point.to_string_lossy().into();
        print::show(&result, self.json, print::mounted)?;
        // Whoever reads this through a pipe waits for it.
        std::io::stdout().flush().context("cannot print the result")?;
        Ok(device)
    }

    /// The first signal unmounts. Files that are still open keep the disk open; the second signal closes it all the same.
    fn interrupted(&mut self) -> bool {
        self.signals += 1;
        if self.signals > 1 {
            return false;
        }
        if fusermount(&["-u"], &self.point).is_ok() {
            return true;
        }
        let point = self.point.display();
        eprintln!("bulkhead: files in {point} are open; the disk is closed when they are, or at the next Ctrl-C");
        fusermount(&["-u", "-z"], &self.point).is_ok()
    }
}

/// Mounts and returns the `/dev/fuse` of the mount.
fn open_device(point: &Path, image: &str, read_only: bool) -> Result<OwnedFd, Failure> {
    let (ours, theirs) = SeqPacket::pair().context("cannot make a socket")?;
    let source = image.replace('\\', "\\\\").replace(',', "\\,");
    let access = if read_only { "ro" } else { "rw" };
    let options = format!("{access},nosuid,nodev,noatime,subtype=bulkhead,fsname={source}");
    let program = Command::new("fusermount3")
        .args(["-o", &options, "--"])
        .arg(point)
        // It sends the descriptor over the socket that this names: its standard input.
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .output();
    let output = program.map_err(|error| no_fusermount(&error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let error = anyhow!("cannot mount at {}: {said}", point.display());
        let refused = said.contains("denied") || said.contains("not permitted");
        return Err(if refused { Failure::Refused(error) } else { error.into() });
    }
    let message = ours.receive().context("cannot take the mount over")?;
    let device = message.and_then(|message| message.descriptors.into_iter().next());
    Ok(device.ok_or_else(|| anyhow!("fusermount3 mounted {}, but passed no device", point.display()))?)
}

/// Runs `fusermount3` on a mount.
fn fusermount(arguments: &[&str], point: &Path) -> Result<(), Failure> {
    let output = Command::new("fusermount3").args(arguments).arg("--").arg(point).output();
    let output = output.map_err(|error| no_fusermount(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let text = format!("cannot unmount {}: {said}", point.display());
    if said.contains("busy") {
        return Err(Failure::Conflict(format!("{text}; close the files there first")));
    }
    Err(anyhow!(text).into())
}

fn no_fusermount(error: &std::io::Error) -> Failure {
    Failure::Failed(anyhow!("cannot run fusermount3: {error}; install the package fuse3"))
}

fn remove_stale(point: &Path) -> Result<(), Failure> {
    fusermount(&["-u", "-z"], point)
}

/// The folder's absolute path. A dead mount cannot be looked at, its folder can.
fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).context("cannot resolve a path")?;
    let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else { return Ok(absolute) };
    let folder = std::fs::canonicalize(folder)
        .map_err(|error| Failure::of(error, format!("cannot find the folder {}", folder.display())))?;
    let path = folder.join(name);
    Ok(std::fs::canonicalize(&path).unwrap_or(path))
}

/// One of our mounts.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    point: PathBuf,
    image: PathBuf,
    read_only: bool,
}

impl Found {
    /// Somebody serves it.
    fn is_alive(&self) -> bool {
        let looked = std::fs::metadata(&self.point);
        !looked.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::NOTCONN))
    }
}

/// Our mount at `point`.
fn find(point: &Path) -> Result<Option<Found>, Failure> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the table of mounts")?;
    // The last one covers the others.
    Ok(table.lines().filter_map(parse).rfind(|mount| mount.point == point))
}

/// One line: `id parent device root POINT OPTIONS tags… - KIND SOURCE superoptions`.
fn parse(line: &str) -> Option<Found> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(4);
    let mut filesystem = filesystem.split(' ');
    let (point, options) = (unescape(mount.next()?), mount.next()?);
    if filesystem.next()? != KIND {
        return None;
    }
    let read_only = options.split(',').any(|option| option == "ro");
    Some(Found { point: point.into(), image: unescape(filesystem.next()?).into(), read_only })
}

/// Undoes the table's `\040` for a space and the like.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                out.extend(&part.as_bytes()[3..]);
            }
            None => {
                out.push(b'\\');
                out.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Waits until nobody holds the image any more.
fn is_free_soon(image: &Path) -> bool {
    // Moved or deleted meanwhile: nobody is in the way of anything.
    let Ok(file) = File::open(image) else { return true };
    for _ in 0..CLOSING.as_millis() / LOOK.as_millis() {
        match conflicting_lock(file.as_fd(), LockKind::Exclusive, LOCKS) {
            Ok(Some(_)) => {}
            _ => return true,
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the end of another process's lock is no event that one can wait for"
        )]
        std::thread::sleep(LOOK);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_found_in_the_table() {
        let line = "66 29 0:51 / /mnt/my\\040disk ro,nosuid,nodev,noatime shared:35 - fuse.bulkhead /vm/a\\134b,c.vhdx ro,user_id=0";
        let found = parse(line).unwrap();
        assert_eq!(found, Found { point: "/mnt/my disk".into(), image: "/vm/a\\b,c.vhdx".into(), read_only: true });
        assert_eq!(parse("66 29 0:51 / /mnt rw - fuse.sshfs host: rw"), None);
        assert_eq!(parse(""), None);
    }
}
