//! The two signals of a channel: the guest's to the device, and the device's to the guest.

use crate::VmBus;
use bulkhead_guest_log::guest_warn;
use bulkhead_vmbus_channel::{ChannelDevice, ChannelHost, Wake};
use bulkhead_vmbus_protocol::{NO_VP, SINT};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// One per channel number in use.
pub(crate) struct Doorbell {
    pub relid: u32,
    index: u16,
    wake: Wake,
    device: Weak<Mutex<dyn ChannelDevice>>,
    bus: Weak<VmBus>,
    /// The device has the channel.
    open: AtomicBool,
    /// A call of the device is due on the loop.
    due: AtomicBool,
    /// VP to signal. Held while it is signalled: after a change the old one cannot be signalled any more.
    target_vp: Mutex<u32>,
    this: Weak<Doorbell>,
}

impl Doorbell {
    pub fn new(
        relid: u32,
        index: u16,
        wake: Wake,
        device: &Arc<Mutex<dyn ChannelDevice>>,
        bus: &Arc<VmBus>,
    ) -> Arc<Doorbell> {
        Arc::new_cyclic(|this| Doorbell {
            relid,
            index,
            wake,
            device: Arc::downgrade(device),
            bus: Arc::downgrade(bus),
            open: AtomicBool::new(false),
            due: AtomicBool::new(false),
            target_vp: Mutex::new(NO_VP),
            this: this.clone(),
        })
    }

    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }

    pub fn set_target(&self, vp: u32) {
        *self.target_vp.lock() = vp;
    }

    pub fn target(&self) -> u32 {
        *self.target_vp.lock()
    }

    /// The guest signalled.
    pub fn ring(&self) {
        match self.wake {
            Wake::Caller => self.call(),
            Wake::Loop => self.call_soon(),
        }
    }

    /// Calls the device from the loop, once for all signals until then.
    pub fn call_soon(&self) {
        if !self.open.load(Ordering::SeqCst) || self.due.swap(true, Ordering::SeqCst) {
            return;
        }
        let (Some(bus), this) = (self.bus.upgrade(), self.this.clone()) else { return };
        bus.wiring.reactor.post(move || {
            if let Some(doorbell) = this.upgrade() {
                // Cleared first: a signal from now on may be about what the call does not see.
                doorbell.due.store(false, Ordering::SeqCst);
                doorbell.call();
            }
        });
    }

    fn call(&self) {
        let paused = || self.bus.upgrade().is_none_or(|bus| bus.paused.load(Ordering::SeqCst));
        if self.open.load(Ordering::SeqCst)
            && !paused()
            && let Some(device) = self.device.upgrade()
        {
            device.lock().signalled(self.index);
        }
    }
}

impl ChannelHost for Doorbell {
    fn signal_guest(&self) {
        let Some(bus) = self.bus.upgrade() else { return };
        let target = self.target_vp.lock();
        if *target == NO_VP {
            return;
        }
        // Channel numbers fit: there are 2047.
        if let Err(error) = bus.wiring.synic.signal_event(*target, SINT, self.relid as u16) {
            guest_warn!(bus.log, channel = self.relid, "cannot signal the guest: {error}");
        }
    }

    fn wake_device(&self) {
        self.call_soon();
    }

    fn grant_sub_channels(&self, count: u16) -> u16 {
        self.bus.upgrade().map_or(0, |bus| bus.grant_sub_channels(self.relid, count))
    }
}
