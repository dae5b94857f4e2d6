//! The saved form of the controller: registers and data phases. Requests are never in flight here, because a paused
//! controller has waited for them.

use crate::atapi::PACKET;
use crate::bus_master::BusMaster;
use crate::channel::Channel;
use crate::drive::{Deep, Drive, DriveKind};
use crate::transfer::{Activity, Dma, DmaWork, PioIn, PioOut};
use bulkhead_device::SavedConfigSpace;
use bulkhead_scsi_target::{LogicalUnit, SavedUnit};
use minicbor::{Decode, Encode};

pub(crate) const KIND: &str = "ide";
pub(crate) const VERSION: u32 = 1;

/// No buffer of a data phase is larger.
const MAX_DATA: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedIde {
    #[n(0)]
    pub config: SavedConfigSpace,
    #[n(1)]
    pub channels: [SavedChannel; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedChannel {
    #[n(0)]
    drives: [Option<SavedDrive>; 2],
    #[n(1)]
    device: u8,
    #[n(2)]
    control: u8,
    #[n(3)]
    interrupt: bool,
    #[n(4)]
    active: u8,
    #[n(5)]
    activity: SavedActivity,
    /// Command, status, table.
    #[n(6)]
    bus_master: (u8, u8, u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedDrive {
    /// Feature, count, LBA low, mid and high: what was written last, and before.
    #[n(0)]
    task_file: [(u8, u8); 5],
    #[n(1)]
    error: u8,
    #[n(2)]
    status: u8,
    #[n(3)]
    transfer_mode: u8,
    #[n(4)]
    kind: SavedKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
enum SavedKind {
    #[n(0)]
    Ata(#[n(0)] SavedAta),
    #[n(1)]
    Atapi(#[n(0)] SavedUnit),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedAta {
    #[n(0)]
    heads: u8,
    #[n(1)]
    sectors: u8,
    #[n(2)]
    multiple: u8,
    #[n(3)]
    write_cache: bool,
    #[n(4)]
    smart: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
enum SavedActivity {
    #[n(0)]
    Idle,
    #[n(1)]
    PioIn(#[n(0)] SavedPioIn),
    #[n(2)]
    PioOut(#[n(0)] SavedPioOut),
    #[n(3)]
    Packet(#[n(0)] SavedPacket),
    #[n(4)]
    Dma(#[n(0)] SavedDma),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedPioIn {
    #[cbor(n(0), with = "minicbor::bytes")]
    data: Vec<u8>,
    #[n(1)]
    at: u32,
    #[n(2)]
    block_end: u32,
    #[n(3)]
    block: u32,
    #[n(4)]
    next: u64,
    #[n(5)]
    left: u64,
    #[n(6)]
    packet: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedPioOut {
    #[cbor(n(0), with = "minicbor::bytes")]
    data: Vec<u8>,
    #[n(1)]
    block_end: u32,
    #[n(2)]
    block: u32,
    #[n(3)]
    offset: u64,
    #[n(4)]
    left: u64,
    #[n(5)]
    fua: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedPacket {
    #[cbor(n(0), with = "minicbor::bytes")]
    bytes: [u8; PACKET],
    #[n(1)]
    filled: u8,
    #[n(2)]
    by_dma: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedDma {
    #[n(0)]
    work: SavedDmaWork,
    #[n(1)]
    left: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
enum SavedDmaWork {
    #[n(0)]
    Read(#[n(0)] u64),
    #[n(1)]
    Write(#[n(0)] u64, #[n(1)] bool),
    #[n(2)]
    Give(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(3)]
    TrimList,
}

impl SavedChannel {
    pub fn of(channel: &Channel) -> SavedChannel {
        let BusMaster { command, status, table } = channel.bus_master;
        SavedChannel {
            drives: channel.drives.each_ref().map(|drive| drive.as_ref().map(SavedDrive::of)),
            device: channel.device,
            control: channel.control,
            interrupt: channel.interrupt,
            active: channel.active as u8,
            activity: SavedActivity::of(&channel.activity),
            bus_master: (command, status, table),
        }
    }

    /// Brings a new channel into the saved state; false when the state is not one of such a channel.
    pub fn apply(self, channel: &mut Channel) -> bool {
        for (drive, saved) in channel.drives.iter_mut().zip(self.drives) {
            let fits = match (drive, saved) {
                (Some(drive), Some(saved)) => saved.apply(drive),
                (None, None) => true,
                _ => false,
            };
            if !fits {
                return false;
            }
        }
        let Some(activity) = self.activity.restored() else { return false };
        channel.active = usize::from(self.active & 1);
        if channel.drives[channel.active].is_none() && !matches!(activity, Activity::Idle) {
            return false;
        }
        channel.activity = activity;
        channel.device = self.device;
        channel.control = self.control;
        let (command, status, table) = self.bus_master;
        channel.bus_master = BusMaster { command, status, table: table & !3 };
        channel.interrupt = self.interrupt;
        // Not `update_line`: the edge has been seen before.
        channel.irq.set(channel.interrupt && channel.control & crate::regs::control::NIEN == 0);
        true
    }
}

impl SavedDrive {
    fn of(drive: &Drive) -> SavedDrive {
        let regs = &drive.regs;
        let deep = [regs.feature, regs.count, regs.lba_low, regs.lba_mid, regs.lba_high];
        SavedDrive {
            task_file: deep.map(|Deep { now, before }| (now, before)),
            error: regs.error,
            status: regs.status,
            transfer_mode: drive.transfer_mode,
            kind: match &drive.kind {
                DriveKind::Ata(ata) => SavedKind::Ata(SavedAta {
                    heads: ata.heads,
                    sectors: ata.sectors,
                    multiple: ata.multiple,
                    write_cache: ata.write_cache,
                    smart: ata.smart,
                }),
                DriveKind::Atapi(dvd) => SavedKind::Atapi(dvd.unit.save()),
            },
        }
    }

    fn apply(self, drive: &mut Drive) -> bool {
        let regs = &mut drive.regs;
        let deep = [&mut regs.feature, &mut regs.count, &mut regs.lba_low, &mut regs.lba_mid, &mut regs.lba_high];
        for (register, (now, before)) in deep.into_iter().zip(self.task_file) {
            *register = Deep { now, before };
        }
        (regs.error, regs.status, drive.transfer_mode) = (self.error, self.status, self.transfer_mode);
        match (&mut drive.kind, self.kind) {
            (DriveKind::Ata(ata), SavedKind::Ata(saved)) => {
                (ata.heads, ata.sectors, ata.multiple) =
                    (saved.heads.clamp(1, 16), saved.sectors.max(1), saved.multiple);
                (ata.write_cache, ata.smart) = (saved.write_cache, saved.smart);
                ata.multiple == 0 || ata.multiple.is_power_of_two() && ata.multiple <= crate::identify::MAX_MULTIPLE
            }
            (DriveKind::Atapi(dvd), SavedKind::Atapi(saved)) => {
                dvd.unit = LogicalUnit::restored(dvd.unit.kind(), dvd.unit.identity().clone(), &saved);
                true
            }
            _ => false,
        }
    }
}

impl SavedActivity {
    fn of(activity: &Activity) -> SavedActivity {
        match activity {
            Activity::Idle | Activity::Busy(_) => SavedActivity::Idle,
            Activity::PioIn(pio) => SavedActivity::PioIn(SavedPioIn {
                data: pio.data.clone(),
                at: pio.at as u32,
                block_end: pio.block_end as u32,
                block: pio.block,
                next: pio.next,
                left: pio.left,
                packet: pio.packet,
            }),
            Activity::PioOut(pio) => SavedActivity::PioOut(SavedPioOut {
                data: pio.data.clone(),
                block_end: pio.block_end as u32,
                block: pio.block,
                offset: pio.offset,
                left: pio.left,
                fua: pio.fua,
            }),
            Activity::Packet { bytes, filled, by_dma } => {
                SavedActivity::Packet(SavedPacket { bytes: *bytes, filled: *filled as u8, by_dma: *by_dma })
            }
            Activity::Dma(dma) => {
                let work = match &dma.work {
                    DmaWork::Read { offset } => SavedDmaWork::Read(*offset),
                    DmaWork::Write { offset, fua } => SavedDmaWork::Write(*offset, *fua),
                    DmaWork::Give(data) => SavedDmaWork::Give(data.clone()),
                    DmaWork::TrimList => SavedDmaWork::TrimList,
                };
                SavedActivity::Dma(SavedDma { work, left: dma.left })
            }
        }
    }

    /// The live form, if it keeps what the live type promises. Offsets are checked by the disk itself.
    fn restored(self) -> Option<Activity> {
        let sane = |offset: u64, left: u64| offset.checked_add(left).is_some();
        match self {
            SavedActivity::Idle => Some(Activity::Idle),
            SavedActivity::PioIn(saved) => {
                let (at, block_end) = (saved.at as usize, saved.block_end as usize);
                let len = saved.data.len();
                let good =
                    at < block_end && block_end <= len && len <= MAX_DATA && (1..=0x2000_0000).contains(&saved.block);
                let SavedPioIn { data, block, next, left, packet, .. } = saved;
                (good && sane(next, left)).then_some(Activity::PioIn(PioIn {
                    data,
                    at,
                    block_end,
                    block,
                    next,
                    left,
                    packet,
                }))
            }
            SavedActivity::PioOut(saved) => {
                let SavedPioOut { data, block, offset, left, fua, .. } = saved;
                let block_end = saved.block_end as usize;
                let most = left.min(MAX_DATA as u64) as usize;
                let good = data.len() < block_end && block_end <= most && (1..=MAX_DATA as u32).contains(&block);
                (good && sane(offset, left)).then_some(Activity::PioOut(PioOut {
                    data,
                    block_end,
                    block,
                    offset,
                    left,
                    fua,
                }))
            }
            SavedActivity::Packet(SavedPacket { bytes, filled, by_dma }) => {
                let filled = usize::from(filled);
                (filled < PACKET).then_some(Activity::Packet { bytes, filled, by_dma })
            }
            SavedActivity::Dma(SavedDma { work, left }) => {
                let most = crate::identify::MAX_TRIM_BLOCKS as u64 * 512;
                let (work, good) = match work {
                    SavedDmaWork::Read(offset) => (DmaWork::Read { offset }, sane(offset, left)),
                    SavedDmaWork::Write(offset, fua) => (DmaWork::Write { offset, fua }, sane(offset, left)),
                    SavedDmaWork::Give(data) => {
                        let good = left <= data.len() as u64 && data.len() <= MAX_DATA;
                        (DmaWork::Give(data), good)
                    }
                    SavedDmaWork::TrimList => (DmaWork::TrimList, left <= most),
                };
                (good && left > 0).then_some(Activity::Dma(Dma { work, left }))
            }
        }
    }
}
