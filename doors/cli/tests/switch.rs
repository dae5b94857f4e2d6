//! `bulkhead switch` through the real programs.

#![allow(clippy::disallowed_methods, reason = "waits for a real process")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn bulkhead(root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(arguments).env("BULKHEAD_ROOT", root).output().unwrap()
}

fn done(root: &Path, arguments: &[&str]) -> String {
    let output = bulkhead(root, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(root: &Path, arguments: &[&str], code: i32, words: &str) {
    let output = bulkhead(root, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(words), "{arguments:?}: {said}");
}

#[test]
fn switches_and_ports_live_their_whole_life() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    refused(root, &["switch", "list"], 3, "cannot reach bulkhead-switch");
    let program = Path::new(env!("CARGO_BIN_EXE_bulkhead")).with_file_name("bulkhead-switch");
    assert!(program.exists(), "{}: build the package bulkhead_switch first", program.display());
    let mut switch = Command::new(program).arg("--root").arg(root).spawn().unwrap();
    for _ in 0..500 {
        if bulkhead(root, &["switch", "list"]).status.success() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }

    done(root, &["switch", "create", "lab", "--type", "private", "--description", "for tests", "--mtu", "9000"]);
    refused(root, &["switch", "create", "lab", "--type", "private"], 5, "already");
    refused(root, &["switch", "create", "out", "--type", "external"], 2, "name a NIC");
    refused(root, &["switch", "show", "nowhere"], 3, "nowhere");
    let settings = ["--vlan", "10", "--max-bandwidth", "500M", "--dhcp-guard", "true"];
    let rule = ["--acl", "deny,outbound,remote=10.0.0.0/8,protocol=6,remote-port=25"];
    done(root, &[&["switch", "port", "create", "lab", "vm1"], &settings[..], &rule].concat());
    done(root, &["switch", "set", "lab", "--rename", "Lab network"]);
    let shown = done(root, &["switch", "show", "Lab network"]);
    assert!(shown.contains("for tests") && shown.contains("MTU 9000") && shown.contains("500 Mbit/s"), "{shown}");
    let ports: serde_json::Value = serde_json::from_str(&done(root, &["switch", "ports", "--json"])).unwrap();
    let settings = &ports[0]["settings"];
    assert_eq!((&settings["vlan"]["access"], &settings["dhcp_guard"]), (&10.into(), &true.into()), "{ports}");
    assert_eq!(settings["acl"][0]["remote_port"], serde_json::json!([25, 25]), "{ports}");
    done(root, &["switch", "port", "set", "vm1", "--trunk", "10,20-29", "--native", "5"]);
    assert!(done(root, &["switch", "ports"]).contains("trunk 10,20-29, native 5"));
    assert!(done(root, &["switch", "stats", "vm1"]).contains("vm1"));
    done(root, &["switch", "mirror", "vm1", "source"]);
    refused(root, &["switch", "delete", "Lab network"], 5, "vm1");
    refused(root, &["switch", "port", "set", "vm1", "--acl", "maybe"], 2, "allow or deny");
    done(root, &["switch", "port", "delete", "vm1"]);
    done(root, &["switch", "delete", "Lab network"]);
    assert!(!done(root, &["switch", "list"]).contains("Lab"));
    switch.kill().unwrap();
    switch.wait().unwrap();
}
