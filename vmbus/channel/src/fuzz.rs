//! Fuzz target: a guest that writes anything into its rings while a device uses them.

use crate::test_support::GuestChannel;
use crate::{Outgoing, SendError};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use std::sync::Arc;

/// Takes `data` as chunks of 20 bytes: a write of the guest, or something that the device does.
///
/// # Panics
/// When more is received than the ring can hold, or a broken channel goes on.
pub fn fuzz(data: &[u8]) {
    let Ok(memory) = GuestMemory::builder().anonymous(0, 1 << 16).build() else { return };
    let Ok((_reactor, handle)) = VirtualReactor::new(Time::ZERO, 1) else { return };
    let log = Arc::new(GuestLog::new(&handle, "fuzz"));
    let guest = GuestChannel::new(&memory, 0, 2);
    let Some(mut channel) = guest.try_open(0, &log, false) else { return };
    for chunk in data.chunks_exact(20) {
        let (what, bytes) = (chunk[0], &chunk[1..]);
        let at = u64::from(bytes[0]) * 8 % 4096;
        match what % 8 {
            0 => drop(memory.write(guest.control(u64::from(bytes[0] & 1), u64::from(bytes[1] % 20)), &bytes[2..4])),
            1 => drop(memory.write(guest.control(u64::from(bytes[2] & 1), 4096 + at), &bytes[3..])),
            2 if guest.has_room(64) => guest.put(bytes),
            3 if guest.has_room(64) => guest.send(u64::from(bytes[0]), true, &bytes[1..]),
            4 => {
                let mut bytes_seen = 0;
                while let Some(packet) = channel.receive() {
                    bytes_seen += packet.payload().len();
                    assert!(bytes_seen <= 4096, "more than the ring holds");
                    let _ = channel.scatter_list(packet.data());
                }
            }
            5 => {
                let payload = vec![bytes[0]; usize::from(bytes[1]) * 20];
                let sent =
                    channel.send(Outgoing::InBand { transaction: 1, wants_completion: false, payload: &payload });
                assert!(sent != Err(SendError::Broken) || channel.is_broken());
            }
            6 => drop(guest.try_receive()),
            _ => assert!(channel.room() <= 4088),
        }
        if channel.is_broken() {
            assert!(channel.receive().is_none());
            let Some(again) = GuestChannel::new(&memory, 0, 2).try_open(0, &log, false) else { return };
            channel = again;
        }
    }
}
