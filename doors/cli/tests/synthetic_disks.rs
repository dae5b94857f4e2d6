//! Synthetic disks of a stock Debian kernel: SCSI controllers on VMBus, and the fast path of IDE disks.

mod support;

use std::path::Path;
use support::{Guest, guest_file, is_long, worker_is_there};

/// Arguments that start Debian's kernel with the storage programs, and these disks.
fn storage(folder: &Path, disks: &[(&str, u64)], more: &[&str]) -> Option<Vec<String>> {
    if !worker_is_there() {
        return None;
    }
    let (kernel, initrd) = (guest_file("storage/vmlinuz")?, guest_file("storage/initrd")?);
    let mut arguments: Vec<String> = ["--engine", "soft", "--no-reboot", "--memory", "1G"].map(str::to_owned).to_vec();
    arguments.extend(["--kernel".into(), kernel.to_str()?.into(), "--initrd".into(), initrd.to_str()?.into()]);
    arguments.extend(["--cmdline".into(), "console=ttyS0 quiet panic=-1".into()]);
    for (number, (bus, len)) in disks.iter().enumerate() {
        let path = folder.join(format!("{number}.img"));
        std::fs::File::create(&path).unwrap().set_len(*len).unwrap();
        arguments.extend(["--disk".into(), format!("{bus}:{}", path.to_str()?)]);
    }
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    Some(arguments)
}

#[test]
fn eight_disks_are_verified_across_a_save() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    let Some(base) = storage(folder.path(), &[("scsi", 32 << 20); 8], &["--cpus", "2"]) else { return };
    let with = |more: [&str; 2]| base.iter().cloned().chain(more.map(str::to_owned)).collect::<Vec<_>>();
    let mut guest = Guest::boot(with(["--save-to", saved.to_str().unwrap()]));
    guest.expect("FIRST-PROCESS", 300);
    guest.command("disks", 120);
    let version = guest.command("dmesg | grep Vmbus.version", 30);
    assert!(version.contains("Vmbus version:5.3"), "{version}");
    let count =
        "until [ $(lsblk -dn | wc -l) = 8 ]; do sleep 1; done; ls /sys/bus/vmbus/devices/8b1d5c60*/channels | wc -l";
    assert!(guest.command(count, 60).contains("\n2\n"), "a channel for each processor");
    let jobs: String = ('a'..='h').map(|disk| format!(" --name={disk} --filename=/dev/sd{disk}")).collect();
    let fio = "fio --rw=randwrite --bs=8k --size=16m --direct=1 --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1";
    guest.command(&format!("{fio} {jobs} > /tmp/fio 2>&1 & sleep 2"), 60);
    guest.terminate();
    let (status, text) = guest.end(120);
    assert_eq!(status.code(), Some(0), "{text}");

    let mut guest = Guest::boot(with(["--resume", saved.to_str().unwrap()]));
    let answer = guest.command("wait; grep -c 'err= 0' /tmp/fio", 400);
    assert!(answer.contains("\n8\n"), "{answer}\n{}", guest.command("tail -40 /tmp/fio", 30));
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
}

#[test]
fn an_ide_disk_moves_to_the_fast_path() {
    let folder = tempfile::tempdir().unwrap();
    let Some(arguments) = storage(folder.path(), &[("ide", 64 << 20)], &[]) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("FIRST-PROCESS", 300);
    guest.command("ide; disks; sleep 2", 120);
    let disks = guest.command("lsblk -dn -o NAME,VENDOR,MODEL; ls /sys/bus/vmbus/drivers/hv_storvsc", 30);
    assert_eq!(disks.matches("Msft").count(), 1, "only the fast path is used: {disks}");
    assert!(disks.contains("00000000-0000-8899-0000-000000000000"), "{disks}");
    let written = guest.command("dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null; dd if=/tmp/x of=/dev/sda bs=1M conv=fsync 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches; cmp -n 4194304 /tmp/x /dev/sda && echo SAME", 60);
    assert!(written.contains("\nSAME"), "{written}");
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
}

#[test]
fn two_hundred_and_fifty_six_disks_are_found() {
    if !is_long() {
        return eprintln!("skipped: booting with 256 disks takes minutes; run `cargo xtask test --long`");
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(mut arguments) = storage(folder.path(), &[("scsi", 1 << 20); 256], &["--cpus", "4"]) else { return };
    let mut guest = Guest::boot(&arguments);
    guest.expect("FIRST-PROCESS", 400);
    guest.command("disks", 300);
    guest.command("until [ $(lsblk -dn | wc -l) = 256 ]; do sleep 1; done", 300);
    let channels = guest.command("ls -d /sys/bus/vmbus/devices/8b1d5c60*/channels/* | wc -l", 30);
    assert!(channels.contains("\n16\n"), "{channels}");
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
    // One more is refused.
    let extra = folder.path().join("extra.img");
    std::fs::File::create(&extra).unwrap().set_len(1 << 20).unwrap();
    arguments.extend(["--disk".into(), format!("scsi:{}", extra.display())]);
    let refused = support::bulkhead().arg("boot").args(&arguments).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}
