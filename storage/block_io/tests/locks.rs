//! Locks: our own opens against each other, and against qemu's.

use bulkhead_block_io::{Holder, IoLoop, IoMode, OpenOptions};
use bulkhead_disk::ErrorKind;
use std::process::Command;

#[test]
fn one_writer_or_many_readers_and_the_refusal_names_the_holder() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, vec![0; 4096]).unwrap();
    let io = IoLoop::new(IoMode::Inline).unwrap();
    let writer = OpenOptions::new().holder(Holder::this_process("web-1")).open(&io.context(), &path).unwrap();
    for read_only in [true, false] {
        let refused = OpenOptions::new().read_only(read_only).open(&io.context(), &path).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        let text = refused.to_string();
        assert!(text.contains(&format!("process {}", std::process::id())) && text.contains("of VM web-1"), "{text}");
    }
    drop(writer);
    let reader = OpenOptions::new().read_only(true).open(&io.context(), &path).unwrap();
    let second = OpenOptions::new().read_only(true).open(&io.context(), &path).unwrap();
    assert_eq!(OpenOptions::new().open(&io.context(), &path).err().unwrap().kind(), ErrorKind::Locked);
    drop((reader, second));
    OpenOptions::new().open(&io.context(), &path).unwrap();
}

#[test]
fn a_closed_disk_can_be_opened_again_at_once() {
    use bulkhead_disk::{File, write_vec};
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, vec![0; 4096]).unwrap();
    let io = IoLoop::new(IoMode::Auto).unwrap();
    let context = io.context();
    io.run_until(async move {
        for _ in 0..50 {
            let file = OpenOptions::new().open(&context, &path).unwrap();
            write_vec(&file, 0, &[1; 4096]).await.unwrap();
            file.flush().await.unwrap();
        }
    })
    .unwrap();
}

#[test]
fn the_lock_travels_with_the_descriptor() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, vec![0; 4096]).unwrap();
    let io = IoLoop::new(IoMode::Inline).unwrap();
    let fd = OpenOptions::new().open_fd(&path).unwrap();
    let file = OpenOptions::new().lock(false).from_fd(&io.context(), fd, "handed over").unwrap();
    assert_eq!(OpenOptions::new().open(&io.context(), &path).err().unwrap().kind(), ErrorKind::Locked);
    drop(file);
    OpenOptions::new().open(&io.context(), &path).unwrap();
}

#[test]
fn qemu_and_we_refuse_each_other() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let io = IoLoop::new(IoMode::Inline).unwrap();
    let qemu = |extra: &[&str]| {
        Command::new("qemu-io").args(["-f", "raw", "-c", "read 0 512"]).args(extra).arg(&path).output()
    };
    let Ok(free) = qemu(&[]) else {
        eprintln!("skipped: qemu-io is not installed");
        return;
    };
    assert!(free.status.success());
    let writer = OpenOptions::new().open(&io.context(), &path).unwrap();
    let refused = qemu(&[]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lock"), "{refused:?}");
    drop(writer);
    let _reader = OpenOptions::new().read_only(true).open(&io.context(), &path).unwrap();
    assert!(qemu(&["-r"]).unwrap().status.success(), "readers share");
    let refused = qemu(&[]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lock"), "{refused:?}");
}

#[test]
fn qemu_holds_and_we_name_the_process() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let io = IoLoop::new(IoMode::Inline).unwrap();
    let child =
        Command::new("qemu-io").args(["-f", "raw"]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: qemu-io is not installed");
        return;
    };
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    input.write_all(b"read 0 512\n").unwrap();
    let mut line = String::new();
    while !line.contains("512/512") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0);
    }
    let refused = OpenOptions::new().open(&io.context(), &path).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    assert!(refused.to_string().contains(&format!("process {} (qemu-io)", child.id())), "{refused}");
    drop(input);
    child.wait().unwrap();
    OpenOptions::new().open(&io.context(), &path).unwrap();
}
