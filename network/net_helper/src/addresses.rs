//! Moving the host's addresses and routes from one interface to another, all of them or none; and back, if a gateway that answered
//! before does not any more.

use crate::ip::{ip, ip_json};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::net::UdpSocket;
use std::time::Duration;

/// Looks at a gateway that does not answer yet, a tenth of a second apart.
const LOOKS: usize = 30;

#[derive(Deserialize)]
struct Neighbour {
    #[serde(default)]
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Clone, Deserialize)]
struct Address {
    #[serde(default)]
    local: String,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}

#[derive(Clone, Deserialize)]
struct Route {
    dst: String,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default)]
    metric: Option<u32>,
    #[serde(default)]
    protocol: Option<String>,
}

impl Address {
    fn text(&self) -> String {
        format!("{}/{}", self.local, self.prefixlen)
    }
}

/// Moves addresses and routes. If anything fails half-way, everything goes back.
pub fn move_all(from: &str, to: &str) -> Result<()> {
    let interfaces: Vec<Interface> = ip_json(&["address", "show", "dev", from])?;
    let addresses: Vec<Address> = interfaces
        .into_iter()
        .flat_map(|interface| interface.addr_info)
        // Each interface makes its own link-local addresses.
        .filter(|address| address.scope != "link" && !address.local.is_empty())
        .collect();
    let mut routes: Vec<Route> = ip_json(&["-4", "route", "show", "dev", from])?;
    routes.extend(ip_json::<Vec<Route>>(&["-6", "route", "show", "dev", from])?);
    // Those that the kernel makes come with their addresses. Routes without a gateway first: gateways are reached through them.
    routes.retain(|route| route.protocol.as_deref() != Some("kernel"));
    routes.sort_by_key(|route| route.gateway.is_some());
    let answered: Vec<&String> =
        routes.iter().filter_map(|route| route.gateway.as_ref()).filter(|gateway| answers(gateway, from)).collect();
    let moved =
        put(from, to, &addresses, &routes).and_then(|()| match answered.iter().find(|gateway| !answers(gateway, to)) {
            Some(gateway) => bail!("the gateway {gateway} answers on {from}, but not on {to}"),
            None => Ok(()),
        });
    moved.or_else(|error| {
        put(to, from, &addresses, &routes).context("and they cannot be moved back: set them by hand")?;
        Err(error.context("the addresses are where they were"))
    })
}

/// Whether a gateway answers questions for its address on an interface.
fn answers(gateway: &str, interface: &str) -> bool {
    let known = || {
        let neighbours: Vec<Neighbour> =
            ip_json(&["neighbour", "show", "to", gateway, "dev", interface]).unwrap_or_default();
        let is_known = |one: &Neighbour| one.lladdr.is_some() && !one.state.iter().any(|state| state == "FAILED");
        neighbours.iter().any(is_known)
    };
    // What was learned before says nothing about now.
    let _ = ip(&["neighbour", "flush", "to", gateway, "dev", interface]);
    for _ in 0..LOOKS {
        // Any packet makes the kernel ask; whether something listens there does not matter.
        let any = if gateway.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        if let Ok(socket) = UdpSocket::bind(any) {
            let _ = socket.send_to(&[0], (gateway, 9));
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the kernel has no event for an answered question that ip could wait for"
        )]
        std::thread::sleep(Duration::from_millis(100));
        if known() {
            return true;
        }
    }
    false
}

fn put(from: &str, to: &str, addresses: &[Address], routes: &[Route]) -> Result<()> {
    for address in addresses {
        let text = address.text();
        // It may be gone already, on the way back.
        let _ = ip(&["address", "delete", &text, "dev", from]);
        ip(&["address", "replace", &text, "dev", to])?;
    }
    for route in routes {
        let metric = route.metric.map(|metric| metric.to_string());
        let mut arguments = vec!["route", "replace", &route.dst];
        if let Some(gateway) = &route.gateway {
            arguments.extend(["via", gateway]);
        }
        arguments.extend(["dev", to]);
        if let Some(metric) = &metric {
            arguments.extend(["metric", metric]);
        }
        ip(&arguments)?;
    }
    Ok(())
}
