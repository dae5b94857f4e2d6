//! The logical unit: its state, and which command goes where.

use crate::cdb::Cdb;
use crate::saved_state::SavedUnit;
use crate::{Identity, Sense, block, inquiry, mode, optical};
use bulkhead_disk::DiskFacts;
use std::ops::Range;

/// Command set of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitKind {
    /// A direct-access disk (SBC).
    Disk,
    /// A CD and DVD reader (MMC).
    Optical,
}

/// What the transport has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Status GOOD, without data.
    Good,
    /// Status GOOD with this data, already cut to the allocation length.
    DataIn(Vec<u8>),
    /// Fetch this many bytes of parameters, then call [`LogicalUnit::parameters`].
    DataOut(u32),
    /// Do this on the disk, then status GOOD, or the sense of its error.
    Disk(Action),
    /// Status CHECK CONDITION.
    Check(Sense),
}

impl Step {
    pub(crate) fn data(mut data: Vec<u8>, allocation: usize) -> Step {
        data.truncate(allocation);
        if data.is_empty() { Step::Good } else { Step::DataIn(data) }
    }
}

/// Work on the disk. Ranges are inside the disk as its facts were when the command came; all in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read to the guest.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes; not 0.
        len: u64,
    },
    /// Write from the guest.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes; not 0.
        len: u64,
        /// Durable before the status.
        fua: bool,
    },
    /// Read and throw away.
    Verify {
        /// First byte.
        offset: u64,
        /// Bytes; not 0.
        len: u64,
    },
    /// Make durable.
    Flush,
    /// Forget these ranges, one request each.
    Discard(Vec<Range<u64>>),
    /// Clear a range.
    Zero {
        /// Bytes to clear.
        range: Range<u64>,
        /// Space may be given back.
        may_unmap: bool,
    },
    /// Write one block again and again.
    Fill {
        /// Bytes to write; at most 16 MiB.
        range: Range<u64>,
        /// One block.
        block: Vec<u8>,
    },
}

/// The guest has locked the tray; it was told that somebody wants the medium out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectRefused;

/// What GET EVENT STATUS NOTIFICATION has to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MediaEvent {
    #[default]
    None,
    EjectRequest,
    NewMedium,
    Removed,
}

pub(crate) const ATTENTION_POWER_ON: u8 = 1;
pub(crate) const ATTENTION_MEDIUM: u8 = 2;
pub(crate) const ATTENTION_CAPACITY: u8 = 4;

/// One SCSI device as its guest sees it, apart from the bytes on its medium.
#[derive(Debug, Clone)]
pub struct LogicalUnit {
    pub(crate) kind: UnitKind,
    pub(crate) identity: Identity,
    /// `ATTENTION_*` bits, told one at a time in the order of their values.
    pub(crate) attention: u8,
    /// For transports without autosense: what REQUEST SENSE is to tell.
    pub(crate) held: Option<Sense>,
    pub(crate) locked: bool,
    pub(crate) tray_open: bool,
    pub(crate) event: MediaEvent,
}

impl LogicalUnit {
    /// A unit after power-on.
    pub fn new(kind: UnitKind, identity: Identity) -> LogicalUnit {
        LogicalUnit {
            kind,
            identity,
            attention: ATTENTION_POWER_ON,
            held: None,
            locked: false,
            tray_open: false,
            event: MediaEvent::None,
        }
    }

    /// The unit as it was saved.
    pub fn restored(kind: UnitKind, identity: Identity, saved: &SavedUnit) -> LogicalUnit {
        let mut unit = LogicalUnit::new(kind, identity);
        saved.apply(&mut unit);
        unit
    }

    /// The saved form.
    pub fn save(&self) -> SavedUnit {
        SavedUnit::of(self)
    }

    /// Command set.
    pub fn kind(&self) -> UnitKind {
        self.kind
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the guest locked the tray.
    pub fn locked(&self) -> bool {
        self.locked
    }

    /// Whether the tray is open, so that a medium in it cannot be read.
    pub fn tray_open(&self) -> bool {
        self.tray_open
    }

    /// Back to the state after power-on. A medium stays where it is.
    pub fn reset(&mut self) {
        self.attention = ATTENTION_POWER_ON;
        self.held = None;
        self.locked = false;
        self.event = MediaEvent::None;
    }

    /// Keeps a sense for REQUEST SENSE: for transports that cannot send it with the status.
    pub fn hold(&mut self, sense: Sense) {
        self.held = Some(sense);
    }

    /// The disk has another size now.
    pub fn capacity_changed(&mut self) {
        self.attention |= ATTENTION_CAPACITY;
    }

    /// The host put a medium in, or took it out: the tray is closed now.
    pub fn medium_changed(&mut self, present: bool) {
        self.tray_open = false;
        self.event = if present { MediaEvent::NewMedium } else { MediaEvent::Removed };
        if present {
            self.attention |= ATTENTION_MEDIUM;
        }
    }

    /// The host presses the eject button. The caller then takes the medium out and calls [`LogicalUnit::medium_changed`].
    ///
    /// # Errors
    /// [`EjectRefused`] when the guest locked the tray; it learns of the wish, and may unlock and eject.
    pub fn press_eject(&mut self) -> Result<(), EjectRefused> {
        if self.locked {
            self.event = MediaEvent::EjectRequest;
            return Err(EjectRefused);
        }
        Ok(())
    }

    /// What to do for a command block. `medium` is what is in the drive; a disk's own facts.
    pub fn command(&mut self, cdb: &[u8], medium: Option<&DiskFacts>) -> Step {
        let cdb = Cdb::new(cdb);
        let medium = medium.filter(|_| !self.tray_open);
        let held = self.held.take();
        match cdb.opcode() {
            0x03 => return self.request_sense(&cdb, held),
            0x12 => return inquiry::inquiry(&cdb, self.kind, &self.identity, medium),
            0xa0 => return report_luns(&cdb),
            // These tell of changes themselves.
            0x46 | 0x4a if self.kind == UnitKind::Optical => {}
            _ => {
                if let Some(sense) = self.take_attention() {
                    return Step::Check(sense);
                }
            }
        }
        match (cdb.opcode(), self.kind) {
            (0x1a | 0x5a, _) => mode::mode_sense(&cdb, self, medium),
            (0x1e, _) => self.prevent_removal(&cdb),
            // A self-test that is always passed; others need parameters.
            (0x1d, _) if cdb.bit(1, 2) || cdb.u16(3) == 0 => Step::Good,
            (_, UnitKind::Disk) => block::command(&cdb, medium),
            (_, UnitKind::Optical) => optical::command(self, &cdb, medium),
        }
    }

    /// What to do with the parameters that [`Step::DataOut`] asked for.
    pub fn parameters(&mut self, cdb: &[u8], data: &[u8], medium: Option<&DiskFacts>) -> Step {
        match (self.kind, medium.filter(|_| !self.tray_open)) {
            (UnitKind::Disk, Some(facts)) => block::parameters(&Cdb::new(cdb), data, facts),
            _ => Step::Check(Sense::INVALID_OPCODE),
        }
    }

    /// What is told without a medium.
    pub(crate) fn not_ready(&self) -> Step {
        Step::Check(if self.tray_open { Sense::TRAY_OPEN } else { Sense::NO_MEDIUM })
    }

    fn take_attention(&mut self) -> Option<Sense> {
        let (bit, sense) = match self.attention {
            0 => return None,
            bits if bits & ATTENTION_POWER_ON != 0 => (ATTENTION_POWER_ON, Sense::POWER_ON),
            bits if bits & ATTENTION_MEDIUM != 0 => (ATTENTION_MEDIUM, Sense::MEDIUM_CHANGED),
            _ => (u8::MAX, Sense::CAPACITY_CHANGED),
        };
        self.attention &= !bit;
        Some(sense)
    }

    fn request_sense(&mut self, cdb: &Cdb, held: Option<Sense>) -> Step {
        let sense = held.or_else(|| self.take_attention()).unwrap_or(Sense::NONE);
        let allocation = usize::from(cdb.u8(4));
        if cdb.bit(1, 0) {
            Step::data(sense.descriptor().to_vec(), allocation)
        } else {
            Step::data(sense.fixed().to_vec(), allocation)
        }
    }

    fn prevent_removal(&mut self, cdb: &Cdb) -> Step {
        if self.kind == UnitKind::Optical {
            self.locked = cdb.bit(4, 0);
        }
        Step::Good
    }
}

/// One unit, number 0. Transports with more answer REPORT LUNS themselves.
fn report_luns(cdb: &Cdb) -> Step {
    let allocation = cdb.u32(6) as usize;
    if allocation < 16 || cdb.u8(2) > 2 {
        return Step::Check(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 16];
    data[3] = 8;
    if cdb.u8(2) == 1 {
        // Well-known units: none.
        data.truncate(8);
        data[3] = 0;
    }
    Step::data(data, allocation)
}
