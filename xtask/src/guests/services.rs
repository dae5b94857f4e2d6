//! A guest with Debian's drivers for synthetic devices and its integration daemons, in an initial RAM disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{debs, initramfs};
use crate::command;

/// What it is made of.
pub const PACKAGES: &[&str] = &["linux-image-amd64", "hyperv-daemons", "socat", "busybox-static", "e2fsprogs"];

/// Drivers, and what tests need beside them. What they depend on comes along.
const MODULES: &[&str] = &[
    "hv_vmbus",
    "hv_utils",
    "hv_balloon",
    "hv_storvsc",
    "hv_netvsc",
    "tulip",
    "hv_sock",
    "hyperv-keyboard",
    "hid-hyperv",
    "hid-generic",
    "evdev",
    "hyperv_drm",
    "sd_mod",
    "brd",
    "dummy",
    "ext4",
    "crc32c_generic",
];

/// Reads commands from the console, one a line, and says READY after each. `services` loads the drivers and starts the daemons.
const INIT: &str = "#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/bin:/bb
/bin/busybox mkdir -p /bb /dev /proc /sys /tmp /run /var/lib/hyperv
/bin/busybox --install -s /bb
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
services() {
  modprobe -a hv_vmbus hv_utils hv_balloon hyperv-keyboard hid-hyperv hid-generic evdev hyperv_drm hv_sock hv_storvsc
  for name in kvp vss fcopy; do [ -e /dev/vmbus/hv_$name ] && hv_${name}_daemon; done
}
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

/// What the kernel calls for an orderly shutdown.
const POWEROFF: &str = "#!/bin/busybox sh
echo ORDERLY-POWEROFF > /dev/console
/bin/busybox sync
/bin/busybox poweroff -f
";

pub fn make(target: &Path) -> Result<()> {
    let (kernel, root) = (target.join("unpacked"), target.join("root"));
    debs::unpack_kernel("linux-image-amd64", &kernel)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=extract", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]);
    mmdebstrap.arg("--include=hyperv-daemons,socat,busybox-static,e2fsprogs,libc-bin,base-files");
    command::run(mmdebstrap.arg("bookworm").arg(&root))?;
    for waste in ["usr/share", "usr/lib/x86_64-linux-gnu/perl-base", "usr/lib/x86_64-linux-gnu/gconv", "var/lib/apt"] {
        let _ = std::fs::remove_dir_all(root.join(waste));
    }
    let _ = std::fs::remove_dir_all(root.join("var/cache"));
    copy_modules(&kernel, &root, MODULES)?;
    initramfs::write_program(&root.join("init"), INIT)?;
    initramfs::write_program(&root.join("usr/sbin/poweroff"), POWEROFF)?;
    initramfs::pack(&root, &target.join("initrd"))?;
    let vmlinuz = debs::find(&kernel.join("boot"), "vmlinuz-")?;
    std::fs::rename(vmlinuz, target.join("vmlinuz")).context("cannot move the kernel")?;
    std::fs::remove_dir_all(kernel)?;
    Ok(std::fs::remove_dir_all(root)?)
}

/// Copies the modules and all that they depend on, and writes their index.
pub(super) fn copy_modules(kernel: &Path, root: &Path, modules: &[&str]) -> Result<()> {
    let all = debs::find(&kernel.join("lib/modules"), "")?;
    let version = all.file_name().context("a kernel has a version")?;
    index(kernel, version)?;
    let text = std::fs::read_to_string(all.join("modules.dep")).context("cannot read the modules' dependencies")?;
    let lines: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let named = |path: &str, name: &str| path.rsplit('/').next() == Some(&format!("{name}.ko"));
    let mut wanted = BTreeSet::new();
    for name in modules {
        let found = lines.iter().find(|(path, _)| named(path, name));
        let (path, depends) = found.with_context(|| format!("the kernel has no module {name}"))?;
        wanted.insert(*path);
        wanted.extend(depends.split_whitespace());
    }
    let ours = root.join("usr/lib/modules").join(version);
    for path in wanted {
        let to = ours.join(path);
        std::fs::create_dir_all(to.parent().context("a module is in a folder")?)?;
        std::fs::copy(all.join(path), &to).with_context(|| format!("cannot copy {path}"))?;
    }
    index(&root.join("usr"), version)
}

/// Writes `modules.dep` and its siblings for the modules below `root/lib/modules/version`.
fn index(root: &Path, version: &std::ffi::OsStr) -> Result<()> {
    command::run(Command::new("busybox").arg("depmod").arg("-b").arg(root).arg(version))
}
