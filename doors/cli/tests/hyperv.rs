//! Stock Debian guests on the Hyper-V interface: what they find, disks through VMBus, save and resume in the middle of I/O, a
//! crash, a reset, and what the interface costs.

mod support;

use std::fs::File;
use std::path::Path;
use support::{Guest, guest_file, worker_is_there};

/// Arguments that start Debian's kernel with its Hyper-V drivers.
fn services(more: &[&str]) -> Option<Vec<String>> {
    if !worker_is_there() {
        return None;
    }
    let (kernel, initrd) = (guest_file("services/vmlinuz")?, guest_file("services/initrd")?);
    let mut arguments = vec!["--engine".to_owned(), "soft".into()];
    arguments.extend(["--kernel".into(), kernel.to_str()?.into(), "--initrd".into(), initrd.to_str()?.into()]);
    arguments.extend(["--cmdline".into(), "console=ttyS0 panic=-1".into()]);
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    Some(arguments)
}

/// An empty disk image.
fn disk(folder: &Path, name: &str, mebibytes: u64) -> String {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(mebibytes << 20).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Class ids of the devices that a guest with all services but file copy, one SCSI controller and one IDE disk finds.
const CLASSES: [&str; 10] = [
    // Shutdown, time, heartbeat, key/value, volume snapshot.
    "0e0b6031-5213-4934-818b-38d90ced39db",
    "9527e630-d0ae-497b-adce-e80ab0175caf",
    "57164f39-9115-4e78-ab55-382f3bd5422d",
    "a9a0f4e7-5a45-4d96-b827-8a841e8c03e6",
    "35fa2e29-ea23-4236-96ae-3a6ebacba440",
    // Keyboard, mouse, display.
    "f912ad6d-2b17-48ea-bd65-f927a61c7684",
    "cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a",
    "da0a7802-e377-4aac-8e77-0558eb1073f8",
    // SCSI controller, fast path of the IDE disk.
    "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f",
    "32412632-86cb-44a2-9b5c-50d1417354f5",
];

#[test]
fn a_guest_finds_hyper_v_uses_its_disks_and_survives_save_crash_and_reset() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    let saved = saved.to_str().unwrap();
    let (first, second) = (disk(folder.path(), "a.img", 64), disk(folder.path(), "b.img", 128));
    let (scsi, ide) = (format!("scsi:{second}"), format!("ide:{first}"));
    let with = |more: [&str; 3]| services(&["--cpus", "2", "--disk", &scsi, "--disk", &ide, more[0], more[1], more[2]]);

    let Some(arguments) = with(["--no-reboot", "--save-to", saved]) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("Hypervisor detected: Microsoft Hyper-V", 60);
    guest.expect("Switched to clocksource hyperv_clocksource_tsc_page", 120);
    guest.expect("FIRST-PROCESS", 240);
    guest.send("services; modprobe sd_mod\n");
    guest.expect("Vmbus version:5.3", 120);
    guest.expect("READY", 120);
    let found = guest.command("cat /sys/bus/vmbus/devices/*/class_id", 30);
    let mut found: Vec<&str> = found.lines().filter_map(|line| line.strip_prefix('{')?.strip_suffix('}')).collect();
    let mut wanted = CLASSES.to_vec();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    // The order of the two controllers is the guest's; sizes tell the disks apart.
    guest.command("until grep -q ' sdb$' /proc/partitions; do :; done", 60);
    guest.command("DISK=$(awk '$3 == 131072 { print $4 }' /proc/partitions); echo $DISK", 30);
    guest.command("yes bulkhead | dd of=/tmp/pattern bs=64k count=1500 iflag=fullblock", 60);
    guest.send("(dd if=/tmp/pattern of=/dev/$DISK bs=4k; echo WRITTEN-$?) &\n");
    guest.expect("READY", 30);
    guest.terminate();
    assert_eq!(guest.end(60).0.code(), Some(0));

    // It goes on where it was: the copy ends, and is whole.
    let mut guest = Guest::boot(with(["--no-reboot", "--resume", saved]).unwrap());
    guest.expect("WRITTEN-0", 120);
    guest.command("sync; echo 3 > /proc/sys/vm/drop_caches", 60);
    let compared = guest.command("cmp -n 98304000 /tmp/pattern /dev/$DISK && echo EQUAL", 120);
    assert!(compared.contains("\nEQUAL\n"), "{compared}");
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));

    // The last words of a guest that crashes reach people.
    let errors = folder.path().join("errors");
    let mut guest =
        Guest::boot_with_errors(with(["--no-reboot", "--resume", saved]).unwrap(), File::create(&errors).unwrap());
    guest.expect("WRITTEN-0", 120);
    guest.command("sync", 60);
    guest.send("echo c > /proc/sysrq-trigger\n");
    assert_eq!(guest.end(120).0.code(), Some(10));
    let errors = std::fs::read_to_string(errors).unwrap();
    assert!(errors.contains("the guest reports that it has crashed"), "{errors}");
    assert!(errors.contains("Kernel panic - not syncing: sysrq triggered crash"), "{errors}");

    // After a reset the next kernel finds a fresh bus.
    let mut guest = Guest::boot(
        with(["--name", "boot", "--resume"])
            .map(|mut arguments| {
                arguments.push(saved.to_owned());
                arguments
            })
            .unwrap(),
    );
    guest.expect("WRITTEN-0", 120);
    guest.command("sync", 60);
    guest.send("reboot\n");
    guest.expect("FIRST-PROCESS", 240);
    guest.send("services; modprobe sd_mod\n");
    guest.expect("Vmbus version:5.3", 120);
    guest.expect("READY", 120);
    guest.command("until grep -q ' sdb$' /proc/partitions; do :; done", 60);
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
}

#[test]
fn four_processors_share_a_controller() {
    let folder = tempfile::tempdir().unwrap();
    let image = format!("scsi:{}", disk(folder.path(), "a.img", 64));
    let Some(arguments) = services(&["--no-reboot", "--cpus", "4", "--disk", &image]) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("FIRST-PROCESS", 300);
    guest.send("services; modprobe sd_mod\n");
    guest.expect("Vmbus version:5.3", 120);
    guest.expect("READY", 120);
    guest.command("until grep -q ' sda$' /proc/partitions; do :; done", 60);
    // One channel per processor, up to what the driver asks for.
    let channels = guest.command("ls -d /sys/bus/vmbus/devices/8b1d5c60-*/channels/* | wc -l", 30);
    assert!(channels.contains("\n4\n"), "{channels}");
    let written = guest.command(
        "for cpu in 0 1 2 3; do taskset $((1 << cpu)) dd if=/dev/zero of=/dev/sda bs=64k count=100 seek=$((cpu * 100)) \
         oflag=direct & done; wait; echo DONE",
        120,
    );
    assert!(written.contains("DONE"), "{written}");
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
}

#[test]
fn without_the_interface_the_vm_is_a_plain_pc() {
    let Some(arguments) = services(&["--no-reboot", "--no-hyperv"]) else { return };
    let mut guest = Guest::boot(arguments);
    guest.expect("FIRST-PROCESS", 240);
    let found = guest.command("dmesg | grep -c 'Hyper-V'; cat /sys/class/dmi/id/sys_vendor", 60);
    assert!(found.contains("\n0\nBulkhead\n"), "{found}");
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
}
