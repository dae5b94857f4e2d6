//! Fuzz target: a guest's driver that sends any packets to an adapter with a port.

use std::sync::Arc;

use bulkhead_device::Device;
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};
use bulkhead_packets::{FrameMeta, MacAddress};
use bulkhead_port::Nic;
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus_channel::test_support::GuestChannel;
use bulkhead_vmbus_channel::{ChannelDevice, Gpadl};

use crate::{Config, NetworkAdapter};

const RAM: u64 = 4 << 20;
const RINGS: u64 = 0;
const RECEIVE_BUFFER: u64 = 1 << 20;
const SEND_BUFFER: u64 = 2 << 20;

/// Each 48 bytes are a step: a kind, parameters, and the bytes of a message.
pub fn fuzz(data: &[u8]) {
    let Ok(memory) = GuestMemory::builder().anonymous(0, RAM).build() else { return };
    let Ok((_loop, reactor)) = VirtualReactor::new(Time::ZERO, 1) else { return };
    let config = Config {
        name: "nic0".into(),
        address: MacAddress([0, 0x15, 0x5D, 1, 2, 3]),
        link_speed: 10_000_000_000,
        max_channels: 4,
    };
    let adapter = NetworkAdapter::new(config.clone(), &reactor);
    let guest = GuestChannel::new(&memory, RINGS, 8);
    let buffer = |at: u64, len: u64| {
        let pages = (at / PAGE_SIZE..(at + len) / PAGE_SIZE).collect();
        Gpadl::new(memory.clone(), len as u32, 0, pages).ok()
    };
    for (handle, at) in [(1, RECEIVE_BUFFER), (2, SEND_BUFFER)] {
        if let Some(gpadl) = buffer(at, 128 << 10) {
            guest.gpadls.insert(handle, gpadl);
        }
    }
    let log = Arc::new(GuestLog::new(&reactor, "nic0"));
    let Ok((nic, mut switch)) = bulkhead_port::pair(bulkhead_port::RingSize::default()) else { return };
    let mut adapter = adapter.lock();
    adapter.start();
    let _ = adapter.connect(nic);
    let _ = adapter.open(guest.open(0, &log, false));
    let mut sent = 0;
    for step in data.chunks(48) {
        let (Some(kind), Some(parameter)) = (step.first(), step.get(1)) else { break };
        let message = step.get(8..).unwrap_or_default();
        // The test's side of the ring has room for this many bytes.
        sent += 128;
        match kind % 6 {
            0 if sent < 20_000 => guest.send(u64::from(*parameter), true, message),
            1 if sent < 20_000 => guest.complete(u64::from(*parameter), message),
            2 if sent < 20_000 => {
                let page = SEND_BUFFER / PAGE_SIZE + u64::from(*parameter % 16);
                let len = u32::from(u16::from_le_bytes([step.get(2).copied().unwrap_or(0), parameter & 0xF]));
                let pages: Vec<u64> = (page..).take(len.div_ceil(PAGE_SIZE as u32) as usize).collect();
                guest.send_pages(7, len, 0, &pages, message);
            }
            3 => {
                let at = SEND_BUFFER + u64::from(*parameter) * 64;
                let _ = memory.write(at, message);
            }
            4 => {
                let mut frame = [0; 60];
                frame[..message.len().min(60)].copy_from_slice(&message[..message.len().min(60)]);
                let _ = switch.tx.send(&FrameMeta::default(), &[&frame]);
                let _ = switch.tx.publish();
            }
            _ => {}
        }
        adapter.signalled(0);
        while guest.receive_raw().is_some() {}
        while let Ok(Some(_)) = switch.rx.peek() {
            switch.rx.advance();
        }
        let _ = switch.rx.release();
        let _ = adapter.inspect();
    }
    let Ok(saved) = adapter.save() else { return };
    drop(adapter);
    let again = NetworkAdapter::restored(config, &reactor, &saved);
    if let Ok(again) = again {
        let _ = again.lock().open(guest.open(0, &log, true));
    }
}
