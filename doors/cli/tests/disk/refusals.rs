//! Wrong arguments and what stands in the way: exit codes and messages.

use crate::Lab;

#[test]
fn wrong_arguments_are_usage_errors_that_say_what_is_right() {
    let Some(lab) = Lab::new() else { return };
    lab.done(&["create", "a.vhdx", "--size", "24M"]);
    for (arguments, words) in [
        (&[][..], &["Usage"][..]),
        (&["frobnicate"], &["unrecognized"]),
        (&["create", "b.vhd"], &["--size"]),
        (&["create", "b.vhd", "--size", "many"], &["not a size", "512M"]),
        (&["create", "b.vhd", "--size", "0"], &["0"]),
        (&["create", "b.vhd", "--size", "2041G"], &["2040 GiB", "VHDX"]),
        (&["create", "b.vhdx", "--size", "65T"], &["64 TiB"]),
        (&["create", "b.vhdx", "--size", "1G", "--kind", "thin"], &["fixed, dynamic and differencing"]),
        (&["create", "b.vhdx", "--size", "1G", "--kind", "differencing"], &["--parent"]),
        (&["create", "b.qcow2", "--size", "1G"], &["only be read"]),
        (&["create", "b.vhd", "--parent", "a.vhdx"], &["vhd child", "vhdx parent"]),
        (&["convert", "a.vhdx", "b.vhdx", "--kind", "differencing"], &["stands alone"]),
        (&["merge", "a.vhdx"], &["no parent"]),
        (&["serve", "a.vhdx", "--nbd", "tcp:1"], &["unix:SOCKET"]),
        (&["serve", "a.vhdx", "--nbd", "unix:s", "--max-iops", "0"], &["--max-iops"]),
        (&["serve", "a.vhdx", "--nbd", "unix:s", "--max-iops", "many"], &["--max-iops"]),
        (&["serve", "a.vhdx", "--nbd", "unix:s", "--max-bandwidth", "1000"], &["64K is the least"]),
        (&["serve", "a.vhdx", "--nbd", "unix:s", "--bitmap", "b"], &["--track"]),
        (&["serve", "a.vhdx", "--nbd", "unix:s", "--cache", "warm"], &["direct", "writeback"]),
        (&["serve", "a.vhdx", "--nbd", "unix:s", "--read-only", "--track", "t"], &["does not change"]),
        (&["bitmap", "a.vhdx"], &["Usage", "fork"]),
        (&["bitmap", "a.vhdx", "fork", "one"], &["FROZEN"]),
        (&["set-identity", "a.vhdx", "--id", "me"], &["no UUID"]),
        (&["info", "a.vhdx", "--format", "floppy"], &["floppy"]),
    ] {
        lab.fails(arguments, 2, words);
    }
    // An empty tracking file may have been made.
    let _ = std::fs::remove_file(lab.path("t"));
    assert_eq!(lab.names(), ["a.vhdx"], "a refusal leaves no file");
}

#[test]
fn what_is_not_there_is_named() {
    let Some(lab) = Lab::new() else { return };
    for arguments in [
        &["info", "no.vhd"][..],
        &["check", "no.vhd"],
        &["convert", "no.img", "b.vhd"],
        &["compare", "no.img", "no.img"],
        &["create", "b.vhdx", "--parent", "no.vhdx"],
        &["create", "no/b.vhdx", "--size", "1G"],
        &["unmount", "no"],
        &["bitmap", "no", "list"],
    ] {
        lab.fails(arguments, 3, &["no"]);
    }
    assert!(lab.names().is_empty(), "{:?}", lab.names());
}

#[test]
fn existing_files_are_never_overwritten() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    std::fs::write(lab.path("b.vhdx"), "precious").unwrap();
    lab.fails(&["create", "b.vhdx", "--size", "1G"], 5, &["b.vhdx exists already"]);
    lab.fails(&["convert", "a.img", "b.vhdx"], 5, &["b.vhdx exists already"]);
    assert_eq!(std::fs::read(lab.path("b.vhdx")).unwrap(), b"precious");
}

#[test]
fn what_is_no_image_is_a_failure() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    lab.fails(&["info", "a.img", "--format", "vhd"], 1, &["conectix", "a.img"]);
    lab.fails(&["check", "a.img", "--format", "vhdx"], 1, &["a.img"]);
}

#[test]
fn what_the_host_forbids_is_refused() {
    let Some(lab) = Lab::new() else { return };
    lab.done(&["create", "a.vhdx", "--size", "24M"]);
    let mut permissions = std::fs::metadata(lab.path("a.vhdx")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o000);
    std::fs::set_permissions(lab.path("a.vhdx"), permissions).unwrap();
    if std::fs::File::open(lab.path("a.vhdx")).is_ok() {
        eprintln!("skipped: this user may open everything");
        return;
    }
    lab.fails(&["info", "a.vhdx"], 4, &["a.vhdx", "Permission denied"]);
}

#[test]
fn a_disk_in_use_is_a_conflict_that_names_the_holder() {
    let Some(lab) = Lab::new() else { return };
    lab.done(&["create", "a.vhdx", "--size", "24M"]);
    let server = lab.start(&["serve", "a.vhdx", "--nbd", "unix:s", "--persistent"]);
    let holder = format!("process {} (bulkhead-vm)", crate::image_process(server.pid()));
    // The socket answers only when the disk is open.
    if lab.tool("nbdinfo", &["--size", server.line.trim()]).is_none() {
        return;
    }
    lab.fails(&["resize", "a.vhdx", "--size", "32M"], 5, &["in use", &holder]);
    lab.fails(&["info", "a.vhdx"], 5, &["in use", &holder]);
    lab.fails(&["serve", "a.vhdx", "--nbd", "unix:t"], 5, &["in use", &holder]);
    server.signal("TERM");
    server.end();
    lab.done(&["resize", "a.vhdx", "--size", "32M"]);
    assert_eq!(lab.names(), ["a.vhdx"], "sockets go with their servers");
}
