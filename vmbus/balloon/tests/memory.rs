//! Dynamic memory against a guest's side written from the layouts of the messages.

use bulkhead_balloon::policy::Limits;
use bulkhead_balloon::{DynamicMemory, MemoryConfig, RamSupply, SavedMemory, Target};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_saved_state::{SavedState, golden};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

#[derive(Default)]
struct Ram {
    released: Mutex<Vec<Range<u64>>>,
    added: Mutex<Vec<Range<u64>>>,
    host: Mutex<Option<(u64, u64)>>,
}

impl RamSupply for Ram {
    fn release(&self, gpa: Range<u64>) -> Result<(), String> {
        if gpa.end > 8192 * MIB {
            return Err("no RAM".into());
        }
        self.released.lock().push(gpa);
        Ok(())
    }

    fn add(&self, gpa: Range<u64>) -> Result<(), String> {
        self.added.lock().push(gpa);
        Ok(())
    }

    fn host_memory(&self) -> Option<(u64, u64)> {
        *self.host.lock()
    }
}

struct Vm {
    clock: VirtualReactor,
    reactor: Reactor,
    guest: GuestChannel,
    log: Arc<GuestLog>,
    ram: Arc<Ram>,
    device: Arc<Mutex<DynamicMemory>>,
}

fn config() -> MemoryConfig {
    let limits = Limits { minimum: 256 * MIB, maximum: 2048 * MIB, buffer: 20, weight: 5000 };
    MemoryConfig { startup: 1024 * MIB, hot_add_base: 4096 * MIB, address_limit: 8192 * MIB, limits }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn vm() -> Vm {
    let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
    let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
    let log = Arc::new(GuestLog::new(&reactor, "test"));
    let ram = Arc::new(Ram::default());
    let device = DynamicMemory::new(&reactor, config(), ram.clone());
    Vm { clock, guest: GuestChannel::new(&memory, 0x10000, 5), reactor, log, ram, device }
}

impl Vm {
    /// Sends {type, size, transaction} and a body of 8-byte words.
    fn send(&self, kind: u16, words: &[u64]) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((8 + 8 * words.len() as u16).to_le_bytes());
        bytes.extend(77u32.to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.guest.send(0, false, &bytes);
        self.device.lock().signalled(0);
    }

    /// The next message of the host, of this type.
    fn message(&self, kind: u16) -> Vec<u8> {
        let packet = self.guest.receive().expect("a message");
        let payload = packet.payload().to_vec();
        assert_eq!(u32_at(&payload, 0) as u16, kind);
        payload
    }

    fn negotiate(&self) {
        self.device.lock().open(self.guest.open(0, &self.log, false)).unwrap();
        self.send(1, &[0x3_0000]);
        assert_eq!(u64_at(&self.message(2), 8), 0, "3.0 is refused");
        self.send(1, &[0x2_0000]);
        let response = self.message(2);
        assert_eq!((u64_at(&response, 8), u32_at(&response, 4), u32_at(&response, 0) >> 16), (1, 77, 16));
        self.send(3, &[7 << 2 | 3, 0, 1 << 20]);
        assert_eq!(u64_at(&self.message(4), 8), 1);
    }

    /// A report: used and free memory in MiB.
    fn report(&self, committed: u64, available: u64) {
        self.send(5, &[available << 8, committed << 8, 0, 0, 0]);
    }
}

#[test]
fn an_idle_guest_shrinks_and_grows_again_when_it_needs_memory() {
    let vm = vm();
    vm.negotiate();
    assert!(vm.guest.receive().is_none(), "nothing is asked before the first report");
    vm.report(400, 500);
    // 400 MiB and 20 %: 480 of 1024.
    let request = vm.message(6);
    assert_eq!(u32_at(&request, 8), 544 << 8);
    // In two messages: 512 pages from page 0x1000, then the rest from 0x10000.
    vm.send(7, &[3 << 32, 512 << 40 | 0x1000]);
    vm.send(7, &[2 << 32, (((544u64 << 8) - 512) << 40) | 0x1_0000]);
    assert_eq!(*vm.ram.released.lock(), [0x100_0000..0x120_0000, 0x1000_0000..0x1000_0000 + 542 * MIB]);
    let status = vm.device.lock().status();
    assert_eq!((status.assigned, status.ballooned), (480 * MIB, 544 * MIB));
    // Linux counts its balloon as committed.
    vm.report(400 + 544, 80);
    assert!(vm.guest.receive().is_none());

    // It needs more: first from the balloon.
    vm.report(600 + 544, 10);
    let request = vm.message(8);
    assert_eq!((u32_at(&request, 8), u32_at(&request, 12)), (0, 2));
    assert_eq!((u64_at(&request, 16), u64_at(&request, 24)), (512 << 40 | 0x1000, (238 << 8) << 40 | 0x1_0000));
    vm.send(9, &[]);
    assert_eq!(vm.device.lock().status().assigned, 720 * MIB);
    // And still more: the rest of the balloon, then hot add in units of 128 MiB.
    vm.report(1100 + 304, 10);
    vm.message(8);
    vm.send(9, &[]);
    let request = vm.message(10);
    assert_eq!(u64_at(&request, 8), (256 << 8) << 40 | (4096 << 8));
    assert_eq!(*vm.ram.added.lock(), std::slice::from_ref(&(4096 * MIB..4352 * MIB)));
    // A guest that lays half of it aside is asked again a little later.
    vm.send(11, &[(1 << 32) | (128 << 8)]);
    assert_eq!(vm.device.lock().status().assigned, 1152 * MIB);
    vm.report(1000, 200);
    assert!(vm.guest.receive().is_none());
}

#[test]
fn hosts_with_little_memory_give_only_what_they_have() {
    let vm = vm();
    *vm.ram.host.lock() = Some((2048 * MIB, 300 * MIB));
    vm.negotiate();
    vm.report(2000, 10);
    // 300 free, 256 of them the host's reserve: 44 are left, less than the unit of 128.
    assert_eq!(vm.device.lock().status().target, Some(1068 * MIB));
    assert!(vm.guest.receive().is_none());
    *vm.ram.host.lock() = Some((2048 * MIB, 100 * MIB));
    vm.report(2000, 10);
    assert_eq!(vm.device.lock().status().target, Some(1024 * MIB));
}

#[test]
fn fixed_targets_stay_within_the_limits() {
    let vm = vm();
    vm.negotiate();
    vm.device.lock().set_target(Target::Fixed(1));
    assert_eq!(u32_at(&vm.message(6), 8), (768 << 8) as u32);
    vm.send(7, &[0]);
    assert_eq!(vm.device.lock().status().ballooned, 0);
    vm.device.lock().set_target(Target::Fixed(u64::MAX));
    assert_eq!(u64_at(&vm.message(10), 8) >> 40, 1024 << 8);
    vm.send(11, &[1 << 32 | 1024 << 8]);
    assert_eq!(vm.device.lock().status().assigned, 2048 * MIB);
    assert!(vm.guest.receive().is_none());
}

#[test]
fn a_guest_that_refuses_or_is_silent_is_asked_again_later() {
    let mut vm = vm();
    vm.negotiate();
    vm.device.lock().set_target(Target::Fixed(512 * MIB));
    vm.message(6);
    vm.send(7, &[0]);
    assert!(vm.guest.receive().is_none(), "not at once");
    let wait = |vm: &mut Vm, seconds: u64| vm.clock.advance_to(vm.reactor.now() + Duration::from_secs(seconds));
    wait(&mut vm, 10);
    vm.message(6);
    wait(&mut vm, 119);
    assert!(vm.guest.receive().is_none());
    wait(&mut vm, 1);
    vm.message(6);
}

#[test]
fn only_pages_that_were_asked_for_are_freed() {
    let vm = vm();
    vm.negotiate();
    vm.send(7, &[2 << 32, 10 << 40 | 5]);
    assert!(vm.ram.released.lock().is_empty());
    vm.device.lock().set_target(Target::Fixed(1016 * MIB));
    assert_eq!(u32_at(&vm.message(6), 8), 2048);
    // More than asked, the same pages twice, beyond all RAM.
    vm.send(7, &[6 << 32 | 1 << 32, 1000 << 40 | 0x100, 1000 << 40 | 0x100, 16 << 40 | 0xff_ffff_0000]);
    vm.send(7, &[2 << 32, 5000 << 40 | 0x8000]);
    assert_eq!(vm.device.lock().status().ballooned, 2048 * 4096);
    assert_eq!(vm.ram.released.lock().last(), Some(&(0x800_0000..0x800_0000 + 1048 * 4096)));
}

#[test]
fn what_the_balloon_holds_survives_save_and_restore_and_ends_with_a_reset() {
    let vm = vm();
    vm.negotiate();
    vm.device.lock().set_target(Target::Fixed(1016 * MIB));
    vm.message(6);
    vm.send(7, &[2 << 32, 2048 << 40 | 0x1000]);
    let state = vm.device.lock().save().unwrap();
    let device = DynamicMemory::restore(&vm.reactor, config(), vm.ram.clone(), &state).unwrap();
    assert_eq!(device.lock().save().unwrap(), state);
    device.lock().open(vm.guest.open(0, &vm.log, true)).unwrap();
    device.lock().set_target(Target::Fixed(1024 * MIB));
    assert_eq!(u64_at(&vm.message(8), 16), 2048 << 40 | 0x1000);
    device.lock().close(0, QuiesceToken::new(|| {}));
    device.lock().reset();
    assert_eq!(device.lock().status().assigned, 1024 * MIB);
}

#[test]
fn the_saved_form_has_not_changed() {
    let saved = SavedMemory {
        phase: 2,
        capabilities: (true, true, 32768),
        transaction: 9,
        ballooned: vec![(16, 4), (4096, 512)],
        hot_added: 65536,
        busy: 3,
        adding: 32768,
        status: Some((1, 2)),
        target: Some(1 << 30),
    };
    let state = SavedState::encode("dynamic-memory", 1, &saved).unwrap();
    golden::check("tests/golden/dynamic-memory-1.state", state.body());
    let vm = vm();
    let device = DynamicMemory::restore(&vm.reactor, config(), vm.ram.clone(), &state).unwrap();
    assert_eq!(device.lock().save().unwrap(), state);
    assert_eq!(DynamicMemory::hot_added_of(&state).unwrap(), 384 * MIB);
}
