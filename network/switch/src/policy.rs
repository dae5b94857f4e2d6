//! From the settings of a port to the policy of the switch core.

use bulkhead_packets::MacAddress;
use bulkhead_switch_core::{AclAction, AclDirection, AclRule, IpPrefix, Mirror, Policy, PortKind, VlanMode, VlanSet};
use bulkhead_switch_protocol::{
    AclActionName, AclDirectionName, AclEntry, MirrorName, PortSettings, SwitchDefinition, VlanSettings,
};

/// The weight of a port that has none set.
const DEFAULT_WEIGHT: u16 = 100;

/// The policy of a guest's port on a switch.
///
/// # Errors
/// What cannot be, in words for people.
pub fn of_guest(settings: &PortSettings, switch: &SwitchDefinition) -> Result<Policy, String> {
    settings.check()?;
    let mac: Option<MacAddress> = match &settings.mac {
        Some(text) => Some(text.parse().map_err(|error| format!("{error}"))?),
        None => None,
    };
    let mut policy = Policy::guest(mac.unwrap_or_default());
    policy.mac = mac;
    policy.mac_spoofing = settings.mac_spoofing;
    policy.connected = settings.connected;
    policy.vlan = vlan(&settings.vlan);
    policy.dhcp_guard = settings.dhcp_guard;
    policy.router_guard = settings.router_guard;
    policy.arp_guard = settings.arp_guard.clone();
    policy.acl = settings.acl.iter().map(rule).collect::<Result<_, _>>()?;
    policy.mirror = match settings.mirror {
        MirrorName::None => Mirror::None,
        MirrorName::Source => Mirror::Source,
        MirrorName::Destination => Mirror::Destination,
    };
    policy.storm_limit = settings.storm_limit;
    policy.weight = weight(settings, switch)?;
    policy.send_limit = settings.max_bandwidth;
    Ok(policy)
}

/// A minimum is a share of the bandwidth of the way out: with weights in its proportion, every port has at least its minimum.
fn weight(settings: &PortSettings, switch: &SwitchDefinition) -> Result<u16, String> {
    let Some(minimum) = settings.min_bandwidth else { return Ok(settings.weight.unwrap_or(DEFAULT_WEIGHT)) };
    let Some(bandwidth) = switch.bandwidth.filter(|&bandwidth| bandwidth > 0) else {
        return Err(format!("a minimum bandwidth, but switch {} has no bandwidth set: set it first", switch.name));
    };
    if minimum > bandwidth {
        return Err(format!("a minimum of {minimum} bit/s, but switch {} has {bandwidth} in all", switch.name));
    }
    let share = u128::from(minimum) * 10_000 / u128::from(bandwidth);
    Ok(u16::try_from(share).unwrap_or(10_000).clamp(1, 10_000))
}

/// VLANs of a port.
pub fn vlan(settings: &VlanSettings) -> VlanMode {
    match settings {
        VlanSettings::Access(vlan) => VlanMode::Access(*vlan),
        VlanSettings::Trunk { native, allowed } => {
            VlanMode::Trunk { native: *native, allowed: allowed.iter().collect::<VlanSet>() }
        }
        &VlanSettings::Isolated { primary, secondary } => VlanMode::Isolated { primary, secondary },
        &VlanSettings::Community { primary, secondary } => VlanMode::Community { primary, secondary },
        VlanSettings::Promiscuous { primary, secondary } => {
            VlanMode::Promiscuous { primary: *primary, secondary: secondary.iter().collect::<VlanSet>() }
        }
    }
}

fn rule(entry: &AclEntry) -> Result<AclRule, String> {
    let action = match entry.action {
        AclActionName::Allow => AclAction::Allow,
        AclActionName::Deny => AclAction::Deny,
    };
    let direction = match entry.direction {
        AclDirectionName::Inbound => AclDirection::Inbound,
        AclDirectionName::Outbound => AclDirection::Outbound,
        AclDirectionName::Both => AclDirection::Both,
    };
    let remote_mac = entry.remote_mac.as_ref().map(|text| text.parse::<MacAddress>()).transpose();
    Ok(AclRule {
        remote_mac: remote_mac.map_err(|error| error.to_string())?,
        local: entry.local.as_deref().map(prefix).transpose()?,
        remote: entry.remote.as_deref().map(prefix).transpose()?,
        protocol: entry.protocol,
        local_port: entry.local_port,
        remote_port: entry.remote_port,
        ..AclRule::all(action, direction)
    })
}

fn prefix(text: &str) -> Result<IpPrefix, String> {
    let wrong = || format!("{text:?} is no address with a prefix, like 10.0.0.0/8");
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let address: std::net::IpAddr = address.parse().map_err(|_| wrong())?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    IpPrefix::new(address, bits.unwrap_or(all)).ok_or_else(wrong)
}

/// The policy of an uplink.
pub fn of_uplink(switch: &SwitchDefinition) -> Policy {
    Policy { receive_limit: switch.bandwidth.filter(|&bandwidth| bandwidth > 0), ..Policy::uplink() }
}

/// The policy of the host's port.
pub fn of_host(switch: &SwitchDefinition) -> Policy {
    let vlan = switch.host.as_ref().map_or(0, |host| host.vlan);
    Policy { vlan: VlanMode::Access(vlan), ..Policy::host() }
}

/// What a kind of port is called.
pub fn kind(policy: &Policy) -> &'static str {
    match policy.kind {
        PortKind::Guest => "guest",
        PortKind::Host => "host",
        PortKind::Uplink => "uplink",
    }
}
