//! `disk partitions`, `disk mount` and `disk unmount`: sfdisk divides the disk, mtools and e2fsprogs write into it.

use crate::{Lab, Running, image_process, signal_process};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};

/// A partition for FAT, one for ext4, and two logical ones, the first of them badly aligned.
const MBR: &str = "label: dos\nstart=2048,size=16384,type=c\nstart=18432,size=20480,type=83\nstart=38912,type=5\nstart=38975,size=1000,type=82\nstart=43008,size=2048,type=83\n";
const GPT: &str = "label: gpt\nstart=2048,size=16384,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name=\"EFI boot\"\nstart=18432,size=20480,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n";

/// A raw disk, divided.
fn divided(lab: &Lab, name: &str, table: &str) -> Option<()> {
    std::fs::File::create(lab.path(name)).unwrap().set_len(crate::SIZE).unwrap();
    std::fs::write(lab.path("table"), table).unwrap();
    lab.tool("sh", &["-c", &format!("PATH=$PATH:/usr/sbin:/sbin sfdisk -q {name} < table")])?;
    std::fs::remove_file(lab.path("table")).unwrap();
    Some(())
}

/// `None`, with the reason, where FUSE cannot be used.
fn mounted(lab: &Lab, arguments: &[&str]) -> Option<Running> {
    let has_tool = std::process::Command::new("fusermount3").arg("--version").output().is_ok();
    if !has_tool || OpenOptions::new().read(true).write(true).open("/dev/fuse").is_err() {
        eprintln!("skipped: fusermount3 (package fuse3) or /dev/fuse is missing");
        return None;
    }
    // There already, maybe as a dead mount that nobody can look at.
    let _ = std::fs::create_dir(lab.path("m"));
    let mut command = vec!["mount"];
    command.extend(arguments);
    Some(lab.start(&command))
}

fn unmounted(lab: &Lab, running: Running) {
    lab.done(&["unmount", "m"]);
    let (status, said) = running.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(std::fs::read_dir(lab.path("m")).unwrap().next().is_none());
}

#[test]
fn partitions_are_those_that_sfdisk_made() {
    let Some(lab) = Lab::new() else { return };
    for (table, scheme) in [(MBR, "mbr"), (GPT, "gpt")] {
        if divided(&lab, "a.img", table).is_none() {
            return;
        }
        let said = lab.tool("sh", &["-c", "PATH=$PATH:/usr/sbin:/sbin sfdisk --json a.img"]).unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        let expected: Vec<(u64, u64)> = said["partitiontable"]["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|part| part["type"] != "5")
            .map(|part| (part["start"].as_u64().unwrap() * 512, part["size"].as_u64().unwrap() * 512))
            .collect();
        lab.done(&["convert", "a.img", &format!("{scheme}.vhdx")]);
        let found = lab.done(&["partitions", &format!("{scheme}.vhdx"), "--json"]).json();
        assert_eq!((&found["scheme"], &found["problems"]), (&scheme.into(), &Value::Array(Vec::new())));
        let parts = found["partitions"].as_array().unwrap();
        let places: Vec<(u64, u64)> =
            parts.iter().map(|part| (part["start"].as_u64().unwrap(), part["size"].as_u64().unwrap())).collect();
        assert_eq!(places, expected);
        if scheme == "mbr" {
            let numbers: Vec<u64> = parts.iter().map(|part| part["number"].as_u64().unwrap()).collect();
            assert_eq!(numbers, [1, 2, 5, 6]);
            assert_eq!(
                (&parts[0]["kind"], &parts[0]["alignedTo"], &parts[2]["alignedTo"]),
                (&"FAT".into(), &(1 << 20).into(), &512.into())
            );
            assert!(lab.done(&["partitions", "mbr.vhdx"]).out.contains("aligned to 512 bytes only"));
        } else {
            assert_eq!((&parts[0]["kind"], &parts[0]["name"]), (&"EFI system".into(), &"EFI boot".into()));
            // The backup table serves when the first is damaged.
            let file = OpenOptions::new().write(true).open(lab.path("a.img")).unwrap();
            file.write_all_at(&[0; 64], 512).unwrap();
            let again = lab.done(&["partitions", "a.img", "--json"]).json();
            assert_eq!(again["partitions"], found["partitions"]);
            assert!(again["problems"][0].as_str().unwrap().contains("first header"), "{again}");
        }
    }
}

#[test]
fn mtools_and_debugfs_write_files_into_a_mounted_disk() {
    let Some(lab) = Lab::new() else { return };
    if divided(&lab, "a.img", MBR).is_none() {
        return;
    }
    let answer = "<unattend/>\n".repeat(5000);
    std::fs::write(lab.path("answer.xml"), &answer).unwrap();
    for image in ["a.vhd", "a.vhdx"] {
        lab.done(&["convert", "a.img", image]);
        let Some(running) = mounted(&lab, &[image, "m"]) else { return };
        assert!(running.line.starts_with("mounted at "), "{}", running.line);
        let names: Vec<String> =
            ["disk", "partition1", "partition2", "partition5", "partition6"].map(|name| format!("{name}.raw")).into();
        let mut found: Vec<String> = std::fs::read_dir(lab.path("m"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, names);
        let Some(_) = lab.tool("/usr/sbin/mkfs.fat", &["m/partition1.raw"]) else { return };
        lab.tool("mcopy", &["-i", "m/partition1.raw", "answer.xml", "::/answer.xml"]);
        lab.tool("/usr/sbin/mke2fs", &["-q", "-t", "ext4", "m/partition2.raw"]);
        lab.tool("/usr/sbin/debugfs", &["-w", "-R", "write answer.xml answer.xml", "m/partition2.raw"]);
        unmounted(&lab, running);

        // What is in the image now, without us: QEMU reads it, the file systems' own tools look at it.
        let part = |start: u64, size: u64, name: &str| {
            let offset = format!("skip={start}");
            lab.tool(
                "dd",
                &["if=out.img", &format!("of={name}"), "bs=512", &offset, &format!("count={size}"), "status=none"],
            );
        };
        let Some(_) =
            lab.tool("qemu-img", &["convert", "-f", crate::qemu_format(image), "-O", "raw", image, "out.img"])
        else {
            return;
        };
        part(2048, 16384, "fat.img");
        part(18432, 20480, "ext4.img");
        lab.tool("/usr/sbin/fsck.fat", &["-n", "fat.img"]);
        lab.tool("/usr/sbin/e2fsck", &["-fn", "ext4.img"]);
        assert_eq!(lab.tool("mtype", &["-i", "fat.img", "::/answer.xml"]).unwrap(), answer);
        assert!(lab.tool("/usr/sbin/debugfs", &["-R", "cat answer.xml", "ext4.img"]).unwrap().contains(&answer));
        lab.done(&["check", image]);
    }
}

#[test]
fn any_bytes_are_read_and_written_and_sizes_stay() {
    let Some(lab) = Lab::new() else { return };
    let mut content = lab.raw("a.img");
    lab.done(&["convert", "a.img", "a.vhdx"]);
    let Some(running) = mounted(&lab, &["a.vhdx", "m"]) else { return };
    let file = OpenOptions::new().read(true).write(true).open(lab.path("m/disk.raw")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), crate::SIZE);
    for (at, len) in [(5 << 20, 3), ((5 << 20) + 511, 2), (700, 5000), (12345678, 1 << 20), (content.len() - 7, 7)] {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + 3) as u8).collect();
        file.write_all_at(&data, at as u64).unwrap();
        content[at..at + len].copy_from_slice(&data);
        let mut back = vec![0; len];
        file.read_exact_at(&mut back, at as u64).unwrap();
        assert_eq!(back, data);
    }
    file.sync_all().unwrap();
    assert_eq!(file.write_at(&[1; 10], crate::SIZE).unwrap_err().raw_os_error(), Some(28));
    assert_eq!(file.read_at(&mut [0; 10], crate::SIZE).unwrap(), 0);
    assert!(file.set_len(5).is_err() && file.set_len(crate::SIZE).is_ok());
    drop(file);
    // Holes are seen through it.
    lab.tool("cp", &["--sparse=auto", "m/disk.raw", "copy.img"]);
    assert!(std::fs::read(lab.path("copy.img")).unwrap() == content);
    assert!(std::fs::metadata(lab.path("copy.img")).unwrap().blocks() * 512 < 18 << 20);
    unmounted(&lab, running);
    std::fs::write(lab.path("expected.img"), &content).unwrap();
    lab.qemu_compares("expected.img", "a.vhdx");
}

#[test]
fn read_only_and_single_partitions() {
    let Some(lab) = Lab::new() else { return };
    if divided(&lab, "a.img", GPT).is_none() {
        return;
    }
    let Some(running) = mounted(&lab, &["a.img", "m", "--read-only", "--partition", "2"]) else { return };
    let found: Vec<_> = std::fs::read_dir(lab.path("m")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(found, ["partition2.raw"]);
    assert!(OpenOptions::new().write(true).open(lab.path("m/partition2.raw")).is_err());
    // Others may read it too.
    lab.done(&["partitions", "a.img"]);
    lab.fails(&["mount", "a.img", "m"], 5, &["is mounted at", "unmount"]);
    unmounted(&lab, running);
    lab.fails(&["mount", "a.img", "m", "--partition", "9"], 3, &["no partition 9", "1, 2"]);
    lab.fails(&["mount", "a.img", "nowhere"], 3, &["nowhere"]);
    lab.fails(&["unmount", "m"], 3, &["no disk is mounted"]);
}

#[test]
fn signals_unmount_and_crashes_leave_nothing_that_is_in_the_way() {
    let Some(lab) = Lab::new() else { return };
    lab.done(&["create", "a.vhdx", "--size", "24M"]);
    let write = |byte: u8| {
        let file = OpenOptions::new().write(true).open(lab.path("m/disk.raw")).unwrap();
        file.write_all_at(&[byte; 4096], u64::from(byte) << 16).unwrap();
        file.sync_all().unwrap();
    };
    for signal in ["TERM", "INT"] {
        let Some(running) = mounted(&lab, &["a.vhdx", "m"]) else { return };
        write(if signal == "TERM" { 1 } else { 2 });
        running.signal(signal);
        let (status, said) = running.end();
        assert_eq!(status.code(), Some(0), "{signal}: {said}");
        assert!(std::fs::read_dir(lab.path("m")).unwrap().next().is_none(), "it is unmounted");
    }

    // The image process dies: the command cleans up behind it.
    let Some(running) = mounted(&lab, &["a.vhdx", "m"]) else { return };
    write(3);
    signal_process(image_process(running.pid()), "KILL");
    let (status, said) = running.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(std::fs::read_dir(lab.path("m")).unwrap().next().is_none(), "it is unmounted");

    // Both die: the mount is left, dead; unmounting removes it, and so does the next mount.
    for removed_by_mount in [false, true] {
        let Some(running) = mounted(&lab, &["a.vhdx", "m"]) else { return };
        write(if removed_by_mount { 5 } else { 4 });
        let worker = image_process(running.pid());
        running.signal("KILL");
        signal_process(worker, "KILL");
        running.end();
        crate::until("the mount is dead", || std::fs::read_dir(lab.path("m")).is_err().then_some(()));
        if !removed_by_mount {
            lab.done(&["unmount", "m"]);
            assert!(std::fs::read_dir(lab.path("m")).unwrap().next().is_none());
        }
    }
    let Some(running) = mounted(&lab, &["a.vhdx", "m"]) else { return };
    // Nothing that was flushed is lost.
    let mut expected = vec![0; crate::SIZE as usize];
    for byte in 1..=5u8 {
        let at = usize::from(byte) << 16;
        expected[at..at + 4096].fill(byte);
    }
    assert!(std::fs::read(lab.path("m/disk.raw")).unwrap() == expected);
    unmounted(&lab, running);
    lab.done(&["check", "a.vhdx"]);
}
