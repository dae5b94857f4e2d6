//! Opening and making interfaces. What is made here carries an alias, and nothing else is ever reused or removed.

use crate::ip::{ip, ip_json};
use anyhow::{Context, Result, bail};
use bulkhead_linux::{interface_index, open_macvtap, open_packet_socket, open_tap};
use serde::Deserialize;
use std::os::fd::OwnedFd;

/// The alias of interfaces that are ours.
const ALIAS: &str = "bulkhead";

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    ifalias: Option<String>,
    #[serde(default)]
    flags: Vec<String>,
}

/// Whether there is an interface of that name; it is an error if it is not ours.
fn is_ours(interface: &str) -> Result<bool> {
    if interface_index(interface).is_err() {
        return Ok(false);
    }
    let links: Vec<Link> = ip_json(&["link", "show", "dev", interface])?;
    if links.iter().any(|link| link.ifalias.as_deref() == Some(ALIAS)) {
        return Ok(true);
    }
    bail!("there is an interface {interface} that does not belong to Bulkhead: choose another name")
}

/// A packet socket on a NIC. A NIC that is down is set up.
pub fn open_packet(interface: &str) -> Result<OwnedFd> {
    let socket =
        open_packet_socket(interface).with_context(|| format!("cannot open a packet socket on {interface}"))?;
    let links: Vec<Link> = ip_json(&["link", "show", "dev", interface])?;
    if !links.iter().any(|link| link.flags.iter().any(|flag| flag == "UP")) {
        ip(&["link", "set", "dev", interface, "up"])?;
    }
    Ok(socket)
}

/// An interface of the host. It stays when its descriptor is closed, with its addresses: a switch that restarts finds it again.
pub fn open_host_tap(interface: &str, mtu: u16, address: Option<&str>) -> Result<OwnedFd> {
    if !is_ours(interface)? {
        ip(&["tuntap", "add", "dev", interface, "mode", "tap", "vnet_hdr"])?;
        ip(&["link", "set", "dev", interface, "alias", ALIAS])?;
    }
    let tap = open_tap(interface).with_context(|| format!("cannot open {interface}: is another switch using it?"))?;
    ip(&["link", "set", "dev", interface, "mtu", &mtu.to_string(), "up"])?;
    if let Some(address) = address {
        ip(&["address", "replace", address, "dev", interface])?;
    }
    Ok(tap)
}

/// A port of a bridge.
pub fn open_bridge_port(bridge: &str, interface: &str) -> Result<OwnedFd> {
    let tap = open_tap(interface).with_context(|| format!("cannot make {interface}"))?;
    ip(&["link", "set", "dev", interface, "alias", ALIAS, "master", bridge, "up"])?;
    Ok(tap)
}

/// A macvtap on a NIC.
pub fn open_macvtap_on(parent: &str, interface: &str) -> Result<OwnedFd> {
    if is_ours(interface)? {
        ip(&["link", "delete", "dev", interface])?;
    }
    ip(&["link", "add", "link", parent, "name", interface, "type", "macvtap", "mode", "bridge"])?;
    ip(&["link", "set", "dev", interface, "alias", ALIAS, "promisc", "on", "allmulticast", "on", "up"])?;
    let index = interface_index(interface).context("the macvtap is gone")?;
    open_macvtap(index).with_context(|| format!("cannot open /dev/tap{index}"))
}

/// Removes an interface that was made here; one that is not there is removed already.
pub fn remove(interface: &str) -> Result<()> {
    if is_ours(interface)? {
        ip(&["link", "delete", "dev", interface])?;
    }
    Ok(())
}
