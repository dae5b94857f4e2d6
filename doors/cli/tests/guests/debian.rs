//! A whole Debian on an IDE disk.

use crate::support::{Guest, guest_file, stats, worker_is_there};
use std::path::Path;
use std::process::Command;

/// Where the only partition begins, in MiB.
const PARTITION: u64 = 1;

#[test]
fn debian_boots_from_its_disk_restarts_and_leaves_a_clean_file_system() {
    let Some(image) = guest_file("debian/disk.img").filter(|_| worker_is_there()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (disk, file) = (folder.path().join("disk.img"), folder.path().join("stats.json"));
    let copied = Command::new("cp").arg("--sparse=always").arg(image).arg(&disk).status().unwrap();
    assert!(copied.success());
    let (disk_argument, file_argument) = (disk.to_str().unwrap(), file.to_str().unwrap());
    let mut guest = Guest::boot(["--engine", "soft", "--disk", disk_argument, "--stats", file_argument]);
    guest.expect("GNU GRUB", 60);
    log_in(&mut guest);
    guest.send("echo state=$(systemctl is-system-running --wait)\n");
    guest.expect("state=running", 300);
    guest.send("reboot\n");
    guest.expect("GNU GRUB", 300);
    log_in(&mut guest);
    guest.send("poweroff\n");
    let (status, text) = guest.end(300);
    assert_eq!(status.code(), Some(0), "{text}");
    let stats = stats(&file);
    assert_eq!((stats["ended_by"].as_str(), stats["resets"].as_u64()), (Some("power_off"), Some(1)), "{stats}");
    assert_clean(&disk, &folder.path().join("partition"));
}

fn log_in(guest: &mut Guest) {
    guest.expect("bulkhead-guest login:", 900);
    guest.send("root\n");
    guest.expect("root@bulkhead-guest:~# ", 120);
}

/// Has the host check the file system.
fn assert_clean(disk: &Path, partition: &Path) {
    let mut copy = Command::new("dd");
    copy.arg(format!("if={}", disk.display())).arg(format!("of={}", partition.display()));
    let copied = copy.args(["bs=1M", &format!("skip={PARTITION}"), "conv=sparse", "status=none"]).status().unwrap();
    assert!(copied.success());
    let checked = Command::new("e2fsck").arg("-fn").arg(partition).output().unwrap();
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !text.contains("recovering journal"), "{text}");
}
