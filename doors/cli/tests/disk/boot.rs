//! Stock Debian on our disks: GRUB, kernel and root file system from a VHDX and from a chain of differencing VHDs.

use crate::support::{Guest, guest_file};
use crate::{Lab, Running};
use std::os::unix::fs::MetadataExt;

/// A shell instead of systemd: what is tested is the disk.
const GRUB: &str = "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\nset timeout=0\n\
    menuentry 'Debian' {\n  linux /vmlinuz root=/dev/sda1 rw console=ttyS0,115200 quiet init=/bin/bash\n  initrd /initrd.img\n}\n";
const PROMPT: &str = "root@(none):/#";

/// Mounts an image, or says why that cannot be done here.
fn mount(lab: &Lab, arguments: &[&str]) -> Option<Running> {
    let usable = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    if !usable || std::process::Command::new("fusermount3").arg("--version").output().is_err() {
        eprintln!("skipped: fusermount3 (package fuse3) or /dev/fuse is missing");
        return None;
    }
    let _ = std::fs::create_dir(lab.path("m"));
    Some(lab.start(&[&["mount"], arguments].concat()))
}

fn unmount(lab: &Lab, mounted: Running) {
    lab.done(&["unmount", "m"]);
    let (status, said) = mounted.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// Runs debugfs or e2fsck on the mounted root file system.
fn on_partition(lab: &Lab, words: &str) -> Option<String> {
    lab.tool("sh", &["-c", &format!("PATH=$PATH:/usr/sbin:/sbin {words}")])
}

/// Starts Debian from the given disks, and waits for the shell.
fn boot(lab: &Lab, disks: &[&str]) -> Guest {
    // Without the Hyper-V interface, so that the kernel uses the IDE disks themselves.
    let words = ["--engine", "soft", "--no-hyperv", "--no-reboot", "--memory", "512M"];
    let mut arguments: Vec<String> = words.map(str::to_owned).into();
    for disk in disks {
        arguments.extend(["--disk".into(), format!("ide:{}", lab.path(disk).display())]);
    }
    arguments.extend(["--stats".into(), lab.path("stats.json").display().to_string()]);
    let mut guest = Guest::boot(arguments);
    guest.expect(PROMPT, 400);
    guest
}

/// Has the shell do something, and returns what it printed.
fn shell(guest: &mut Guest, line: &str) -> String {
    let from = guest.text.len();
    guest.send(&format!("{line}; echo DO''NE\n"));
    guest.expect("DONE", 120);
    guest.text[from..].to_owned()
}

fn power_off(mut guest: Guest) {
    guest.send("sync; mount -o remount,ro /; systemctl poweroff -ff\n");
    let (status, text) = guest.end(120);
    assert_eq!(status.code(), Some(0), "{text}");
}

#[test]
fn debian_boots_from_a_vhdx_written_through_a_mount_and_from_a_chain_of_vhds() {
    let Some(lab) = Lab::new() else { return };
    let Some(disk) = guest_file("debian/disk.img") else { return };
    lab.done(&["convert", disk.to_str().unwrap(), "system.vhdx"]);
    let Some(mounted) = mount(&lab, &["system.vhdx", "m"]) else { return };
    std::fs::write(lab.path("grub.cfg"), GRUB).unwrap();
    std::fs::write(lab.path("marker"), "written through a mount\n").unwrap();
    let script = "rm /boot/grub/grub.cfg\nwrite grub.cfg /boot/grub/grub.cfg\nwrite marker /marker\n";
    std::fs::write(lab.path("script"), script).unwrap();
    if on_partition(&lab, "debugfs -w -f script m/partition1.raw").is_none() {
        return;
    }
    unmount(&lab, mounted);

    // From the VHDX, with a second disk that is tracked and limited.
    lab.done(&["create", "data.vhdx", "--size", "64M"]);
    let data = "data.vhdx,track=data.cbt,bitmap=backup,max-bandwidth=1M";
    let data = data.replace("data.cbt", lab.path("data.cbt").to_str().unwrap());
    let mut guest = boot(&lab, &["system.vhdx", &data]);
    assert!(shell(&mut guest, "cat /marker").contains("written through a mount"));
    let said = shell(&mut guest, "dd if=/dev/zero bs=64k count=48 seek=16 of=/dev/sdb oflag=direct");
    let seconds = said.split(" s, ").next().and_then(|text| text.rsplit(' ').next()?.parse::<f64>().ok());
    // 3 MiB at 1 MiB/s, the first of them at once.
    assert!(seconds.is_some_and(|seconds| seconds >= 1.9), "{said}");
    shell(&mut guest, "echo from-the-guest > /marker");
    lab.fails(&["info", "system.vhdx"], 5, &["in use", "VM boot"]);
    power_off(guest);
    let changes = lab.done(&["bitmap", "data.cbt", "changes", "backup", "--json"]).json();
    let range = serde_json::json!([{"start": 1 << 20, "length": 3 << 20}]);
    assert_eq!(changes["ranges"], range, "{changes}");
    let Some(mounted) = mount(&lab, &["system.vhdx", "m", "--read-only"]) else { return };
    let said = on_partition(&lab, "debugfs -R 'cat /marker' m/partition1.raw && e2fsck -fn m/partition1.raw");
    assert!(said.unwrap().contains("from-the-guest"));
    unmount(&lab, mounted);
    for image in ["system.vhdx", "data.vhdx"] {
        assert!(lab.done(&["check", image]).out.starts_with("clean\n"));
    }

    // The same system as the base of a chain.
    lab.done(&["convert", "system.vhdx", "base.vhd"]);
    lab.done(&["create", "middle.avhd", "--parent", "base.vhd"]);
    lab.done(&["create", "leaf.avhd", "--parent", "middle.avhd"]);
    let before = std::fs::metadata(lab.path("base.vhd")).unwrap();
    // What is in the leaf already goes into the middle disk while the guest runs, and what it writes goes there too.
    let Some(mounted) = mount(&lab, &["leaf.avhd", "m"]) else { return };
    std::fs::copy(lab.path("data.vhdx"), lab.path("extra")).unwrap();
    std::fs::write(lab.path("script"), "write extra /extra\n").unwrap();
    on_partition(&lab, "debugfs -w -f script m/partition1.raw");
    unmount(&lab, mounted);
    assert!(std::fs::metadata(lab.path("leaf.avhd")).unwrap().len() > 4 << 20);
    let mut guest = boot(&lab, &["leaf.avhd,merge"]);
    assert!(!lab.path("leaf.avhd").exists(), "it is merged long before the shell is there");
    assert!(shell(&mut guest, "cat /marker").contains("from-the-guest"));
    shell(&mut guest, "dd if=/dev/urandom of=/noise bs=1M count=24; sha256sum /noise > /digest; rm /marker");
    power_off(guest);
    let counted: serde_json::Value = serde_json::from_slice(&std::fs::read(lab.path("stats.json")).unwrap()).unwrap();
    let disk = counted["disks"].as_object().unwrap().values().next().unwrap();
    let count = |key: &str| disk[key].as_u64().unwrap();
    assert!(count("depth") == 2 && count("reads") > 100 && count("writes") > 10, "{counted}");
    assert!(count("metadata_hits") > count("metadata_reads") && count("metadata_reads") > 0, "{counted}");
    let after = std::fs::metadata(lab.path("base.vhd")).unwrap();
    assert_eq!(
        (before.mtime(), before.mtime_nsec()),
        (after.mtime(), after.mtime_nsec()),
        "writes go to the child only"
    );
    assert!(std::fs::metadata(lab.path("middle.avhd")).unwrap().len() > 24 << 20);
    assert!(lab.done(&["check", "middle.avhd", "--chain"]).out.contains("chain: whole, 2 disks"));
    lab.done(&["convert", "middle.avhd", "flat.vhdx"]);
    let Some(mounted) = mount(&lab, &["middle.avhd", "m", "--read-only"]) else { return };
    let same = "debugfs -R 'dump /extra same' m/partition1.raw && cmp same extra";
    on_partition(&lab, same);
    let dump = "debugfs -R 'dump /noise noise' m/partition1.raw && debugfs -R 'cat /digest' m/partition1.raw | sed s,/,, | sha256sum -c";
    assert!(on_partition(&lab, &format!("{dump} && e2fsck -fn m/partition1.raw")).unwrap().contains("noise: OK"));
    unmount(&lab, mounted);
    lab.done(&["merge", "middle.avhd"]);
    lab.qemu_compares("flat.vhdx", "base.vhd");
}

#[test]
fn disks_that_cannot_be_attached_are_named() {
    let Some(lab) = Lab::new() else { return };
    let refused = |disk: &str, code: i32, words: &[&str]| {
        let output = crate::support::bulkhead()
            .args(["boot", "--engine", "soft", "--disk", disk])
            .current_dir(lab.path(""))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{disk}: {said}");
        for word in words {
            assert!(said.contains(word), "{disk}: {word:?} is missing in {said}");
        }
    };
    lab.done(&["create", "base.vhdx", "--size", "24M"]);
    lab.done(&["create", "child.avhdx", "--parent", "base.vhdx"]);
    std::fs::rename(lab.path("base.vhdx"), lab.path("away.vhdx")).unwrap();
    refused("child.avhdx", 3, &["child.avhdx", "base.vhdx"]);
    lab.done(&["create", "base.vhdx", "--size", "24M"]);
    refused("child.avhdx", 1, &["child.avhdx", "another disk"]);
    refused("no.vhdx", 3, &["no.vhdx"]);
    std::fs::write(lab.path("a.qcow2"), "").unwrap();
    refused("a.qcow2", 2, &["qcow2", "convert"]);
    std::fs::write(lab.path("fake.vhd"), [0; 4096]).unwrap();
    refused("fake.vhd", 1, &["fake.vhd", "conectix"]);
    refused("base.vhdx,max-bandwidth=1", 2, &["max_bandwidth", "64K"]);
    refused("base.vhdx,ro,track=t", 2, &["read-only"]);
    let server = lab.start(&["serve", "away.vhdx", "--nbd", "unix:s", "--persistent"]);
    if lab.tool("nbdinfo", &["--size", server.line.trim()]).is_some() {
        refused("away.vhdx", 5, &["in use"]);
    }
}
