//! Commands of ATAPI drives (ATA/ATAPI-7, 5.20; the packets are in `bulkhead_scsi_target`).

use crate::ata::set_features;
use crate::channel::Channel;
use crate::drive::{DriveKind, DvdDrive};
use crate::identify::identify;
use crate::regs::{command as code, error, reason, status};
use crate::transfer::{Activity, Dma, DmaWork};
use bulkhead_disk::SECTOR;
use bulkhead_scsi_target::{Action, Sense, Step};

/// Bytes of a command packet.
pub(crate) const PACKET: usize = 12;

impl Channel {
    pub(crate) fn atapi_command(&mut self, command: u8) {
        match command {
            code::PACKET => self.await_packet(),
            code::IDENTIFY_PACKET => {
                let second = self.active == 1;
                let data = self.active_drive().map(|drive| identify(drive, second)).unwrap_or_default();
                self.give(data, SECTOR as u32, false);
            }
            // Disks only, but the answer tells who is here.
            code::IDENTIFY | code::READ_SECTORS => {
                if let Some(drive) = self.active_drive() {
                    drive.set_signature();
                }
                self.abort();
            }
            code::SET_FEATURES if self.active_drive().is_some_and(set_features) => self.succeed(),
            code::CHECK_POWER_MODE => {
                if let Some(drive) = self.active_drive() {
                    drive.regs.count.now = 0xff;
                }
                self.succeed();
            }
            code::IDLE_IMMEDIATE | code::IDLE | code::STANDBY | code::STANDBY_IMMEDIATE | code::SLEEP => self.succeed(),
            _ => self.abort(),
        }
    }

    /// The drive the active packet is for.
    pub(crate) fn dvd(&mut self) -> Option<&mut DvdDrive> {
        match &mut self.active_drive()?.kind {
            DriveKind::Atapi(dvd) => Some(dvd),
            DriveKind::Ata(_) => None,
        }
    }

    fn await_packet(&mut self) {
        let Some(drive) = self.active_drive() else { return };
        let by_dma = drive.regs.feature.now & 1 != 0;
        // Overlapped commands do not exist.
        if drive.regs.feature.now & 2 != 0 {
            return self.abort();
        }
        drive.regs.status = status::READY | status::DRQ;
        drive.regs.count.set(reason::COMMAND);
        self.activity = Activity::Packet { bytes: [0; PACKET], filled: 0, by_dma };
    }

    /// All of a packet is here.
    pub(crate) fn packet(&mut self, cdb: [u8; PACKET], by_dma: bool) {
        self.activity = Activity::Idle;
        let Some(dvd) = self.dvd() else { return };
        let facts = dvd.medium.as_ref().map(|medium| medium.facts());
        match dvd.unit.command(&cdb, facts.as_ref()) {
            Step::Good => self.packet_done(),
            Step::Check(sense) => self.check_condition(sense),
            Step::DataIn(data) if by_dma => {
                let left = data.len() as u64;
                self.await_bus_master(Dma { work: DmaWork::Give(data), left });
            }
            Step::DataIn(data) => {
                let limit = self.byte_count_limit();
                self.give(data, limit, true);
            }
            Step::Disk(Action::Read { offset, len }) if by_dma => {
                self.await_bus_master(Dma { work: DmaWork::Read { offset }, left: len });
            }
            Step::Disk(Action::Read { offset, len }) => {
                let limit = self.byte_count_limit();
                self.read_chunk(offset, len, limit);
            }
            // DVD readers have no commands with parameters or other work.
            Step::DataOut(_) | Step::Disk(_) => self.check_condition(Sense::INVALID_OPCODE),
        }
    }

    /// Largest even number of bytes of one PIO block.
    fn byte_count_limit(&mut self) -> u32 {
        let Some(drive) = self.active_drive() else { return 0xfffe };
        let limit = u32::from(drive.regs.lba_mid.now) | u32::from(drive.regs.lba_high.now) << 8;
        if limit & !1 == 0 { 0xfffe } else { limit & !1 }
    }

    /// The end of a packet command, with or without data.
    pub(crate) fn packet_done(&mut self) {
        self.succeed();
        if let Some(drive) = self.active_drive() {
            drive.regs.status = status::READY;
            drive.regs.count.set(reason::DONE);
        }
    }

    pub(crate) fn check_condition(&mut self, sense: Sense) {
        if let Some(dvd) = self.dvd() {
            dvd.unit.hold(sense);
        }
        self.fail(sense.key << 4 | error::ABRT);
        if let Some(drive) = self.active_drive() {
            drive.regs.count.set(reason::DONE);
        }
    }
}
