//! What `bulkhead boot` refuses, and how.

mod support;

use support::{bulkhead, worker_is_there};

/// Exit code and standard error of a command that must fail.
fn refused(arguments: &[&str]) -> (i32, String) {
    let output = bulkhead().arg("boot").args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_this_build_lacks_is_refused_with_what_it_has() {
    for (arguments, what, list) in [
        (&["--firmware", "uefi"][..], "--firmware uefi", "bios"),
        (&["--disk", "a.qcow2"], "writing to qcow2 images (a.qcow2)", "raw, vhd, vhdx"),
        (&["--engine", "magic"], "--engine magic", "auto, soft, kvm"),
        (&["--cpu-level", "v4"], "--cpu-level v4", "v2, v3"),
    ] {
        let (code, text) = refused(arguments);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(&format!("{what} is not supported by this build")) && text.contains(list), "{text}");
    }
}

#[test]
fn wrong_values_are_usage_errors_with_their_limits() {
    for (arguments, expected) in [
        (&["--cpus", "65"][..], "processor.count is 65; it must be between 1 and 64"),
        (&["--memory", "1T"], "memory.size is 1T; it must be between 4M and 512G"),
        (&["--memory", "many"], "not a size"),
        (&["--disk", "a", "--disk", "b", "--disk", "c", "--disk", "d", "--disk", "e"], "4 in all"),
        (&["--serial", "tcp:1"], "stdio, file:PATH, unix:PATH or none"),
        (&["--initrd", "x"], "--kernel"),
        (&["--deterministic", "--engine", "kvm"], "needs the software engine"),
        (&["--disk", "ide:"], "path is missing"),
        (&["--boot", "net"], "needs a legacy network adapter: add one (--nic nat,legacy)"),
    ] {
        let (code, text) = refused(arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (code, text) = refused(&["--kernel", &path("missing")]);
    assert!(code == 1 && text.contains("missing") && text.contains("No such file"), "{text}");
    let (code, text) = refused(&["--kernel", folder.path().to_str().unwrap()]);
    assert!(code == 1 && text.contains("no regular file"), "{text}");
    let (code, text) = refused(&["--disk", &path("none.img")]);
    assert!(code == 1 && text.contains("none.img"), "{text}");
    if !worker_is_there() {
        return;
    }
    std::fs::write(path("junk"), [0x5a; 5000]).unwrap();
    let (code, text) = refused(&["--engine", "soft", "--kernel", &path("junk")]);
    assert!(code == 1 && text.contains("neither a Linux bzImage"), "{text}");
    let mut cut = vec![0; 0x300];
    cut[0x1f1] = 4;
    cut[0x1f4] = 0xff;
    cut[0x202..0x206].copy_from_slice(b"HdrS");
    cut[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    cut[0x211] = 1;
    std::fs::write(path("cut"), cut).unwrap();
    let (code, text) = refused(&["--engine", "soft", "--kernel", &path("cut")]);
    assert!(code == 1 && text.contains("cut off"), "{text}");
    std::fs::write(path("vm.state"), "nonsense").unwrap();
    std::fs::write(path("vm.memory"), "").unwrap();
    let (code, text) =
        refused(&["--engine", "soft", "--kernel", &path("cut"), "--resume", folder.path().to_str().unwrap()]);
    assert!(code == 1 && text.contains("saved state cannot be read"), "{text}");
}
