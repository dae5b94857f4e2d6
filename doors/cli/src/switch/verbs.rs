//! Doing what was said.

use super::arguments::{Command, Create, Mode, PortCommand, Role, Set, Settings, Type};
use super::bits::Bits;
use super::client::{Client, unexpected};
use super::{capture, print};
use crate::exit::Failure;
use bulkhead_switch_protocol::{
    AclActionName, AclDirectionName, AclEntry, Answer, HostPort, MirrorName, PortSettings, Request, SwitchChange,
    SwitchDefinition, SwitchKind, Uplink, UplinkMode, VlanSettings,
};
use std::process::ExitCode;

/// Runs a verb.
///
/// # Errors
/// As its exit code.
pub fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Create(create) => self::create(*create)?,
        Command::List(output) => {
            let switches = Client::connect(output.at.root.as_deref())?.switches()?;
            print::switches(&switches, output.json)?;
        }
        Command::Show { name, output } => {
            let mut client = Client::connect(output.at.root.as_deref())?;
            let ports = client.ports(Some(&name))?;
            let switches = client.switches()?;
            let is_named = |id: String, of: &str| id == name || of == name;
            let found =
                switches.iter().find(|switch| is_named(switch.definition.id.to_string(), &switch.definition.name));
            let missing = || Failure::NotFound(anyhow::anyhow!("there is no virtual switch {name:?}"));
            print::switch(found.ok_or_else(missing)?, &ports, output.json)?;
        }
        Command::Set(set) => self::set(set)?,
        Command::Delete { name, at } => {
            Client::connect(at.root.as_deref())?.ask(Request::DeleteSwitch { switch: name })?;
        }
        Command::Ports { name, output } => {
            let ports = Client::connect(output.at.root.as_deref())?.ports(name.as_deref())?;
            print::ports(&ports, output.json)?;
        }
        Command::Stats { port, output } => {
            let mut client = Client::connect(output.at.root.as_deref())?;
            let ports = match &port {
                Some(name) => vec![client.port(name)?],
                None => client.ports(None)?,
            };
            print::stats(&ports, output.json)?;
        }
        Command::Addresses { name, output } => {
            let mut client = Client::connect(output.at.root.as_deref())?;
            let mut all = Vec::new();
            loop {
                match client.ask(Request::Addresses { switch: name.clone(), skip: all.len() })? {
                    Answer::Addresses { addresses, more } => {
                        all.extend(addresses);
                        if !more {
                            break;
                        }
                    }
                    other => return Err(unexpected(&other)),
                }
            }
            print::addresses(&all, output.json)?;
        }
        Command::Mirror { port, role, at } => {
            let mut client = Client::connect(at.root.as_deref())?;
            let mut settings = client.port(&port)?.settings;
            settings.mirror = match role {
                Role::Source => MirrorName::Source,
                Role::Destination => MirrorName::Destination,
                Role::None => MirrorName::None,
            };
            client.ask(Request::SetPort { port, settings: Box::new(settings) })?;
        }
        Command::Capture { port, write, snap, at } => {
            capture::run(&mut Client::connect(at.root.as_deref())?, port, &write, snap)?;
        }
        Command::Port(command) => port(command)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(create: Create) -> Result<(), Failure> {
    let kind = match create.kind {
        Type::Private => SwitchKind::Private,
        Type::Internal => SwitchKind::Internal,
        Type::External => SwitchKind::External,
        Type::Nat => SwitchKind::Nat,
    };
    let mut definition = SwitchDefinition::new(create.name, kind);
    definition.description = create.description;
    definition.mtu = create.mtu;
    definition.bandwidth = create.bandwidth.map(|Bits(bits)| bits).filter(|&bits| bits > 0);
    if !create.uplink.is_empty() {
        let mode = match create.uplink_mode {
            Mode::Packet => UplinkMode::Packet,
            Mode::Bridge => UplinkMode::Bridge,
            Mode::Macvtap => UplinkMode::Macvtap,
        };
        definition.uplink = Some(Uplink { interfaces: create.uplink, mode });
    }
    if create.share || kind == SwitchKind::Internal {
        let (interface, vlan, address) = (create.interface, create.vlan, create.address);
        definition.host = Some(HostPort { interface, vlan, address });
    } else if create.vlan != 0 || create.address.is_some() || create.interface.is_some() {
        let message =
            "--vlan, --address and --interface are about this host's port: only internal and shared switches have one";
        return Err(Failure::Usage(message.into()));
    }
    let mut client = Client::connect(create.at.root.as_deref())?;
    client.ask(Request::CreateSwitch { definition: Box::new(definition), force: create.force })?;
    Ok(())
}

fn set(set: Set) -> Result<(), Failure> {
    let change = SwitchChange {
        name: set.rename,
        description: set.description,
        mtu: set.mtu,
        bandwidth: set.bandwidth.map(|Bits(bits)| bits),
        host_vlan: set.vlan,
        share: set.share,
        force: set.force,
    };
    Client::connect(set.at.root.as_deref())?.ask(Request::SetSwitch { switch: set.name, change })?;
    Ok(())
}

fn port(command: PortCommand) -> Result<(), Failure> {
    match command {
        PortCommand::Create { switch, name, settings, output } => {
            let mut wanted = PortSettings { name, ..PortSettings::default() };
            apply(*settings, &mut wanted)?;
            let request = Request::CreatePort { switch, settings: Box::new(wanted) };
            match Client::connect(output.at.root.as_deref())?.ask(request)? {
                Answer::Port { id, ticket, mac } => print::new_port(&id.to_string(), &mac, &ticket, output.json)?,
                other => return Err(unexpected(&other)),
            }
        }
        PortCommand::Set { port, settings, at } => {
            let mut client = Client::connect(at.root.as_deref())?;
            let mut wanted = client.port(&port)?.settings;
            apply(*settings, &mut wanted)?;
            client.ask(Request::SetPort { port, settings: Box::new(wanted) })?;
        }
        PortCommand::Delete { port, at } => {
            Client::connect(at.root.as_deref())?.ask(Request::DeletePort { port })?;
        }
    }
    Ok(())
}

/// Changes what was named.
fn apply(named: Settings, settings: &mut PortSettings) -> Result<(), Failure> {
    settings.mac = named.mac.or(settings.mac.take());
    settings.mac_spoofing = named.mac_spoofing.unwrap_or(settings.mac_spoofing);
    settings.connected = named.connected.unwrap_or(settings.connected);
    settings.dhcp_guard = named.dhcp_guard.unwrap_or(settings.dhcp_guard);
    settings.router_guard = named.router_guard.unwrap_or(settings.router_guard);
    let pair = |vlans: &[u16]| (vlans.first().copied().unwrap_or(0), vlans.get(1).copied().unwrap_or(0));
    if let Some(vlan) = named.vlan {
        settings.vlan = VlanSettings::Access(vlan);
    } else if let Some(allowed) = named.trunk {
        settings.vlan = VlanSettings::Trunk { native: named.native.unwrap_or(0), allowed };
    } else if let Some((primary, secondary)) = named.isolated.as_deref().map(pair) {
        settings.vlan = VlanSettings::Isolated { primary, secondary };
    } else if let Some((primary, secondary)) = named.community.as_deref().map(pair) {
        settings.vlan = VlanSettings::Community { primary, secondary };
    } else if let (Some(primary), Some(secondary)) = (named.promiscuous, named.secondary) {
        settings.vlan = VlanSettings::Promiscuous { primary, secondary };
    }
    if let Some(addresses) = named.arp_guard {
        settings.arp_guard =
            if addresses.contains(&None) { None } else { Some(addresses.into_iter().flatten().collect()) };
    }
    if !named.acl.is_empty() {
        let rules = named.acl.iter().filter(|rule| rule.as_str() != "none");
        settings.acl = rules.map(|rule| parse_rule(rule)).collect::<Result<_, _>>()?;
    }
    if let Some(limit) = named.storm_limit {
        settings.storm_limit = (limit > 0).then_some(limit);
    }
    if let Some(weight) = named.weight {
        (settings.weight, settings.min_bandwidth) = (Some(weight), None);
    }
    if let Some(Bits(bits)) = named.min_bandwidth {
        (settings.weight, settings.min_bandwidth) = (None, (bits > 0).then_some(bits));
    }
    if let Some(Bits(bits)) = named.max_bandwidth {
        settings.max_bandwidth = (bits > 0).then_some(bits);
    }
    Ok(())
}

/// Reads `deny,outbound,remote=10.0.0.0/8,protocol=6,remote-port=20-25`.
fn parse_rule(text: &str) -> Result<AclEntry, Failure> {
    let wrong = |what: &str| {
        let form = "deny,outbound,remote=10.0.0.0/8,protocol=6,remote-port=20-25";
        Failure::Usage(format!("the access rule `{text}`: {what}; write rules like {form}"))
    };
    let mut parts = text.split(',');
    let action = match parts.next() {
        Some("allow") => AclActionName::Allow,
        Some("deny") => AclActionName::Deny,
        _ => return Err(wrong("it starts with allow or deny")),
    };
    let direction = match parts.next() {
        Some("inbound") => AclDirectionName::Inbound,
        Some("outbound") => AclDirectionName::Outbound,
        Some("both") => AclDirectionName::Both,
        _ => return Err(wrong("a direction comes second: inbound, outbound or both")),
    };
    let (remote_mac, local, remote, protocol, local_port, remote_port) = (None, None, None, None, None, None);
    let mut entry = AclEntry { action, direction, remote_mac, local, remote, protocol, local_port, remote_port };
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| wrong("conditions are key=value"))?;
        let range = || {
            let (from, to) = value.split_once('-').unwrap_or((value, value));
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        match key {
            "remote-mac" => entry.remote_mac = Some(value.into()),
            "local" => entry.local = Some(value.into()),
            "remote" => entry.remote = Some(value.into()),
            "protocol" => entry.protocol = Some(value.parse().map_err(|_| wrong("a protocol is a number"))?),
            "local-port" => entry.local_port = Some(range().ok_or_else(|| wrong("ports are numbers"))?),
            "remote-port" => entry.remote_port = Some(range().ok_or_else(|| wrong("ports are numbers"))?),
            _ => return Err(wrong("conditions are remote-mac, local, remote, protocol, local-port and remote-port")),
        }
    }
    Ok(entry)
}
