//! A guest: smoltcp on the NIC's side of a port, and the NAT process in a thread on the other.

#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "processes and their clocks are real here")]

use bulkhead_linux::{SeqPacket, SeqPacketListener};
use bulkhead_nat_protocol::{NatAnswer, NatConfig, NatPort, NatReply, NatRequest, ToNat};
use bulkhead_packets::FrameMeta;
use bulkhead_port::{AttachOptions, Port, RingSize};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::JoinHandle;
use std::time::Duration;

pub const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 0x01, 0x02, 0x03];
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 137, 1);
/// Nothing here takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// The process, in a thread; it ends when this is dropped.
pub struct Nat {
    starter: Option<SeqPacket>,
    thread: Option<JoinHandle<()>>,
    last: u64,
}

impl Nat {
    pub fn ask(&mut self, request: NatRequest, descriptors: &[BorrowedFd<'_>]) -> Result<NatAnswer, String> {
        self.last += 1;
        let starter = self.starter.as_ref().unwrap();
        let bytes = serde_json::to_vec(&ToNat { id: self.last, request }).unwrap();
        starter.send(&bytes, descriptors).unwrap();
        let reply: NatReply = serde_json::from_slice(&starter.receive().unwrap().unwrap().bytes).unwrap();
        assert_eq!(reply.id, self.last);
        reply.result
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.starter = None;
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// A NAT and the NIC's side of its port.
pub fn start(config: NatConfig, options: AttachOptions, folder: Option<&std::path::Path>) -> (Nat, Port) {
    let (starter, theirs) = SeqPacket::pair().unwrap();
    let thread = std::thread::spawn(move || bulkhead_nat_process::run(theirs, false).unwrap());
    let mut nat = Nat { starter: Some(starter), thread: Some(thread), last: 0 };
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("nat.sock");
    let listener = SeqPacketListener::bind(&path, 0o600).unwrap();
    let port = NatPort::Adapter { ticket: "t".into(), mac: "00-15-5D-01-02-03".into() };
    let folder = folder.map(|folder| std::fs::File::open(folder).unwrap());
    let mut descriptors = vec![listener.as_fd()];
    descriptors.extend(folder.as_ref().map(AsFd::as_fd));
    nat.ask(NatRequest::Start { config: Box::new(config), port }, &descriptors).unwrap();
    let socket = SeqPacket::connect(&path).unwrap();
    let port = Port::attach_over(socket, "t", RingSize::new(4 << 20).unwrap(), options).unwrap();
    (nat, port)
}

/// The NIC of smoltcp.
pub struct Nic {
    port: Port,
    mtu: usize,
    completed: bool,
    /// Of so many frames to the guest one is lost.
    pub lose_one_of: Option<u32>,
    /// The guest believes that the other side takes segments of 60 KB, as with large-send offload.
    pub large_segments: bool,
    counted: u32,
}

impl Nic {
    fn loses(&mut self) -> bool {
        self.counted = self.counted.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.lose_one_of.is_some_and(|of| (self.counted >> 8).is_multiple_of(of))
    }
}

pub struct Rx(Vec<u8>);
pub struct Tx<'a>(&'a mut Nic);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, act: F) -> R {
        act(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, act: F) -> R {
        let mut frame = vec![0; len];
        let result = act(&mut frame);
        frame.resize(len.max(14), 0);
        self.0.port.ring.tx.send(&FrameMeta::default(), &[&frame]).unwrap();
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.port.ring.rx.peek().unwrap()?;
        let mut bytes = Vec::new();
        frame.read_all(&mut bytes).unwrap();
        self.port.ring.rx.advance();
        self.port.ring.rx.release_some().unwrap();
        if self.loses() {
            return self.receive(Instant::ZERO);
        }
        // A SYN of IPv4 without options of its own: the first option of TCP is the largest segment.
        if self.large_segments && bytes.len() > 57 && bytes[47] & 2 != 0 && bytes[54..56] == [2, 4] {
            bytes[56..58].copy_from_slice(&60_000u16.to_be_bytes());
        }
        Some((Rx(bytes), Tx(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        let room = self.port.ring.tx.reserve(self.mtu + 14).unwrap().is_some();
        if room { Some(Tx(self)) } else { None }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities.medium = Medium::Ethernet;
        if !self.completed {
            capabilities.checksum = ChecksumCapabilities::ignored();
            capabilities.checksum.ipv4 = Checksum::Both;
        }
        capabilities
    }
}

/// The guest.
pub struct Guest {
    pub nic: Nic,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    begun: std::time::Instant,
}

fn host_now() -> std::time::Instant {
    std::time::Instant::now()
}

impl Guest {
    /// A guest without an address. With `completed` it wants whole checksums and frames of at most the MTU.
    pub fn new(port: Port, mtu: usize, completed: bool) -> Guest {
        let mut nic = Nic { port, mtu, completed, lose_one_of: None, large_segments: false, counted: 1 };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        config.random_seed = 7;
        let interface = Interface::new(config, &mut nic, Instant::ZERO);
        Guest { nic, interface, sockets: SocketSet::new(Vec::new()), begun: host_now() }
    }

    /// A guest with the address 192.168.137.50.
    pub fn with_address(port: Port, mtu: usize, completed: bool) -> Guest {
        let mut guest = Guest::new(port, mtu, completed);
        guest.set_address(Ipv4Cidr::new(Ipv4Addr::new(192, 168, 137, 50), 24));
        guest
    }

    pub fn set_address(&mut self, address: Ipv4Cidr) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::Ipv4(address)).unwrap();
        });
        self.interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
    }

    /// The address from DHCP.
    pub fn dhcp(&mut self) -> (Ipv4Cidr, dhcpv4::Config<'static>) {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        let found = self.until("a lease", |sockets, _| match sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            Some(dhcpv4::Event::Configured(config)) => Some(dhcpv4::Config { packet: None, ..config }),
            _ => None,
        });
        self.set_address(found.address);
        (found.address, found)
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.begun.elapsed().as_micros() as i64)
    }

    /// Lets the guest run until `done` has a result.
    #[track_caller]
    pub fn until<R>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut SocketSet<'static>, &mut Interface) -> Option<R>,
    ) -> R {
        let end = self.begun.elapsed() + PATIENCE;
        loop {
            let now = self.now();
            self.interface.poll(now, &mut self.nic, &mut self.sockets);
            let result = done(&mut self.sockets, &mut self.interface);
            // What `done` has put into sockets.
            self.interface.poll(now, &mut self.nic, &mut self.sockets);
            self.nic.port.ring.tx.publish().unwrap();
            if let Some(result) = result {
                return result;
            }
            assert!(self.begun.elapsed() < end, "waited for {what} in vain");
            if !self.nic.port.ring.rx.sleep().unwrap() {
                continue;
            }
            let wait = self.interface.poll_delay(now, &self.sockets).map_or(50_000, |delay| delay.total_micros());
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.min(50_000) as i64 * 1000 };
            let wake = &self.nic.port.ring.wake;
            if poll(&mut [PollFd::new(wake, PollFlags::IN)], Some(&wait)).unwrap() > 0 {
                wake.clear().unwrap();
            }
        }
    }

    /// A TCP socket with large buffers.
    pub fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 20]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.sockets.add(socket)
    }

    pub fn connect(&mut self, handle: SocketHandle, to: (Ipv4Addr, u16), from: u16) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).unwrap();
    }
}
