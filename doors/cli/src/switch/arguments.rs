//! What can be said after `bulkhead switch`.

use super::bits::Bits;
use bulkhead_switch_protocol::VlanList;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a virtual switch
    Create(Box<Create>),
    /// Lists virtual switches
    List(Output),
    /// Shows a virtual switch and its ports
    Show {
        /// Name or id of the switch
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Changes a virtual switch; ports stay connected
    Set(Set),
    /// Removes a virtual switch that has no ports
    Delete {
        /// Name or id of the switch
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Lists ports
    Ports {
        /// Only those of this switch
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Shows what ports sent, received and lost, and why
    Stats {
        /// Only this port
        port: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Shows which addresses a switch knows
    Addresses {
        /// Name or id of the switch
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Copies the traffic of a port to another one
    Mirror {
        /// Name or id of the port
        port: String,
        /// What it is
        #[arg(value_enum)]
        role: Role,
        #[command(flatten)]
        at: At,
    },
    /// Writes the traffic of a port to a file, as pcapng, until Ctrl-C
    Capture {
        /// Name or id of the port
        port: String,
        /// The file; `-` is standard output
        #[arg(long, value_name = "FILE")]
        write: PathBuf,
        /// Bytes kept of each frame
        #[arg(long, value_name = "BYTES", default_value_t = 262_144)]
        snap: u32,
        #[command(flatten)]
        at: At,
    },
    /// Ports: create, set, delete
    #[command(subcommand)]
    Port(PortCommand),
}

/// `switch port`.
#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Makes a port; prints its id, its address, and the ticket with which an adapter is plugged in
    Create {
        /// Name or id of the switch
        switch: String,
        /// Name of the port
        name: String,
        #[command(flatten)]
        settings: Box<Settings>,
        #[command(flatten)]
        output: Output,
    },
    /// Changes a port; what is not named stays
    Set {
        /// Name or id of the port
        port: String,
        #[command(flatten)]
        settings: Box<Settings>,
        #[command(flatten)]
        at: At,
    },
    /// Removes a port
    Delete {
        /// Name or id of the port
        port: String,
        #[command(flatten)]
        at: At,
    },
}

/// Where the switch process is.
#[derive(Debug, Args)]
pub struct At {
    /// Folder in place of / (default: BULKHEAD_ROOT)
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// How results are shown.
#[derive(Debug, Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub at: At,
}

/// Types of switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Type {
    /// VMs among themselves
    Private,
    /// VMs and this host
    Internal,
    /// VMs and a network of this host
    External,
    /// VMs behind an address translation
    Nat,
}

/// Ways to use a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Frames are taken from the NIC and sent through it
    Packet,
    /// The interface is a bridge of Linux
    Bridge,
    /// A macvtap on the NIC
    Macvtap,
}

/// Roles in mirroring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Its traffic is copied
    Source,
    /// It gets the copies
    Destination,
    /// Neither
    None,
}

/// `switch create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the new switch
    pub name: String,
    /// What it is connected to
    #[arg(long = "type", value_enum)]
    pub kind: Type,
    /// NIC of an external switch; twice for a team of two, of which one stands by
    #[arg(long, value_name = "INTERFACE")]
    pub uplink: Vec<String>,
    /// How the NIC is used
    #[arg(long, value_enum, default_value = "packet")]
    pub uplink_mode: Mode,
    /// Share the NIC with this host: its addresses move to a port of the switch
    #[arg(long)]
    pub share: bool,
    /// Share it although the connection to this host may be lost
    #[arg(long)]
    pub force: bool,
    /// VLAN of this host's port
    #[arg(long, value_name = "VLAN", default_value_t = 0)]
    pub vlan: u16,
    /// Address of this host's port, like 192.168.137.1/24
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub address: Option<String>,
    /// Name of this host's interface
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Longest IP packet; 9000 for jumbo frames
    #[arg(long, default_value_t = 1500)]
    pub mtu: u16,
    /// Bandwidth of the way out, which ports share by weight: 1G
    #[arg(long, value_name = "BITS")]
    pub bandwidth: Option<Bits>,
    /// What it is for
    #[arg(long, default_value = "")]
    pub description: String,
    #[command(flatten)]
    pub at: At,
}

/// `switch set`.
#[derive(Debug, Args)]
pub struct Set {
    /// Name or id of the switch
    pub name: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    pub rename: Option<String>,
    /// Another description
    #[arg(long)]
    pub description: Option<String>,
    /// Another longest IP packet
    #[arg(long)]
    pub mtu: Option<u16>,
    /// Another bandwidth; `none` for no limit
    #[arg(long, value_name = "BITS")]
    pub bandwidth: Option<Bits>,
    /// Another VLAN for this host's port
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<u16>,
    /// Share an external switch with this host, or not
    #[arg(long, value_name = "BOOL")]
    pub share: Option<bool>,
    /// Do it although the connection to this host may be lost
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub at: At,
}

/// Settings of a port. What is not named is left as it is.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("vlans").args(["vlan", "trunk", "isolated", "community", "promiscuous"]))]
#[command(group = ArgGroup::new("share_of_bandwidth").args(["weight", "min_bandwidth"]))]
pub struct Settings {
    /// Its address (default: one of this host's range)
    #[arg(long)]
    pub mac: Option<String>,
    /// It may send from other addresses, as network load balancing does
    #[arg(long, value_name = "BOOL")]
    pub mac_spoofing: Option<bool>,
    /// Whether the cable is in
    #[arg(long, value_name = "BOOL")]
    pub connected: Option<bool>,
    /// Untagged, in this VLAN; 0 for none
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<u16>,
    /// Tagged, in these VLANs: 10,20-29
    #[arg(long, value_name = "VLANS")]
    pub trunk: Option<VlanList>,
    /// VLAN of the untagged frames of a trunk
    #[arg(long, value_name = "VLAN", requires = "trunk")]
    pub native: Option<u16>,
    /// Private VLAN, alone: primary and secondary, 5,6
    #[arg(long, value_name = "VLANS", value_delimiter = ',', num_args = 2)]
    pub isolated: Option<Vec<u16>>,
    /// Private VLAN, with its community: primary and secondary, 5,7
    #[arg(long, value_name = "VLANS", value_delimiter = ',', num_args = 2)]
    pub community: Option<Vec<u16>>,
    /// Private VLAN, with everybody: the primary one
    #[arg(long, value_name = "VLAN", requires = "secondary")]
    pub promiscuous: Option<u16>,
    /// The secondary VLANs of a promiscuous port: 6,7
    #[arg(long, value_name = "VLANS", requires = "promiscuous")]
    pub secondary: Option<VlanList>,
    /// It may not answer DHCP
    #[arg(long, value_name = "BOOL")]
    pub dhcp_guard: Option<bool>,
    /// It may not advertise routes
    #[arg(long, value_name = "BOOL")]
    pub router_guard: Option<bool>,
    /// The only IP addresses that it may claim; `none` lifts the guard
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = parse_guarded)]
    pub arp_guard: Option<Vec<Option<IpAddr>>>,
    /// An access rule, like `deny,outbound,remote=10.0.0.0/8,protocol=6,remote-port=25`; the first that matches decides. Given
    /// rules replace all old ones; `none` removes them
    #[arg(long, value_name = "RULE")]
    pub acl: Vec<String>,
    /// Broadcasts per second; 0 for no limit
    #[arg(long, value_name = "FRAMES")]
    pub storm_limit: Option<u32>,
    /// Share of a busy way out, 1 to 10000
    #[arg(long)]
    pub weight: Option<u16>,
    /// Bandwidth that it has at least of a busy way out
    #[arg(long, value_name = "BITS")]
    pub min_bandwidth: Option<Bits>,
    /// Bandwidth that it may use
    #[arg(long, value_name = "BITS")]
    pub max_bandwidth: Option<Bits>,
}

fn parse_guarded(text: &str) -> Result<Option<IpAddr>, String> {
    if text == "none" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("`{text}` is no IP address"))
}
