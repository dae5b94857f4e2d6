//! A guest on the bus: posts what a kernel posts, and has a SynIC that keeps what it gets.

#![allow(dead_code, reason = "each test uses its own part")]

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};
use bulkhead_hyperv::{HypercallPorts, HypercallStatus, SynicError, SynicMessage, SynicPort};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_vmbus::{VmBus, VmBusDevice, Wiring};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, Gpadl, Offer, OpenRefused, SendError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

pub const RAM: u64 = 4 << 20;
pub const VPS: u32 = 2;

/// Messages and events, as they came.
#[derive(Default)]
pub struct Synic {
    pub messages: Mutex<VecDeque<(u32, Vec<u8>)>>,
    pub events: Mutex<Vec<(u32, u16)>>,
}

impl SynicPort for Synic {
    fn post_message(&self, vp: u32, sint: u8, message: &SynicMessage) -> Result<(), SynicError> {
        assert_eq!((sint, message.message_type()), (2, 1));
        self.messages.lock().push_back((vp, message.payload().to_vec()));
        Ok(())
    }
    fn signal_event(&self, vp: u32, sint: u8, flag: u16) -> Result<(), SynicError> {
        assert_eq!(sint, 2);
        self.events.lock().push((vp, flag));
        Ok(())
    }
    fn discard_messages(&self, _sint: u8) {
        self.messages.lock().clear();
    }
}

pub struct Guest {
    pub reactor: VirtualReactor,
    pub handle: Reactor,
    pub memory: GuestMemory,
    pub synic: Arc<Synic>,
    pub bus: Arc<VmBus>,
    pub device: VmBusDevice,
    pub ports: Arc<dyn HypercallPorts>,
}

pub fn wiring(handle: &Reactor, memory: &GuestMemory, synic: &Arc<Synic>) -> Wiring {
    Wiring { reactor: handle.clone(), memory: memory.clone(), synic: synic.clone(), vps: VPS }
}

impl Guest {
    pub fn new() -> Guest {
        let (reactor, handle) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let memory = GuestMemory::builder().anonymous(0, RAM).build().unwrap();
        let synic = Arc::new(Synic::default());
        let bus = VmBus::new(wiring(&handle, &memory, &synic));
        let mut guest = Guest::around(reactor, handle, memory, synic, bus);
        guest.device.start();
        guest
    }

    pub fn around(
        reactor: VirtualReactor,
        handle: Reactor,
        memory: GuestMemory,
        synic: Arc<Synic>,
        bus: Arc<VmBus>,
    ) -> Guest {
        let (device, ports) = (VmBusDevice::new(bus.clone()), bus.ports());
        Guest { reactor, handle, memory, synic, bus, device, ports }
    }

    /// Lets the loop do what there is to do.
    pub fn run(&mut self) {
        self.reactor.run_posted();
    }

    pub fn post(&mut self, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.post_bytes(&bytes);
    }

    pub fn post_bytes(&mut self, bytes: &[u8]) {
        assert_eq!(self.ports.post_message(4, 1, bytes), HypercallStatus::Success);
        self.run();
    }

    /// The next message, as words.
    pub fn message(&self) -> Option<Vec<u32>> {
        let (_, bytes) = self.synic.messages.lock().pop_front()?;
        Some(bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect())
    }

    pub fn messages(&self) -> Vec<Vec<u32>> {
        std::iter::from_fn(|| self.message()).collect()
    }

    /// First contact, and the answer.
    pub fn contact(&mut self, version: u32) -> Vec<u32> {
        self.post(&[14, 0, version, 1, 2, 0, 0, 0, 0, 0]);
        self.message().expect("an answer to first contact")
    }

    /// Contact and offers: channel number, and sub-channel index, of each.
    pub fn connect(&mut self) -> Vec<(u32, u32)> {
        assert_eq!(self.contact(0x5_0003), [15, 0, 1, 4]);
        self.post(&[3, 0]);
        let mut messages = self.messages();
        assert_eq!(messages.pop(), Some(vec![4, 0]));
        messages.iter().map(|offer| (offer[46], offer[45])).collect()
    }

    /// Describes `pages` pages from `gpa` on as GPADL `handle` of a channel. Returns the status.
    pub fn make_gpadl(&mut self, relid: u32, handle: u32, gpa: u64, pages: u64) -> u32 {
        let mut numbers: Vec<u64> = (0..pages).map(|page| gpa / PAGE_SIZE + page).collect();
        let rest = numbers.split_off(numbers.len().min(26));
        let mut message: Vec<u8> = [8, 0, relid, handle].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        message.extend((8 + 8 * pages as u16).to_le_bytes());
        message.extend(1u16.to_le_bytes());
        message.extend((pages as u32 * 4096).to_le_bytes());
        message.extend(0u32.to_le_bytes());
        numbers.iter().for_each(|number| message.extend(number.to_le_bytes()));
        self.post_bytes(&message);
        for part in rest.chunks(28) {
            let mut message: Vec<u8> = [9, 0, 0, handle].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
            part.iter().for_each(|number| message.extend(number.to_le_bytes()));
            self.post_bytes(&message);
        }
        let answer = self.message().expect("an answer to a GPADL");
        assert_eq!(answer[..4], [10, 0, relid, handle]);
        answer[4]
    }

    /// Opens a channel whose rings are in a GPADL.
    pub fn open(&mut self, relid: u32, handle: u32, target_vp: u32, downstream: u32) -> Option<u32> {
        let mut message = vec![5, 0, relid, relid + 0x700, handle, target_vp, downstream];
        message.resize(37, 0x5555_5555);
        self.post(&message);
        let answer = self.message()?;
        assert_eq!(answer[..4], [6, 0, relid, relid + 0x700]);
        Some(answer[4])
    }

    /// Rings of 2 pages each at `gpa`, and an open channel over them.
    pub fn open_channel(&mut self, relid: u32, gpa: u64) {
        assert_eq!(self.make_gpadl(relid, 0xe1e00 + relid, gpa, 4), 0);
        assert_eq!(self.open(relid, 0xe1e00 + relid, 1, 2), Some(0));
    }

    pub fn signal(&mut self, relid: u32) -> HypercallStatus {
        let status = self.ports.signal_event(relid | 0x2000, 0);
        self.run();
        status
    }

    pub fn pause(&mut self) {
        let (quiet, is_quiet) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(false)));
        let flag = is_quiet.clone();
        drop(quiet);
        self.device.pause(QuiesceToken::new(move || *flag.lock() = true));
        self.run();
        assert!(*is_quiet.lock(), "the bus is quiet");
    }
}

/// A device that answers every packet with its payload, reversed.
#[derive(Default)]
pub struct Echo {
    pub channels: Vec<Option<Channel>>,
    pub grants: u16,
    pub refuses: bool,
    /// Close tokens are kept here while set.
    pub slow: bool,
    pub closing: Vec<QuiesceToken>,
    pub held: Option<Gpadl>,
    pub opened: u32,
    pub restored: u32,
    pub user_data: Vec<u8>,
}

impl ChannelDevice for Echo {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        if self.refuses {
            return Err(OpenRefused { reason: "today is a holiday".into() });
        }
        self.opened += 1;
        self.restored += u32::from(channel.is_restored());
        self.user_data = channel.user_data().to_vec();
        let index = usize::from(channel.index());
        self.channels.resize_with(self.channels.len().max(index + 1), || None);
        self.channels[index] = Some(channel);
        Ok(())
    }

    fn close(&mut self, index: u16, quiet: QuiesceToken) {
        assert!(self.channels[usize::from(index)].take().is_some(), "a close of an open channel");
        if self.slow {
            self.closing.push(quiet);
        }
    }

    fn signalled(&mut self, index: u16) {
        let grants = std::mem::take(&mut self.grants);
        let Some(Some(channel)) = self.channels.get_mut(usize::from(index)) else { return };
        if grants > 0 {
            assert_eq!(channel.grant_sub_channels(grants), grants);
        }
        while let Some(packet) = channel.receive() {
            let mut answer = packet.payload().to_vec();
            answer.reverse();
            match channel.complete(packet.transaction(), &answer) {
                Ok(()) | Err(SendError::Broken) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub fn offer(guest: &Guest, number: u8) -> Arc<Mutex<Echo>> {
    let device = Arc::new(Mutex::new(Echo::default()));
    guest.bus.offer(description(number), device.clone()).unwrap();
    device
}

pub fn description(number: u8) -> Offer {
    Offer::new(format!("echo{number}"), Uuid::from_bytes([9; 16]), Uuid::from_bytes([number; 16]))
}

/// The guest's side of rings of 2 pages each at `gpa`.
pub fn rings(guest: &Guest, gpa: u64) -> bulkhead_vmbus_channel::test_support::GuestChannel {
    bulkhead_vmbus_channel::test_support::GuestChannel::over(&guest.memory, gpa, 2)
}
