//! The saved forms of both devices. Disk requests are never in flight here: a paused controller has waited for them.

use crate::controller::{FloppyController, Phase};
use crate::dma::Channel;
use crate::medium::SECTOR;
use crate::transfer::Transfer;
use minicbor::{Decode, Encode};

pub(crate) const KIND: &str = "floppy";
pub(crate) const VERSION: u32 = 1;
pub(crate) const DMA_KIND: &str = "isa_dma";
pub(crate) const DMA_VERSION: u32 = 1;

/// No track has more.
const MAX_TRACK: usize = 18 * SECTOR as usize;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedDma {
    #[n(0)]
    pub channels: [SavedDmaChannel; 8],
    /// Command, and whether the next byte is the upper one.
    #[n(1)]
    pub halves: [(u8, bool); 2],
    #[cbor(n(2), with = "minicbor::bytes")]
    pub pages: [u8; 16],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedDmaChannel {
    #[n(0)]
    base_address: u16,
    #[n(1)]
    base_count: u16,
    #[n(2)]
    address: u16,
    #[n(3)]
    count: u16,
    #[n(4)]
    mode: u8,
    #[n(5)]
    masked: bool,
    #[n(6)]
    ended: bool,
}

impl SavedDmaChannel {
    pub fn of(channel: &Channel) -> SavedDmaChannel {
        let Channel { base_address, base_count, address, count, mode, masked, ended } = *channel;
        SavedDmaChannel { base_address, base_count, address, count, mode, masked, ended }
    }

    pub fn restored(self) -> Channel {
        let SavedDmaChannel { base_address, base_count, address, count, mode, masked, ended } = self;
        Channel { base_address, base_count, address, count, mode, masked, ended }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedFloppy {
    /// Cylinder and media change line; none for no drive.
    #[n(0)]
    drives: [Option<(u8, bool)>; 2],
    #[n(1)]
    phase: SavedPhase,
    #[n(2)]
    dor: u8,
    #[n(3)]
    tape: u8,
    #[n(4)]
    rate: u8,
    #[n(5)]
    specified: (u8, u8),
    #[n(6)]
    configured: (u8, u8),
    #[n(7)]
    perpendicular: u8,
    #[n(8)]
    locked: bool,
    #[n(9)]
    last_sector: u8,
    #[n(10)]
    selected: u8,
    #[n(11)]
    head: u8,
    #[n(12)]
    pending: Option<u8>,
    #[n(13)]
    polled: u8,
    #[n(14)]
    interrupt: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
enum SavedPhase {
    #[n(0)]
    Command(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(1)]
    PortIn(#[n(0)] SavedTransfer, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>, #[n(2)] u32),
    #[n(2)]
    PortOut(#[n(0)] SavedTransfer, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>, #[n(2)] u32),
    #[n(3)]
    Result(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct SavedTransfer {
    #[n(0)]
    write: bool,
    #[n(1)]
    drive: u8,
    #[n(2)]
    cylinder: u8,
    #[n(3)]
    head: u8,
    #[n(4)]
    sector: u8,
    #[n(5)]
    last: u8,
    #[n(6)]
    both_sides: bool,
}

impl SavedTransfer {
    fn of(transfer: &Transfer) -> SavedTransfer {
        let Transfer { write, drive, cylinder, head, sector, last, both_sides, .. } = *transfer;
        SavedTransfer { write, drive, cylinder, head, sector, last, both_sides }
    }

    fn restored(self) -> Transfer {
        let SavedTransfer { write, drive, cylinder, head, sector, last, both_sides } = self;
        Transfer { write, by_port: true, drive, cylinder, head, sector: sector.min(18), last, both_sides }
    }
}

impl SavedFloppy {
    pub fn of(controller: &FloppyController) -> SavedFloppy {
        let [rates, load] = controller.specified;
        let [config, precompensation] = controller.configured;
        SavedFloppy {
            drives: controller
                .drives
                .each_ref()
                .map(|drive| drive.as_ref().map(|drive| (drive.cylinder, drive.changed))),
            phase: match &controller.phase {
                Phase::Command(bytes) => SavedPhase::Command(bytes.clone()),
                Phase::Busy(_) => SavedPhase::Command(Vec::new()),
                Phase::PortIn { transfer, data, at } => {
                    SavedPhase::PortIn(SavedTransfer::of(transfer), data.clone(), *at as u32)
                }
                Phase::PortOut { transfer, data, len } => {
                    SavedPhase::PortOut(SavedTransfer::of(transfer), data.clone(), *len as u32)
                }
                Phase::Result(bytes) => SavedPhase::Result(bytes.iter().copied().collect()),
            },
            dor: controller.dor,
            tape: controller.tape,
            rate: controller.rate,
            specified: (rates, load),
            configured: (config, precompensation),
            perpendicular: controller.perpendicular,
            locked: controller.locked,
            last_sector: controller.last_sector,
            selected: controller.selected,
            head: controller.head,
            pending: controller.pending,
            polled: controller.polled,
            interrupt: controller.interrupt,
        }
    }

    /// Brings a new controller into the saved state; false when no controller can be in it.
    pub fn apply(self, controller: &mut FloppyController) -> bool {
        for (drive, saved) in controller.drives.iter_mut().zip(self.drives) {
            match (drive, saved) {
                (Some(drive), Some((cylinder, changed))) => {
                    (drive.cylinder, drive.changed) = (cylinder.min(82), changed);
                }
                (None, None) => {}
                _ => return false,
            }
        }
        let Some(phase) = self.phase.restored() else { return false };
        controller.phase = phase;
        controller.dor = self.dor;
        controller.tape = self.tape & 3;
        controller.rate = self.rate & 3;
        controller.specified = self.specified.into();
        controller.configured = self.configured.into();
        controller.perpendicular = self.perpendicular & 0x7f;
        controller.locked = self.locked;
        controller.last_sector = self.last_sector;
        controller.selected = self.selected & 3;
        controller.head = self.head & 1;
        controller.pending = self.pending;
        controller.polled = self.polled.min(4);
        controller.set_interrupt(self.interrupt);
        true
    }
}

impl SavedPhase {
    fn restored(self) -> Option<Phase> {
        match self {
            SavedPhase::Command(bytes) => {
                let good = bytes.first().is_none_or(|first| bytes.len() < crate::regs::command::len(*first));
                good.then_some(Phase::Command(bytes))
            }
            SavedPhase::PortIn(transfer, data, at) => {
                let (at, transfer) = (at as usize, transfer.restored());
                (at < data.len() && data.len() <= MAX_TRACK).then_some(Phase::PortIn { transfer, data, at })
            }
            SavedPhase::PortOut(transfer, data, len) => {
                let (len, transfer) = (len as usize, transfer.restored());
                (data.len() < len && len <= MAX_TRACK).then_some(Phase::PortOut { transfer, data, len })
            }
            SavedPhase::Result(bytes) => (!bytes.is_empty() && bytes.len() <= 10).then(|| Phase::Result(bytes.into())),
        }
    }
}
