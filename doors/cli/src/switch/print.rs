//! Showing answers, to people and to programs.

use super::bits::show;
use anyhow::Result;
use bulkhead_switch_protocol::{Address, PortStatus, SwitchKind, SwitchStatus, VlanSettings};
use serde::Serialize;
use serde_json::json;

fn as_json(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Rows under headings, in columns.
fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> =
        headings.iter().enumerate().map(|(column, heading)| width(column).max(heading.chars().count())).collect();
    let line = |cells: &[String]| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(&headings.iter().map(|&heading| heading.to_owned()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

fn kind(kind: SwitchKind) -> &'static str {
    match kind {
        SwitchKind::Private => "private",
        SwitchKind::Internal => "internal",
        SwitchKind::External => "external",
        SwitchKind::Nat => "nat",
    }
}

fn vlan(settings: &VlanSettings) -> String {
    match settings {
        VlanSettings::Access(0) => "-".into(),
        VlanSettings::Access(vlan) => vlan.to_string(),
        VlanSettings::Trunk { native: 0, allowed } => format!("trunk {allowed}"),
        VlanSettings::Trunk { native, allowed } => format!("trunk {allowed}, native {native}"),
        VlanSettings::Isolated { primary, secondary } => format!("isolated {primary}/{secondary}"),
        VlanSettings::Community { primary, secondary } => format!("community {primary}/{secondary}"),
        VlanSettings::Promiscuous { primary, secondary } => format!("promiscuous {primary}/{secondary}"),
    }
}

fn uplink(switch: &SwitchStatus) -> String {
    let Some(uplink) = &switch.definition.uplink else { return "-".into() };
    match &switch.active_uplink {
        Some(active) if uplink.interfaces.len() > 1 => format!("{} (of {})", active, uplink.interfaces.join(", ")),
        Some(active) => active.clone(),
        None => format!("{} (no link)", uplink.interfaces.join(", ")),
    }
}

/// `switch list`.
pub fn switches(switches: &[SwitchStatus], json: bool) -> Result<()> {
    if json {
        return as_json(&switches);
    }
    let row = |switch: &SwitchStatus| {
        let definition = &switch.definition;
        let problems = if switch.problems.is_empty() { "ok".into() } else { switch.problems.join("; ") };
        vec![definition.name.clone(), kind(definition.kind).into(), uplink(switch), switch.ports.to_string(), problems]
    };
    table(&["NAME", "TYPE", "UPLINK", "PORTS", "STATE"], &switches.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

/// `switch show`.
pub fn switch(switch: &SwitchStatus, ports: &[PortStatus], json: bool) -> Result<()> {
    if json {
        return as_json(&json!({ "switch": switch, "ports": ports }));
    }
    let definition = &switch.definition;
    println!("{} ({})", definition.name, definition.id);
    if !definition.description.is_empty() {
        println!("  {}", definition.description);
    }
    println!("  type {}, MTU {}, uplink {}", kind(definition.kind), definition.mtu, uplink(switch));
    if let Some(bandwidth) = definition.bandwidth {
        println!("  bandwidth {}", show(bandwidth));
    }
    if let Some(host) = &definition.host {
        println!("  this host: {} in VLAN {}", host.interface.as_deref().unwrap_or("-"), host.vlan);
    }
    switch.problems.iter().for_each(|problem| println!("  problem: {problem}"));
    println!();
    self::ports(ports, false)
}

/// `switch ports`.
pub fn ports(ports: &[PortStatus], json: bool) -> Result<()> {
    if json {
        return as_json(&ports);
    }
    let row = |port: &PortStatus| {
        let settings = &port.settings;
        let link = match (port.attached, settings.connected) {
            (_, false) => "disconnected",
            (true, true) => "up",
            (false, true) => "down",
        };
        let limit = settings.max_bandwidth.map_or("-".into(), show);
        let mac = settings.mac.clone().unwrap_or_else(|| "-".into());
        vec![settings.name.clone(), port.kind.clone(), mac, vlan(&settings.vlan), link.into(), limit]
    };
    table(&["PORT", "KIND", "MAC", "VLAN", "LINK", "LIMIT"], &ports.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

/// `switch stats`.
pub fn stats(ports: &[PortStatus], json: bool) -> Result<()> {
    if json {
        return as_json(&ports);
    }
    let row = |port: &PortStatus| {
        let drops: Vec<_> = port.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let numbers = [port.sent.frames, port.sent.bytes, port.received.frames, port.received.bytes];
        let mut row = vec![port.settings.name.clone()];
        row.extend(numbers.map(|number| number.to_string()));
        row.push(if drops.is_empty() { "-".into() } else { drops.join(", ") });
        row
    };
    let headings = ["PORT", "SENT", "BYTES", "RECEIVED", "BYTES", "DROPPED"];
    table(&headings, &ports.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

/// `switch addresses`.
pub fn addresses(addresses: &[Address], json: bool) -> Result<()> {
    if json {
        return as_json(&addresses);
    }
    let row = |address: &Address| {
        let vlan = if address.vlan == 0 { "-".into() } else { address.vlan.to_string() };
        let how = if address.own { "own" } else { "learned" };
        vec![address.mac.clone(), vlan, address.port.clone(), how.into()]
    };
    table(&["MAC", "VLAN", "PORT", "HOW"], &addresses.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

/// `switch port create`.
pub fn new_port(id: &str, mac: &str, ticket: &str, json: bool) -> Result<()> {
    if json {
        return as_json(&json!({ "id": id, "mac": mac, "ticket": ticket }));
    }
    println!("id      {id}\nmac     {mac}\nticket  {ticket}");
    Ok(())
}
