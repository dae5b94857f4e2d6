//! What a guest asks of the whole machine: noted on the VP's thread, carried out by the control loop.

use crate::control::Input;
use bulkhead_device::{PowerRequest, PowerSink};
use bulkhead_engine::Partition;
use bulkhead_hyperv::{CrashSink, GuestCrash};
use bulkhead_integration::heartbeat::HeartbeatState;
use bulkhead_machine::GuestRequests;
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};

/// Whether the VPs may run, and how to stop them all.
pub struct Gate {
    open: AtomicBool,
    partition: Mutex<Option<(Weak<dyn Partition>, u32)>>,
}

impl Gate {
    /// A closed gate without VPs.
    pub fn new() -> Arc<Gate> {
        Arc::new(Gate { open: AtomicBool::new(false), partition: Mutex::new(None) })
    }

    /// The VPs that it holds.
    pub fn set_partition(&self, partition: &Arc<dyn Partition>, vps: u32) {
        *self.partition.lock() = Some((Arc::downgrade(partition), vps));
    }

    /// Whether VPs may run.
    pub fn is_open(&self) -> bool {
        self.open.load(SeqCst)
    }

    /// Lets VPs run.
    pub fn open(&self) {
        self.open.store(true, SeqCst);
    }

    /// Stops all VPs soon.
    pub fn close(&self) {
        self.open.store(false, SeqCst);
        let Some((partition, vps)) = self.partition.lock().clone() else { return };
        if let Some(partition) = partition.upgrade() {
            (0..vps).for_each(|index| partition.kick(index));
        }
    }
}

/// Stops the VPs and tells the control loop.
pub struct PowerSwitch {
    pub gate: Arc<Gate>,
    pub inputs: Sender<Input>,
}

impl PowerSink for PowerSwitch {
    fn request(&self, request: PowerRequest) {
        self.gate.close();
        // The loop is gone only when the process ends.
        let _ = self.inputs.send(Input::Power(request));
    }
}

impl CrashSink for PowerSwitch {
    fn guest_crashed(&self, crash: GuestCrash) {
        let _ = self.inputs.send(Input::GuestCrash(crash));
    }
}

impl GuestRequests for PowerSwitch {
    fn debug_exit(&self, value: u32) {
        self.gate.close();
        let _ = self.inputs.send(Input::DebugExit(value));
    }

    fn heartbeat(&self, state: HeartbeatState) {
        let _ = self.inputs.send(Input::Heartbeat(state));
    }

    fn socket_accepted(&self, port: u32, stream: UnixStream) {
        let _ = self.inputs.send(Input::SocketAccepted { port, stream });
    }

    fn debug_print(&self, bytes: &[u8]) {
        // A reader that went away loses the messages.
        let _ = std::io::stderr().write_all(bytes);
    }
}
