//! Fuzz target: a guest that sends packets at random over a connection.

use crate::connection::Connection;
use bulkhead_device::QuiesceToken;
use bulkhead_device::fuzz::{Step, Steps};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs `data` as a guest.
pub fn fuzz(data: &[u8]) {
    let Ok(ram) = GuestMemory::builder().anonymous(0, 1 << 20).build() else { return };
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 1) else { return };
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return };
    if theirs.set_nonblocking(true).is_err() {
        return;
    }
    let log = Arc::new(GuestLog::new(&reactor, "fuzz"));
    let guest = GuestChannel::new(&ram, 0x10000, 16);
    let Ok(connection) = Connection::new(&reactor, Arc::new(AtomicBool::new(false)), ours, Box::new(|| {})) else {
        return;
    };
    let _ = connection.lock().open(guest.open(0, &log, false));
    for step in Steps::new(data) {
        match step {
            Step::PortWrite(at, _, value) => {
                let mut bytes = vec![0; usize::from(at % 200)];
                if let Some(header) = bytes.first_chunk_mut::<8>() {
                    header[0] = (value & 7 != 7).into();
                    header[4] = (value >> 3) as u8;
                }
                guest.send(0, false, &bytes);
                connection.lock().signalled(0);
            }
            Step::MmioWrite(_, _, value) => drop(theirs.write(&value.to_le_bytes())),
            Step::MmioRead(..) => while guest.receive_raw().is_some() {},
            Step::PortRead(0..0x200, _) => drop(theirs.shutdown(std::net::Shutdown::Write)),
            Step::PortRead(0x200..0x280, _) => connection.lock().close(0, QuiesceToken::new(|| {})),
            Step::Event(_) | Step::Advance(_) | Step::PortRead(..) => {
                clock.poll_fds();
                let _ = theirs.read(&mut [0; 512]);
                connection.lock().signalled(0);
            }
        }
    }
}
