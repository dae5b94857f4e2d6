//! Switches with ways out, between network namespaces that stand for hosts.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "how long a link is lost is measured in real time"
)]

mod support;

use bulkhead_packets::MacAddress;
use bulkhead_switch_protocol::*;
use support::namespaces::{Capture, Namespace, Veth, root_and_tools};
use support::{Switch, named, wait_until};

fn external(name: &str, interfaces: &[&str]) -> SwitchDefinition {
    let mut definition = SwitchDefinition::new(name, SwitchKind::External);
    let interfaces = interfaces.iter().map(|&interface| interface.to_owned()).collect();
    definition.uplink = Some(Uplink { interfaces, mode: UplinkMode::Packet });
    definition
}

fn in_vlan(name: &str, vlan: u16) -> PortSettings {
    PortSettings { vlan: VlanSettings::Access(vlan), ..named(name) }
}

#[test]
fn vlans_are_kept_apart_on_a_trunk_between_two_hosts() {
    if !root_and_tools(&["ip", "tshark"]) {
        return;
    }
    let (one, two) = (Namespace::new("one"), Namespace::new("two"));
    let _trunk = Veth::between(&one, "trunk", &two, "trunk");
    let capture = Capture::start(&two, "trunk");
    let (a, b) = (Switch::start_with_helper(&one), Switch::start_with_helper(&two));
    for switch in [&a, &b] {
        switch.client().create_switch(external("lan", &["trunk"])).unwrap();
    }
    let mut here: Vec<_> = [5, 10, 20].map(|vlan| a.plug("lan", in_vlan(&format!("vlan {vlan}"), vlan))).into();
    let mut there: Vec<_> = [5, 10, 20].map(|vlan| b.plug("lan", in_vlan(&format!("vlan {vlan}"), vlan))).into();
    for sender in 0..3 {
        let frame = here[sender].frame(MacAddress::BROADCAST, &[sender as u8; 100]);
        here[sender].send(&frame);
        assert_eq!(there[sender].receive().expect("the same VLAN on the other host").0, frame);
        let answer = there[sender].frame(here[sender].mac, &[9; 100]);
        there[sender].send(&answer);
        assert_eq!(here[sender].receive().expect("the way back").0, answer);
        for nic in here.iter_mut().chain(&mut there) {
            assert!(nic.receive_within(20).is_none(), "nobody else hears it");
        }
    }
    let tags = capture.stop(&["vlan.id"], "vlan", 6);
    let count = |id: &str| tags.iter().filter(|tag| tag.as_str() == id).count();
    assert_eq!((count("5"), count("10"), count("20")), (2, 2, 2), "{tags:?}");
}

#[test]
fn an_internal_switch_reaches_the_host_and_nobody_else() {
    if !root_and_tools(&["ip"]) {
        return;
    }
    let host = Namespace::new("internal");
    let switch = Switch::start_with_helper(&host);
    let mut definition = SwitchDefinition::new("lab", SwitchKind::Internal);
    definition.host = Some(HostPort { address: Some("10.77.0.1/24".into()), vlan: 0, interface: Some("lab0".into()) });
    switch.client().create_switch(definition).unwrap();
    let mut nic = switch.plug("lab", named("vm"));
    // Who has 10.77.0.1? The host's own stack answers.
    let mut question = vec![0, 1, 8, 0, 6, 4, 0, 1];
    question.extend(nic.mac.0);
    question.extend([10, 77, 0, 2, 0, 0, 0, 0, 0, 0, 10, 77, 0, 1]);
    let mut frame = nic.frame(MacAddress::BROADCAST, &question);
    frame[12..14].copy_from_slice(&[8, 6]);
    nic.send(&frame);
    let answer = loop {
        let (bytes, _) = nic.receive().expect("an answer of the host");
        if bytes[12..14] == [8, 6] && bytes[21] == 2 {
            break bytes;
        }
    };
    assert_eq!(answer[28..32], [10, 77, 0, 1]);
    assert!(host.run("ip", &["-br", "address", "show", "dev", "lab0"]).contains("10.77.0.1/24"));
    switch.client().ask(Request::DeletePort { port: "vm".into() }).unwrap();
    switch.client().ask(Request::DeleteSwitch { switch: "lab".into() }).unwrap();
    assert!(!host.run("ip", &["-br", "link"]).contains("lab0"), "the host's interface went with the switch");
}

#[test]
fn a_nic_belongs_to_one_switch_and_wrong_uplinks_leave_nothing_behind() {
    if !root_and_tools(&["ip"]) {
        return;
    }
    let (host, other) = (Namespace::new("nics"), Namespace::new("nics2"));
    let _wire = Veth::between(&host, "nic", &other, "nic");
    let switch = Switch::start_with_helper(&host);
    let mut client = switch.client();
    client.create_switch(external("first", &["nic"])).unwrap();
    let second = client.create_switch(external("second", &["nic"])).unwrap_err();
    assert!(second.message.contains("\"first\""), "{}", second.message);
    let missing = client.create_switch(external("third", &["nowhere"])).unwrap_err();
    assert!(missing.message.contains("nowhere"), "{}", missing.message);
    let Answer::Switches(all) = client.ask(Request::Switches).unwrap() else { panic!() };
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].active_uplink.as_deref(), Some("nic"));
}

#[test]
fn a_team_survives_the_loss_of_a_link() {
    if !root_and_tools(&["ip"]) {
        return;
    }
    let (host, net) = (Namespace::new("team"), Namespace::new("teamnet"));
    let _first = Veth::between(&host, "nic0", &net, "p0");
    let _second = Veth::between(&host, "nic1", &net, "p1");
    net.run("ip", &["link", "add", "name", "lan", "type", "bridge"]);
    for port in ["p0", "p1"] {
        net.run("ip", &["link", "set", port, "master", "lan"]);
    }
    net.run("ip", &["link", "set", "lan", "up"]);
    net.run("ip", &["address", "add", "10.78.0.1/24", "dev", "lan"]);
    let switch = Switch::start_with_helper(&host);
    switch.client().create_switch(external("lan", &["nic0", "nic1"])).unwrap();
    let mut nic = switch.plug("lan", named("vm"));
    let mut ask = |what: &str| {
        let mut question = vec![0, 1, 8, 0, 6, 4, 0, 1];
        question.extend(nic.mac.0);
        question.extend([10, 78, 0, 2, 0, 0, 0, 0, 0, 0, 10, 78, 0, 1]);
        let mut frame = nic.frame(MacAddress::BROADCAST, &question);
        frame[12..14].copy_from_slice(&[8, 6]);
        let start = std::time::Instant::now();
        wait_until(what, || {
            nic.send(&frame);
            while let Some((bytes, _)) = nic.receive_within(20) {
                if bytes[12..14] == [8, 6] && bytes[21] == 2 {
                    return true;
                }
            }
            false
        });
        start.elapsed()
    };
    ask("an answer over the first link");
    net.run("ip", &["link", "set", "p0", "down"]);
    let lost = ask("an answer over the second link");
    assert!(lost.as_millis() < 1000, "{lost:?} without a link");
    let Answer::Switches(all) = switch.client().ask(Request::Switches).unwrap() else { panic!() };
    assert_eq!(all[0].active_uplink.as_deref(), Some("nic1"));
}

#[test]
fn tcp_between_two_hosts_survives_the_death_of_the_switch() {
    if !root_and_tools(&["ip", "iperf3"]) {
        return;
    }
    let (host, net) = (Namespace::new("kill"), Namespace::new("killnet"));
    let _wire = Veth::between(&host, "nic", &net, "peer");
    net.run("ip", &["address", "add", "10.79.0.2/24", "dev", "peer"]);
    let mut switch = Switch::start_with_helper(&host);
    let mut definition = external("lan", &["nic"]);
    definition.host = Some(HostPort { address: Some("10.79.0.1/24".into()), vlan: 0, interface: Some("lan0".into()) });
    let definition = Box::new(definition);
    let refused =
        switch.client().ask(Request::CreateSwitch { definition: definition.clone(), force: false }).unwrap_err();
    assert_eq!(refused.kind, ProblemKind::Refused, "sharing may cut the connection");
    switch.client().ask(Request::CreateSwitch { definition, force: true }).unwrap();
    let mut server = net.command("iperf3").args(["-s", "-1"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the server", || net.run("ss", &["-ltn"]).contains(":5201"));
    let mut client = host.command("iperf3");
    client.args(["-c", "10.79.0.2", "-t", "4", "-i", "1", "-J"]);
    let client = client.stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1200));
    switch.kill_and_restart();
    let output = client.wait_with_output().unwrap();
    server.wait().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rates: Vec<f64> = report["intervals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|interval| interval["sum"]["bits_per_second"].as_f64().unwrap())
        .collect();
    eprintln!("Mbit/s in each second: {:?}", rates.iter().map(|rate| (rate / 1e6) as u64).collect::<Vec<_>>());
    assert!(rates[0] > 0.0 && *rates.last().unwrap() > 0.0, "{rates:?} {}", report["error"]);
    assert!(report["error"].is_null(), "{}", report["error"]);
}

#[test]
fn sharing_a_nic_moves_the_host_to_its_port_and_back_if_the_gateway_is_lost() {
    if !root_and_tools(&["ip"]) {
        return;
    }
    let (host, net) = (Namespace::new("share"), Namespace::new("sharenet"));
    let _wire = Veth::between(&host, "nic", &net, "peer");
    net.run("ip", &["address", "add", "10.80.0.1/24", "dev", "peer"]);
    host.run("ip", &["address", "add", "10.80.0.2/24", "dev", "nic"]);
    host.run("ip", &["route", "add", "default", "via", "10.80.0.1"]);
    let switch = Switch::start_with_helper(&host);
    let mut client = switch.client();
    client.create_switch(external("lan", &["nic"])).unwrap();
    let mut share = |share, force| {
        let change = SwitchChange { share: Some(share), force, ..SwitchChange::default() };
        client.ask(Request::SetSwitch { switch: "lan".into(), change })
    };
    assert_eq!(share(true, false).unwrap_err().kind, ProblemKind::Refused);
    share(true, true).unwrap();
    let of = |interface: &str| host.run("ip", &["-br", "-4", "address", "show", "dev", interface]);
    let route = || host.run("ip", &["route", "show", "default"]);
    assert!(!of("nic").contains("10.80.0.2") && route().contains("via 10.80.0.1 dev vE-"), "{}", route());
    share(false, true).unwrap();
    assert!(of("nic").contains("10.80.0.2/24") && route().contains("dev nic"), "{}", route());
    // In a VLAN of its own the host does not reach its gateway.
    let mut other = external("tagged", &["nic"]);
    client.ask(Request::DeleteSwitch { switch: "lan".into() }).unwrap();
    other.host = Some(HostPort { vlan: 77, ..HostPort::default() });
    let lost = client.ask(Request::CreateSwitch { definition: Box::new(other), force: true }).unwrap_err();
    assert!(lost.message.contains("the gateway 10.80.0.1 answers on nic, but not on"), "{}", lost.message);
    assert!(of("nic").contains("10.80.0.2/24") && route().contains("dev nic"), "{}", route());
    assert!(!host.run("ip", &["-br", "link"]).contains("vE-"), "nothing is left behind");
}

/// Bits per second that each sender gets through an uplink, over two seconds.
fn compete(bandwidth: Option<u64>, settings: &[PortSettings]) -> Option<Vec<f64>> {
    if !root_and_tools(&["ip"]) {
        return None;
    }
    let (host, net) = (Namespace::new("qos"), Namespace::new("qosnet"));
    let _wire = Veth::between(&host, "nic", &net, "peer");
    let switch = Switch::start_with_helper(&host);
    let mut definition = external("lan", &["nic"]);
    definition.bandwidth = bandwidth;
    switch.client().create_switch(definition).unwrap();
    let nics: Vec<_> = settings.iter().map(|settings| switch.plug("lan", settings.clone())).collect();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let senders: Vec<_> = nics
        .into_iter()
        .map(|mut nic| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let frame = nic.frame(MacAddress([2, 9, 9, 9, 9, 9]), &[0; 1400]);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    if !nic.port.ring.tx.send(&Default::default(), &[&frame]).unwrap()
                        && nic.port.ring.tx.wait_for_room().unwrap()
                    {
                        support::wait(&nic.port.ring, 100);
                    }
                }
            })
        })
        .collect();
    let mut client = switch.client();
    let mut sent = || settings.iter().map(|settings| client.port(&settings.name).sent.bytes).collect::<Vec<_>>();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (before, start) = (sent(), std::time::Instant::now());
    std::thread::sleep(std::time::Duration::from_secs(2));
    let (after, seconds) = (sent(), start.elapsed().as_secs_f64());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    Some(before.iter().zip(after).map(|(before, after)| (after - before) as f64 * 8.0 / seconds).collect())
}

/// Competes until the rates are as they should be, three times at most: a busy machine cannot always send as much as is allowed.
fn compete_until(bandwidth: Option<u64>, settings: &[PortSettings], right: impl Fn(&[f64]) -> bool) {
    let mut all = Vec::new();
    for _ in 0..3 {
        let Some(rates) = compete(bandwidth, settings) else { return };
        if right(&rates) {
            return;
        }
        all.push(rates);
    }
    panic!("{all:?}");
}

#[test]
fn a_limit_of_500_megabits_gives_450_to_500() {
    let limited = [PortSettings { max_bandwidth: Some(500_000_000), ..named("a") }];
    compete_until(None, &limited, |rates| (450e6..=505e6).contains(&rates[0]));
}

#[test]
fn weights_of_one_and_three_share_a_way_out_like_that() {
    let weighted = |name, weight| PortSettings { weight: Some(weight), ..named(name) };
    compete_until(Some(400_000_000), &[weighted("a", 100), weighted("b", 300)], |rates| {
        (2.7..3.3).contains(&(rates[1] / rates[0])) && (360e6..=410e6).contains(&(rates[0] + rates[1]))
    });
}
