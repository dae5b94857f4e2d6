//! Who holds a disk file: a small record beside the lock, so that a refusal can name the holder.

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use std::fmt;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Extended attribute with the record of the writer.
const WRITER: &str = "user.bulkhead.writer";
/// Extended attribute with the record of the latest reader.
const READER: &str = "user.bulkhead.reader";
/// Records are small; anything larger is not ours.
const MAX_RECORD: usize = 4096;

/// A process that holds a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot: tells a reused pid.
    pub start_time: u64,
    /// The VM that it runs, or empty.
    pub vm: String,
    /// Its command.
    pub command: String,
}

impl Holder {
    /// This process, for the VM `vm` (may be empty).
    pub fn this_process(vm: impl Into<String>) -> Self {
        let pid = std::process::id();
        let command = fs::read_to_string("/proc/self/comm").map(|name| name.trim().to_owned()).unwrap_or_default();
        Self { pid, start_time: start_time(pid).unwrap_or(0), vm: vm.into(), command }
    }

    /// True while the process that wrote the record runs.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    fn to_record(&self) -> String {
        let line = |text: &str| text.replace(['\n', '\0'], " ");
        format!("pid={}\nstart={}\nvm={}\ncommand={}\n", self.pid, self.start_time, line(&self.vm), line(&self.command))
    }

    fn from_record(record: &str) -> Option<Self> {
        let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            pid: field("pid")?.parse().ok()?,
            start_time: field("start")?.parse().ok()?,
            vm: field("vm").unwrap_or_default().to_owned(),
            command: field("command").unwrap_or_default().to_owned(),
        })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)?;
        if !self.vm.is_empty() {
            write!(f, " of VM {}", self.vm)?;
        }
        Ok(())
    }
}

/// Clock ticks since boot at which the process started (field 22 of its stat line).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may itself contain some: fields are counted from the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn attribute(writer: bool) -> &'static str {
    if writer { WRITER } else { READER }
}

/// The sidecar for file systems without extended attributes: `.NAME.writer` beside the file.
fn sidecar(path: &Path, writer: bool) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let role = if writer { "writer" } else { "reader" };
    // A label of a handed-over descriptor is no path.
    path.is_absolute().then(|| path.with_file_name(format!(".{name}.{role}")))
}

/// Leaves the record. Best effort: the lock works without it.
pub(crate) fn write(fd: BorrowedFd<'_>, path: &Path, writer: bool, holder: &Holder) {
    let record = holder.to_record();
    if fsetxattr(fd, attribute(writer), record.as_bytes(), XattrFlags::empty()) == Err(rustix::io::Errno::OPNOTSUPP)
        && let Some(sidecar) = sidecar(path, writer)
    {
        let _ = fs::write(sidecar, record);
    }
}

/// Takes the record away if it is still ours.
pub(crate) fn remove(fd: BorrowedFd<'_>, path: &Path, writer: bool, holder: &Holder) {
    if read_one(fd, path, writer).as_ref() != Some(holder) {
        return;
    }
    if fremovexattr(fd, attribute(writer)).is_err()
        && let Some(sidecar) = sidecar(path, writer)
    {
        let _ = fs::remove_file(sidecar);
    }
}

/// The living holders on record, the writer first.
pub(crate) fn read(fd: BorrowedFd<'_>, path: &Path) -> Vec<Holder> {
    [true, false].into_iter().filter_map(|writer| read_one(fd, path, writer)).filter(Holder::is_alive).collect()
}

fn read_one(fd: BorrowedFd<'_>, path: &Path, writer: bool) -> Option<Holder> {
    let mut record = vec![0; MAX_RECORD];
    let text = match fgetxattr(fd, attribute(writer), &mut record[..]) {
        Ok(len) => String::from_utf8(record.get(..len)?.to_vec()).ok()?,
        Err(_) => {
            let sidecar = sidecar(path, writer)?;
            let small = fs::metadata(&sidecar).is_ok_and(|facts| facts.len() <= MAX_RECORD as u64);
            small.then(|| fs::read_to_string(sidecar).ok()).flatten()?
        }
    };
    Holder::from_record(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_tell_dead_processes() {
        let holder = Holder { vm: "web\n1".into(), ..Holder::this_process("") };
        let back = Holder::from_record(&holder.to_record()).unwrap();
        assert_eq!((back.pid, back.vm.as_str()), (std::process::id(), "web 1"));
        assert!(back.is_alive());
        assert!(!Holder { start_time: back.start_time + 1, ..back }.is_alive());
        assert_eq!(Holder::from_record("pid=x"), None);
    }
}
