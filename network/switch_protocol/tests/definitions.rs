//! Definitions as TOML, and what is wrong with wrong ones.

use bulkhead_switch_protocol::{PortSettings, SwitchDefinition, SwitchKind, Uplink, UplinkMode, VlanSettings};

#[test]
fn a_definition_is_read_as_it_was_written() {
    let mut definition = SwitchDefinition::new("Lab network", SwitchKind::External);
    definition.description = "VLANs 5, 10 and 20".into();
    definition.bandwidth = Some(1_000_000_000);
    definition.uplink = Some(Uplink { interfaces: vec!["eth0".into(), "eth1".into()], mode: UplinkMode::Packet });
    definition.check().unwrap();
    let text = toml::to_string(&definition).unwrap();
    assert_eq!(toml::from_str::<SwitchDefinition>(&text).unwrap(), definition, "{text}");

    let settings = PortSettings {
        name: "vm1".into(),
        vlan: VlanSettings::Trunk { native: 5, allowed: "10,20-29".parse().unwrap() },
        ..PortSettings::default()
    };
    let text = toml::to_string(&settings).unwrap();
    assert_eq!(toml::from_str::<PortSettings>(&text).unwrap(), settings, "{text}");
}

#[test]
fn what_is_wrong_is_named() {
    let wrong = |change: fn(&mut SwitchDefinition), words: &str| {
        let mut definition = SwitchDefinition::new("lan", SwitchKind::Internal);
        change(&mut definition);
        let error = definition.check().unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    wrong(|definition| definition.version = 2, "version 2");
    wrong(|definition| definition.name = " lan".into(), "\" lan\"");
    wrong(|definition| definition.mtu = 9001, "9001");
    wrong(|definition| definition.host = None, "port of the host");
    wrong(|definition| definition.kind = SwitchKind::Private, "no port of the host");
    wrong(|definition| definition.kind = SwitchKind::External, "name a NIC");
    let uplink = |interfaces: &[&str], mode| {
        let mut definition = SwitchDefinition::new("lan", SwitchKind::External);
        let interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
        definition.uplink = Some(Uplink { interfaces, mode });
        definition.check()
    };
    assert!(uplink(&["eth0", "eth0"], UplinkMode::Packet).is_err());
    assert!(uplink(&["eth0", "eth1"], UplinkMode::Macvtap).is_err());
    assert!(uplink(&["-eth0"], UplinkMode::Packet).is_err());
    assert!(uplink(&["eth0;reboot"], UplinkMode::Packet).is_err());
    assert!(uplink(&["a-name-of-16-let"], UplinkMode::Packet).is_err());
    assert!(toml::from_str::<PortSettings>("name = 'a'\nvaln = 5").is_err(), "unknown keys are errors");
}
