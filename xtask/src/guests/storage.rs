//! Guests with Debian's storage drivers and the programs that put disks to the test, in an initial RAM disk.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{debs, initramfs, services};
use crate::command;

/// What they are made of.
pub const PACKAGES: &[&str] = &["linux-image-amd64", "fio", "sg3-utils", "util-linux", "e2fsprogs", "busybox-static"];
/// The same for i386.
pub const PACKAGES_I386: &[&str] = &["linux-image-686-pae:i386", "busybox-static:i386"];

const MODULES: &[&str] =
    &["hv_vmbus", "hv_storvsc", "sd_mod", "sr_mod", "sg", "ata_piix", "ext4", "crc32c_generic", "isofs", "loop"];

/// Reads commands from the console, one a line, and says READY after each. `disks` loads the drivers of synthetic disks, `ide` those
/// of emulated ones.
const INIT: &str = "#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/bin:/bb
/bin/busybox mkdir -p /bb /dev /proc /sys /tmp /run /mnt
/bin/busybox --install -s /bb
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
disks() { modprobe -a sd_mod sr_mod sg ext4 crc32c_generic isofs hv_vmbus hv_storvsc; }
ide() { modprobe -a sd_mod sr_mod sg ext4 crc32c_generic ata_piix; }
echo FIRST-PROCESS
while read line; do
  case \"$line\" in
    off) /bin/busybox poweroff -f ;;
    reboot) /bin/busybox reboot -f ;;
    *) eval \"$line\" ;;
  esac
  echo READY
done
";

pub fn amd64(target: &Path) -> Result<()> {
    let root = target.join("root");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=extract", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]);
    mmdebstrap.arg("--include=fio,sg3-utils,util-linux,e2fsprogs,busybox-static,libc-bin,base-files");
    command::run(mmdebstrap.arg("bookworm").arg(&root))?;
    thin_out(&root);
    finish("linux-image-amd64", target, &root)
}

/// Busybox has to do.
pub fn i386(target: &Path) -> Result<()> {
    let root = target.join("root");
    debs::unpack("busybox-static:i386", &root)?;
    finish("linux-image-686-pae:i386", target, &root)
}

/// Adds kernel, modules and first process.
fn finish(kernel_package: &str, target: &Path, root: &Path) -> Result<()> {
    let kernel = target.join("unpacked");
    debs::unpack_kernel(kernel_package, &kernel)?;
    services::copy_modules(&kernel, root, MODULES)?;
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    initramfs::write_program(&root.join("init"), INIT)?;
    initramfs::pack(root, &target.join("initrd"))?;
    let vmlinuz = debs::find(&kernel.join("boot"), "vmlinuz-")?;
    std::fs::rename(vmlinuz, target.join("vmlinuz")).context("cannot move the kernel")?;
    std::fs::remove_dir_all(kernel)?;
    Ok(std::fs::remove_dir_all(root)?)
}

/// Removes what no test needs: a guest holds all of its RAM disk in memory.
fn thin_out(root: &Path) {
    for waste in ["usr/share", "var/lib/apt", "var/cache", "usr/lib/gcc", "usr/lib/python3.11", "usr/include"] {
        let _ = std::fs::remove_dir_all(root.join(waste));
    }
    for waste in ["perl-base", "perl", "gconv"] {
        let _ = std::fs::remove_dir_all(root.join("usr/lib/x86_64-linux-gnu").join(waste));
    }
}
