//! Commands of ATA disks (ATA8-ACS, 7).

use crate::channel::Channel;
use crate::drive::{AtaDisk, Drive, DriveKind};
use crate::identify::{MAX_MULTIPLE, MAX_TRIM_BLOCKS, identify};
use crate::regs::{command as code, device, error, smart};
use crate::transfer::{Dma, DmaWork, Job, PioOut};
use bulkhead_disk::{DiskFacts, Request, SECTOR};
use std::collections::VecDeque;
use std::ops::Range;

/// How a command counts sectors and addresses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits28,
    Bits48,
}

/// How data moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pio,
    Multiple,
    Dma,
}

impl Channel {
    pub(crate) fn ata_command(&mut self, command: u8) {
        use Way::{Dma as ByDma, Multiple, Pio};
        use Width::{Bits28, Bits48};
        match command {
            code::READ_SECTORS | code::READ_SECTORS_NO_RETRY => self.read_sectors(Bits28, Pio),
            code::READ_SECTORS_EXT => self.read_sectors(Bits48, Pio),
            code::READ_MULTIPLE => self.read_sectors(Bits28, Multiple),
            code::READ_MULTIPLE_EXT => self.read_sectors(Bits48, Multiple),
            code::READ_DMA | code::READ_DMA_NO_RETRY => self.read_sectors(Bits28, ByDma),
            code::READ_DMA_EXT => self.read_sectors(Bits48, ByDma),
            code::WRITE_SECTORS | code::WRITE_SECTORS_NO_RETRY => self.write_sectors(Bits28, Pio, false),
            code::WRITE_SECTORS_EXT => self.write_sectors(Bits48, Pio, false),
            code::WRITE_MULTIPLE => self.write_sectors(Bits28, Multiple, false),
            code::WRITE_MULTIPLE_EXT => self.write_sectors(Bits48, Multiple, false),
            code::WRITE_MULTIPLE_FUA_EXT => self.write_sectors(Bits48, Multiple, true),
            code::WRITE_DMA | code::WRITE_DMA_NO_RETRY => self.write_sectors(Bits28, ByDma, false),
            code::WRITE_DMA_EXT => self.write_sectors(Bits48, ByDma, false),
            code::WRITE_DMA_FUA_EXT => self.write_sectors(Bits48, ByDma, true),
            code::VERIFY | code::VERIFY_NO_RETRY => self.verify_sectors(Bits28),
            code::VERIFY_EXT => self.verify_sectors(Bits48),
            code::FLUSH_CACHE | code::FLUSH_CACHE_EXT => self.flush(),
            // What stops the motor first empties the cache.
            code::STANDBY_IMMEDIATE | code::STANDBY | code::SLEEP => self.flush(),
            code::DATA_SET_MANAGEMENT => self.data_set_management(),
            code::IDENTIFY => {
                let second = self.active == 1;
                let data = self.active_drive().map(|drive| identify(drive, second)).unwrap_or_default();
                self.give(data, SECTOR as u32, false);
            }
            code::READ_NATIVE_MAX => self.read_native_max(Bits28),
            code::READ_NATIVE_MAX_EXT => self.read_native_max(Bits48),
            code::SMART => self.smart(),
            code::INITIALIZE_PARAMETERS => self.initialize_parameters(),
            _ => match self.active_drive().is_some_and(|drive| setting(drive, command)) {
                true => self.succeed(),
                false => self.abort(),
            },
        }
    }

    /// The active disk and its facts.
    fn ata(&mut self) -> Option<(&mut AtaDisk, DiskFacts)> {
        match &mut self.active_drive()?.kind {
            DriveKind::Ata(ata) => {
                let facts = ata.disk.facts();
                Some((ata, facts))
            }
            DriveKind::Atapi(_) => None,
        }
    }

    /// The bytes that the task file addresses; none when the command already failed.
    fn addressed(&mut self, width: Width) -> Option<Range<u64>> {
        let lba_mode = self.device & device::LBA != 0;
        let low = self.device & 0x0f;
        let place = self.active_drive().and_then(|drive| sectors(drive, width, lba_mode, low));
        let size = self.ata().map_or(0, |(_, facts)| facts.size);
        match place {
            Some((first, count)) if first + count <= size / SECTOR => Some(first * SECTOR..(first + count) * SECTOR),
            _ => {
                self.fail(error::IDNF);
                None
            }
        }
    }

    /// Bytes between two interrupts; none when the command already failed.
    fn block(&mut self, way: Way) -> Option<u32> {
        let multiple = self.ata().map_or(0, |(ata, _)| ata.multiple);
        match way {
            Way::Multiple if multiple == 0 => {
                self.abort();
                None
            }
            Way::Multiple => Some(u32::from(multiple) * SECTOR as u32),
            _ => Some(SECTOR as u32),
        }
    }

    fn read_sectors(&mut self, width: Width, way: Way) {
        let Some(block) = self.block(way) else { return };
        let Some(Range { start, end }) = self.addressed(width) else { return };
        if way == Way::Dma {
            self.await_bus_master(Dma { work: DmaWork::Read { offset: start }, left: end - start });
        } else {
            self.read_chunk(start, end - start, block);
        }
    }

    fn write_sectors(&mut self, width: Width, way: Way, fua: bool) {
        let Some(block) = self.block(way) else { return };
        let Some(Range { start, end }) = self.addressed(width) else { return };
        let Some((ata, facts)) = self.ata() else { return };
        let fua = fua || !ata.write_cache;
        if facts.read_only {
            return self.abort();
        }
        if way == Way::Dma {
            self.await_bus_master(Dma { work: DmaWork::Write { offset: start, fua }, left: end - start });
        } else {
            self.take_chunk(PioOut::new(start, end - start, block, fua));
        }
    }

    fn verify_sectors(&mut self, width: Width) {
        if let Some(range) = self.addressed(width) {
            self.verify_chunk(range);
        }
    }

    /// From now on CHS addresses count with other heads and sectors.
    fn initialize_parameters(&mut self) {
        let heads = (self.device & 0x0f) + 1;
        let sectors = self.active_drive().map_or(0, |drive| drive.regs.count.now);
        match self.ata() {
            Some((ata, _)) if sectors > 0 => {
                (ata.heads, ata.sectors) = (heads, sectors);
                self.succeed();
            }
            _ => self.abort(),
        }
    }

    fn flush(&mut self) {
        self.submit(Job::Plain { write: true }, Request::Flush);
    }

    /// TRIM: the only function there is; its list comes by DMA.
    fn data_set_management(&mut self) {
        let discards = self.ata().is_some_and(|(_, facts)| facts.discard_granularity > 0 && !facts.read_only);
        let Some(drive) = self.active_drive() else { return };
        let regs = drive.regs;
        let blocks = u32::from(regs.count.now) | u32::from(regs.count.before) << 8;
        if regs.feature.now != 1 || !discards || blocks == 0 || blocks > MAX_TRIM_BLOCKS {
            return self.abort();
        }
        self.await_bus_master(Dma { work: DmaWork::TrimList, left: u64::from(blocks) * SECTOR });
    }

    /// Runs a TRIM list: eight bytes per range, 48 bits of address and 16 bits of count.
    pub(crate) fn trim(&mut self, list: &[u8]) {
        let sectors = self.ata().map_or(0, |(_, facts)| facts.size / SECTOR);
        let mut ranges: VecDeque<Range<u64>> = VecDeque::new();
        for entry in list.chunks_exact(8) {
            let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
            let (first, count) = (entry & 0xffff_ffff_ffff, entry >> 48);
            if count == 0 {
                continue;
            }
            if first + count > sectors {
                return self.fail(error::ABRT | error::IDNF);
            }
            match ranges.back_mut() {
                // Long ranges come in pieces of 65535 sectors.
                Some(last) if last.end == first * SECTOR => last.end += count * SECTOR,
                _ => ranges.push_back(first * SECTOR..(first + count) * SECTOR),
            }
        }
        self.discard_next(ranges);
    }

    fn read_native_max(&mut self, width: Width) {
        let last = self.ata().map_or(0, |(_, facts)| (facts.size / SECTOR).saturating_sub(1));
        let last = if width == Width::Bits28 { last.min(0x0fff_ffff) } else { last };
        self.show_lba(last, width == Width::Bits48);
        self.succeed();
    }

    /// Puts an address into the task file.
    fn show_lba(&mut self, lba: u64, wide: bool) {
        let [b0, b1, b2, b3, b4, b5, ..] = lba.to_le_bytes();
        let Some(drive) = self.active_drive() else { return };
        let regs = &mut drive.regs;
        regs.lba_low.now = b0;
        regs.lba_mid.now = b1;
        regs.lba_high.now = b2;
        if wide {
            regs.lba_low.before = b3;
            regs.lba_mid.before = b4;
            regs.lba_high.before = b5;
        } else {
            self.device = self.device & 0xf0 | b3 & 0x0f;
        }
    }

    /// A disk request for the sectors at `offset` failed.
    pub(crate) fn fail_at(&mut self, offset: u64, bits: u8) {
        self.show_lba(offset / SECTOR, offset / SECTOR > 0x0fff_ffff);
        self.fail(bits);
    }

    fn smart(&mut self) {
        let Some(drive) = self.active_drive() else { return };
        let regs = &mut drive.regs;
        let (function, key) = (regs.feature.now, (regs.lba_mid.now, regs.lba_high.now));
        let DriveKind::Ata(ata) = &mut drive.kind else { return };
        if key != smart::KEY || !ata.smart && function != smart::ENABLE {
            return self.abort();
        }
        match function {
            smart::ENABLE => ata.smart = true,
            smart::DISABLE => ata.smart = false,
            // The key left as it is says: no threshold exceeded.
            smart::AUTOSAVE | smart::RETURN_STATUS => {}
            smart::READ_DATA | smart::READ_THRESHOLDS => return self.give(smart_page(), SECTOR as u32, false),
            _ => return self.abort(),
        }
        self.succeed();
    }
}

/// A page of SMART data or thresholds without attributes: revision 16, off-line collection never started.
fn smart_page() -> Vec<u8> {
    let mut page = vec![0u8; SECTOR as usize];
    page[0] = 0x10;
    page[511] = 0u8.wrapping_sub(0x10);
    page
}

/// First sector and count of the task file; `None` for a CHS address that there is not.
fn sectors(drive: &Drive, width: Width, lba_mode: bool, low: u8) -> Option<(u64, u64)> {
    let regs = &drive.regs;
    let DriveKind::Ata(ata) = &drive.kind else { return None };
    let byte = |value: u8, shift: u32| u64::from(value) << shift;
    let lba24 = byte(regs.lba_low.now, 0) | byte(regs.lba_mid.now, 8) | byte(regs.lba_high.now, 16);
    if width == Width::Bits48 {
        let high = byte(regs.lba_low.before, 24) | byte(regs.lba_mid.before, 32) | byte(regs.lba_high.before, 40);
        let count = byte(regs.count.now, 0) | byte(regs.count.before, 8);
        return Some((lba24 | high, if count == 0 { 0x1_0000 } else { count }));
    }
    let count = if regs.count.now == 0 { 256 } else { u64::from(regs.count.now) };
    if lba_mode {
        return Some((lba24 | byte(low, 24), count));
    }
    let (cylinder, sector) = (lba24 >> 8, u64::from(regs.lba_low.now));
    if sector == 0 || sector > u64::from(ata.sectors) || low >= ata.heads {
        return None;
    }
    let first = (cylinder * u64::from(ata.heads) + u64::from(low)) * u64::from(ata.sectors) + sector - 1;
    Some((first, count))
}

/// Commands that change nothing but the drive's settings; false: refused or unknown.
fn setting(drive: &mut Drive, command: u8) -> bool {
    let regs = &mut drive.regs;
    let DriveKind::Ata(ata) = &mut drive.kind else { return false };
    match command {
        // RECALIBRATE and SEEK: there are no heads.
        0x10..=0x1f | 0x70..=0x7f => true,
        code::IDLE_IMMEDIATE | code::IDLE => true,
        code::CHECK_POWER_MODE => {
            // Active or idle.
            regs.count.now = 0xff;
            true
        }
        code::SET_MULTIPLE => {
            let count = regs.count.now;
            let good = count == 0 || count.is_power_of_two() && count <= MAX_MULTIPLE;
            if good {
                ata.multiple = count;
            }
            good
        }
        code::SET_FEATURES => set_features(drive),
        // Security, HPA changes, logs and all that does not exist.
        _ => false,
    }
}

pub(crate) fn set_features(drive: &mut Drive) -> bool {
    let (feature, count) = (drive.regs.feature.now, drive.regs.count.now);
    match (feature, &mut drive.kind) {
        (0x02, DriveKind::Ata(ata)) => ata.write_cache = true,
        (0x82, DriveKind::Ata(ata)) => ata.write_cache = false,
        // PIO modes need no note.
        (0x03, _) if matches!(count, 0 | 1 | 0x08..=0x0c) => {}
        (0x03, _) if matches!(count, 0x20..=0x22 | 0x40..=0x45) => drive.transfer_mode = count,
        // Read look-ahead, and defaults after a soft reset.
        (0x55 | 0xaa | 0x66 | 0xcc, _) => {}
        _ => return false,
    }
    true
}
