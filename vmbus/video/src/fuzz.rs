//! Fuzz target: a guest that drives the display at random while its picture is taken.

use crate::{SynthVideo, VideoConfig, VideoMemory};
use bulkhead_device::Device;
use bulkhead_device::fuzz::{Step, Steps};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use std::sync::Arc;

/// 64 KiB, shown from 0xF800_0000 on.
struct Window;

impl VideoMemory for Window {
    fn len(&self) -> u64 {
        0x1_0000
    }

    fn show_at(&self, gpa: u64) -> Result<(), String> {
        if gpa >= 0xf800_0000 { Ok(()) } else { Err("below the window".into()) }
    }

    fn hide(&self) {}

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), String> {
        let inside = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.len());
        if inside { Ok(()) } else { Err("outside".into()) }
    }
}

/// Runs `data` as a guest.
pub fn fuzz(data: &[u8]) {
    let Ok(ram) = GuestMemory::builder().anonymous(0, 1 << 20).build() else { return };
    let Ok((_clock, reactor)) = VirtualReactor::new(Time::ZERO, 1) else { return };
    let log = Arc::new(GuestLog::new(&reactor, "fuzz"));
    let guest = GuestChannel::new(&ram, 0x10000, 16);
    let config = VideoConfig { preferred: (64, 48), memory: Arc::new(Window), ram: ram.clone() };
    let mut video = SynthVideo::new(&reactor, config.clone());
    let _ = video.open(guest.open(0, &log, false));
    for step in Steps::new(data) {
        match step {
            Step::PortWrite(at, size, value) => {
                let mut bytes = vec![0; 16 + usize::from(at % 60)];
                bytes[8] = (value % 15) as u8;
                let fill = value.to_le_bytes();
                bytes[16..].iter_mut().zip(fill.iter().cycle()).for_each(|(byte, fill)| *byte = *fill);
                if value % 15 == 5 && bytes.len() >= 43 && size > 1 {
                    // Something that can be shown.
                    bytes[24..26].fill(1);
                    bytes[26..30].fill(0);
                    bytes[30] = if value & 0x100 == 0 { 32 } else { 16 };
                    for (at, edge) in [(31, 8 + value % 32), (35, 8 + value % 16), (39, 256)] {
                        bytes[at..at + 4].copy_from_slice(&edge.to_le_bytes());
                    }
                }
                guest.send(0, false, &bytes);
                video.signalled(0);
            }
            Step::MmioWrite(_, _, value) => {
                guest.send(0, false, &value.to_le_bytes());
                video.signalled(0);
            }
            Step::MmioRead(..) => while guest.receive_raw().is_some() {},
            Step::PortRead(..) => {
                let state = video.save().expect("plain");
                video = SynthVideo::restore(&reactor, config.clone(), &state).expect("just saved");
                let _ = video.open(guest.open(0, &log, true));
            }
            Step::Event(_) | Step::Advance(_) => {
                if let Ok(picture) = video.picture() {
                    assert_eq!(picture.rgb.len(), 3 * (picture.width * picture.height) as usize);
                }
                video.take_changes();
            }
        }
    }
}
