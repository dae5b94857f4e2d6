//! Making the ways out that a definition asks for.

use crate::helper::Helper;
use anyhow::{Context, Result};
use bulkhead_switch_protocol::{HelperRequest, HostPort, SwitchDefinition, UplinkMode};
use bulkhead_uplinks::{Packet, Tap, Team, Uplink};

/// Opens the uplink of an external switch; `None` for other types.
///
/// # Errors
/// The helper does not run, or there is no such interface.
pub fn open(switch: &SwitchDefinition, helper: &Helper) -> Result<Option<Box<dyn Uplink>>> {
    let Some(uplink) = &switch.uplink else { return Ok(None) };
    let first = uplink.interfaces.first().context("an uplink without an interface")?.clone();
    Ok(Some(match uplink.mode {
        UplinkMode::Packet => {
            let mut members = Vec::new();
            for interface in &uplink.interfaces {
                let socket = helper.open(&HelperRequest::OpenPacket { interface: interface.clone() })?;
                members.push(Packet::new(socket, interface.clone()));
            }
            Box::new(Team::new(members).context("an uplink without an interface")?)
        }
        UplinkMode::Bridge => {
            let interface = interface_name("bh", switch);
            let request = HelperRequest::OpenBridgePort { bridge: first.clone(), interface };
            Box::new(Tap::new(helper.open(&request)?, first))
        }
        UplinkMode::Macvtap => {
            let interface = interface_name("mv", switch);
            let request = HelperRequest::OpenMacvtap { parent: first.clone(), interface };
            Box::new(Tap::new(helper.open(&request)?, first))
        }
    }))
}

/// Opens the host's interface of a switch.
///
/// # Errors
/// The helper does not run, or the name is taken.
pub fn open_host(switch: &SwitchDefinition, host: &HostPort, helper: &Helper) -> Result<Box<dyn Uplink>> {
    let interface = host_interface(switch, host);
    let request =
        HelperRequest::OpenTap { interface: interface.clone(), mtu: switch.mtu, address: host.address.clone() };
    Ok(Box::new(Tap::new(helper.open(&request)?, interface)))
}

/// The name of the host's interface.
pub fn host_interface(switch: &SwitchDefinition, host: &HostPort) -> String {
    host.interface.clone().unwrap_or_else(|| interface_name("vE-", switch))
}

/// Keeps the name of the host's interface, so that renaming the switch does not change it.
pub fn name_host_interface(switch: &mut SwitchDefinition) {
    let Some(name) = switch.host.as_ref().map(|host| host_interface(switch, host)) else { return };
    if let Some(host) = &mut switch.host {
        host.interface = Some(name);
    }
}

/// A name for an interface of Linux, from the switch's own: what is no letter or digit is left out, and the id makes it unique.
fn interface_name(prefix: &str, switch: &SwitchDefinition) -> String {
    let name: String = switch.name.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
    let id = switch.id.to_string();
    format!("{prefix}{name}{}", &id[id.len() - 4..])
}
