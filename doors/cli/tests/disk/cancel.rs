//! Jobs that end early: nothing stays under the final name, and nothing else stays either.

use crate::{Lab, Running, fill, image_process, signal_process, until};
use std::os::unix::fs::{FileExt, MetadataExt};

/// Enough data that a conversion is far from its end when it is seen to have begun.
const MUCH: u64 = 512 << 20;

/// A conversion that has written some of its target, and its image process.
fn convert(lab: &Lab, target: &str) -> (Running, u32) {
    if !lab.path("a.img").exists() {
        let file = std::fs::File::create(lab.path("a.img")).unwrap();
        let mut piece = vec![0; 4 << 20];
        fill(&mut piece, 7);
        for at in (0..MUCH).step_by(piece.len()) {
            file.write_all_at(&piece, at).unwrap();
        }
    }
    let mut command = lab.command(&["convert", "a.img", target]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap());
    let running = Running { child: Some(child), _lines: lines, line: String::new() };
    let worker = image_process(running.pid());
    until("the conversion begins", || {
        // The new file has no name yet: the process holds it as a deleted one.
        let descriptors = std::fs::read_dir(format!("/proc/{worker}/fd")).ok()?;
        let target = descriptors.flatten().find(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().ends_with(" (deleted)"))
        })?;
        (std::fs::metadata(target.path()).ok()?.blocks() * 512 > 8 << 20).then_some(())
    });
    (running, worker)
}

#[test]
fn an_ended_conversion_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    for (target, signal) in [("a.vhdx", "INT"), ("b.vhd", "TERM")] {
        let (running, _) = convert(&lab, target);
        running.signal(signal);
        let (status, said) = running.end();
        assert_eq!(status.code(), Some(1), "{signal}: {said}");
        assert!(said.contains("cancelled"), "{said}");
        assert_eq!(lab.names(), ["a.img"]);
    }

    let (running, worker) = convert(&lab, "c.vhdx");
    signal_process(worker, "KILL");
    let (status, said) = running.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("the image process ended unexpectedly"), "{said}");
    assert_eq!(lab.names(), ["a.img"]);

    let (running, worker) = convert(&lab, "d.vhdx");
    running.signal("KILL");
    running.end();
    until("the image process follows its starter", || {
        (!std::path::Path::new(&format!("/proc/{worker}/fd/0")).exists()).then_some(())
    });
    assert_eq!(lab.names(), ["a.img"]);

    // The same conversion, undisturbed.
    lab.done(&["convert", "a.img", "a.vhdx"]);
    lab.qemu_compares("a.img", "a.vhdx");
}
