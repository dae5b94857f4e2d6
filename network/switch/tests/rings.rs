//! NICs on rings, through a real switch process.

mod support;

use bulkhead_packets::{Checksum, FrameMeta, MacAddress, SegmentKind, Segmentation};
use bulkhead_port::{AttachError, AttachOptions, Port, RingSize};
use bulkhead_switch_protocol::*;
use support::{Switch, named, wait_until};

fn private(switch: &Switch) -> support::Client {
    let mut client = switch.client();
    client.create_switch(SwitchDefinition::new("lab", SwitchKind::Private)).unwrap();
    client
}

#[test]
fn two_nics_exchange_frames_and_everything_is_counted() {
    let switch = Switch::start();
    let mut client = private(&switch);
    let (mut a, mut b) = (switch.plug("lab", named("a")), switch.plug("lab", named("b")));
    assert_eq!(a.mac.0[..3], [0x00, 0x15, 0x5D]);
    assert_eq!(a.port.control.info().mac, a.mac.to_string());
    let long = a.frame(b.mac, &vec![7; 1486]);
    a.send(&long);
    assert_eq!(b.receive().unwrap().0, long);
    let all = b.frame(MacAddress::BROADCAST, b"hello");
    b.send(&all);
    assert_eq!(a.receive().unwrap().0, all);
    // A frame that is to be cut passes whole to whoever takes that.
    let meta = FrameMeta {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        segmentation: Some(Segmentation { kind: SegmentKind::TcpIpv4, size: 1448, header_len: 66 }),
        ..FrameMeta::default()
    };
    let huge = a.frame(b.mac, &vec![9; 60_000]);
    a.send_with(&meta, &huge);
    assert_eq!(b.receive(), Some((huge, meta)));
    let spoofed = [&b.mac.0[..], &[2, 0, 0, 0, 0, 9], &[0; 60]].concat();
    a.send(&spoofed);
    wait_until("the drop", || client.drops("a", "spoofed_mac") == 1);
    let (a, b) = (client.port("a"), client.port("b"));
    assert_eq!((a.sent.frames, a.received.frames, b.sent.frames, b.received.frames), (3, 1, 1, 2));
    assert_eq!(b.received.bytes, 1500 + 60_014);
    assert!(a.attached && a.kind == "guest");
}

#[test]
fn names_addresses_and_switches_are_unique_and_refusals_name_the_holder() {
    let switch = Switch::start();
    let mut client = private(&switch);
    let taken = client.create_switch(SwitchDefinition::new("lab", SwitchKind::Private)).unwrap_err();
    assert_eq!(taken.kind, ProblemKind::WrongState);
    let mac = Some("00-15-5D-00-00-01".to_owned());
    client.create_port("lab", PortSettings { mac: mac.clone(), ..named("first") });
    let request = |settings| Request::CreatePort { switch: "lab".into(), settings: Box::new(settings) };
    let refused = client.ask(request(PortSettings { mac, ..named("second") })).unwrap_err();
    assert!(refused.message.contains("\"first\""), "{}", refused.message);
    let nowhere = Request::CreatePort { switch: "nowhere".into(), settings: Box::new(named("x")) };
    assert_eq!(client.ask(nowhere).unwrap_err().kind, ProblemKind::NotFound);
    let busy = client.ask(Request::DeleteSwitch { switch: "lab".into() }).unwrap_err();
    assert!(busy.message.contains("first"), "{}", busy.message);
    // All 256 dynamic addresses, and one more.
    for index in 0..256 {
        client.create_port("lab", named(&format!("port {index}")));
    }
    let exhausted = client.ask(request(named("one too many"))).unwrap_err();
    assert_eq!(exhausted.kind, ProblemKind::Unavailable);
    assert_eq!(client.ports().len(), 257);
}

#[test]
fn a_switch_that_is_killed_comes_back_and_so_do_its_ports() {
    let mut switch = Switch::start();
    private(&switch);
    let (mut a, mut b) = (switch.plug("lab", named("a")), switch.plug("lab", named("b")));
    switch.kill_and_restart();
    for nic in [&mut a, &mut b] {
        wait_until("the news", || matches!(nic.port.control.news(), Err(AttachError::NoAnswer)));
        wait_until("attaching again", || {
            let again = Port::attach(&switch.connector(&nic.ticket), RingSize::default(), AttachOptions::ALL);
            again.map(|port| nic.port = port).is_ok()
        });
        assert_eq!(nic.port.control.info().mac, nic.mac.to_string(), "the port kept its address");
    }
    let frame = a.frame(b.mac, b"after");
    a.send(&frame);
    assert_eq!(b.receive().unwrap().0, frame);
}

#[test]
fn a_nic_that_dies_frees_its_port_and_disturbs_nobody() {
    let switch = Switch::start();
    let mut client = private(&switch);
    let (mut a, b, mut c) =
        (switch.plug("lab", named("a")), switch.plug("lab", named("b")), switch.plug("lab", named("c")));
    let gone = b.mac;
    drop(b);
    wait_until("the port to be free", || !client.port("b").attached);
    let (lost, frame) = (a.frame(gone, b"lost"), a.frame(c.mac, b"fine"));
    a.send(&lost);
    a.send(&frame);
    assert_eq!(c.receive().unwrap().0, frame);
    wait_until("the drop", || client.drops("b", "disconnected") == 1);
    let refused = Port::attach(&switch.connector("guess"), RingSize::default(), AttachOptions::ALL);
    assert!(matches!(refused, Err(AttachError::Refused { .. })));
    client.ask(Request::DeletePort { port: "c".into() }).unwrap();
    wait_until("the end of the port", || matches!(c.port.control.news(), Err(AttachError::NoAnswer)));
}

#[test]
fn settings_change_while_frames_flow() {
    let switch = Switch::start();
    let mut client = private(&switch);
    let (mut a, mut b) = (switch.plug("lab", named("a")), switch.plug("lab", named("b")));
    let frame = a.frame(b.mac, b"x");
    let mut set = |name: &str, settings| {
        client.ask(Request::SetPort { port: name.into(), settings: Box::new(settings) }).unwrap();
    };
    set("b", PortSettings { vlan: VlanSettings::Access(7), ..named("b") });
    a.send(&frame);
    set("a", PortSettings { vlan: VlanSettings::Access(7), ..named("a") });
    a.send(&frame);
    assert!(b.receive().is_some());
    assert!(b.receive_within(50).is_none(), "the first one was in another VLAN");
    set("b", PortSettings { connected: false, ..named("b") });
    wait_until("the cable to be out", || {
        b.port.control.news().unwrap();
        !b.port.control.info().link_up
    });
    let change = SwitchChange { name: Some("renamed".into()), mtu: Some(9000), ..SwitchChange::default() };
    client.ask(Request::SetSwitch { switch: "lab".into(), change }).unwrap();
    wait_until("the new name", || {
        a.port.control.news().unwrap();
        a.port.control.info().switch == "renamed" && a.port.control.info().mtu == 9000
    });
}

#[test]
fn a_nic_without_offloads_gets_frames_cut_and_summed() {
    let switch = Switch::start();
    private(&switch);
    let mut a = switch.plug("lab", named("a"));
    let mut b = switch.plug_as("lab", named("b"), AttachOptions::default());
    // IPv4 and TCP headers; the packets crate's own tests judge the sums.
    let mut body = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    body.extend([0; 12].into_iter().chain([0x50, 0x10, 0, 0, 0, 0, 0, 0]));
    body.extend(vec![5; 5000]);
    let mut frame = a.frame(b.mac, &body);
    frame[12..14].copy_from_slice(&[8, 0]);
    let meta = FrameMeta {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        segmentation: Some(Segmentation { kind: SegmentKind::TcpIpv4, size: 1460, header_len: 54 }),
        ..FrameMeta::default()
    };
    a.send_with(&meta, &frame);
    let pieces: Vec<_> = std::iter::from_fn(|| b.receive_within(100)).collect();
    let lens: Vec<_> = pieces.iter().map(|(bytes, _)| bytes.len()).collect();
    assert_eq!(lens, [1514, 1514, 1514, 54 + 5000 - 3 * 1460]);
    assert!(pieces.iter().all(|(_, meta)| meta.checksum == Checksum::Verified && meta.segmentation.is_none()));
}

#[test]
fn a_port_that_never_drains_slows_only_itself() {
    let switch = Switch::start();
    let mut client = private(&switch);
    let (mut a, b, mut c) =
        (switch.plug("lab", named("a")), switch.plug("lab", named("b")), switch.plug("lab", named("c")));
    let (to_b, to_c) = (a.frame(b.mac, &[1; 1400]), a.frame(c.mac, &[2; 1400]));
    let mut received = 0;
    for _ in 0..20_000 {
        a.send(&to_b);
        a.send(&to_c);
        while c.receive_within(0).is_some() {
            received += 1;
        }
    }
    while received < 20_000 && c.receive().is_some() {
        received += 1;
    }
    assert_eq!(received, 20_000, "the one that drains gets everything");
    assert!(client.drops("b", "receiver_full") > 18_000);
    assert_eq!(client.drops("c", "receiver_full"), 0);
}

#[test]
fn what_passes_a_port_is_captured_and_mirrored() {
    use std::os::fd::AsFd;
    let switch = Switch::start();
    let mut client = private(&switch);
    let mirrored = |name, mirror| PortSettings { mirror, vlan: VlanSettings::Access(9), ..named(name) };
    let mut a = switch.plug("lab", mirrored("a", MirrorName::Source));
    let mut b = switch.plug("lab", mirrored("b", MirrorName::None));
    let mut watcher = switch.plug("lab", PortSettings { mirror: MirrorName::Destination, ..named("watcher") });
    let file = tempfile::NamedTempFile::new().unwrap();
    let request = Request::Capture { port: "a".into(), snap: 65_535 };
    client.ask_with(request, &[file.as_file().as_fd()]).unwrap();
    let (there, back) = (a.frame(b.mac, &[1; 50]), b.frame(a.mac, &[2; 1000]));
    a.send(&there);
    assert_eq!(b.receive().unwrap().0, there);
    b.send(&back);
    assert_eq!(a.receive().unwrap().0, back);
    let copies = [watcher.receive().unwrap(), watcher.receive().unwrap()];
    assert_eq!([&copies[0].0, &copies[1].0], [&there, &back]);
    assert_eq!(copies[0].1.vlan.map(|tag| tag.id()), Some(9), "a copy shows its VLAN");
    client.ask(Request::StopCapture { port: "a".into() }).unwrap();
    wait_until("the capture", || file.path().metadata().unwrap().len() > 1100);
    let tshark = std::process::Command::new("tshark")
        .arg("-r")
        .arg(file.path())
        .args([
            "-T",
            "fields",
            "-e",
            "eth.src",
            "-e",
            "vlan.id",
            "-e",
            "frame.len",
            "-e",
            "frame.packet_flags_direction",
        ])
        .output();
    let Ok(output) = tshark else {
        eprintln!("skipped: tshark is not installed");
        return;
    };
    let colons = |mac: MacAddress| mac.to_string().replace('-', ":").to_lowercase();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().map(|line| line.split('\t').collect::<Vec<_>>()).collect();
    assert_eq!(lines[0][..2], [&colons(a.mac)[..], ""], "what a port sends has no tag yet: {said}");
    assert_eq!(lines[1][..3], [&colons(b.mac)[..], "", "1014"], "{said}");
}

#[test]
fn two_nics_share_an_address_only_if_they_may_spoof() {
    let switch = Switch::start();
    let mut client = private(&switch);
    let balanced = |name| PortSettings { mac_spoofing: true, ..named(name) };
    let (mut a, mut b) = (switch.plug("lab", balanced("a")), switch.plug("lab", balanced("b")));
    let mut other = switch.plug("lab", named("other"));
    let cluster = MacAddress([0x02, 0xBF, 10, 0, 0, 100]);
    let from_cluster = [&other.mac.0[..], &cluster.0, &[0x88, 0xB5], &[0; 46]].concat();
    for nic in [&mut a, &mut b] {
        nic.send(&from_cluster);
        assert!(other.receive().is_some());
    }
    let to_cluster = other.frame(cluster, b"a request");
    other.send(&to_cluster);
    assert_eq!((a.receive().unwrap().0, b.receive().unwrap().0), (to_cluster.clone(), to_cluster.clone()));
    // Now one of them may no longer.
    client.ask(Request::SetPort { port: "b".into(), settings: Box::new(named("b")) }).unwrap();
    b.send(&from_cluster);
    wait_until("the drop", || client.drops("b", "spoofed_mac") == 1);
    other.send(&to_cluster);
    assert!(a.receive().is_some() && b.receive_within(50).is_none());
}
