//! A channel: task files, drive selection, interrupts, resets.

use crate::IdeController;
use crate::bus_master::BusMaster;
use crate::drive::{Deep, Drive};
use crate::regs::{command, control, device, error, port, status};
use crate::transfer::Activity;
use bulkhead_device::{Line, QuiesceToken};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::Reactor;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// What all channels share.
#[derive(Clone)]
pub(crate) struct Host {
    pub reactor: Reactor,
    pub memory: GuestMemory,
    pub controller: Weak<Mutex<IdeController>>,
    pub log: Arc<GuestLog>,
}

/// A reset that waits for a disk request to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingReset {
    /// Both drives.
    Channel,
    /// The active drive.
    Drive,
}

pub(crate) struct Channel {
    pub index: u8,
    pub host: Host,
    pub irq: Line,
    pub drives: [Option<Drive>; 2],
    pub device: u8,
    pub control: u8,
    /// The active drive asks for an interrupt, whether or not they are off.
    pub interrupt: bool,
    pub activity: Activity,
    /// Whose command `activity` belongs to.
    pub active: usize,
    /// A request is with the disk.
    pub in_flight: bool,
    pub pending_reset: Option<PendingReset>,
    pub bus_master: BusMaster,
    /// The guest allowed the controller to use the bus.
    pub master_enabled: bool,
    pub quiet: Option<QuiesceToken>,
}

impl Channel {
    pub fn new(index: u8, host: Host, irq: Line, drives: [Option<Drive>; 2]) -> Channel {
        Channel {
            index,
            host,
            irq,
            drives,
            device: device::OBSOLETE,
            control: 0,
            interrupt: false,
            activity: Activity::Idle,
            active: 0,
            in_flight: false,
            pending_reset: None,
            bus_master: BusMaster::default(),
            master_enabled: false,
            quiet: None,
        }
    }

    pub fn selected(&self) -> usize {
        usize::from(self.device & device::DEV != 0)
    }

    pub fn active_drive(&mut self) -> Option<&mut Drive> {
        self.drives[self.active].as_mut()
    }

    /// A register of the command block other than data. A place without a drive reads as zeros: both firmware and Linux
    /// take that for "nothing there".
    pub fn read(&mut self, offset: u16) -> u8 {
        let Some(drive) = &self.drives[self.selected()] else { return 0 };
        let regs = &drive.regs;
        let hob = self.control & control::HOB != 0;
        let deep = |register: Deep| if hob { register.before } else { register.now };
        match offset {
            port::FEATURE => regs.error,
            port::COUNT => deep(regs.count),
            port::LBA_LOW => deep(regs.lba_low),
            port::LBA_MID => deep(regs.lba_mid),
            port::LBA_HIGH => deep(regs.lba_high),
            port::DEVICE => self.device,
            _ => {
                let value = regs.status;
                self.set_interrupt(false);
                value
            }
        }
    }

    /// The status without taking back the interrupt.
    pub fn alternate_status(&self) -> u8 {
        self.drives[self.selected()].as_ref().map_or(0, |drive| drive.regs.status)
    }

    /// Both drives listen to every write but commands.
    pub fn write(&mut self, offset: u16, value: u8) {
        self.control &= !control::HOB;
        match offset {
            port::DEVICE => self.device = value,
            port::COMMAND => self.command(value),
            _ => {
                for drive in self.drives.iter_mut().flatten() {
                    let regs = &mut drive.regs;
                    match offset {
                        port::FEATURE => regs.feature.write(value),
                        port::COUNT => regs.count.write(value),
                        port::LBA_LOW => regs.lba_low.write(value),
                        port::LBA_MID => regs.lba_mid.write(value),
                        _ => regs.lba_high.write(value),
                    }
                }
            }
        }
    }

    pub fn write_control(&mut self, value: u8) {
        let was = std::mem::replace(&mut self.control, value);
        self.update_line();
        match (was & control::SRST != 0, value & control::SRST != 0) {
            (false, true) => {
                if !self.in_flight {
                    self.activity = Activity::Idle;
                }
                self.busy_for_reset();
            }
            (true, false) => self.reset(),
            _ => {}
        }
    }

    /// Resets both drives, now or when the disk is done with its request.
    pub fn reset(&mut self) {
        if self.in_flight {
            self.pending_reset = Some(PendingReset::Channel);
            return self.busy_for_reset();
        }
        self.activity = Activity::Idle;
        self.pending_reset = None;
        self.device = device::OBSOLETE;
        self.set_interrupt(false);
        self.drives.iter_mut().flatten().for_each(Drive::set_signature);
    }

    /// The hardware reset line.
    pub fn hard_reset(&mut self) {
        self.drives.iter_mut().flatten().for_each(Drive::power_on);
        self.bus_master = BusMaster::default();
        self.control = 0;
        self.reset();
        self.update_line();
    }

    fn busy_for_reset(&mut self) {
        self.set_interrupt(false);
        self.drives.iter_mut().flatten().for_each(|drive| drive.regs.status = status::BSY);
    }

    /// What was put off until the disk answered.
    pub fn finish_reset(&mut self, reset: PendingReset) {
        match reset {
            PendingReset::Channel => self.reset(),
            PendingReset::Drive => self.reset_active_drive(),
        }
    }

    fn reset_active_drive(&mut self) {
        self.activity = Activity::Idle;
        self.set_interrupt(false);
        if let Some(drive) = self.active_drive() {
            drive.set_signature();
        }
    }

    fn command(&mut self, code: u8) {
        let selected = self.selected();
        if self.control & control::SRST != 0 || self.pending_reset.is_some() {
            return;
        }
        if code == command::DIAGNOSTIC && !self.in_flight {
            return self.diagnostic();
        }
        let Some(drive) = &mut self.drives[selected] else { return };
        if code == command::DEVICE_RESET && drive.is_atapi() && (selected == self.active || !self.in_flight) {
            self.active = selected;
            if self.in_flight {
                self.pending_reset = Some(PendingReset::Drive);
                drive.regs.status = status::BSY;
                return self.set_interrupt(false);
            }
            return self.reset_active_drive();
        }
        if self.in_flight {
            // Busy drives do not listen, and the other one cannot have the channel.
            return;
        }
        self.set_interrupt(false);
        self.activity = Activity::Idle;
        self.active = selected;
        if let Some(drive) = self.active_drive() {
            drive.regs.error = 0;
            drive.regs.status = status::READY;
            if drive.is_atapi() {
                self.atapi_command(code);
            } else {
                self.ata_command(code);
            }
        }
    }

    fn diagnostic(&mut self) {
        self.reset();
        self.active = 0;
        self.set_interrupt(self.drives.iter().any(Option::is_some));
    }

    pub fn set_interrupt(&mut self, level: bool) {
        self.interrupt = level;
        self.update_line();
    }

    pub fn update_line(&mut self) {
        let level = self.interrupt && self.control & control::NIEN == 0;
        if level && !self.irq.level() {
            self.bus_master.interrupted();
        }
        self.irq.set(level);
    }

    /// The command of the active drive ended well.
    pub fn succeed(&mut self) {
        self.activity = Activity::Idle;
        if let Some(drive) = self.active_drive() {
            drive.regs.status = status::READY;
        }
        self.set_interrupt(true);
    }

    /// The command of the active drive failed with these bits of the error register.
    pub fn fail(&mut self, bits: u8) {
        self.activity = Activity::Idle;
        if let Some(drive) = self.active_drive() {
            drive.regs.status = status::READY | status::ERR;
            drive.regs.error = bits;
        }
        self.set_interrupt(true);
    }

    pub fn abort(&mut self) {
        self.fail(error::ABRT);
    }
}
