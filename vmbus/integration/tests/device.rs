//! Services as devices: over real rings, with timers, saved and restored.

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_integration::heartbeat::{Heartbeat, HeartbeatState};
use bulkhead_integration::time_sync::{Moment, TimeSync};
use bulkhead_integration::volume_snapshot::VolumeSnapshot;
use bulkhead_integration::{IntegrationDevice, SavedConversation, SavedService};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_saved_state::{SavedState, golden};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

struct Vm {
    clock: VirtualReactor,
    reactor: Reactor,
    guest: GuestChannel,
    log: Arc<GuestLog>,
}

fn vm() -> Vm {
    let (clock, reactor) = VirtualReactor::new(Time::from_nanos(1_000), 1).unwrap();
    let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
    let log = Arc::new(GuestLog::new(&reactor, "test"));
    Vm { clock, guest: GuestChannel::new(&memory, 0x10000, 4), reactor, log }
}

impl Vm {
    fn pass(&mut self, time: Duration) {
        let to = self.reactor.now() + time;
        self.clock.advance_to(to);
    }

    /// The device's next packet.
    fn packet(&mut self) -> Option<Vec<u8>> {
        self.clock.run_posted();
        Some(self.guest.receive()?.payload().to_vec())
    }

    fn answer(&mut self, device: &Arc<Mutex<dyn ChannelDevice>>, mut packet: Vec<u8>, change: impl FnOnce(&mut [u8])) {
        packet[25] = 5;
        change(&mut packet[28..]);
        self.guest.send(0, false, &packet);
        device.lock().signalled(0);
        self.clock.run_posted();
    }

    fn negotiate(&mut self, device: &Arc<Mutex<dyn ChannelDevice>>, versions: [u8; 8]) {
        device.lock().open(self.guest.open(0, &self.log, false)).unwrap();
        let packet = self.packet().expect("a negotiation");
        self.answer(device, packet, |data| {
            data[..4].copy_from_slice(&[1, 0, 1, 0]);
            data[8..16].copy_from_slice(&versions);
        });
    }
}

#[test]
fn a_heart_goes_on_beating_after_save_and_restore() {
    let mut vm = vm();
    let device = IntegrationDevice::<Heartbeat>::new(&vm.reactor, Arc::new(|_| {}));
    let channel_device: Arc<Mutex<dyn ChannelDevice>> = device.clone();
    vm.negotiate(&channel_device, [3, 0, 0, 0, 3, 0, 0, 0]);
    let beat = vm.packet().expect("a beat");
    vm.answer(&channel_device, beat, |data| data[0] += 1);
    assert_eq!(device.lock().service().state(), HeartbeatState::Ok);
    vm.pass(Duration::from_secs(2));
    let open = vm.packet().expect("the timer sends the next beat");

    let state = device.lock().save().unwrap();
    drop((device, channel_device));
    let device = IntegrationDevice::<Heartbeat>::restore(&vm.reactor, Arc::new(|_| {}), &state).unwrap();
    let channel_device: Arc<Mutex<dyn ChannelDevice>> = device.clone();
    device.lock().open(vm.guest.open(0, &vm.log, true)).unwrap();
    assert!(vm.packet().is_none(), "no second negotiation, and a question is open");
    vm.answer(&channel_device, open, |data| data[0] += 1);
    vm.pass(Duration::from_secs(2));
    assert!(vm.packet().is_some());
    vm.pass(Duration::from_secs(10));
    assert_eq!(device.lock().service().state(), HeartbeatState::Lost);
    device.lock().close(0, QuiesceToken::new(|| {}));
    assert_eq!(device.lock().service().state(), HeartbeatState::NoContact);
    assert_eq!(device.lock().inspect()["service"]["state"], "no contact");
}

#[test]
fn a_resumed_vm_gets_the_time_at_once() {
    let mut vm = vm();
    let clocks = Arc::new(|| Moment { host: Duration::from_secs(1), reference: 2 });
    let device = IntegrationDevice::<TimeSync>::new(&vm.reactor, clocks);
    let channel_device: Arc<Mutex<dyn ChannelDevice>> = device.clone();
    vm.negotiate(&channel_device, [3, 0, 0, 0, 4, 0, 0, 0]);
    let step = vm.packet().expect("a step");
    assert_eq!(step[44], 1);
    vm.answer(&channel_device, step, |_| {});
    vm.pass(Duration::from_secs(1));
    assert!(vm.packet().is_none());
    device.lock().start();
    assert_eq!(vm.packet().expect("a step after the pause")[44], 1);
}

#[test]
fn a_service_that_waits_for_the_guest_does_not_ask_for_a_timer_in_the_past() {
    let mut vm = vm();
    let clocks = Arc::new(|| Moment { host: Duration::from_secs(1), reference: 2 });
    let device = IntegrationDevice::<TimeSync>::new(&vm.reactor, clocks);
    let channel_device: Arc<Mutex<dyn ChannelDevice>> = device.clone();
    vm.negotiate(&channel_device, [3, 0, 0, 0, 4, 0, 0, 0]);
    let step = vm.packet().expect("a step, which the guest does not answer");
    vm.pass(Duration::from_secs(1));
    device.lock().start();
    assert!(vm.packet().is_none());
    assert!(vm.clock.next_deadline().is_none_or(|at| at > vm.reactor.now()));
    vm.answer(&channel_device, step, |_| {});
    vm.pass(Duration::from_secs(1));
    assert_eq!(vm.packet().expect("a step after the pause")[44], 1);
}

#[test]
fn a_guest_that_was_saved_frozen_is_thawed() {
    let mut vm = vm();
    let device = IntegrationDevice::<VolumeSnapshot>::new(&vm.reactor, ());
    let channel_device: Arc<Mutex<dyn ChannelDevice>> = device.clone();
    vm.negotiate(&channel_device, [3, 0, 0, 0, 5, 0, 0, 0]);
    device.lock().ask(|service, later| service.freeze(Duration::from_secs(60), Box::new(|_| {}), later));
    for operation in [2, 5] {
        let packet = vm.packet().expect("a request");
        assert_eq!(packet[28], operation);
        vm.answer(&channel_device, packet, |_| {});
    }
    let state = device.lock().save().unwrap();
    drop((device, channel_device));
    let device = IntegrationDevice::<VolumeSnapshot>::restore(&vm.reactor, (), &state).unwrap();
    device.lock().open(vm.guest.open(0, &vm.log, true)).unwrap();
    assert_eq!(vm.packet().expect("a thaw")[28], 6);
}

#[test]
fn packets_that_are_no_messages_are_ignored() {
    let mut vm = vm();
    let device = IntegrationDevice::<Heartbeat>::new(&vm.reactor, Arc::new(|_| {}));
    let channel_device: Arc<Mutex<dyn ChannelDevice>> = device.clone();
    vm.negotiate(&channel_device, [3, 0, 0, 0, 3, 0, 0, 0]);
    for len in [0usize, 8, 24, 32] {
        vm.guest.send(0, false, &vec![0xff; len]);
    }
    device.lock().signalled(0);
    let beat = vm.packet().expect("a beat");
    vm.answer(&channel_device, beat, |data| data[0] += 1);
    assert_eq!(device.lock().service().state(), HeartbeatState::Ok);
}

#[test]
fn the_saved_form_has_not_changed() {
    let service = SavedService { sequence: 1 << 40, owes_thaw: true, copying: true };
    let saved = SavedConversation {
        phase: 2,
        agreed: [3, 0, 5, 0],
        transaction: 9,
        in_flight: Some((9, Some(123_456_789))),
        unsent: Some(vec![1, 2, 3]),
        service,
    };
    let state = SavedState::encode("integration-service", 1, &saved).unwrap();
    golden::check("tests/golden/integration-service-1.state", state.body());
    let vm = vm();
    let device = IntegrationDevice::<VolumeSnapshot>::restore(&vm.reactor, (), &state).unwrap();
    let again: SavedConversation = device.lock().save().unwrap().decode(1..=1).unwrap();
    // Of the service's state each service keeps its own.
    assert_eq!(again, SavedConversation { service: SavedService { owes_thaw: true, ..Default::default() }, ..saved });
}
