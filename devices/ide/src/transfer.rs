//! Data phases: PIO blocks, DMA, disk requests and their completions.

use crate::atapi::PACKET;
use crate::channel::Channel;
use crate::regs::{error, reason, status};
use bulkhead_disk::{Buffer, Completion, DiskError, ErrorKind, Request, SECTOR};
use bulkhead_guest_log::guest_warn;
use bulkhead_scsi_target::Sense;
use std::collections::VecDeque;
use std::ops::Range;

/// The most bytes between the disk and the guest's PIO.
const CHUNK: u64 = 64 << 10;

/// What the active drive is doing.
#[derive(Debug)]
pub(crate) enum Activity {
    Idle,
    /// The guest reads the data register.
    PioIn(PioIn),
    /// The guest writes the data register.
    PioOut(PioOut),
    /// The guest writes a command packet.
    Packet {
        bytes: [u8; PACKET],
        filled: usize,
        by_dma: bool,
    },
    /// The drive waits for the bus master.
    Dma(Dma),
    /// A request is with the disk.
    Busy(Job),
}

/// Data for the guest. `at < block_end <= data.len()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PioIn {
    pub data: Vec<u8>,
    pub at: usize,
    pub block_end: usize,
    /// Bytes between two interrupts.
    pub block: u32,
    /// What is to be read from the disk after `data`: offset and length.
    pub next: u64,
    pub left: u64,
    /// The data of a command packet, whose end has an interrupt of its own.
    pub packet: bool,
}

/// Data from the guest. `data.len() < block_end <= left`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PioOut {
    pub data: Vec<u8>,
    pub block_end: usize,
    pub block: u32,
    /// Where `data` goes.
    pub offset: u64,
    /// Bytes of the command that are not on the disk yet, `data` included.
    pub left: u64,
    pub fua: bool,
}

impl PioOut {
    pub fn new(offset: u64, left: u64, block: u32, fua: bool) -> PioOut {
        PioOut { data: Vec::new(), block_end: 0, block, offset, left, fua }
    }

    /// Bytes that are collected before they are written.
    fn chunk(&self) -> usize {
        self.left.min(CHUNK) as usize
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dma {
    pub work: DmaWork,
    /// Bytes still to move.
    pub left: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DmaWork {
    /// From the disk.
    Read { offset: u64 },
    /// To the disk.
    Write { offset: u64, fua: bool },
    /// The last `left` bytes of this, to the guest.
    Give(Vec<u8>),
    /// A list of ranges to discard, from the guest.
    TrimList,
}

/// A request that is with the disk, and how its command goes on.
#[derive(Debug)]
pub(crate) enum Job {
    /// PIO: blocks of `block` bytes; `left` bytes follow at `next`.
    PioRead {
        block: u32,
        offset: u64,
        next: u64,
        left: u64,
    },
    PioWrite(PioOut),
    /// DMA of `len` bytes; `exhausted`: the table of regions ends there.
    Dma {
        dma: Dma,
        len: u64,
        exhausted: bool,
    },
    /// Reads the beginning of this range.
    Verify(Range<u64>),
    /// What is left to do after the range that is with the disk.
    Discard(VecDeque<Range<u64>>),
    /// Ends with its request.
    Plain {
        write: bool,
    },
}

impl Channel {
    /// Starts a request on the active drive's disk. It comes back in [`Channel::completed`].
    pub fn submit(&mut self, job: Job, request: Request) {
        let Some(disk) = self.active_drive().and_then(|drive| drive.disk().cloned()) else {
            // The medium went away between two chunks.
            let error = DiskError::new(ErrorKind::NotFound, "read", "the medium was taken out");
            return self.job_failed(&job, &error);
        };
        self.activity = Activity::Busy(job);
        self.set_status(status::BSY);
        self.in_flight = true;
        let (host, index) = (self.host.clone(), usize::from(self.index));
        disk.submit(
            request,
            Box::new(move |completion| {
                host.reactor.clone().post(move || {
                    if let Some(controller) = host.controller.upgrade() {
                        controller.lock().completed(index, completion);
                    }
                });
            }),
        );
    }

    /// A disk request ended.
    pub fn completed(&mut self, completion: Completion) {
        self.in_flight = false;
        let activity = std::mem::replace(&mut self.activity, Activity::Idle);
        if let Some(reset) = self.pending_reset.take() {
            self.finish_reset(reset);
        } else if self.control & crate::regs::control::SRST == 0
            && let Activity::Busy(job) = activity
        {
            match &completion.result {
                Ok(()) => self.job_done(job, completion.buffer),
                Err(error) => self.job_failed(&job, error),
            }
        }
        if !self.in_flight {
            self.quiet = None;
        }
    }

    fn job_done(&mut self, job: Job, buffer: Buffer) {
        match job {
            Job::PioRead { block, next, left, .. } => {
                let packet = self.dvd().is_some();
                let pio = PioIn { data: buffer.to_vec(), at: 0, block_end: 0, block, next, left, packet };
                self.begin_block_in(pio);
            }
            Job::PioWrite(pio) => {
                let written = buffer.len() as u64;
                let left = pio.left - written;
                if left == 0 {
                    return self.succeed();
                }
                self.take_chunk(PioOut::new(pio.offset + written, left, pio.block, pio.fua));
                self.set_interrupt(true);
            }
            Job::Dma { dma, len, exhausted } => self.dma_moved(dma, len, exhausted),
            Job::Verify(range) => self.verify_chunk(range.start + buffer.len() as u64..range.end),
            Job::Discard(ranges) => self.discard_next(ranges),
            Job::Plain { .. } => self.succeed(),
        }
    }

    fn job_failed(&mut self, job: &Job, error: &DiskError) {
        guest_warn!(self.host.log, channel = self.index, drive = self.active, "disk request failed: {error}");
        let (write, offset) = match job {
            Job::PioRead { offset, .. } => (false, *offset),
            Job::PioWrite(pio) => (true, pio.offset),
            Job::Dma { dma: Dma { work: DmaWork::Write { offset, .. }, .. }, .. } => (true, *offset),
            Job::Dma { dma: Dma { work: DmaWork::Read { offset }, .. }, .. } => (false, *offset),
            Job::Verify(range) => (false, range.start),
            Job::Plain { write } => (*write, 0),
            Job::Discard(_) | Job::Dma { .. } => (true, 0),
        };
        if matches!(job, Job::Dma { .. }) {
            self.bus_master.stop(false);
        }
        if self.dvd().is_some() {
            let no_medium = error.kind() == ErrorKind::NotFound;
            let sense = if no_medium { Sense::NO_MEDIUM } else { Sense::from_disk_error(error, write) };
            return self.check_condition(sense);
        }
        match error.kind() {
            ErrorKind::OutOfRange => self.fail_at(offset, error::IDNF),
            _ if write => self.fail_at(offset, error::ABRT),
            _ => self.fail_at(offset, error::UNC),
        }
    }

    fn set_status(&mut self, value: u8) {
        if let Some(drive) = self.active_drive() {
            drive.regs.status = value;
        }
    }

    // PIO to the guest.

    /// Reads the next part of a PIO command.
    pub fn read_chunk(&mut self, offset: u64, len: u64, block: u32) {
        let now = len.min(CHUNK);
        let buffer = Buffer::zeroed(now as usize);
        let job = Job::PioRead { block, offset, next: offset + now, left: len - now };
        self.submit(job, Request::Read { offset, buffer });
    }

    /// Hands out data that is not from the disk.
    pub fn give(&mut self, data: Vec<u8>, block: u32, packet: bool) {
        self.begin_block_in(PioIn { data, at: 0, block_end: 0, block, next: 0, left: 0, packet });
    }

    fn begin_block_in(&mut self, mut pio: PioIn) {
        let len = (pio.data.len() - pio.at).min(pio.block as usize);
        pio.block_end = pio.at + len;
        if let Some(drive) = self.active_drive() {
            drive.regs.status = status::READY | status::DRQ;
            if pio.packet {
                drive.regs.count.set(reason::TO_HOST);
                // A block is at most FFFEh bytes for them.
                drive.regs.lba_mid.set(len as u8);
                drive.regs.lba_high.set((len >> 8) as u8);
            }
        }
        self.activity = Activity::PioIn(pio);
        self.set_interrupt(true);
    }

    /// Reads of the data register. All ones when there is nothing to read.
    pub fn read_data(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let Activity::PioIn(pio) = &mut self.activity else { return out[done..].fill(0xff) };
            let len = (pio.block_end - pio.at).min(out.len() - done);
            out[done..done + len].copy_from_slice(&pio.data[pio.at..pio.at + len]);
            pio.at += len;
            done += len;
            if pio.at == pio.block_end {
                self.block_in_done();
            }
        }
    }

    fn block_in_done(&mut self) {
        let Activity::PioIn(pio) = std::mem::replace(&mut self.activity, Activity::Idle) else { return };
        if pio.at < pio.data.len() {
            self.begin_block_in(pio);
        } else if pio.left > 0 {
            self.read_chunk(pio.next, pio.left, pio.block);
        } else if pio.packet {
            self.packet_done();
        } else {
            self.set_status(status::READY);
        }
    }

    // PIO from the guest.

    /// Takes the next chunk. The first block of a command has no interrupt; the caller raises the others.
    pub fn take_chunk(&mut self, mut pio: PioOut) {
        pio.block_end = (pio.data.len() + pio.block as usize).min(pio.chunk());
        self.activity = Activity::PioOut(pio);
        self.set_status(status::READY | status::DRQ);
    }

    /// Writes of the data register; what nobody waits for vanishes.
    pub fn write_data(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            match &mut self.activity {
                Activity::PioOut(pio) => {
                    let len = (pio.block_end - pio.data.len()).min(data.len());
                    pio.data.extend_from_slice(&data[..len]);
                    data = &data[len..];
                    if pio.data.len() == pio.block_end {
                        self.block_out_done();
                    }
                }
                Activity::Packet { bytes, filled, by_dma } => {
                    let len = (PACKET - *filled).min(data.len());
                    bytes[*filled..*filled + len].copy_from_slice(&data[..len]);
                    *filled += len;
                    data = &data[len..];
                    if *filled == PACKET {
                        let (cdb, by_dma) = (*bytes, *by_dma);
                        self.packet(cdb, by_dma);
                    }
                }
                _ => return,
            }
        }
    }

    fn block_out_done(&mut self) {
        let Activity::PioOut(mut pio) = std::mem::replace(&mut self.activity, Activity::Idle) else { return };
        if pio.data.len() < pio.chunk() {
            self.take_chunk(pio);
            return self.set_interrupt(true);
        }
        let buffer = Buffer::from(std::mem::take(&mut pio.data));
        let (offset, fua) = (pio.offset, pio.fua);
        self.submit(Job::PioWrite(pio), Request::Write { offset, buffer, fua });
    }

    // DMA.

    /// The drive is ready to move data as soon as the bus master is.
    pub fn await_bus_master(&mut self, dma: Dma) {
        self.activity = Activity::Dma(dma);
        self.set_status(status::READY | status::DRQ);
        self.run_dma();
    }

    /// Moves data if both sides are ready.
    pub fn run_dma(&mut self) {
        if !self.master_enabled || !self.bus_master.is_active() || !matches!(self.activity, Activity::Dma(_)) {
            return;
        }
        let Activity::Dma(dma) = std::mem::replace(&mut self.activity, Activity::Idle) else { return };
        let Ok(regions) = self.bus_master.regions(&self.host.memory, dma.left) else {
            self.bus_master.stop(true);
            return if self.dvd().is_some() { self.check_condition(Sense::ABORTED) } else { self.abort() };
        };
        let (list, exhausted) = (regions.list, regions.exhausted);
        match &dma.work {
            DmaWork::Give(data) => {
                let from = data.len() - dma.left as usize;
                let len = list.len().min(dma.left);
                let _ = list.copy_from_slice(0, &data[from..from + len as usize]);
                self.dma_moved(dma, len, exhausted);
            }
            DmaWork::TrimList => {
                // At most MAX_TRIM_BLOCKS sectors.
                let mut data = vec![0; list.len() as usize];
                let _ = list.copy_to_slice(0, &mut data);
                if list.len() < dma.left {
                    // A list in two tables is nothing that a driver makes.
                    self.bus_master.stop(true);
                    return self.abort();
                }
                self.leave_bus(exhausted);
                self.trim(&data);
            }
            DmaWork::Read { .. } | DmaWork::Write { .. } => self.move_sectors(dma, list, exhausted),
        }
    }

    fn move_sectors(&mut self, dma: Dma, list: bulkhead_guest_memory::ScatterList, exhausted: bool) {
        // A table may end inside a sector; what is left of it is not used.
        let len = list.len() / SECTOR * SECTOR;
        let Some(list) = list.slice(0, len).filter(|list| !list.is_empty()) else {
            self.bus_master.stop(false);
            self.activity = Activity::Dma(dma);
            return;
        };
        let buffer = Buffer::from(list);
        let request = match dma.work {
            DmaWork::Write { offset, fua } => Request::Write { offset, buffer, fua },
            DmaWork::Read { offset } => Request::Read { offset, buffer },
            DmaWork::Give(_) | DmaWork::TrimList => return,
        };
        self.submit(Job::Dma { dma, len, exhausted }, request);
    }

    fn leave_bus(&mut self, exhausted: bool) {
        if exhausted {
            self.bus_master.stop(false);
        }
    }

    /// `len` bytes were moved.
    fn dma_moved(&mut self, mut dma: Dma, len: u64, exhausted: bool) {
        dma.left -= len;
        if dma.left > 0 {
            // The table is shorter than the command: the guest may start another one.
            if let DmaWork::Read { offset } | DmaWork::Write { offset, .. } = &mut dma.work {
                *offset += len;
            }
            self.bus_master.stop(false);
            self.activity = Activity::Dma(dma);
            return self.set_status(status::READY | status::DRQ);
        }
        self.leave_bus(exhausted);
        if self.dvd().is_some() { self.packet_done() } else { self.succeed() }
    }

    // Commands without data.

    pub fn verify_chunk(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return self.succeed();
        }
        let (offset, len) = (range.start, (range.end - range.start).min(CHUNK));
        self.submit(Job::Verify(range), Request::Read { offset, buffer: Buffer::zeroed(len as usize) });
    }

    pub fn discard_next(&mut self, mut ranges: VecDeque<Range<u64>>) {
        match ranges.pop_front() {
            Some(range) => self.submit(Job::Discard(ranges), Request::Discard { range }),
            None => self.succeed(),
        }
    }
}
