//! A Debian root file system on a partitioned raw disk with GRUB, a console on COM1, and root without a password.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{debs, grub};
use crate::command;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 1536 * MIB;
const PACKAGES: &str = "linux-image-amd64,systemd-sysv,dbus,udev,e2fsprogs,login,openssl";

pub fn debian(target: &Path) -> Result<()> {
    let root = target.join("root");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=important"]).arg(format!("--include={PACKAGES}"));
    for waste in ["man", "doc", "locale", "info"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{waste}/*"));
    }
    command::run(mmdebstrap.arg("bookworm").arg(&root))?;
    configure(&root)?;
    let partition = target.join("partition");
    File::create(&partition)?.set_len(SIZE - MIB)?;
    let mut mkfs = Command::new("mke2fs");
    mkfs.args(["-q", "-t", "ext4", "-L", "root", "-d"]).arg(&root).arg(&partition);
    command::run(&mut mkfs)?;
    assemble(target, &partition)?;
    std::fs::remove_file(partition)?;
    std::fs::remove_dir_all(root).context("cannot remove the tree")
}

fn configure(root: &Path) -> Result<()> {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("etc/hostname", "bulkhead-guest\n")?;
    write("etc/hosts", "127.0.0.1 localhost bulkhead-guest\n")?;
    write("etc/fstab", "/dev/sda1 / ext4 errors=remount-ro 0 1\n")?;
    let shadow = std::fs::read_to_string(root.join("etc/shadow")).context("cannot read the passwords")?;
    let lines = shadow.lines().map(|line| match line.strip_prefix("root:") {
        // An empty password instead of a locked one.
        Some(rest) => format!("root::{}", rest.split_once(':').map_or("", |(_, rest)| rest)),
        None => line.to_owned(),
    });
    write("etc/shadow", &(lines.collect::<Vec<_>>().join("\n") + "\n"))?;
    let boot = root.join("boot");
    let name = |prefix: &str| -> Result<String> {
        let path = debs::find(&boot, prefix)?;
        Ok(path.file_name().context("a kernel has a name")?.to_string_lossy().into_owned())
    };
    std::fs::create_dir_all(boot.join("grub"))?;
    let configuration = format!(
        "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\nset timeout=1\n\
         menuentry 'Debian' {{\n  linux /boot/{} root=/dev/sda1 ro console=tty0 console=ttyS0,115200 quiet\n  initrd /boot/{}\n}}\n",
        name("vmlinuz-")?,
        name("initrd.img-")?
    );
    write("boot/grub/grub.cfg", &configuration)
}

/// One active Linux partition from 1 MiB to the end.
fn assemble(target: &Path, partition: &Path) -> Result<()> {
    let path = target.join("disk.img");
    let disk = File::options().read(true).write(true).create_new(true).open(&path).context("cannot make the disk")?;
    disk.set_len(SIZE)?;
    let first = (MIB / 512) as u32;
    let count = (SIZE / 512) as u32 - first;
    let mut entry = [0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    entry[8..12].copy_from_slice(&first.to_le_bytes());
    entry[12..16].copy_from_slice(&count.to_le_bytes());
    disk.write_all_at(&entry, 446)?;
    disk.write_all_at(&[0x55, 0xaa], 510)?;
    let mut copy = Command::new("dd");
    copy.arg(format!("if={}", partition.display())).arg(format!("of={}", path.display()));
    command::run(copy.args(["bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]))?;
    grub::install(&disk, target)
}
