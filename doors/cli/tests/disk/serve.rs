//! `disk serve`: foreign NBD clients.

use crate::{Lab, SIZE};
use serde_json::Value;

#[test]
fn foreign_clients_read_and_write_over_nbd() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    lab.done(&["convert", "a.img", "a.vhdx"]);
    let server =
        lab.start(&["serve", "a.vhdx", "--nbd", "unix:s", "--persistent", "--export", "disk", "--cache", "direct"]);
    let uri = server.line.trim().to_owned();
    assert_eq!(uri, "nbd+unix:///disk?socket=s");
    let Some(said) = lab.tool("nbdinfo", &["--json", &uri]) else { return };
    let said: Value = serde_json::from_str(&said).unwrap();
    let export = &said["exports"][0];
    assert_eq!((&export["export-size"], &export["is_read_only"]), (&SIZE.into(), &false.into()), "{said}");
    if lab.tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", "a.img", &uri]).is_none() {
        return;
    }
    lab.tool("qemu-io", &["-f", "raw", "-c", "write -P 0x77 8M 64k", "-c", "discard 0 1M", "-c", "flush", &uri]);
    server.signal("TERM");
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!lab.path("s").exists(), "the socket goes with the server");
    let compared = lab.disk(&["compare", "a.img", "a.vhdx", "--json"]);
    assert_eq!(compared.code, 1);
    lab.done(&["check", "a.vhdx"]);
}

#[test]
fn a_read_only_server_refuses_writes_and_ends_with_its_last_client() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    let server = lab.start(&["serve", "a.img", "--nbd", "unix:s", "--read-only"]);
    let Some(said) = lab.tool("nbdinfo", &["--json", server.line.trim()]) else { return };
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["exports"][0]["is_read_only"], true, "{said}");
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0), "{said}");
    std::os::unix::net::UnixListener::bind(lab.path("taken")).unwrap();
    lab.fails(&["serve", "a.img", "--nbd", "unix:taken"], 5, &["taken"]);
}
