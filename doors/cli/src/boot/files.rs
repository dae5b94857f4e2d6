//! Opens everything that a VM needs. The worker opens nothing.

use super::arguments::Arguments;
use crate::disk::{chain_of, open_tracking};
use crate::exit::Failure;
use anyhow::{Context, Result, bail};
use bulkhead_vm_description::{BootSource, DriveKind, ImageFormat, Medium, SerialConnection, VmDescription};
use bulkhead_worker_protocol::resource;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Where the BIOS images of Debian's package are; the variable `BULKHEAD_FIRMWARE` names another folder.
const FIRMWARE_FOLDER: &str = "/usr/share/seabios";
const BIOS: &str = "bios-256k.bin";
const VGA_BIOS: &str = "vgabios-stdvga.bin";
/// iPXE of Debian's package; the variable `BULKHEAD_IPXE` names another file.
const IPXE: &str = "/usr/lib/ipxe/ipxe.lkrn";
/// Files of a saved VM in its folder.
const STATE: &str = "vm.state";
const MEMORY: &str = "vm.memory";

/// A name and its open file.
pub type Named = (String, OwnedFd);

/// Opens the files of a VM, and those of a saved one when it is resumed.
///
/// # Errors
/// The first file that cannot be opened, with what it was for.
pub fn open(arguments: &Arguments, vm: &VmDescription) -> Result<Vec<Named>, Failure> {
    let mut files = Vec::new();
    match &vm.direct_kernel {
        Some(direct) => {
            files.push(read(&direct.kernel, "the kernel")?);
            if let Some(initrd) = &direct.initrd {
                files.push(read(initrd, "the initial RAM disk")?);
            }
        }
        None => firmware(&mut files)?,
    }
    if vm.boot.order.contains(&BootSource::Net) {
        let path = std::env::var_os("BULKHEAD_IPXE").map_or_else(|| IPXE.into(), std::path::PathBuf::from);
        let opened = File::open(&path).with_context(|| {
            format!("cannot open iPXE {}; install the package ipxe or set BULKHEAD_IPXE", path.display())
        })?;
        files.push((resource::NETWORK_BOOT.into(), opened.into()));
    }
    let mut attach = |medium: &Option<Medium>, kind: DriveKind, name: String| {
        let Some(medium) = medium else { return Ok(()) };
        let read_only = medium.read_only || kind == DriveKind::Cd;
        let merges = arguments.merges().any(|file| file == medium.file);
        disk(medium, &format!("the medium of {name}"), (read_only, merges), &mut files)
    };
    for drive in &vm.ide {
        attach(&drive.medium, drive.kind, drive.name())?;
    }
    for (number, controller) in vm.scsi.iter().enumerate() {
        for drive in &controller.drives {
            attach(&drive.medium, drive.kind, drive.name(number))?;
        }
    }
    if let Some(medium) = vm.floppy.as_ref().and_then(|floppy| floppy.medium.as_ref()) {
        files.push(image(&medium.file, "the floppy", medium.read_only)?);
    }
    for port in &vm.serial {
        serial(&port.connection, &port.resource(), &port.input_resource(), &mut files)?;
    }
    if vm.memory.dynamic.is_some() {
        let host = File::open("/proc/meminfo").context("cannot open /proc/meminfo, which tells the host's memory")?;
        files.push((resource::HOST_MEMORY.into(), host.into()));
    }
    if let Some(folder) = &arguments.resume {
        for (name, file) in [(resource::SAVED_STATE, STATE), (resource::SAVED_MEMORY, MEMORY)] {
            let path = folder.join(file);
            let opened = File::open(&path).with_context(|| format!("cannot open the saved VM {}", path.display()))?;
            files.push((name.into(), opened.into()));
        }
    }
    Ok(files)
}

/// Makes the files into which a VM is saved.
///
/// # Errors
/// They cannot be made.
pub fn create_saved(folder: &Path) -> Result<Vec<Named>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut files = Vec::new();
    for (name, file) in [(resource::SAVED_STATE, STATE), (resource::SAVED_MEMORY, MEMORY)] {
        let path = folder.join(file);
        // Never into an old file: a VM that was resumed from it still has it mapped.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", path.display()));
            }
            _ => {}
        }
        let made = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        files.push((name.into(), made.with_context(|| format!("cannot create {}", path.display()))?.into()));
    }
    Ok(files)
}

fn read(path: &str, what: &str) -> Result<Named> {
    let file = File::open(path).with_context(|| format!("cannot open {what} {path}"))?;
    if !file.metadata().with_context(|| format!("cannot look at {what} {path}"))?.is_file() {
        bail!("{what} {path} is no regular file");
    }
    Ok((path.into(), file.into()))
}

fn image(path: &str, what: &str, read_only: bool) -> Result<Named> {
    let opened = OpenOptions::new().read(true).write(!read_only).open(path);
    let advice = if read_only { "" } else { " for writing (,ro attaches it read-only)" };
    let file =
        opened.with_context(|| format!("cannot open {path}, {what},{advice}").trim_end_matches(',').to_owned())?;
    Ok((path.into(), file.into()))
}

/// A disk with all that belongs to it. An image process says which parents it has: images are not trusted.
fn disk(medium: &Medium, what: &str, (read_only, merges): (bool, bool), files: &mut Vec<Named>) -> Result<(), Failure> {
    let has_parents = matches!(medium.format(), ImageFormat::Vhd | ImageFormat::Vhdx);
    let chain = if has_parents { chain_of(medium)? } else { Vec::new() };
    if merges && chain.len() < 2 {
        return Err(Failure::Usage(format!("{} has no parent to merge it into; leave ,merge out", medium.file)));
    }
    for (depth, path) in chain.iter().enumerate().skip(1) {
        let target = merges && depth == 1;
        let (_, file) = image(path, &format!("parent {depth} of {what}"), !target)?;
        let name = if target { resource::merge_target(&medium.file) } else { resource::parent(&medium.file, depth) };
        files.push((name, file));
    }
    if let Some(tracking) = &medium.tracking {
        let file = open_tracking(Path::new(&tracking.file))?;
        files.push((tracking.file.clone(), file));
    }
    files.push(image(&medium.file, what, read_only)?);
    Ok(())
}

fn firmware(files: &mut Vec<Named>) -> Result<()> {
    let folder = std::env::var_os("BULKHEAD_FIRMWARE").unwrap_or_else(|| FIRMWARE_FOLDER.into());
    for (name, file) in [(resource::FIRMWARE, BIOS), (resource::VGA_FIRMWARE, VGA_BIOS)] {
        let path = Path::new(&folder).join(file);
        let opened = File::open(&path).with_context(|| {
            format!("cannot open the BIOS {}; install the package seabios or set BULKHEAD_FIRMWARE", path.display())
        })?;
        files.push((name.into(), opened.into()));
    }
    Ok(())
}

fn serial(connection: &SerialConnection, output: &str, input: &str, files: &mut Vec<Named>) -> Result<()> {
    match connection {
        SerialConnection::None => {}
        SerialConnection::Stdio => {
            let clone = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().context("cannot pass the terminal on");
            files.push((output.into(), clone(&std::io::stdout())?));
            files.push((input.into(), clone(&std::io::stdin())?));
        }
        SerialConnection::File(path) => {
            let file = File::create(path).with_context(|| format!("cannot create {path} for a serial port"))?;
            files.push((output.into(), file.into()));
        }
        SerialConnection::Unix(path) => {
            remove_abandoned_socket(path);
            let listener =
                UnixListener::bind(path).with_context(|| format!("cannot listen at {path} for a serial port"))?;
            files.push((output.into(), listener.into()));
        }
    }
    Ok(())
}

/// A socket file that nobody listens at any more would keep the new one from being made.
fn remove_abandoned_socket(path: &str) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(|error| refused(&error)) {
        // If it stays, the bind says why it fails.
        let _ = std::fs::remove_file(path);
    }
}
