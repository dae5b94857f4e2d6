//! Images that `qemu-img` makes, read by us and compared byte by byte with the raw disk that they were made from.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use bulkhead_block_io::OpenOptions;
use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{BlockKind, DiskError, ErrorKind, Node, read_bytes, run_now};
use bulkhead_foreign::{ForeignDisk, ForeignFormat};

const SIZE: u64 = 41 * (1 << 20) + 1536;

/// Random, compressible and zero parts, and holes, at odd places.
fn source(folder: &Path) -> (PathBuf, Vec<u8>) {
    let mut random = XorShift::new(3);
    let mut disk = vec![0; SIZE as usize];
    for (at, len) in [(0, 70_000), (5 << 20, 3 << 20), ((12 << 20) + 4096, 512), (SIZE as usize - 9000, 9000)] {
        disk[at..at + len].iter_mut().for_each(|byte| *byte = random.next_u64() as u8);
    }
    disk[20 << 20..24 << 20].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n / 1000) as u8);
    let path = folder.join("source.raw");
    std::fs::write(&path, &disk).expect("a file");
    (path, disk)
}

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img (package qemu-utils)");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn open(path: &Path, format: ForeignFormat) -> Result<ForeignDisk, DiskError> {
    let file = OpenOptions::new().read_only(true).open_inline(path)?;
    run_now(ForeignDisk::open(Rc::new(file), format))
}

/// Whole reads, small reads at odd places, and a map that lies about nothing.
fn compare(path: &Path, format: ForeignFormat, disk: &[u8]) {
    let image = open(path, format).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(image.facts().size, disk.len() as u64);
    for (n, piece) in disk.chunks(3 << 20).enumerate() {
        let read = run_now(read_bytes(&image, (n as u64) * (3 << 20), piece.len())).expect("a read");
        assert!(read == piece, "{}: piece {n} differs", path.display());
    }
    let mut random = XorShift::new(9);
    for _ in 0..300 {
        let at = random.below(disk.len() as u64 / 512) as usize * 512;
        let len = (1 + random.below(40) as usize) * 512;
        let end = (at + len).min(disk.len());
        let read = run_now(read_bytes(&image, at as u64, end - at)).expect("a read");
        assert!(read == disk[at..end], "{}: {at}..{end} differs", path.display());
    }
    let mut holes = 0;
    for extent in run_now(image.status(0..SIZE)).expect("a map") {
        if extent.kind != BlockKind::Data {
            let range = extent.range.start as usize..extent.range.end as usize;
            assert!(disk[range].iter().all(|byte| *byte == 0), "{}: {extent:?} is no hole", path.display());
            holes += extent.range.end - extent.range.start;
        }
    }
    // A fixed image has none.
    assert!(holes > 20 << 20 || holes == 0, "{}: only {holes} bytes of holes", path.display());
}

#[test]
fn every_kind_that_qemu_writes_is_read_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    let (raw, disk) = source(folder.path());
    let cases: &[(&str, ForeignFormat, &[&str])] = &[
        ("qcow2", ForeignFormat::Qcow2, &[]),
        ("qcow2", ForeignFormat::Qcow2, &["-o", "compat=0.10"]),
        ("qcow2", ForeignFormat::Qcow2, &["-o", "cluster_size=512"]),
        ("qcow2", ForeignFormat::Qcow2, &["-o", "cluster_size=2M"]),
        ("qcow2", ForeignFormat::Qcow2, &["-c"]),
        ("qcow2", ForeignFormat::Qcow2, &["-c", "-o", "cluster_size=4k"]),
        ("qcow2", ForeignFormat::Qcow2, &["-c", "-o", "compression_type=zstd"]),
        ("qcow2", ForeignFormat::Qcow2, &["-c", "-o", "compression_type=zstd,cluster_size=2M"]),
        ("qcow2", ForeignFormat::Qcow2, &["-o", "extended_l2=on,cluster_size=128k"]),
        ("qcow2", ForeignFormat::Qcow2, &["-c", "-o", "extended_l2=on"]),
        ("qcow2", ForeignFormat::Qcow2, &["-o", "preallocation=metadata"]),
        ("vmdk", ForeignFormat::Vmdk, &["-o", "subformat=monolithicSparse"]),
        ("vmdk", ForeignFormat::Vmdk, &["-o", "subformat=monolithicSparse,zeroed_grain=on"]),
        ("vmdk", ForeignFormat::Vmdk, &["-o", "subformat=streamOptimized"]),
        ("vdi", ForeignFormat::Vdi, &[]),
        ("vdi", ForeignFormat::Vdi, &["-o", "static=on"]),
    ];
    for (number, (name, format, options)) in cases.iter().enumerate() {
        let image = folder.path().join(format!("{number}.{name}"));
        let mut arguments = vec!["convert", "-f", "raw", "-O", name];
        arguments.extend_from_slice(options);
        let paths = [raw.display().to_string(), image.display().to_string()];
        arguments.extend(paths.iter().map(String::as_str));
        qemu_img(&arguments);
        compare(&image, *format, &disk);
    }
}

/// What later writes leave behind: subclusters, zero clusters, freed ones.
#[test]
fn images_that_were_written_to_afterwards_are_read_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    for options in ["extended_l2=on,cluster_size=64k", "cluster_size=64k", "compression_type=zstd"] {
        let (raw, image) = (folder.path().join("a.raw"), folder.path().join("a.qcow2"));
        std::fs::File::create(&raw).and_then(|file| file.set_len(SIZE)).expect("a file");
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, &image.display().to_string(), &SIZE.to_string()]);
        let commands = [
            "write -P 1 0 200k",
            "write -P 2 1026k 2k",
            "write -z 64k 3k",
            "write -P 3 70k 512",
            "write -P 4 8M 1M",
            "write -z -u 8448k 300k",
            "discard 9M 128k",
            "write -P 5 30M 130k",
        ];
        for (format, path) in [("raw", &raw), ("qcow2", &image)] {
            let mut command = Command::new("qemu-io");
            command.args(["-f", format]);
            for word in commands.into_iter().filter(|word| format == "qcow2" || !word.starts_with("discard")) {
                command.args(["-c", word]);
            }
            assert!(command.arg(path).output().expect("qemu-io (package qemu-utils)").status.success());
        }
        let disk = std::fs::read(&raw).expect("a file");
        compare(&image, ForeignFormat::Qcow2, &disk);
    }
}

#[test]
fn what_needs_another_file_or_a_key_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (raw, _) = source(folder.path());
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &raw.display().to_string(), &path("overlay.qcow2")]);
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        &format!("data_file={}", path("data")),
        &path("external.qcow2"),
        "1M",
    ]);
    let secret =
        ["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"];
    let mut create = vec!["create", "-q", "-f", "qcow2"];
    let locked = path("locked.qcow2");
    create.extend(secret);
    create.extend([locked.as_str(), "1M"]);
    qemu_img(&create);
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", &path("flat.vmdk"), "1M"]);
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", &path("two.vmdk"), "3G"]);
    qemu_img(&["create", "-q", "-f", "vmdk", &path("base.vmdk"), "1M"]);
    qemu_img(&["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", &path("base.vmdk"), &path("child.vmdk")]);
    for (name, format, words) in [
        ("overlay.qcow2", ForeignFormat::Qcow2, ["source.raw", "qemu-img convert"]),
        ("external.qcow2", ForeignFormat::Qcow2, ["in another file", "qemu-img convert"]),
        ("locked.qcow2", ForeignFormat::Qcow2, ["encrypted", "decrypt"]),
        ("flat.vmdk", ForeignFormat::Vmdk, ["monolithicFlat", "convert flat-flat.vmdk with format=raw"]),
        ("two.vmdk", ForeignFormat::Vmdk, ["two-s001.vmdk", "qemu-img convert"]),
        ("child.vmdk", ForeignFormat::Vmdk, ["child of another", "qemu-img convert"]),
    ] {
        let error = open(&folder.path().join(name), format).err().unwrap_or_else(|| panic!("{name} was opened"));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
    }
}
