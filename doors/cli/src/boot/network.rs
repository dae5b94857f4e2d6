//! `--nic`: what adapters are asked for, and what they are plugged into: a port of a virtual switch, or a NAT of their own that
//! lives as long as the VM.

use super::files::Named;
use crate::exit::Failure;
use anyhow::{Context, Result, anyhow, bail};
use bulkhead_linux::{SeqPacket, SeqPacketListener};
use bulkhead_nat_protocol::{
    BootConfig, Forward, NatConfig, NatPort, NatReply, NatRequest, Protocol, Reservation, ToNat,
};
use bulkhead_switch_protocol::paths::{PORTS_SOCKET, control_socket, root, runtime};
use bulkhead_switch_protocol::{Answer, Channel, FromSwitch, Hello, PortSettings, Request, ToSwitch, VERSION};
use bulkhead_vm_description::{AdapterKind, NetworkAdapter, SwitchPort, VmDescription};
use bulkhead_worker_protocol::resource;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What `--nic` says instead of the name of a switch.
const NAT: &str = "nat";
/// The guest's address behind a NAT of its own.
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 137, 10);

/// `SWITCH|nat|none` and options behind commas.
#[derive(Debug, Default, PartialEq, Eq)]
struct NicArgument {
    target: String,
    legacy: bool,
    mac: Option<String>,
    forwards: Vec<Forward>,
    boot_folder: Option<PathBuf>,
    boot_file: Option<String>,
    host: bool,
}

impl std::str::FromStr for NicArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<NicArgument, String> {
        let mut parts = text.split(',');
        let mut nic = NicArgument { target: parts.next().unwrap_or_default().into(), ..NicArgument::default() };
        if nic.target.is_empty() {
            return Err(format!("--nic {text}: name a switch, nat or none"));
        }
        for option in parts {
            match option.split_once('=') {
                None if option == "legacy" => nic.legacy = true,
                None if option == "host" => nic.host = true,
                Some(("mac", mac)) => nic.mac = Some(mac.into()),
                Some(("forward", forward)) => {
                    nic.forwards.push(parse_forward(forward).ok_or_else(|| {
                        format!("--nic {text}: {option}: write forward=[tcp:|udp:]HOSTPORT:GUESTPORT")
                    })?);
                }
                Some(("boot-folder", folder)) => nic.boot_folder = Some(folder.into()),
                Some(("boot-file", file)) => nic.boot_file = Some(file.into()),
                _ => {
                    return Err(format!(
                        "--nic {text}: {option} is no option; there are legacy, mac=, and for nat host, forward=, \
                         boot-folder=, boot-file="
                    ));
                }
            }
        }
        let only_nat = nic.host || !nic.forwards.is_empty() || nic.boot_folder.is_some() || nic.boot_file.is_some();
        if only_nat && nic.target != NAT {
            return Err(format!("--nic {text}: host, forward=, boot-folder= and boot-file= are options of nat"));
        }
        Ok(nic)
    }
}

fn parse_forward(text: &str) -> Option<Forward> {
    let (protocol, ports) = match text.split_once(':')? {
        ("tcp", ports) => (Protocol::Tcp, ports),
        ("udp", ports) => (Protocol::Udp, ports),
        _ => (Protocol::Tcp, text),
    };
    let (host, guest) = ports.split_once(':')?;
    let listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, host.parse().ok()?);
    Some(Forward { protocol, listen, guest: SocketAddrV4::new(GUEST, guest.parse().ok()?) })
}

/// What the adapters are plugged into. Dropped, a NAT of their own ends; ports of switches end with the worker.
#[derive(Default)]
pub struct Network {
    _nat: Option<NatProcess>,
    /// The connection to the switch process.
    _switch: Option<Channel<ToSwitch, FromSwitch>>,
}

struct NatProcess {
    child: Child,
    socket: Option<SeqPacket>,
    _folder: tempfile::TempDir,
}

impl Drop for NatProcess {
    fn drop(&mut self) {
        // It ends when its socket closes.
        self.socket = None;
        let _ = self.child.wait();
    }
}

/// Adds the adapters to the description, plugs them in, and opens what the worker needs for that.
///
/// # Errors
/// Wrong arguments; no such switch; the NAT cannot be started.
pub fn prepare(nics: &[String], vm: &mut VmDescription, files: &mut Vec<Named>) -> Result<Network, Failure> {
    let parsed: Result<Vec<NicArgument>, String> = nics.iter().map(|text| text.parse()).collect();
    let mut nics = parsed.map_err(Failure::Usage)?;
    nics.retain(|nic| nic.target != "none");
    if nics.is_empty() {
        return Ok(Network::default());
    }
    if nics.len() > 1 && nics.iter().any(|nic| nic.target == NAT) {
        let message =
            "--nic nat is for a single adapter; make a switch of type nat for several: bulkhead switch create";
        return Err(Failure::Usage(message.into()));
    }
    if nics[0].target == NAT { own_nat(&nics[0], vm, files) } else { switches(&nics, vm, files) }
}

fn adapter(nic: &NicArgument, address: &str, ticket: String) -> Result<NetworkAdapter, Failure> {
    let kind = if nic.legacy { AdapterKind::Legacy } else { AdapterKind::Synthetic };
    let address = address.parse().map_err(|error| Failure::Usage(format!("--nic {}: {error}", nic.target)))?;
    Ok(NetworkAdapter { kind, address, port: Some(SwitchPort { switch: nic.target.clone(), ticket }) })
}

fn own_nat(nic: &NicArgument, vm: &mut VmDescription, files: &mut Vec<Named>) -> Result<Network, Failure> {
    let id = vm.id.to_string();
    // Of Hyper-V's range; the same for the same VM, so that a saved one finds its address again.
    let digits: String = id.chars().rev().filter(char::is_ascii_hexdigit).take(6).collect();
    let address = nic.mac.clone().unwrap_or_else(|| format!("00155d{digits}"));
    let ticket = id;
    let adapter = adapter(nic, &address, ticket.clone())?;
    let boot = BootConfig { ipxe: nic.boot_file.clone(), ..BootConfig::default() };
    let mac = adapter.address.to_string();
    let reservation = Reservation { mac: mac.clone(), address: Some(GUEST), name: None, boot_file: None };
    let config = NatConfig {
        host_access: nic.host,
        dns: host_dns_servers(),
        reservations: vec![reservation],
        forwards: nic.forwards.clone(),
        boot,
        ..NatConfig::default()
    };
    let folder = tempfile::Builder::new().prefix("bulkhead-nat-").tempdir().context("cannot make a folder")?;
    let listener = SeqPacketListener::bind(folder.path().join(PORTS_SOCKET), 0o600).context("cannot make a socket")?;
    let boot_folder = match &nic.boot_folder {
        Some(path) => {
            Some(File::open(path).with_context(|| format!("cannot open the boot folder {}", path.display()))?)
        }
        None => None,
    };
    let request = NatRequest::Start { config: Box::new(config), port: NatPort::Adapter { ticket, mac } };
    let (child, socket) = start_nat(request, listener, boot_folder)?;
    let opened = File::open(folder.path()).context("cannot open a folder just made")?;
    files.push((resource::SWITCH.into(), opened.into()));
    vm.network.push(adapter);
    Ok(Network { _nat: Some(NatProcess { child, socket: Some(socket), _folder: folder }), _switch: None })
}

fn start_nat(request: NatRequest, listener: SeqPacketListener, folder: Option<File>) -> Result<(Child, SeqPacket)> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    let program = own.with_file_name("bulkhead-nat");
    let (ours, theirs) = SeqPacket::pair().context("cannot make a socket")?;
    let child = Command::new(&program)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
        .spawn()
        .with_context(|| format!("cannot start {}; it belongs beside this program", program.display()))?;
    let bytes = serde_json::to_vec(&ToNat { id: 1, request }).context("cannot write a request")?;
    let mut descriptors = vec![listener.as_fd()];
    descriptors.extend(folder.as_ref().map(AsFd::as_fd));
    ours.send(&bytes, &descriptors).context("the NAT has ended")?;
    let answer = ours.receive().context("the NAT has ended")?.ok_or_else(|| anyhow!("the NAT has ended"))?;
    let reply: NatReply = serde_json::from_slice(&answer.bytes).context("the NAT speaks another protocol")?;
    match reply.result {
        Ok(_) => Ok((child, ours)),
        Err(message) => bail!("the NAT cannot start: {message}"),
    }
}

/// The IPv4 name servers that the host uses itself.
fn host_dns_servers() -> Vec<SocketAddrV4> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    servers.map(|address: Ipv4Addr| SocketAddrV4::new(address, 53)).collect()
}

fn switches(nics: &[NicArgument], vm: &mut VmDescription, files: &mut Vec<Named>) -> Result<Network, Failure> {
    let root = root(None);
    let path = control_socket(&root);
    let what = || format!("cannot reach bulkhead-switch at {}; is it running?", path.display());
    let socket = SeqPacket::connect(&path).map_err(|error| Failure::of(error, what()))?;
    let channel: Channel<ToSwitch, FromSwitch> = Channel::new(socket);
    ask(&channel, 1, Request::Hello(Hello { version: VERSION, features: Vec::new() }))?;
    for (index, nic) in nics.iter().enumerate() {
        let name = format!("{} {index}", vm.name);
        let settings = PortSettings { name, mac: nic.mac.clone(), ephemeral: true, ..PortSettings::default() };
        let request = Request::CreatePort { switch: nic.target.clone(), settings: Box::new(settings) };
        let Answer::Port { ticket, mac, .. } = ask(&channel, index as u64 + 2, request)? else {
            return Err(Failure::Failed(anyhow!("bulkhead-switch made no port of {}", nic.target)));
        };
        vm.network.push(adapter(nic, &mac, ticket)?);
    }
    let folder = runtime(&root);
    let opened = File::open(&folder).with_context(|| format!("cannot open {}", folder.display()))?;
    files.push((resource::SWITCH.into(), opened.into()));
    Ok(Network { _nat: None, _switch: Some(channel) })
}

fn ask(channel: &Channel<ToSwitch, FromSwitch>, id: u64, request: Request) -> Result<Answer, Failure> {
    let gone = || anyhow!("bulkhead-switch closed the connection");
    channel.send(&ToSwitch { id, request }, &[]).context("bulkhead-switch does not listen")?;
    let reply = channel.receive().context("bulkhead-switch does not answer")?.ok_or_else(gone)?.message;
    reply.result.map_err(|problem| Failure::Failed(anyhow!(problem.message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_options() {
        let nic: NicArgument =
            "nat,legacy,host,mac=00-15-5D-00-00-05,forward=2222:22,forward=udp:53:5353,boot-folder=/srv/tftp,boot-file=b.ipxe"
                .parse()
                .unwrap();
        assert!(nic.legacy && nic.host);
        assert_eq!(nic.mac.as_deref(), Some("00-15-5D-00-00-05"));
        assert_eq!(nic.forwards[0].listen, "127.0.0.1:2222".parse().unwrap());
        assert_eq!((nic.forwards[1].protocol, nic.forwards[1].guest.port()), (Protocol::Udp, 5353));
        assert_eq!(nic.boot_file.as_deref(), Some("b.ipxe"));
        for wrong in ["", "nat,forward=x", "nat,speed=1", "lan,host"] {
            assert!(wrong.parse::<NicArgument>().is_err(), "{wrong}");
        }
    }
}
