//! Debian packages as files: looked up, downloaded and unpacked without installing anything, for amd64 and i386.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::folder;
use crate::command;

/// apt with lists and caches of our own, so that i386 needs no change of the host.
fn apt(program: &str) -> Command {
    let state = folder("apt");
    let mut apt = Command::new(program);
    for (option, value) in [
        ("Dir::State", state.join("state").display().to_string()),
        ("Dir::State::status", "/var/lib/dpkg/status".into()),
        ("Dir::Cache", state.join("cache").display().to_string()),
        ("APT::Sandbox::User", String::new()),
        ("APT::Architectures", "amd64,i386".into()),
        ("Debug::NoLocking", "true".into()),
    ] {
        apt.arg("-o").arg(format!("{option}={value}"));
    }
    apt
}

/// Fetches the package lists, once a day.
pub fn update_lists() -> Result<()> {
    let state = folder("apt");
    for part in ["state/lists/partial", "cache/archives/partial"] {
        let part = state.join(part);
        std::fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    }
    let marker = state.join("updated");
    let age = std::fs::metadata(&marker).and_then(|metadata| metadata.modified()).ok();
    if age.and_then(|time| time.elapsed().ok()).is_some_and(|age| age.as_secs() < 86_400) {
        return Ok(());
    }
    if let Err(error) = command::run(apt("apt-get").args(["-q", "update"]).stdout(std::io::stderr())) {
        // Other people's sources without i386 fail here, and Debian's are there all the same; a list that is really missing
        // shows when a package is looked up.
        eprintln!("warning: {error:#}");
    }
    std::fs::write(marker, "").context("cannot mark the package lists as fresh")
}

/// A field of the newest version of a package.
fn field(package: &str, name: &str) -> Result<String> {
    let text = command::output(apt("apt-cache").args(["show", "--no-all-versions", package]))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.map(str::to_owned).with_context(|| format!("the package {package} has no {name}"))
}

/// The newest version of a package.
pub fn version(package: &str) -> Result<String> {
    field(package, "Version")
}

/// Downloads a package and unpacks it into `target`.
pub fn unpack(package: &str, target: &Path) -> Result<()> {
    let downloads = folder("apt").join("downloads");
    std::fs::create_dir_all(&downloads).with_context(|| format!("cannot make {}", downloads.display()))?;
    let (plain, architecture) = package.split_once(':').unwrap_or((package, "amd64"));
    let version = version(package)?.replace(':', "%3a");
    let file = downloads.join(format!("{plain}_{version}_{architecture}.deb"));
    if !file.exists() {
        command::run(
            apt("apt-get").args(["-q", "download", package]).current_dir(&downloads).stdout(std::io::stderr()),
        )?;
    }
    command::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(target))
}

/// Unpacks the kernel that a meta package stands for.
pub fn unpack_kernel(meta: &str, target: &Path) -> Result<()> {
    let depends = field(meta, "Depends")?;
    let image = depends.split([',', ' ']).find(|word| word.starts_with("linux-image-"));
    let image = image.with_context(|| format!("{meta} depends on no kernel: {depends}"))?;
    let suffix = meta.split_once(':').map_or(String::new(), |(_, architecture)| format!(":{architecture}"));
    unpack(&format!("{image}{suffix}"), target)
}

/// The kernel that a meta package stands for, as `vmlinuz`.
fn kernel(meta: &str, target: &Path) -> Result<()> {
    let unpacked = target.join("unpacked");
    unpack_kernel(meta, &unpacked)?;
    let vmlinuz = find(&unpacked.join("boot"), "vmlinuz-")?;
    std::fs::rename(vmlinuz, target.join("vmlinuz")).context("cannot move the kernel")?;
    std::fs::remove_dir_all(unpacked).context("cannot remove the rest of the kernel package")
}

/// The file in a folder whose name begins so.
pub fn find(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let found = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    match found {
        Some(entry) => Ok(entry.path()),
        None => bail!("there is no {prefix}… in {}", folder.display()),
    }
}

/// Also unpacked, as `vmlinux`: an ELF file with a PVH entry.
pub fn cloud_kernel(target: &Path) -> Result<()> {
    kernel("linux-image-cloud-amd64", target)?;
    extract_elf(&target.join("vmlinuz"), &target.join("vmlinux"))
}

/// Takes the ELF file out of a bzImage (Linux boot protocol 2.08: `payload_offset` and `payload_length`).
fn extract_elf(image: &Path, target: &Path) -> Result<()> {
    let bytes = std::fs::read(image).context("cannot read the kernel")?;
    let number = |at: usize| -> Option<usize> {
        let field = bytes.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(field.try_into().ok()?)).ok()
    };
    let setup_sectors = bytes.get(0x1f1).map_or(4, |count| usize::from(*count).max(1)) + 1;
    let payload = number(0x248).zip(number(0x24c)).and_then(|(offset, len)| {
        let start = setup_sectors * 512 + offset;
        // The last four bytes are the unpacked size.
        bytes.get(start..(start + len).checked_sub(4)?)
    });
    let payload = payload.context("the kernel has no payload")?;
    let program = match payload {
        [0xfd, b'7', b'z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x1f, 0x8b, ..] => "gzip",
        other => bail!("the kernel is packed in an unknown way: it begins with {:02x?}", &other[..4]),
    };
    let packed = target.with_extension("packed");
    std::fs::write(&packed, payload).context("cannot write the packed kernel")?;
    let input = std::fs::File::open(&packed).context("cannot read the packed kernel")?;
    let output = std::fs::File::create(target).with_context(|| format!("cannot create {}", target.display()))?;
    command::run(Command::new(program).arg("-dc").stdin(input).stdout(output))?;
    std::fs::remove_file(packed).context("cannot remove the packed kernel")
}

pub fn generic_kernel(target: &Path) -> Result<()> {
    kernel("linux-image-amd64", target)
}

pub fn pae_kernel(target: &Path) -> Result<()> {
    kernel("linux-image-686-pae:i386", target)
}

pub fn i386_kernel(target: &Path) -> Result<()> {
    kernel("linux-image-686:i386", target)
}
