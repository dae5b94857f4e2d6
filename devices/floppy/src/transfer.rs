//! Sectors between the disk and the guest.

use crate::controller::{DMA_CHANNEL, FloppyController, Phase};
use crate::dma::Direction;
use crate::medium::{Format, SECTOR, SIZE_CODE};
use crate::regs::st1;
use bulkhead_disk::{Buffer, Completion, Request};
use bulkhead_guest_log::guest_warn;
use std::collections::VecDeque;

/// A read or write command on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub write: bool,
    /// The data goes to or comes from the data port.
    pub by_port: bool,
    pub drive: u8,
    pub cylinder: u8,
    pub head: u8,
    pub sector: u8,
    /// Last sector of a track.
    pub last: u8,
    /// Goes on with the other side.
    pub both_sides: bool,
}

/// What a disk request is for.
#[derive(Debug)]
pub(crate) enum Job {
    /// `sectors` of a transfer; `ended`: the DMA channel has no more.
    Sectors { transfer: Transfer, sectors: u8, ended: bool },
    /// Formatting: offsets of the sectors that are left.
    Format { filler: u8, left: VecDeque<u64> },
}

impl FloppyController {
    /// Begins or goes on with a transfer: the rest of a track at a time.
    pub(crate) fn run(&mut self, transfer: Transfer) {
        let place = self.drive_format(transfer.drive).and_then(|format| {
            let offset = format.offset(transfer.cylinder, transfer.head, transfer.sector)?;
            Some((offset, format))
        });
        let Some((offset, format)) = place.filter(|_| transfer.sector <= transfer.last) else {
            return self.finish(transfer, st1::NO_DATA);
        };
        let there = transfer.last.min(format.sectors) - transfer.sector + 1;
        if transfer.by_port {
            return self.run_by_port(transfer, offset, there);
        }
        let wanted = if transfer.write { Direction::FromMemory } else { Direction::ToMemory };
        let ready = self.wiring.dma.lock().ready(DMA_CHANNEL);
        let Some((_, len)) = ready.filter(|(direction, _)| *direction == wanted || *direction == Direction::Verify)
        else {
            return self.finish(transfer, st1::OVERRUN);
        };
        let sectors = (len.div_ceil(SECTOR as usize)).min(there.into()) as u8;
        let mut buffer = Buffer::zeroed(usize::from(sectors) * SECTOR as usize);
        if !transfer.write {
            return self.submit(Job::Sectors { transfer, sectors, ended: false }, Request::Read { offset, buffer });
        }
        let mut data = vec![0; buffer.len()];
        let (_, ended) = self.wiring.dma.lock().from_memory(DMA_CHANNEL, &mut data);
        buffer.copy_from(0, &data);
        self.submit(Job::Sectors { transfer, sectors, ended }, Request::Write { offset, buffer, fua: false });
    }

    fn run_by_port(&mut self, transfer: Transfer, offset: u64, sectors: u8) {
        let len = usize::from(sectors) * SECTOR as usize;
        if transfer.write {
            self.phase = Phase::PortOut { transfer, data: Vec::new(), len };
            return self.set_interrupt(true);
        }
        let buffer = Buffer::zeroed(len);
        self.submit(Job::Sectors { transfer, sectors, ended: false }, Request::Read { offset, buffer });
    }

    /// All bytes of a track came through the port.
    pub(crate) fn port_out_full(&mut self, transfer: Transfer, data: Vec<u8>) {
        let place = self.drive_format(transfer.drive);
        let place = place.and_then(|format| format.offset(transfer.cylinder, transfer.head, transfer.sector));
        let Some(offset) = place else { return self.finish(transfer, st1::NO_DATA) };
        let sectors = (data.len() / SECTOR as usize) as u8;
        let request = Request::Write { offset, buffer: Buffer::from(data), fua: false };
        self.submit(Job::Sectors { transfer, sectors, ended: false }, request);
    }

    fn submit(&mut self, job: Job, request: Request) {
        let drive = match &job {
            Job::Sectors { transfer, .. } => transfer.drive,
            Job::Format { .. } => self.selected,
        };
        let Some(disk) = self.medium(drive).cloned() else {
            self.phase = Phase::Busy(job);
            return self.fail_job();
        };
        self.phase = Phase::Busy(job);
        self.in_flight += 1;
        let (reactor, controller, generation) = (self.wiring.reactor.clone(), self.this.clone(), self.generation);
        disk.submit(
            request,
            Box::new(move |completion| {
                reactor.post(move || {
                    if let Some(controller) = controller.upgrade() {
                        controller.lock().completed(generation, completion);
                    }
                });
            }),
        );
    }

    /// A disk request ended. One of before a reset has no meaning any more.
    fn completed(&mut self, generation: u64, completion: Completion) {
        self.in_flight -= 1;
        if generation == self.generation {
            match completion.into_result() {
                Ok(buffer) => self.job_done(buffer),
                Err(error) => {
                    guest_warn!(self.log, "disk request failed: {error}");
                    self.fail_job();
                }
            }
        }
        if self.in_flight == 0 {
            self.quiet = None;
        }
    }

    fn fail_job(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Command(Vec::new())) {
            Phase::Busy(Job::Sectors { transfer, .. }) => self.finish(transfer, st1::DATA_ERROR),
            Phase::Busy(Job::Format { .. }) => self.finish_plain(st1::DATA_ERROR),
            _ => {}
        }
    }

    fn job_done(&mut self, buffer: Buffer) {
        match std::mem::replace(&mut self.phase, Phase::Command(Vec::new())) {
            Phase::Busy(Job::Sectors { transfer, sectors, ended }) => {
                if transfer.write {
                    return self.moved(transfer, sectors, ended);
                }
                let data = buffer.to_vec();
                if transfer.by_port {
                    self.phase = Phase::PortIn { transfer, data, at: 0 };
                    return self.set_interrupt(true);
                }
                let ended = self.wiring.dma.lock().to_memory(DMA_CHANNEL, &data);
                self.moved(transfer, sectors, ended);
            }
            Phase::Busy(Job::Format { filler, left }) => self.format_next(filler, left),
            _ => {}
        }
    }

    /// `sectors` are done; goes on, or ends the command.
    pub(crate) fn moved(&mut self, mut transfer: Transfer, sectors: u8, ended: bool) {
        transfer.sector += sectors;
        if transfer.sector <= transfer.last {
            // More than the track has was asked for, or the DMA channel is at its end.
            return if ended { self.finish(transfer, 0) } else { self.run(transfer) };
        }
        transfer.sector = 1;
        if transfer.both_sides && transfer.head == 0 {
            transfer.head = 1;
            return if ended { self.finish(transfer, 0) } else { self.run(transfer) };
        }
        transfer.cylinder = transfer.cylinder.wrapping_add(1);
        if transfer.both_sides {
            transfer.head = 0;
        }
        self.finish(transfer, if ended { 0 } else { st1::END_OF_CYLINDER });
    }

    /// FORMAT TRACK: four bytes per sector from the DMA channel say which it is.
    pub(crate) fn format(&mut self, head: u8, count: u8, filler: u8) {
        let Some(format) = self.drive_format(self.selected) else {
            return self.finish_plain(st1::MISSING_MARK);
        };
        let mut ids = vec![0; usize::from(count) * 4];
        let (len, _) = self.wiring.dma.lock().from_memory(DMA_CHANNEL, &mut ids);
        if len < ids.len() || ids.is_empty() {
            return self.finish_plain(st1::OVERRUN);
        }
        let cylinder = self.cylinder(self.selected);
        let place = |format: Format, id: &[u8]| match id {
            [c, h, sector, SIZE_CODE] if *c == cylinder && *h == head => format.offset(cylinder, head, *sector),
            _ => None,
        };
        let offsets: Option<VecDeque<u64>> = ids.chunks_exact(4).map(|id| place(format, id)).collect();
        // Another layout than that of the image cannot be kept.
        match offsets {
            Some(offsets) => self.format_next(filler, offsets),
            None => self.finish_plain(st1::NO_DATA),
        }
    }

    fn format_next(&mut self, filler: u8, mut left: VecDeque<u64>) {
        let Some(offset) = left.pop_front() else { return self.finish_plain(0) };
        let mut buffer = Buffer::zeroed(SECTOR as usize);
        buffer.fill(filler);
        self.submit(Job::Format { filler, left }, Request::Write { offset, buffer, fua: false });
    }
}
