//! Each verb doing what it is for, judged by qemu-img and libvhdi.

use crate::{Lab, SIZE};
use serde_json::Value;
use std::os::unix::fs::{FileExt, MetadataExt};

#[test]
fn create_makes_every_format_and_kind() {
    let Some(lab) = Lab::new() else { return };
    for (name, kind, sparse) in [
        ("f.vhd", "fixed", true),
        ("d.vhd", "dynamic", false),
        ("f.vhdx", "fixed", true),
        ("d.vhdx", "dynamic", false),
        ("f.img", "fixed", false),
        ("d.img", "dynamic", false),
    ] {
        let mut arguments = vec!["create", name, "--size", "24M", "--kind", kind, "--json"];
        arguments.extend(sparse.then_some("--sparse"));
        let made = lab.done(&arguments).json();
        assert_eq!((&made["kind"], &made["size"]), (&kind.into(), &SIZE.into()), "{made}");
        assert_eq!(made["fileSize"], std::fs::metadata(lab.path(name)).unwrap().len());
        let mode = std::fs::metadata(lab.path(name)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "disks are private");
        let said = lab.tool("qemu-img", &["info", "--output", "json", "-f", crate::qemu_format(name), name]);
        if let Some(said) = said {
            let said: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(said["virtual-size"], SIZE, "{name}");
        }
        let info = lab.done(&["info", name, "--json"]).json();
        for key in ["path", "format", "kind", "size", "fileSize", "details"] {
            assert!(!info[key].is_null() || (key == "details" && name.ends_with("img")), "{key}: {info}");
        }
        lab.done(&["check", name]);
        if !name.ends_with("img") {
            lab.tool("vhdiinfo", &[name]);
        }
    }
}

#[test]
fn info_says_what_vhdiinfo_says() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a.vhd", "a.vhdx"] {
        lab.done(&["create", name, "--size", "24M"]);
        let text = lab.done(&["info", name]).out;
        // libvhdi shows what children know the disk by.
        let label = if name == "a.vhd" { "identity: " } else { "link id: " };
        let identity = text.lines().find_map(|line| line.strip_prefix(label)).unwrap().to_owned();
        for part in ["path: ", "dynamic", "size: 24M\n", "block size: "] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let Some(said) = lab.tool("vhdiinfo", &[name]) else { return };
        assert!(said.to_lowercase().contains(&identity), "{identity}: {said}");
        assert!(said.contains("(25165824 bytes)") && said.contains("Dynamic"), "{said}");
    }
}

#[test]
fn convert_keeps_every_byte_in_every_direction() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    let steps = [
        ("a.img", "d.vhd", "dynamic"),
        ("d.vhd", "f.vhd", "fixed"),
        ("f.vhd", "d.vhdx", "dynamic"),
        ("d.vhdx", "f.vhdx", "fixed"),
        ("f.vhdx", "e.vhd", "dynamic"),
        ("e.vhd", "z.img", "dynamic"),
    ];
    for (source, target, kind) in steps {
        let made = lab.done(&["convert", source, target, "--kind", kind, "--json"]).json();
        assert_eq!((&made["kind"], &made["size"]), (&kind.into(), &SIZE.into()), "{made}");
        lab.qemu_compares("a.img", target);
        lab.done(&["check", target]);
    }
    assert_eq!(std::fs::read(lab.path("a.img")).unwrap(), std::fs::read(lab.path("z.img")).unwrap());
    let dynamic = std::fs::metadata(lab.path("d.vhdx")).unwrap().len();
    assert!(dynamic < 14 << 20, "holes take no space: {dynamic}");
    // What another tool made is read too.
    if lab.tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "a.img", "q.qcow2"]).is_some() {
        lab.done(&["convert", "q.qcow2", "q.vhdx"]);
        lab.qemu_compares("a.img", "q.vhdx");
    }
}

#[test]
fn compare_finds_the_first_difference_and_different_sizes() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    lab.done(&["convert", "a.img", "b.vhdx"]);
    let same = lab.done(&["compare", "a.img", "b.vhdx", "--json"]).json();
    assert_eq!((&same["identical"], &same["sameSize"]), (&true.into(), &true.into()));
    lab.done(&["resize", "b.vhdx", "--size", "32M"]);
    let longer = lab.done(&["compare", "a.img", "b.vhdx", "--json"]).json();
    assert_eq!(
        (&longer["identical"], &longer["sameSize"], &longer["commonSize"]),
        (&true.into(), &false.into(), &SIZE.into())
    );
    let file = std::fs::OpenOptions::new().write(true).open(lab.path("a.img")).unwrap();
    file.write_all_at(&[0xA5], 5 << 20).unwrap();
    let different = lab.disk(&["compare", "a.img", "b.vhdx", "--json"]);
    assert_eq!(different.code, 1);
    let different: Value = serde_json::from_str(&different.out).unwrap();
    assert_eq!((&different["identical"], &different["firstDifference"]), (&false.into(), &(5u64 << 20).into()));
}

#[test]
fn map_covers_the_disk_and_points_into_the_file() {
    let Some(lab) = Lab::new() else { return };
    let content = lab.raw("a.img");
    lab.done(&["convert", "a.img", "b.vhd"]);
    let map = lab.done(&["map", "b.vhd", "--json"]).json();
    let file = std::fs::File::open(lab.path("b.vhd")).unwrap();
    let mut at = 0;
    for extent in map["extents"].as_array().unwrap() {
        let (start, len) = (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap());
        assert_eq!(start, at);
        at += len;
        let expected = &content[start as usize..(start + len) as usize];
        match extent["fileOffset"].as_u64() {
            Some(offset) => {
                let mut stored = vec![0; len as usize];
                file.read_exact_at(&mut stored, offset).unwrap();
                assert!(stored == expected, "what is stored at {offset} differs");
            }
            None => assert!(expected.iter().all(|byte| *byte == 0), "no place for data at {start}"),
        }
    }
    assert_eq!(at, SIZE);
    assert!(lab.done(&["map", "b.vhd"]).out.starts_with("size: 24M\nstored: "));
}

#[test]
fn compact_gives_back_what_was_zeroed() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a.vhd", "a.vhdx"] {
        lab.raw("a.img");
        lab.done(&["convert", "a.img", name]);
        let server = lab.start(&["serve", name, "--nbd", "unix:s"]);
        let uri = server.line.trim().to_owned();
        let Some(_) = lab.tool("qemu-io", &["-f", "raw", "-c", "write -P 0 0 3M", &uri]) else { return };
        assert_eq!(server.end().0.code(), Some(0));
        let image = std::fs::File::options().write(true).open(lab.path("a.img")).unwrap();
        image.write_all_at(&vec![0; 3 << 20], 0).unwrap();
        let before = std::fs::metadata(lab.path(name)).unwrap().len();
        lab.done(&["compact", name, "--json"]).json();
        let after = std::fs::metadata(lab.path(name)).unwrap().len();
        assert!(after <= before - (2 << 20), "{name}: {before} → {after}");
        lab.qemu_compares("a.img", name);
        lab.done(&["check", name]);
    }
}

#[test]
fn resize_grows_and_shrinks_only_over_nothing() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    for name in ["a.vhd", "a.vhdx", "b.img"] {
        lab.done(&["convert", "a.img", name]);
        let grown = lab.done(&["resize", name, "--size", "64M", "--json"]).json();
        assert_eq!((&grown["oldSize"], &grown["size"]), (&SIZE.into(), &(64u64 << 20).into()));
        lab.done(&["compare", "a.img", name]);
        lab.fails(&["resize", name, "--size", "30M"], 2, &["--shrink"]);
        lab.done(&["resize", name, "--size", "24M", "--shrink"]);
        lab.done(&["compare", "a.img", name]);
        // The last 4 KiB of the disk hold data.
        let refused = lab.disk(&["resize", name, "--size", "20M", "--shrink"]);
        assert!(refused.code == 5 || refused.code == 2, "{name}: {} {}", refused.code, refused.err);
        lab.done(&["compare", "a.img", name]);
        lab.done(&["check", name]);
    }
}

/// A block whose table entry is damaged is named, and given up only when that is asked for.
#[test]
fn damaged_blocks_of_a_vhdx_are_given_up_on_request_only() {
    let Some(lab) = Lab::new() else { return };
    let content = lab.raw("a.img");
    lab.done(&["convert", "a.img", "a.vhdx", "--block-size", "2M"]);
    let map = lab.done(&["map", "a.vhdx", "--json"]).json();
    let block = map["extents"][0]["fileOffset"].as_u64().unwrap();
    let file = std::fs::File::options().read(true).write(true).open(lab.path("a.vhdx")).unwrap();
    let mut front = vec![0; block as usize];
    file.read_exact_at(&mut front, 0).unwrap();
    // The last one: the log has a copy.
    let entry = front.chunks(8).rposition(|entry| entry == (block | 6).to_le_bytes()).unwrap() as u64 * 8;
    // Far behind the end of the file.
    file.write_all_at(&((1 << 43) | 6u64).to_le_bytes(), entry).unwrap();
    drop(file);
    lab.fails(&["check", "a.vhdx"], 1, &["NOT CLEAN", "outside of the file"]);
    lab.fails(&["check", "a.vhdx", "--repair"], 1, &["NOT CLEAN", "outside of the file"]);
    lab.fails(&["check", "a.vhdx", "--drop-damaged"], 2, &["--repair"]);
    lab.done(&["check", "a.vhdx", "--repair", "--drop-damaged"]);
    lab.done(&["check", "a.vhdx"]);
    let mut expected = content;
    expected[..2 << 20].fill(0);
    std::fs::write(lab.path("b.img"), expected).unwrap();
    lab.qemu_compares("b.img", "a.vhdx");
}

#[test]
fn check_finds_damage_and_repairs_it() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    for (name, damaged_at) in [("a.vhd", None), ("a.vhdx", Some(64 << 10))] {
        lab.done(&["convert", "a.img", name]);
        let file = std::fs::File::options().write(true).open(lab.path(name)).unwrap();
        // VHD: the footer at the end, of which there is a copy. VHDX: the first of two headers.
        let at = damaged_at.unwrap_or_else(|| file.metadata().unwrap().len() - 512);
        file.write_all_at(&[0x5A; 64], at).unwrap();
        drop(file);
        let found = lab.disk(&["check", name, "--json"]);
        let is_vhd = damaged_at.is_none();
        // One header of two is enough, and what a crash leaves: a warning.
        assert_eq!(found.code, i32::from(is_vhd), "{name}: {}{}", found.out, found.err);
        let found: Value = serde_json::from_str(&found.out).unwrap();
        let key = if is_vhd { "problems" } else { "findings" };
        assert_eq!(found["report"][key].as_array().unwrap().len(), 1, "{found}");
        let repaired = lab.done(&["check", name, "--repair", "--json"]).json();
        assert_eq!(repaired["repaired"][key].as_array().unwrap().len(), 1, "{repaired}");
        let clean = lab.done(&["check", name, "--json"]).json();
        assert_eq!((&clean["clean"], &clean["report"][key]), (&true.into(), &Value::Array(Vec::new())));
        lab.qemu_compares("a.img", name);
    }
}

#[test]
fn set_identity_makes_a_copy_another_disk() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a.vhd", "a.vhdx"] {
        lab.done(&["create", name, "--size", "24M"]);
        let wanted = "01234567-89ab-7cde-8f01-23456789abcd";
        let set = lab.done(&["set-identity", name, "--id", wanted, "--json"]).json();
        assert_eq!(set["identity"], wanted);
        assert!(lab.done(&["info", name]).out.contains(&format!("identity: {wanted}")));
        let fresh = lab.done(&["set-identity", name, "--json"]).json();
        assert_ne!(fresh["identity"], wanted);
        let shown = lab.done(&["info", name]).out;
        assert!(shown.contains(fresh["identity"].as_str().unwrap()), "{shown}");
        // libvhdi shows this one only of VHDs.
        if let Some(said) = lab.tool("vhdiinfo", &[name]).filter(|_| name == "a.vhd") {
            assert!(said.contains(fresh["identity"].as_str().unwrap()), "{said}");
        }
        lab.done(&["check", name]);
    }
}
