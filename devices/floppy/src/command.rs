//! What the commands do (82077AA data sheet, ch. 5).

use crate::controller::{FloppyController, Phase};
use crate::medium::SIZE_CODE;
use crate::regs::{command as code, st0, st1, st3};
use crate::transfer::Transfer;

/// SPECIFY: the bit that turns DMA off.
const NON_DMA: u8 = 0x01;
/// CONFIGURE: seek before reading and writing; no polling after a reset.
const IMPLIED_SEEK: u8 = 0x40;
const NO_POLLING: u8 = 0x10;

impl FloppyController {
    /// All bytes of a command are here.
    pub(crate) fn execute(&mut self, bytes: &[u8]) {
        let [first, rest @ ..] = bytes else { return };
        match (first & 0x1f, rest) {
            (code::READ | code::READ_DELETED, rest) => self.transfer(*first, rest, false),
            (code::READ_TRACK, rest) => self.read_track(rest),
            (code::WRITE | code::WRITE_DELETED, rest) => self.transfer(*first, rest, true),
            (code::VERIFY, rest) => self.verify(rest),
            (code::FORMAT, &[unit, size, count, _, filler]) => self.begin_format(unit, size, count, filler),
            (code::READ_ID, &[unit]) => self.read_id(unit),
            (code::RECALIBRATE, &[unit]) => self.seek(unit & 3, 0),
            (code::SEEK, &[unit, value]) => {
                let now = self.cylinder(unit & 3);
                let target = match first & 0xc0 {
                    0xc0 => now.saturating_add(value),
                    0x80 => now.saturating_sub(value),
                    _ => value,
                };
                self.seek(unit & 3, target);
            }
            (code::SENSE_INTERRUPT, _) => self.sense_interrupt(),
            (code::SENSE_DRIVE, &[unit]) => self.sense_drive(unit),
            (code::SPECIFY, &[rates, load]) => {
                self.specified = [rates, load];
                self.idle();
            }
            (code::CONFIGURE, &[_, config, precompensation]) => {
                self.configured = [config, precompensation];
                self.idle();
            }
            (code::PERPENDICULAR, &[value]) => {
                self.perpendicular = value & 0x7f;
                self.idle();
            }
            (code::LOCK, _) => {
                self.locked = first & code::MULTI_TRACK != 0;
                self.result(&[u8::from(self.locked) << 4]);
            }
            (code::VERSION, _) if *first == code::VERSION => self.result(&[0x90]),
            (code::DUMP_REGISTERS, _) => self.dump_registers(),
            _ => self.result(&[st0::INVALID]),
        }
    }

    fn dump_registers(&mut self) {
        let [rates, load] = self.specified;
        let [config, precompensation] = self.configured;
        let lock = u8::from(self.locked) << 7 | self.perpendicular;
        let cylinders: [u8; 4] = std::array::from_fn(|drive| self.cylinder(drive as u8));
        let mut bytes = cylinders.to_vec();
        bytes.extend([rates, load, self.last_sector, lock, config, precompensation]);
        self.result(&bytes);
    }

    pub(crate) fn non_dma(&self) -> bool {
        self.specified[1] & NON_DMA != 0
    }

    pub(crate) fn polls(&self) -> bool {
        self.configured[0] & NO_POLLING == 0
    }

    fn select(&mut self, unit: u8) {
        (self.selected, self.head) = (unit & 3, unit >> 2 & 1);
    }

    /// The checks that all commands on sectors share; `None` when the command already ended.
    fn check_medium(&mut self, write: bool) -> Option<()> {
        let Some(format) = self.drive_format(self.selected).filter(|format| format.rate == self.rate) else {
            self.finish_plain(st1::MISSING_MARK | st1::NO_DATA);
            return None;
        };
        if self.cylinder(self.selected) >= format.cylinders {
            self.finish_plain(st1::MISSING_MARK | st1::NO_DATA);
            return None;
        }
        if write && self.protected(self.selected) {
            self.finish_plain(st1::NOT_WRITABLE);
            return None;
        }
        Some(())
    }

    fn transfer(&mut self, first: u8, rest: &[u8], write: bool) {
        let &[unit, cylinder, head, sector, size, last, _, _] = rest else { return };
        self.select(unit);
        self.last_sector = last;
        if self.configured[0] & IMPLIED_SEEK != 0 {
            self.step_to(self.selected, cylinder);
        }
        if self.check_medium(write).is_none() {
            return;
        }
        let transfer = Transfer {
            write,
            by_port: self.non_dma(),
            drive: self.selected,
            cylinder,
            head,
            sector,
            last,
            both_sides: first & code::MULTI_TRACK != 0,
        };
        // What is not under the head is not found.
        if size != SIZE_CODE || cylinder != self.cylinder(self.selected) || head != self.head || sector == 0 {
            return self.finish(transfer, st1::NO_DATA);
        }
        self.run(transfer);
    }

    /// All sectors of the track in their order, whatever number was given.
    fn read_track(&mut self, rest: &[u8]) {
        let &[unit, cylinder, head, _, size, last, gap, len] = rest else { return };
        self.transfer(code::READ_TRACK, &[unit, cylinder, head, 1, size, last, gap, len], false);
    }

    /// The sectors are what the host's storage says they are: only their existence is checked.
    fn verify(&mut self, rest: &[u8]) {
        let &[unit, cylinder, head, sector, _, last, _, _] = rest else { return };
        self.select(unit);
        if self.check_medium(false).is_none() {
            return;
        }
        let format = self.drive_format(self.selected);
        let exists = |sector| format.and_then(|format| format.offset(cylinder, head, sector)).is_some();
        let good = sector <= last && exists(sector) && exists(last);
        self.result_of(if good { 0 } else { st1::NO_DATA }, [cylinder, head, last, SIZE_CODE]);
    }

    fn begin_format(&mut self, unit: u8, size: u8, count: u8, filler: u8) {
        self.select(unit);
        if self.check_medium(true).is_none() {
            return;
        }
        if size != SIZE_CODE || self.non_dma() {
            return self.finish_plain(st1::NO_DATA);
        }
        self.format(self.head, count, filler);
    }

    fn read_id(&mut self, unit: u8) {
        self.select(unit);
        if self.check_medium(false).is_some() {
            let cylinder = self.cylinder(self.selected);
            self.result_of(0, [cylinder, self.head, 1, SIZE_CODE]);
        }
    }

    fn seek(&mut self, drive: u8, cylinder: u8) {
        (self.selected, self.head) = (drive, 0);
        let there = self.step_to(drive, cylinder);
        let outcome = if there { 0 } else { st0::ABNORMAL | st0::EQUIPMENT };
        self.pending = Some(st0::SEEK_END | outcome | drive);
        self.polled = 0;
        self.idle();
        self.set_interrupt(true);
    }

    fn sense_interrupt(&mut self) {
        if let Some(status) = self.pending.take() {
            self.set_interrupt(false);
            let cylinder = self.cylinder(status & 3);
            return self.result(&[status, cylinder]);
        }
        if self.polled > 0 {
            // After a reset each drive reports that its state may have changed.
            let drive = 4 - self.polled;
            self.polled -= 1;
            self.set_interrupt(false);
            let cylinder = self.cylinder(drive);
            return self.result(&[st0::POLLED | drive, cylinder]);
        }
        self.result(&[st0::INVALID]);
    }

    fn sense_drive(&mut self, unit: u8) {
        self.select(unit);
        let mut status = st3::FIXED | unit & 7;
        if self.cylinder(unit & 3) == 0 {
            status |= st3::TRACK_0;
        }
        if self.protected(unit & 3) {
            status |= st3::PROTECTED;
        }
        self.result(&[status]);
    }

    /// The end of a transfer: where it stands, and these bits of ST1.
    pub(crate) fn finish(&mut self, transfer: Transfer, bits: u8) {
        self.head = transfer.head & 1;
        self.result_of(bits, [transfer.cylinder, transfer.head, transfer.sector, SIZE_CODE]);
    }

    /// The end of a command that has no place of its own.
    pub(crate) fn finish_plain(&mut self, bits: u8) {
        let cylinder = self.cylinder(self.selected);
        self.result_of(bits, [cylinder, self.head, 1, SIZE_CODE]);
    }

    fn result_of(&mut self, bits: u8, place: [u8; 4]) {
        let outcome = if bits == 0 { 0 } else { st0::ABNORMAL };
        // A bad sector shows in ST2 too.
        let st2 = bits & st1::DATA_ERROR;
        let [cylinder, head, sector, size] = place;
        self.result(&[outcome | self.head << 2 | self.selected, bits, st2, cylinder, head, sector, size]);
        self.set_interrupt(true);
    }

    fn result(&mut self, bytes: &[u8]) {
        self.phase = Phase::Result(bytes.iter().copied().collect());
    }

    pub(crate) fn idle(&mut self) {
        self.phase = Phase::Command(Vec::new());
    }
}
