//! Sockets against a guest's side and a bus written for the test.

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_saved_state::{SavedState, golden};
use bulkhead_socket::{SavedSockets, SocketError, Sockets, port_of, service_id};
use bulkhead_vmbus_channel::test_support::GuestChannel;
use bulkhead_vmbus_channel::{BusError, ChannelBus, ChannelDevice, Offer, OfferId};
use parking_lot::Mutex;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;
use uuid::{Uuid, uuid};

type Offered = (Offer, Arc<Mutex<dyn ChannelDevice>>);

/// Offers and what became of them.
#[derive(Default)]
struct Bus {
    offers: Mutex<Vec<Offered>>,
    removed: Mutex<Vec<OfferId>>,
    refused: Mutex<Vec<(Uuid, Uuid)>>,
}

impl ChannelBus for Bus {
    fn offer(&self, offer: Offer, device: Arc<Mutex<dyn ChannelDevice>>) -> Result<OfferId, BusError> {
        let mut offers = self.offers.lock();
        offers.push((offer, device));
        Ok(OfferId(offers.len() as u64))
    }

    fn remove(&self, id: OfferId) -> Result<(), BusError> {
        self.removed.lock().push(id);
        Ok(())
    }

    fn refuse_socket(&self, endpoint: Uuid, service: Uuid) {
        self.refused.lock().push((endpoint, service));
    }
}

struct Vm {
    clock: VirtualReactor,
    reactor: Reactor,
    guest: GuestChannel,
    log: Arc<GuestLog>,
    bus: Arc<Bus>,
    accepted: Arc<Mutex<Vec<(u32, UnixStream)>>>,
    sockets: Sockets,
}

fn vm() -> Vm {
    let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
    let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
    let log = Arc::new(GuestLog::new(&reactor, "test"));
    let bus = Arc::new(Bus::default());
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let taken = accepted.clone();
    let sockets = Sockets::new(&reactor, bus.clone(), Arc::new(move |port, stream| taken.lock().push((port, stream))));
    Vm { clock, guest: GuestChannel::new(&memory, 0x10000, 6), reactor, log, bus, accepted, sockets }
}

impl Vm {
    /// The guest opens the last offer.
    fn open(&self) -> Arc<Mutex<dyn ChannelDevice>> {
        let device = self.bus.offers.lock().last().expect("an offer").1.clone();
        device.lock().open(self.guest.open(0, &self.log, false)).unwrap();
        device.lock().signalled(0);
        device
    }

    fn send(&self, data: &[u8]) {
        let mut bytes = 1u32.to_le_bytes().to_vec();
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        self.guest.send(0, false, &bytes);
    }

    /// The data of the next packet; empty at the end of the stream.
    fn receive(&self) -> Option<Vec<u8>> {
        let packet = self.guest.receive()?;
        let payload = packet.payload();
        assert_eq!(payload[..4], 1u32.to_le_bytes());
        let len = u32::from_le_bytes(payload[4..8].try_into().unwrap()) as usize;
        Some(payload[8..8 + len].to_vec())
    }
}

#[test]
fn ports_have_service_ids() {
    // Port 5000 as Linux's vsock writes it.
    assert_eq!(service_id(5000), uuid!("00001388-facb-11e6-bd58-64006a7986d3"));
    assert_eq!((port_of(service_id(7)), port_of(Uuid::nil())), (Some(7), None));
}

#[test]
fn the_host_connects_and_bytes_go_both_ways_until_both_have_ended() {
    let mut vm = vm();
    let mut host = vm.sockets.connect(5000).unwrap();
    {
        let offers = vm.bus.offers.lock();
        let offer = &offers[0].0;
        assert_eq!(
            (offer.class, offer.flags.bits() & 0x2000, &offer.user[..5]),
            (service_id(5000), 0x2000, &[0, 0, 0, 0, 1][..])
        );
    }
    let device = vm.open();
    host.write_all(b"hello").unwrap();
    vm.clock.poll_fds();
    assert_eq!(vm.receive().unwrap(), b"hello");
    vm.send(b"world");
    device.lock().signalled(0);
    let mut buffer = [0; 16];
    assert_eq!(host.read(&mut buffer).unwrap(), 5);
    // The host ends its direction; the guest may go on.
    host.shutdown(Shutdown::Write).unwrap();
    vm.clock.poll_fds();
    assert_eq!(vm.receive().unwrap(), b"");
    assert!(vm.bus.removed.lock().is_empty());
    vm.send(b"last words");
    vm.send(b"");
    device.lock().signalled(0);
    let mut rest = Vec::new();
    host.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"last words");
    vm.clock.run_posted();
    assert_eq!(*vm.bus.removed.lock(), [OfferId(1)]);
    assert_eq!(vm.sockets.inspect()["connections"], serde_json::json!([]));
}

#[test]
fn much_data_waits_for_whoever_is_slower() {
    let mut vm = vm();
    let mut host = vm.sockets.connect(1).unwrap();
    host.set_nonblocking(true).unwrap();
    let device = vm.open();
    let data: Vec<u8> = (0..1_000_000u32).map(|at| (at % 253) as u8).collect();
    let (mut sent, mut back, mut echoed) = (0, Vec::<u8>::new(), Vec::<u8>::new());
    let mut waiting: Vec<u8> = Vec::new();
    for _ in 0..100_000 {
        if sent < data.len() {
            match host.write(&data[sent..]) {
                Ok(written) => sent += written,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        vm.clock.poll_fds();
        // The guest echoes, a ring full at a time.
        while waiting.len() < 8192 {
            let Some(data) = vm.receive() else { break };
            waiting.extend(data);
        }
        if !waiting.is_empty() {
            let piece = waiting.drain(..waiting.len().min(4088)).collect::<Vec<_>>();
            echoed.extend(&piece);
            vm.send(&piece);
        }
        device.lock().signalled(0);
        let mut buffer = [0; 65536];
        if let Ok(len) = host.read(&mut buffer) {
            back.extend(&buffer[..len]);
        }
        if back.len() == data.len() {
            break;
        }
    }
    assert_eq!(back.len(), data.len());
    assert!(back == data && echoed == data);
}

#[test]
fn nobody_listens_in_the_guest() {
    let mut vm = vm();
    let mut host = vm.sockets.connect(9).unwrap();
    vm.clock.advance_to(Time::ZERO + Duration::from_secs(10));
    assert_eq!(*vm.bus.removed.lock(), [OfferId(1)]);
    assert_eq!(host.read(&mut [0; 1]).unwrap(), 0, "closed");
}

#[test]
fn programs_in_the_guest_connect_to_ports_that_listen() {
    let vm = vm();
    let endpoint = uuid!("11111111-2222-3333-4444-555555555555");
    vm.sockets.acceptor().connect(endpoint, service_id(80));
    assert_eq!(*vm.bus.refused.lock(), [(endpoint, service_id(80))]);
    vm.sockets.listen(80, true);
    vm.sockets.acceptor().connect(endpoint, service_id(80));
    {
        let offers = vm.bus.offers.lock();
        let offer = &offers[0].0;
        assert_eq!((offer.class, offer.instance, offer.user[4]), (service_id(80), endpoint, 0));
    }
    let device = vm.open();
    let (port, mut host) = vm.accepted.lock().pop().unwrap();
    assert_eq!(port, 80);
    vm.send(b"GET");
    device.lock().signalled(0);
    let mut buffer = [0; 3];
    host.read_exact(&mut buffer).unwrap();
    // The guest's program is killed.
    device.lock().close(0, QuiesceToken::new(|| {}));
    assert_eq!(host.read(&mut buffer).unwrap(), 0);
    vm.sockets.acceptor().connect(endpoint, Uuid::nil());
    assert_eq!(vm.bus.refused.lock().len(), 2);
}

#[test]
fn a_unix_socket_of_the_host_leads_to_a_port_of_the_guest() {
    let mut vm = vm();
    let folder = std::env::temp_dir().join(format!("bulkhead-socket-{}", std::process::id()));
    let _ = std::fs::remove_file(&folder);
    vm.sockets.serve(22, UnixListener::bind(&folder).unwrap()).unwrap();
    let mut host = UnixStream::connect(&folder).unwrap();
    std::fs::remove_file(&folder).unwrap();
    vm.clock.poll_fds();
    let _device = vm.open();
    host.write_all(b"ssh").unwrap();
    vm.clock.poll_fds();
    assert_eq!(vm.receive().unwrap(), b"ssh");
}

#[test]
fn nothing_moves_while_the_vm_is_paused() {
    let mut vm = vm();
    let mut host = vm.sockets.connect(1).unwrap();
    let device = vm.open();
    vm.sockets.pause(QuiesceToken::new(|| {}));
    host.write_all(b"later").unwrap();
    vm.clock.poll_fds();
    vm.clock.poll_fds();
    assert!(vm.receive().is_none());
    vm.sockets.start();
    device.lock().signalled(0);
    assert_eq!(vm.receive().unwrap(), b"later");
}

#[test]
fn broken_packets_and_too_many_connections_are_refused() {
    let mut vm = vm();
    let mut host = vm.sockets.connect(1).unwrap();
    let device = vm.open();
    vm.guest.send(0, false, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    device.lock().signalled(0);
    vm.clock.run_posted();
    assert_eq!(host.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(vm.bus.removed.lock().len(), 1);
    let mut open = Vec::new();
    let refused = loop {
        match vm.sockets.connect(2) {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
    };
    assert!(open.len() == 256 && matches!(refused, SocketError::TooMany { port: 2 }));
}

#[test]
fn the_saved_form_has_not_changed() {
    let state = SavedState::encode("sockets", 1, &SavedSockets { ports: vec![22, 5000] }).unwrap();
    golden::check("tests/golden/sockets-1.state", state.body());
    let vm = vm();
    let sockets = Sockets::restore(&vm.reactor, vm.bus.clone(), Arc::new(|_, _| {}), &state).unwrap();
    assert_eq!(sockets.save().unwrap(), state);
}
