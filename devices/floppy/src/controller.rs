//! The controller: ports, phases, drives and media.

use crate::dma::DmaController;
use crate::medium::{Format, SECTOR};
use crate::regs::{command, dor, main_status, port};
use crate::saved_state::{KIND, SavedFloppy, VERSION};
use crate::transfer::{Job, Transfer};
use bulkhead_device::{BusError, Device, Line, PortBus, PortIo, QuiesceToken};
use bulkhead_disk::Disk;
use bulkhead_guest_log::GuestLog;
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

pub(crate) const DMA_CHANNEL: usize = 2;
/// Banks of ports: 3F0h–3F5h, and 3F7h.
const BLOCK: u8 = 0;
const LAST: u8 = 1;

/// What the controller is connected to.
pub struct Wiring {
    /// Runs completions.
    pub reactor: Reactor,
    /// 3F0h–3F5h and 3F7h are taken.
    pub ports: PortBus,
    /// IRQ 6, edge-triggered.
    pub irq: Line,
    /// Channel 2 moves the data.
    pub dma: Arc<Mutex<DmaController>>,
}

/// A controller that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FloppyError {
    /// Another device has its ports.
    #[error("floppy controller `{name}` cannot have its ports")]
    Ports {
        /// The controller.
        name: String,
        /// Who is in the way.
        #[source]
        source: BusError,
    },
    /// An image is no floppy disk.
    #[error("floppy controller `{name}` cannot have this image")]
    Medium {
        /// The controller.
        name: String,
        /// Why.
        #[source]
        source: MediumError,
    },
    /// The saved state cannot be read.
    #[error("floppy controller `{name}` cannot be restored")]
    SavedState {
        /// The controller.
        name: String,
        /// Why.
        #[source]
        source: SavedStateError,
    },
    /// The saved state is no state that a controller can be in.
    #[error("floppy controller `{name}` cannot be restored: its saved state is damaged; use another checkpoint")]
    Damaged {
        /// The controller.
        name: String,
    },
}

/// A medium that a drive cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MediumError {
    /// No such drive.
    #[error("there is no floppy drive {0}")]
    NoDrive(u8),
    /// No format has this size.
    #[error("an image of {0} bytes is no floppy disk: 1474560 (1.44 MB), 1228800, 737280 and 368640 bytes are")]
    Size(u64),
}

/// Where a command is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Bytes of a command so far.
    Command(Vec<u8>),
    /// A request is with the disk.
    Busy(Job),
    /// Non-DMA: the guest reads `data`, of which `at < data.len()` bytes are read.
    PortIn { transfer: Transfer, data: Vec<u8>, at: usize },
    /// Non-DMA: the guest writes; `data.len() < len`.
    PortOut { transfer: Transfer, data: Vec<u8>, len: usize },
    /// Bytes for the guest; not empty.
    Result(VecDeque<u8>),
}

pub(crate) struct Drive {
    pub medium: Option<Arc<dyn Disk>>,
    pub cylinder: u8,
    /// The media change line.
    pub changed: bool,
}

/// The floppy disk controller.
pub struct FloppyController {
    name: String,
    pub(crate) wiring: Wiring,
    pub(crate) log: GuestLog,
    pub(crate) this: Weak<Mutex<FloppyController>>,
    pub(crate) drives: [Option<Drive>; 2],
    pub(crate) phase: Phase,
    pub(crate) dor: u8,
    pub(crate) tape: u8,
    /// Data rate: 0 = 500, 1 = 300, 2 = 250 kbit/s, 3 = 1 Mbit/s.
    pub(crate) rate: u8,
    pub(crate) specified: [u8; 2],
    pub(crate) configured: [u8; 2],
    pub(crate) perpendicular: u8,
    pub(crate) locked: bool,
    pub(crate) last_sector: u8,
    /// Drive and head of the last command.
    pub(crate) selected: u8,
    pub(crate) head: u8,
    /// ST0 of a seek, for SENSE INTERRUPT.
    pub(crate) pending: Option<u8>,
    /// Drives that have not reported after a reset.
    pub(crate) polled: u8,
    pub(crate) interrupt: bool,
    pub(crate) in_flight: u32,
    /// Counts resets, so that completions of before are known.
    pub(crate) generation: u64,
    pub(crate) quiet: Option<QuiesceToken>,
}

impl FloppyController {
    /// A controller after power-on; `drives`: `None` for no drive, `Some(None)` for an empty one.
    ///
    /// # Errors
    /// `Ports`, `Medium`.
    pub fn new(
        name: &str,
        wiring: Wiring,
        drives: [Option<Option<Arc<dyn Disk>>>; 2],
    ) -> Result<Arc<Mutex<FloppyController>>, FloppyError> {
        for medium in drives.iter().flatten().flatten() {
            check(&**medium).map_err(|source| FloppyError::Medium { name: name.into(), source })?;
        }
        let ports = wiring.ports.clone();
        let controller = Arc::new_cyclic(|this| {
            Mutex::new(FloppyController {
                name: name.into(),
                log: GuestLog::new(&wiring.reactor, name),
                wiring,
                this: this.clone(),
                drives: drives.map(|drive| drive.map(|medium| Drive { medium, cylinder: 0, changed: true })),
                phase: Phase::Command(Vec::new()),
                dor: dor::RUN | dor::GATE,
                tape: 0,
                rate: 2,
                specified: [0; 2],
                configured: [0; 2],
                perpendicular: 0,
                locked: false,
                last_sector: 0,
                selected: 0,
                head: 0,
                pending: None,
                polled: 0,
                interrupt: false,
                in_flight: 0,
                generation: 0,
                quiet: None,
            })
        });
        let taken = |source| FloppyError::Ports { name: name.into(), source };
        ports.map(0x3f0..=0x3f5, &controller, BLOCK).map_err(taken)?;
        ports.map(0x3f7..=0x3f7, &controller, LAST).map_err(taken)?;
        Ok(controller)
    }

    /// The controller as it was saved, with the media of today.
    ///
    /// # Errors
    /// Those of [`FloppyController::new`]; `SavedState`, `Damaged`.
    pub fn restored(
        name: &str,
        wiring: Wiring,
        drives: [Option<Option<Arc<dyn Disk>>>; 2],
        saved: &SavedState,
    ) -> Result<Arc<Mutex<FloppyController>>, FloppyError> {
        let saved: SavedFloppy =
            saved.decode(VERSION..=VERSION).map_err(|source| FloppyError::SavedState { name: name.into(), source })?;
        let controller = FloppyController::new(name, wiring, drives)?;
        if !saved.apply(&mut controller.lock()) {
            return Err(FloppyError::Damaged { name: name.into() });
        }
        Ok(controller)
    }

    /// Puts a medium into a drive, in place of the one that is there; `None` takes it out. Returns what was there.
    ///
    /// # Errors
    /// `NoDrive`, `Size`.
    pub fn change_medium(
        &mut self,
        drive: u8,
        medium: Option<Arc<dyn Disk>>,
    ) -> Result<Option<Arc<dyn Disk>>, MediumError> {
        if let Some(medium) = &medium {
            check(&**medium)?;
        }
        let drive = self.drive_mut(drive).ok_or(MediumError::NoDrive(drive))?;
        drive.changed = true;
        Ok(std::mem::replace(&mut drive.medium, medium))
    }

    fn drive(&self, drive: u8) -> Option<&Drive> {
        self.drives.get(usize::from(drive))?.as_ref()
    }

    fn drive_mut(&mut self, drive: u8) -> Option<&mut Drive> {
        self.drives.get_mut(usize::from(drive))?.as_mut()
    }

    pub(crate) fn medium(&self, drive: u8) -> Option<&Arc<dyn Disk>> {
        self.drive(drive)?.medium.as_ref()
    }

    pub(crate) fn drive_format(&self, drive: u8) -> Option<Format> {
        Format::of(self.medium(drive)?.facts().size)
    }

    pub(crate) fn protected(&self, drive: u8) -> bool {
        self.medium(drive).is_some_and(|medium| medium.facts().read_only)
    }

    pub(crate) fn cylinder(&self, drive: u8) -> u8 {
        self.drive(drive).map_or(0, |drive| drive.cylinder)
    }

    /// Moves the head; false when there is no drive. With a medium in, a step takes back the media change line.
    pub(crate) fn step_to(&mut self, drive: u8, cylinder: u8) -> bool {
        let Some(drive) = self.drive_mut(drive) else { return false };
        // Behind the last cylinder the head stops.
        drive.cylinder = cylinder.min(82);
        drive.changed &= drive.medium.is_none();
        true
    }

    pub(crate) fn set_interrupt(&mut self, level: bool) {
        self.interrupt = level;
        self.wiring.irq.set(level && self.dor & dor::GATE != 0);
    }

    /// The controller's own reset: what was configured stays if it is locked.
    fn reset_controller(&mut self) {
        self.generation += 1;
        self.idle();
        self.pending = None;
        self.polled = 0;
        self.perpendicular &= 0x3c;
        if !self.locked {
            self.configured = [0; 2];
        }
        self.set_interrupt(false);
    }

    /// The reset ends: the drives are polled.
    fn run_again(&mut self) {
        if self.polls() {
            self.polled = 4;
            self.set_interrupt(true);
        }
    }

    fn write_dor(&mut self, value: u8) {
        let was = std::mem::replace(&mut self.dor, value);
        match (was & dor::RUN != 0, value & dor::RUN != 0) {
            (true, false) => self.reset_controller(),
            (false, true) => self.run_again(),
            _ => {}
        }
        self.set_interrupt(self.interrupt);
    }

    fn main_status(&self) -> u8 {
        if self.dor & dor::RUN == 0 {
            return 0;
        }
        match &self.phase {
            Phase::Command(bytes) if bytes.is_empty() => main_status::READY,
            Phase::Command(_) => main_status::READY | main_status::BUSY,
            Phase::Busy(_) => main_status::BUSY,
            Phase::PortIn { .. } => {
                main_status::READY | main_status::TO_HOST | main_status::NON_DMA | main_status::BUSY
            }
            Phase::PortOut { .. } => main_status::READY | main_status::NON_DMA | main_status::BUSY,
            Phase::Result(_) => main_status::READY | main_status::TO_HOST | main_status::BUSY,
        }
    }

    fn read_data(&mut self) -> u8 {
        match &mut self.phase {
            Phase::Result(bytes) => {
                let byte = bytes.pop_front().unwrap_or(0);
                let done = bytes.is_empty();
                if done {
                    self.idle();
                }
                if self.pending.is_none() && self.polled == 0 {
                    self.set_interrupt(false);
                }
                byte
            }
            Phase::PortIn { data, at, .. } => {
                let byte = data[*at];
                *at += 1;
                if *at == data.len() {
                    self.set_interrupt(false);
                    if let Phase::PortIn { transfer, data, .. } =
                        std::mem::replace(&mut self.phase, Phase::Command(Vec::new()))
                    {
                        self.moved(transfer, (data.len() / SECTOR as usize) as u8, false);
                    }
                }
                byte
            }
            _ => 0,
        }
    }

    fn write_data(&mut self, value: u8) {
        if self.dor & dor::RUN == 0 {
            return;
        }
        match &mut self.phase {
            Phase::Command(bytes) => {
                bytes.push(value);
                if bytes.len() == command::len(bytes[0]) {
                    let bytes = std::mem::take(bytes);
                    self.execute(&bytes);
                }
            }
            Phase::PortOut { data, len, .. } => {
                data.push(value);
                if data.len() == *len {
                    self.set_interrupt(false);
                    if let Phase::PortOut { transfer, data, .. } =
                        std::mem::replace(&mut self.phase, Phase::Command(Vec::new()))
                    {
                        self.port_out_full(transfer, data);
                    }
                }
            }
            _ => {}
        }
    }

    /// The media change line of the selected drive.
    fn digital_input(&self) -> u8 {
        let changed = self.drive(self.dor & dor::DRIVE).is_some_and(|drive| drive.changed);
        u8::from(changed) << 7
    }
}

fn check(medium: &dyn Disk) -> Result<(), MediumError> {
    let size = medium.facts().size;
    Format::of(size).map(drop).ok_or(MediumError::Size(size))
}

impl Device for FloppyController {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode(KIND, VERSION, &SavedFloppy::of(self))
    }

    fn inspect(&self) -> serde_json::Value {
        let drive = |drive: &Option<Drive>| {
            drive.as_ref().map(|drive| {
                let size = drive.medium.as_ref().map(|medium| medium.facts().size);
                json!({ "cylinder": drive.cylinder, "changed": drive.changed, "size": size })
            })
        };
        json!({ "drives": self.drives.iter().map(drive).collect::<Vec<_>>(), "dor": self.dor, "status": self.main_status() })
    }

    fn reset(&mut self) {
        self.locked = false;
        self.reset_controller();
        self.dor = dor::RUN | dor::GATE;
        (self.tape, self.rate, self.specified, self.perpendicular) = (0, 2, [0; 2], 0);
        (self.selected, self.head, self.last_sector) = (0, 0, 0);
        self.drives.iter_mut().flatten().for_each(|drive| drive.cylinder = 0);
    }

    fn pause(&mut self, quiet: QuiesceToken) {
        if self.in_flight > 0 {
            self.quiet = Some(quiet);
        }
    }
}

impl PortIo for FloppyController {
    fn port_read(&mut self, bank: u8, offset: u16, _size: u8) -> u32 {
        let value = match if bank == LAST { port::DIR } else { offset } {
            port::STATUS_A => u8::from(self.interrupt) << 7,
            // Drive select and motors.
            port::STATUS_B => 0xc0 | (self.dor & 1) << 5 | self.dor >> 4 & 3,
            port::DOR => self.dor,
            port::TAPE => self.tape,
            port::STATUS => self.main_status(),
            port::DATA => self.read_data(),
            _ => self.digital_input(),
        };
        value.into()
    }

    fn port_write(&mut self, bank: u8, offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        match if bank == LAST { port::DIR } else { offset } {
            port::DOR => self.write_dor(value),
            port::TAPE => self.tape = value & 3,
            port::STATUS => {
                self.rate = value & 3;
                if value & 0x80 != 0 && self.dor & dor::RUN != 0 {
                    // A reset that ends by itself.
                    self.reset_controller();
                    self.run_again();
                }
            }
            port::DATA => self.write_data(value),
            port::DIR => self.rate = value & 3,
            _ => {}
        }
    }
}
