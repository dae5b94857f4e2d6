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

/// A bitmap goes on over servers, and foreign clients see it.
#[test]
fn clients_see_what_was_written_since_a_bitmap_began() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a.img");
    lab.done(&["convert", "a.img", "a.vhdx"]);
    let words = ["serve", "a.vhdx", "--nbd", "unix:s", "--persistent", "--track", "a.cbt", "--bitmap", "nightly"];
    for round in 0..2 {
        let server = lab.start(&words);
        let uri = server.line.trim().to_owned();
        if round == 0 && lab.tool("qemu-io", &["-f", "raw", "-c", "write 1M 64k", "-c", "write 3M 4k", &uri]).is_none()
        {
            return;
        }
        let Some(map) = lab.tool("nbdinfo", &["--map=qemu:dirty-bitmap:nightly", "--json", &uri]) else { return };
        let map: Value = serde_json::from_str(&map).unwrap();
        let changed: Vec<(u64, u64)> = map
            .as_array()
            .unwrap()
            .iter()
            .filter(|extent| extent["type"] == 1)
            .map(|extent| (extent["offset"].as_u64().unwrap(), extent["length"].as_u64().unwrap()))
            .collect();
        assert_eq!(changed, [(1 << 20, 64 << 10), (3 << 20, 64 << 10)], "round {round}: {map}");
        let node = format!(
            "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:nightly",
            lab.path("s").display()
        );
        let Some(map) = lab.tool("qemu-img", &["map", "--output=json", "--image-opts", &node]) else { return };
        // qemu shows what is changed as what holds no data.
        let map: Value = serde_json::from_str(&map).unwrap();
        let changed = map.as_array().unwrap().iter().find(|extent| extent["data"] == false);
        assert_eq!(changed.map(|extent| extent["start"].as_u64()), Some(Some(1 << 20)), "{map}");
        server.signal("TERM");
        let (status, said) = server.end();
        assert_eq!(status.code(), Some(0), "{said}");
    }
    lab.fails(
        &["serve", "a.vhdx", "--nbd", "unix:t", "--track", "a.img"],
        1,
        &["none of its heads is right", "delete it"],
    );
}
