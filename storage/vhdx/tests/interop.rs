//! Images by other writers, read and changed by us; our images, read and changed by them; logs that were left dirty.

mod support;

use bulkhead_disk::test_support::{PowerCut, RecordingFile};
use bulkhead_disk::{File, Layer, MemoryFile, Stack, run_now, write_bytes};
use bulkhead_vhdx::info::info;
use bulkhead_vhdx::{CreateOptions, Kind};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use support::*;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What qemu reads from the VHDX at `path`.
fn qemu_read(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("qemu.raw");
    run("qemu-img", &["convert", "-f", "vhdx", "-O", "raw", text(path), text(&raw)]);
    fs::read(raw).unwrap()
}

fn whole(disk: &Stack) -> Vec<u8> {
    use bulkhead_disk::Node;
    run_now(bulkhead_disk::read_bytes(disk, 0, disk.facts().size as usize)).unwrap()
}

#[test]
fn images_that_qemu_made_are_read_changed_and_read_back() {
    if !has("qemu-img", "images_that_qemu_made") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (kind, block) in [("dynamic", "1M"), ("dynamic", "16M"), ("fixed", "8M"), ("dynamic", "256M")] {
        let path = dir.path().join(format!("{kind}{block}.vhdx"));
        let how = format!("subformat={kind},block_size={block}");
        run("qemu-img", &["create", "-q", "-f", "vhdx", "-o", &how, text(&path), "37M"]);
        let mut model = vec![0; 37 << 20];
        for (pattern, at, length) in
            [(0x11u8, 0usize, 65536usize), (0x22, 8 << 20, 3 << 20), (0x33, (37 << 20) - 512, 512)]
        {
            let command = format!("write -P {pattern} {at} {length}");
            run("qemu-io", &["-f", "vhdx", "-c", &command, text(&path)]);
            model[at..at + length].fill(pattern);
        }
        let file = Rc::new(load(&path));
        let disk = stack(&open(file.clone(), 1).image);
        assert_same(&whole(&disk), &model, "we read what qemu wrote");
        for (at, length) in [(512usize, 512usize), (20 << 20, 5 << 20), (36 << 20, 1 << 20)] {
            run_now(write_bytes(&disk, at as u64, &vec![0x77; length])).unwrap();
            model[at..at + length].fill(0x77);
        }
        run_now(disk.close()).unwrap();
        save(&file, &path);
        qemu_agrees(&path, &model);
        run("qemu-io", &["-f", "vhdx", "-c", "write -P 0x44 30M 2M", text(&path)]);
        model[30 << 20..32 << 20].fill(0x44);
        assert_same(&whole(&stack(&open_read_only(&load(&path)))), &model, "we read what qemu added");
    }
}

/// A power cut leaves a dirty log: qemu replays it to the same content as we do, read-only and writable.
#[test]
fn dirty_logs_are_replayed_as_qemu_does() {
    if !has("qemu-img", "dirty_logs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let recorded = Rc::new(RecordingFile::new(new_image(&create_options(12 * MIB, Kind::Dynamic, MIB))));
    let shared: Rc<dyn File> = recorded.clone();
    let disk = stack(&open(shared, 1).image);
    let mut mix = Mix::new(4, &bulkhead_disk::Node::facts(&disk));
    for _ in 0..150 {
        mix.step(&disk);
    }
    let mut dirty = 0;
    for cut in (0..recorded.changes()).step_by(recorded.changes() / 16) {
        let left = recorded.after_cut(cut, PowerCut::KeepAll);
        let entries = run_now(info(Rc::new(left.clone()))).unwrap().log_entries;
        dirty += usize::from(entries > 0);
        let path = dir.path().join(format!("{cut}.vhdx"));
        save(&left, &path);
        run("qemu-img", &["check", "-r", "all", "-f", "vhdx", text(&path)]);
        let theirs = qemu_read(&path);
        assert_same(&whole(&stack(&open_read_only(&left))), &theirs, "replayed in memory");
        let file = Rc::new(left);
        let disk = stack(&open(file.clone(), 2).image);
        assert_same(&whole(&disk), &theirs, "replayed to the file");
        run_now(disk.close()).unwrap();
        save(&file, &path);
        assert_same(&qemu_read(&path), &theirs, "qemu after our replay");
    }
    assert!(dirty > 8, "only {dirty} of the images had a dirty log");
}

/// Tears the last log entry of a dirty image: it counts as never written.
#[test]
fn torn_and_stale_entries_are_ignored() {
    let recorded = Rc::new(RecordingFile::new(new_image(&create_options(12 * MIB, Kind::Dynamic, MIB))));
    let shared: Rc<dyn File> = recorded.clone();
    let disk = stack(&open(shared, 1).image);
    for block in 0..6 {
        run_now(write_bytes(&disk, block * MIB, &[block as u8 + 1; 512])).unwrap();
        run_now(bulkhead_disk::Node::run(&disk, bulkhead_disk::Request::Flush)).into_result().unwrap();
    }
    let whole_image = recorded.after_cut(recorded.changes(), PowerCut::KeepAll);
    let before = run_now(info(Rc::new(whole_image.clone()))).unwrap();
    let log = before.headers.iter().find(|header| header.current).unwrap().log_offset;
    // Find the entry with the highest sequence number and flip a bit in each of its sectors, one at a time.
    let mut newest = (0, 0);
    for sector in 0..256u64 {
        let mut bytes = [0; 64];
        whole_image.peek(log + sector * 4096, &mut bytes);
        let sequence = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        if &bytes[..4] == b"loge" && sequence > newest.0 {
            newest = (sequence, sector);
        }
    }
    for position in [0, 70, 4095, 4096, 8191] {
        let torn = whole_image.clone();
        let mut byte = [0];
        torn.peek(log + newest.1 * 4096 + position, &mut byte);
        torn.poke(log + newest.1 * 4096 + position, &[byte[0] ^ 4]);
        let opened = run_now(bulkhead_vhdx::Vhdx::open(Rc::new(torn), options(false, 2))).unwrap();
        assert!(opened.replayed_entries > 0 && opened.replayed_entries < 6 + 2);
        let disk = stack(&opened.image);
        let content = whole(&disk);
        assert_eq!(content[4 << 20], 5, "the last but one flush stays");
        // The torn entry was the last flush. The metadata was written to its place already, so its data is there too.
        assert!(content[5 << 20] == 6 || content[5 << 20] == 0);
    }
}

/// A log so small against the changes that it wraps many times.
#[test]
fn wrapped_logs_replay() {
    let recorded = Rc::new(RecordingFile::new(new_image(&create_options(60 << 30, Kind::Dynamic, MIB))));
    let shared: Rc<dyn File> = recorded.clone();
    let disk = stack(&open(shared, 1).image);
    // Each flush changes one BAT sector at least: 2 of 256 log sectors at a time.
    for round in 0..400u64 {
        run_now(write_bytes(&disk, round * 128 * MIB, &[round as u8; 512])).unwrap();
        run_now(bulkhead_disk::Node::run(&disk, bulkhead_disk::Request::Flush)).into_result().unwrap();
    }
    let changes = recorded.changes();
    for cut in changes - 5..=changes {
        for way in [PowerCut::LoseAll, PowerCut::KeepAll, PowerCut::Torn { seed: cut as u64 }] {
            let opened = open(Rc::new(recorded.after_cut(cut, way)), 3);
            assert!(opened.replayed_entries > 0);
            let disk = stack(&opened.image);
            for round in 0..397u64 {
                let found = run_now(bulkhead_disk::read_bytes(&disk, round * 128 * MIB, 512)).unwrap();
                assert_eq!(found, [round as u8; 512], "round {round}, cut {cut}, {way:?}");
            }
        }
    }
}

#[test]
fn vhdiinfo_shows_our_fields() {
    if !has("vhdiinfo", "vhdiinfo_shows_our_fields") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let parent = new_image(&create_options(64 * MIB, Kind::Dynamic, 2 * MIB));
    let options = child_options(&parent, "parent.vhdx", 2 * MIB);
    let child = new_image(&options);
    let path = dir.path().join("child.vhdx");
    save(&parent, &dir.path().join("parent.vhdx"));
    save(&child, &path);
    let shown = run("vhdiinfo", &[text(&path)]);
    let ours = run_now(info(Rc::new(child))).unwrap();
    let linkage = ours.parent.as_ref().unwrap().linkage.unwrap().to_string();
    let current = ours.headers.iter().find(|header| header.current).unwrap().data_write_guid.to_string();
    for expected in ["Differential", &linkage, &current, "67108864"] {
        assert!(shown.contains(expected), "vhdiinfo does not show {expected}: {shown}");
    }
    assert_eq!((ours.kind, ours.virtual_size, ours.log_dirty), ("differencing", 64 * MIB, false));
    assert!(serde_json::to_string(&ours).unwrap().contains("\"logicalSectorSize\":512"));
}

/// Whether `file` is the parent that the child was made from.
fn accepts(child: &dyn Layer, file: &MemoryFile) -> bool {
    child.parent_link().unwrap().id == open_read_only(file).link_id()
}

/// The parent's id changes with its data; a child notices, and can be linked anew without changing its own id.
#[test]
fn a_changed_parent_is_noticed_and_reconnected() {
    let parent = new_image(&create_options(8 * MIB, Kind::Dynamic, MIB));
    let child = new_image(&child_options(&parent, "parent.vhdx", MIB));
    let file = Rc::new(parent);
    let image = open(file.clone(), 5).image;
    let disk = stack(&image);
    assert!(accepts(&open_read_only(&child), &file));
    let next = image.next_link_id();
    run_now(write_bytes(&disk, 0, &[1; 512])).unwrap();
    run_now(disk.close()).unwrap();
    assert!(!accepts(&open_read_only(&child), &file));
    assert_eq!(open_read_only(&file).link_id(), next, "the new id was known before");
    let shared = Rc::new(child);
    let image = open(shared.clone(), 6).image;
    let mut link = image.parent_link().unwrap();
    link.id = next;
    link.paths = vec![r".\elsewhere\parent.vhdx".into(), r"\\?\C:\disks\parent.vhdx".into()];
    let own = image.link_id();
    run_now(image.set_parent_link(link.clone())).unwrap();
    run_now(image.close()).unwrap();
    let again = open_read_only(&shared);
    assert_eq!(
        (again.parent_link(), again.link_id()),
        (Some(link), own),
        "the link changed, the image's own id did not"
    );
    assert!(accepts(&again, &file));
}

/// A locator that no longer fits into its place moves inside of the region, in one commit with the table.
#[test]
fn long_parent_paths() {
    let parent = new_image(&create_options(8 * MIB, Kind::Dynamic, MIB));
    let shared = Rc::new(new_image(&child_options(&parent, "parent.vhdx", MIB)));
    let image = open(shared.clone(), 6).image;
    let mut link = image.parent_link().unwrap();
    for length in [20_000, 10, 30_000] {
        link.paths = vec!["x".repeat(length), format!("/{}", "y".repeat(length))];
        run_now(image.set_parent_link(link.clone())).unwrap();
        assert_eq!(open_read_only(&shared).parent_link().unwrap(), link);
    }
    run_now(image.close()).unwrap();
    assert_eq!(open_read_only(&shared).parent_link().unwrap(), link);
}

/// Creation options that make no disk are refused with the value and the rule.
#[test]
fn impossible_disks_are_refused() {
    let good = create_options(MIB, Kind::Dynamic, MIB);
    let bad: [(&str, CreateOptions); 6] = [
        ("64 TiB", CreateOptions { size: (64 << 40) + 512, ..good.clone() }),
        ("multiple", CreateOptions { size: 1000, ..good.clone() }),
        ("positive", CreateOptions { size: 0, ..good.clone() }),
        ("power of two", CreateOptions { block_size: 3 * MIB, ..good.clone() }),
        ("256 MiB", CreateOptions { block_size: 512 * MIB, ..good.clone() }),
        ("512 or 4096", CreateOptions { logical_sector: 1024, ..good.clone() }),
    ];
    for (word, options) in bad {
        let error = run_now(bulkhead_vhdx::create(&MemoryFile::new("bad.vhdx"), &options)).unwrap_err();
        assert!(error.kind() == bulkhead_disk::ErrorKind::InvalidInput && error.to_string().contains(word), "{error}");
    }
    let largest = CreateOptions { size: 64 << 40, block_size: 256 * MIB, ..good };
    let disk = stack(&open(Rc::new(new_image(&largest)), 1).image);
    run_now(write_bytes(&disk, (64 << 40) - 512, &[5; 512])).unwrap();
    assert_eq!(run_now(bulkhead_disk::read_bytes(&disk, (64 << 40) - 512, 512)).unwrap(), [5; 512]);
}

/// New identity, new size: the values are there after a reopen, and qemu sees the size.
#[test]
fn identity_and_size_change() {
    let file = Rc::new(new_image(&create_options(8 * MIB, Kind::Fixed, MIB)));
    let image = open(file.clone(), 1).image;
    let (identity, before) = (guids(50)(), image.link_id());
    run_now(image.set_identity(identity)).unwrap();
    run_now(image.resize(20 * MIB + 512)).unwrap();
    run_now(write_bytes(&stack(&image), 20 * MIB, &[9; 512])).unwrap();
    assert_eq!(run_now(image.resize(10 * MIB)).unwrap_err().kind(), bulkhead_disk::ErrorKind::WrongState);
    run_now(image.close()).unwrap();
    let again = open_read_only(&file);
    assert_eq!((again.facts().identity, again.facts().size), (identity, 20 * MIB + 512));
    assert_ne!(again.link_id(), before, "children of the old disk must notice");
    if has("qemu-img", "identity_and_size_change") {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grown.vhdx");
        save(&file, &path);
        let mut content = vec![0; (20 << 20) + 512];
        content[20 << 20..].fill(9);
        qemu_agrees(&path, &content);
    }
}
