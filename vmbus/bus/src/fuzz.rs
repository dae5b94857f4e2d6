//! Fuzz target: a guest that posts and signals anything at all, with saves, resets and hot removal in between.

use crate::{VmBus, VmBusDevice, Wiring};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_hyperv::{SynicError, SynicMessage, SynicPort};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, Offer, OfferId, OpenRefused};
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;

struct NoSynic;

impl SynicPort for NoSynic {
    fn post_message(&self, _: u32, _: u8, _: &SynicMessage) -> Result<(), SynicError> {
        Ok(())
    }
    fn signal_event(&self, _: u32, _: u8, flag: u16) -> Result<(), SynicError> {
        assert!(flag > 0 && flag < 2048);
        Ok(())
    }
    fn discard_messages(&self, _: u8) {}
}

/// Answers every packet, and keeps what the guest gave.
#[derive(Default)]
struct Echo {
    channels: Vec<Option<Channel>>,
}

impl ChannelDevice for Echo {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        let index = usize::from(channel.index());
        self.channels.resize_with(self.channels.len().max(index + 1), || None);
        self.channels[index] = Some(channel);
        Ok(())
    }
    fn close(&mut self, index: u16, _: QuiesceToken) {
        assert!(self.channels[usize::from(index)].take().is_some(), "closed without being open");
    }
    fn signalled(&mut self, index: u16) {
        let Some(Some(channel)) = self.channels.get_mut(usize::from(index)) else { return };
        while let Some(packet) = channel.receive() {
            let _ = channel.complete(packet.transaction(), packet.payload());
            if packet.payload().first() == Some(&1) {
                channel.grant_sub_channels(2);
            }
        }
    }
}

struct Machine {
    reactor: VirtualReactor,
    memory: GuestMemory,
    bus: Arc<VmBus>,
    device: VmBusDevice,
    offers: Vec<OfferId>,
}

impl Machine {
    fn new(memory: &GuestMemory, make: impl FnOnce(Wiring) -> Arc<VmBus>) -> Option<Machine> {
        let (reactor, handle) = VirtualReactor::new(Time::ZERO, 1).ok()?;
        let wiring = Wiring { reactor: handle, memory: memory.clone(), synic: Arc::new(NoSynic), vps: 2 };
        let bus = make(wiring);
        let device = VmBusDevice::new(bus.clone());
        let mut machine = Machine { reactor, memory: memory.clone(), bus, device, offers: Vec::new() };
        (0..3).for_each(|number| machine.offer(number));
        machine.device.start();
        Some(machine)
    }

    fn offer(&mut self, number: u8) {
        let offer = Offer::new("echo", Uuid::from_bytes([1; 16]), Uuid::from_bytes([number; 16]));
        self.offers.extend(self.bus.offer(offer, Arc::new(Mutex::new(Echo::default()))));
    }

    fn saved(mut self) -> Option<Machine> {
        self.device.pause(QuiesceToken::new(|| {}));
        self.reactor.run_posted();
        let saved = self.device.save().ok()?;
        Machine::new(&self.memory, |wiring| VmBus::restored(wiring, &saved).unwrap_or_else(|error| panic!("{error}")))
    }
}

/// Takes `data` as chunks of 24 bytes, each an action of the guest or of the host.
///
/// # Panics
/// When a channel is closed without being open, or a saved state cannot be read.
pub fn fuzz(data: &[u8]) {
    let Ok(memory) = GuestMemory::builder().anonymous(0, 1 << 20).build() else { return };
    let Some(mut machine) = Machine::new(&memory, VmBus::new) else { return };
    let ports = |machine: &Machine| machine.bus.ports();
    for action in data.chunks_exact(24) {
        let (what, bytes) = (action[0], &action[1..]);
        match what % 16 {
            0 => drop(ports(&machine).signal_event(0x2000 | u32::from(bytes[0] % 8), 0)),
            1 => drop(ports(&machine).signal_event(u32::from(bytes[0]) << 8, u16::from(bytes[1]))),
            2 => drop(memory.write(u64::from(bytes[0] % 8) * 4096, &bytes[1..17])),
            3 => drop(memory.write(u64::from(bytes[0] % 8) * 4096 + u64::from(bytes[1]) * 8, &bytes[2..])),
            4 if bytes[0] < 16 => machine.device.reset(),
            5 if bytes[0] < 32 => match machine.saved() {
                Some(restored) => machine = restored,
                None => return,
            },
            6 if !machine.offers.is_empty() => {
                let index = usize::from(bytes[0]) % machine.offers.len();
                let _ = machine.bus.remove(machine.offers.swap_remove(index));
            }
            7 => machine.offer(bytes[0] % 4),
            _ => {
                let _ = ports(&machine).post_message(1, 1, &message(bytes));
            }
        }
        if what & 0x80 != 0 {
            machine.reactor.run_posted();
        }
    }
    machine.reactor.run_posted();
}

/// A message that is nearly right: types that exist, small numbers.
fn message(bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 160];
    let kinds = [14, 3, 5, 7, 8, 9, 11, 13, 16, 21, 22, 5, 8, 8, 3, 14];
    message[0] = kinds[usize::from(bytes[0] % 16)];
    for (word, byte) in bytes[1..].iter().enumerate() {
        message[8 + 4 * word] = byte % 8;
    }
    match message[0] {
        14 => message[8..12].copy_from_slice(&[bytes[1] % 5, 0, 5, 0]),
        // One range of four pages, whole or in two parts.
        8 => {
            message[16..20].copy_from_slice(&[40, 0, 1, 0]);
            message[20..28].copy_from_slice(&[0, 0x40, 0, 0, 0, 0, 0, 0]);
            (0..4).for_each(|page| message[28 + 8 * page..][..8].copy_from_slice(&(page as u64).to_le_bytes()));
            message.truncate(if bytes[9] & 1 == 0 { 60 } else { 44 });
        }
        9 => message.truncate(32),
        5 => message[24] = 2 + (bytes[5] & 1),
        _ => {}
    }
    message
}
