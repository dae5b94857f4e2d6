//! Fuzz target: a guest that sends messages of dynamic memory at random while its target changes.

use crate::policy::Limits;
use crate::{DynamicMemory, MemoryConfig, RamSupply, Target};
use bulkhead_device::Device;
use bulkhead_device::fuzz::{Step, Steps};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

struct Ram;

impl RamSupply for Ram {
    fn release(&self, gpa: Range<u64>) -> Result<(), String> {
        if gpa.end > 4096 * MIB { Err("no RAM".into()) } else { Ok(()) }
    }

    fn add(&self, gpa: Range<u64>) -> Result<(), String> {
        assert!((1024 * MIB..=2048 * MIB).contains(&gpa.start) && gpa.end <= 2048 * MIB, "{gpa:x?}");
        Ok(())
    }

    fn host_memory(&self) -> Option<(u64, u64)> {
        Some((8192 * MIB, 4096 * MIB))
    }
}

/// Runs `data` as a guest.
pub fn fuzz(data: &[u8]) {
    let Ok(memory) = GuestMemory::builder().anonymous(0, MIB).build() else { return };
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 1) else { return };
    let log = Arc::new(GuestLog::new(&reactor, "fuzz"));
    let guest = GuestChannel::new(&memory, 0x10000, 16);
    let limits = Limits { minimum: 128 * MIB, maximum: 1536 * MIB, buffer: 20, weight: 5000 };
    let config = MemoryConfig { startup: 512 * MIB, hot_add_base: 1024 * MIB, address_limit: 2048 * MIB, limits };
    let mut device = DynamicMemory::new(&reactor, config, Arc::new(Ram));
    let _ = device.lock().open(guest.open(0, &log, false));
    for step in Steps::new(data) {
        match step {
            Step::PortWrite(at, _, value) => {
                let kind = value % 12;
                let mut bytes = vec![0; 16 + 8 * usize::from(at % 5)];
                bytes[0] = kind as u8;
                match kind {
                    1 => bytes[8..12].copy_from_slice(&0x2_0000u32.to_le_bytes()),
                    3 => bytes[8] = (value >> 8) as u8 & 0x1f | 3,
                    _ => {
                        let fill = value.to_le_bytes();
                        bytes[8..].iter_mut().zip(fill.iter().cycle()).for_each(|(byte, fill)| *byte = *fill);
                        if kind == 7 {
                            bytes[12..16].copy_from_slice(&(u32::from(at % 5) << 1 | value >> 31).to_le_bytes());
                        }
                    }
                }
                guest.send(0, false, &bytes);
                device.lock().signalled(0);
            }
            Step::Event(event) => {
                let target = if event & 1 == 0 { Target::ByDemand } else { Target::Fixed(u64::from(event) * MIB) };
                device.lock().set_target(target);
            }
            Step::Advance(nanos) => {
                let to = reactor.now() + Duration::from_nanos(nanos);
                clock.advance_to(to);
            }
            Step::MmioRead(..) => while guest.receive_raw().is_some() {},
            Step::PortRead(0..0x400, _) => device.lock().reset(),
            Step::PortRead(..) => {
                let state = device.lock().save().expect("plain");
                device = DynamicMemory::restore(&reactor, config, Arc::new(Ram), &state).expect("just saved");
                let _ = device.lock().open(guest.open(0, &log, true));
            }
            Step::MmioWrite(_, _, value) => {
                guest.send(0, false, &value.to_le_bytes());
                device.lock().signalled(0);
            }
        }
        let status = device.lock().status();
        assert!(status.assigned <= 1536 * MIB && status.hot_added <= 1024 * MIB, "{status:?}");
    }
}
