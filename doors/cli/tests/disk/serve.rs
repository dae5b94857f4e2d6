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
    // What a backup does with it, between two servers.
    let names = |outcome: crate::Outcome| -> Vec<(String, bool, u64)> {
        let bitmaps = outcome.json()["bitmaps"].as_array().unwrap().clone();
        let one = |bitmap: &Value| {
            let name = bitmap["name"].as_str().unwrap().to_owned();
            (name, bitmap["tracking"] == true, bitmap["changed"].as_u64().unwrap())
        };
        bitmaps.iter().map(one).collect()
    };
    let expected = |name: &str, tracking, granules: u64| (name.to_owned(), tracking, granules * (64 << 10));
    assert_eq!(names(lab.done(&["bitmap", "a.cbt", "list", "--json"])), [expected("nightly", true, 2)]);
    let mut forked = names(lab.done(&["bitmap", "a.cbt", "fork", "nightly", "running", "--json"]));
    forked.sort();
    assert_eq!(forked, [expected("nightly", true, 0), expected("running", false, 2)]);
    let changes = lab.done(&["bitmap", "a.cbt", "changes", "running", "--json"]).json();
    assert_eq!(changes["changed"], 2 * (64 << 10), "{changes}");
    assert_eq!(changes["ranges"][1]["start"], 3 << 20, "{changes}");
    assert!(lab.done(&["bitmap", "a.cbt", "changes", "nightly"]).out.contains("nothing changed"));
    let merged = names(lab.done(&["bitmap", "a.cbt", "merge", "running", "nightly", "--json"]));
    assert_eq!(merged, [expected("nightly", true, 2)]);
    lab.done(&["bitmap", "a.cbt", "add", "weekly"]);
    let left = names(lab.done(&["bitmap", "a.cbt", "remove", "nightly", "--json"]));
    assert_eq!(left, [expected("weekly", true, 0)]);
    lab.fails(&["bitmap", "a.cbt", "remove", "nightly"], 3, &["nightly", "weekly"]);
    lab.fails(&["bitmap", "a.cbt", "add", "weekly"], 2, &["already"]);
    lab.fails(&["bitmap", "a.img", "list"], 1, &["none of its heads is right"]);
    lab.fails(
        &["serve", "a.vhdx", "--nbd", "unix:t", "--track", "a.img"],
        1,
        &["none of its heads is right", "delete it"],
    );
}

/// Both limits hold, as fio's own clock sees it: no faster than the limit, and not much slower.
#[test]
fn limits_are_kept() {
    let Some(lab) = Lab::new() else { return };
    lab.done(&["create", "a.vhdx", "--size", "24M"]);
    for (limit, value, block, count, seconds) in
        [("--max-iops", "200", "4k", 500, 1.5), ("--max-bandwidth", "4M", "64k", 144, 1.25)]
    {
        let server = lab.start(&["serve", "a.vhdx", "--nbd", "unix:s", "--persistent", limit, value]);
        let socket = lab.path("s").display().to_string();
        let (uri, number) = (format!("--uri=nbd+unix:///?socket={socket}"), format!("--number_ios={count}"));
        let words =
            ["--name=a", "--ioengine=nbd", "--rw=randwrite", "--iodepth=8", "--size=24M", "--output-format=json"];
        let Some(said) = lab.tool("fio", &[&words[..], &[&uri, &number, "--bs", block]].concat()) else { return };
        let said: Value = serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap();
        let took = said["jobs"][0]["write"]["runtime"].as_f64().unwrap() / 1000.0;
        // One second's worth may be used up at once. How much slower a busy machine makes it is not asked here.
        assert!(took >= seconds * 0.95, "{limit} {value}: {count} writes took {took} s, {seconds} s at least");
        server.signal("TERM");
        let (status, said) = server.end();
        assert_eq!(status.code(), Some(0), "{said}");
    }
}
