//! Fuzz target: a driver that puts anything into its ring, with units coming and going, pauses and saves in between.

use crate::{Attachment, Controller, LunConfig, Wiring};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_disk::RamDisk;
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use parking_lot::Mutex;
use std::sync::Arc;

const RINGS: u64 = 0x1_0000;
const PAGES: u32 = 4;

fn luns() -> Vec<(u8, LunConfig)> {
    let disk = Arc::new(RamDisk::new(1 << 20));
    vec![(0, LunConfig::Disk(disk.clone())), (1, LunConfig::Dvd(Some(Arc::new(disk.read_only()))))]
}

/// Takes `data` as chunks of 40 bytes: what to do, and a request or raw bytes for the ring.
///
/// # Panics
/// When requests are left in flight although all disks have answered, or a saved state cannot be read.
pub fn fuzz(data: &[u8]) {
    let Ok(memory) = GuestMemory::builder().anonymous(0, 1 << 20).build() else { return };
    let Ok((mut reactor, handle)) = VirtualReactor::new(Time::ZERO, 1) else { return };
    let log = Arc::new(GuestLog::new(&handle, "scsi0"));
    let attachment = Attachment::Scsi { number: 0, sub_channels: 1 };
    let wiring = || Wiring { reactor: handle.clone(), attachment };
    let Ok(mut controller) = Controller::new("scsi0", wiring(), luns()) else { return };
    let mut guest = GuestChannel::new(&memory, RINGS, PAGES);
    open(&controller, &guest, &log, false);
    // The dialogue, so that most of what comes is carried out.
    for (operation, parameter) in [(7, 0), (9, 0x0602), (10, 0), (8, 0u16)] {
        guest.send(1, true, &vstor(operation, &parameter.to_le_bytes()));
    }
    for chunk in data.chunks_exact(40) {
        let (what, bytes) = (chunk[0], &chunk[1..]);
        match what % 12 {
            0 => drop(memory.write(guest.control(u64::from(bytes[0] & 1), u64::from(bytes[1] % 16)), &bytes[2..4])),
            1 => {
                let _ = controller.lock().attach(bytes[0] % 66, LunConfig::Dvd(None));
            }
            2 => {
                let _ = controller.lock().detach(bytes[0] % 66, QuiesceToken::new(|| {}));
            }
            3 if bytes[0] < 64 => {
                controller.lock().close(0, QuiesceToken::new(|| {}));
                guest = GuestChannel::new(&memory, RINGS, PAGES);
                open(&controller, &guest, &log, false);
            }
            4 if bytes[0] < 64 => {
                controller.lock().pause(QuiesceToken::new(|| {}));
                reactor.run_posted();
                let Ok(saved) = controller.lock().save() else { return };
                controller = Controller::restored("scsi0", wiring(), luns(), &saved)
                    .unwrap_or_else(|error| panic!("a saved controller: {error}"));
                open(&controller, &guest, &log, true);
            }
            5 if guest.has_room(256) => guest.put(bytes),
            6 if guest.has_room(256) => guest.send(2, true, &vstor(bytes[0] % 16, &bytes[1..])),
            _ if guest.has_room(256) => send_request(&guest, bytes),
            _ => {}
        }
        controller.lock().signalled(0);
        reactor.run_posted();
        while guest.try_receive().is_some() {}
    }
    assert_eq!(controller.lock().in_flight, 0);
}

fn open(controller: &Arc<Mutex<Controller>>, guest: &GuestChannel, log: &Arc<GuestLog>, restored: bool) {
    let mut controller = controller.lock();
    if let Some(channel) = guest.try_open(0, log, restored) {
        let _ = controller.open(channel);
    }
    controller.start();
}

fn vstor(operation: u8, parameters: &[u8]) -> [u8; 64] {
    let mut packet = [0; 64];
    packet[0] = operation;
    packet[12..12 + parameters.len().min(52)].copy_from_slice(&parameters[..parameters.len().min(52)]);
    packet
}

/// A request with any command block, often one of a disk, for units that may be there.
fn send_request(guest: &GuestChannel, bytes: &[u8]) {
    const OPCODES: [u8; 16] =
        [0x28, 0x2a, 0x88, 0x8a, 0x42, 0x93, 0x41, 0x12, 0xa0, 0x1a, 0x9e, 0x2f, 0x35, 0x25, 0x00, 0x46];
    let mut packet = vstor(3, &[]);
    packet[19] = bytes[0] % 3;
    packet[20] = bytes[1] % 20;
    packet[28..44].copy_from_slice(&bytes[2..18]);
    if bytes[18] & 0x80 != 0 {
        packet[28] = OPCODES[usize::from(bytes[18] % 16)];
        // Small addresses and counts.
        (30..34).for_each(|at| packet[at] = 0);
        packet[35] &= 3;
    }
    let (len, page) = (u32::from(bytes[19]) << (bytes[20] % 12), u64::from(bytes[21]));
    if len == 0 || len > 0x8000 {
        return guest.send(3, true, &packet);
    }
    let pages: Vec<u64> = (0..u64::from(len).div_ceil(4096)).map(|at| page + at).collect();
    guest.send_pages(4, len, 0, &pages, &packet);
}
