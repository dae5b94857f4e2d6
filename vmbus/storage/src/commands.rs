//! SCSI commands: which unit, what it says, and starting what has to be done on its disk.

use crate::completions::{Command, Job};
use crate::vstor::{Outcome, Srb, srb, srb_answer};
use crate::{Attachment, Controller};
use bulkhead_disk::{Buffer, Disk, Request};
use bulkhead_guest_log::guest_warn;
use bulkhead_guest_memory::{AccessError, ScatterList};
use bulkhead_scsi_target::{Action, Sense, Step};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of a chunk of work without guest memory: verifying, filling.
pub(crate) const CHUNK: u64 = 256 << 10;

const INQUIRY: u8 = 0x12;
const REPORT_LUNS: u8 = 0xa0;

impl Controller {
    /// Carries out a SCSI request, or begins to.
    pub(crate) fn execute(
        &mut self,
        index: u16,
        transaction: u64,
        request: Srb,
        data: Option<Result<ScatterList, AccessError>>,
    ) {
        let Some(data) = data else { return };
        let outcome = match data {
            Ok(data) if data.len() > crate::vstor::MAX_TRANSFER.into() => Some(Outcome::Refused(srb::INVALID_REQUEST)),
            Ok(data) => self.dispatch(index, transaction, request, data),
            Err(error) => {
                guest_warn!(self.log, lun = request.lun, "the data of a request is not in RAM: {error}");
                Some(Outcome::Refused(srb::INVALID_REQUEST))
            }
        };
        if let Some(outcome) = outcome {
            self.reply(index, transaction, &srb_answer(&request, outcome));
        }
    }

    /// `None` when the request is with the disk.
    fn dispatch(&mut self, index: u16, transaction: u64, request: Srb, data: ScatterList) -> Option<Outcome> {
        let present = self.is_here(&request);
        let opcode = request.cdb[0];
        if opcode == REPORT_LUNS && self.is_scsi() {
            return Some(give(&self.report_luns(&request), &data));
        }
        let Some(lun) = self.luns.get_mut(&request.lun).filter(|_| present) else {
            // Drivers take a failed INQUIRY for a good one, and would see a device.
            let answer =
                if opcode == INQUIRY { give(&absent_inquiry(), &data) } else { Outcome::Refused(srb::INVALID_LUN) };
            return Some(answer);
        };
        let (disk, users) = (lun.disk.clone(), lun.users.clone());
        let facts = disk.as_ref().map(|disk| disk.facts());
        let mut step = lun.unit.command(request.cdb(), facts.as_ref());
        if let Step::DataOut(len) = step {
            let mut parameters = vec![0; data.len().min(len.into()) as usize];
            let _ = data.copy_to_slice(0, &mut parameters);
            step = lun.unit.parameters(request.cdb(), &parameters, facts.as_ref());
        }
        match step {
            Step::Good => Some(Outcome::Good(0)),
            Step::DataIn(bytes) => Some(give(&bytes, &data)),
            Step::Check(sense) => Some(Outcome::Check(sense)),
            // Parameters are asked for once.
            Step::DataOut(_) => Some(Outcome::Check(Sense::INVALID_OPCODE)),
            Step::Disk(action) => match disk {
                Some(disk) => {
                    self.start_action(Command { index, transaction, request, moved: 0, users }, disk, action, data)
                }
                None => Some(Outcome::Check(Sense::NO_MEDIUM)),
            },
        }
    }

    /// Whether the address is one of this controller's units at all.
    fn is_here(&self, request: &Srb) -> bool {
        match self.attachment {
            Attachment::Scsi { .. } => request.path == 0 && request.target == 0,
            // Drivers name the place as the offer did, or not at all.
            Attachment::Ide { .. } => request.lun == 0,
        }
    }

    /// The units of a target (SPC-4, 6.33).
    fn report_luns(&self, request: &Srb) -> Vec<u8> {
        // 1: well-known units only, of which there are none.
        let wanted = request.path == 0 && request.target == 0 && request.cdb[2] != 1;
        let luns: Vec<u8> = self.luns.keys().copied().filter(|_| wanted).collect();
        let mut bytes = vec![0; 8 + 8 * luns.len()];
        bytes[..4].copy_from_slice(&(8 * luns.len() as u32).to_be_bytes());
        for (entry, lun) in bytes[8..].chunks_exact_mut(8).zip(luns) {
            entry[1] = lun;
        }
        let allocation = u32::from_be_bytes([request.cdb[6], request.cdb[7], request.cdb[8], request.cdb[9]]);
        bytes.truncate(allocation as usize);
        bytes
    }

    fn start_action(
        &mut self,
        mut command: Command,
        disk: Arc<dyn Disk>,
        action: Action,
        data: ScatterList,
    ) -> Option<Outcome> {
        let request = match action {
            Action::Read { offset, len } | Action::Write { offset, len, .. } => {
                let list = if data.len() == len { Some(data) } else { data.slice(0, len) };
                let Some(buffer) = list.map(Buffer::from) else {
                    return Some(Outcome::Refused(srb::DATA_OVERRUN));
                };
                // At most MAX_TRANSFER.
                command.moved = len as u32;
                match action {
                    Action::Write { fua, .. } => Request::Write { offset, buffer, fua },
                    _ => Request::Read { offset, buffer },
                }
            }
            Action::Flush => Request::Flush,
            Action::Zero { range, may_unmap } => Request::WriteZeroes { range, may_unmap, fua: false },
            Action::Discard(ranges) => return self.start_job(command, disk, Job::Discard(VecDeque::from(ranges))),
            Action::Verify { offset, len } => return self.start_job(command, disk, Job::Verify(offset..offset + len)),
            Action::Fill { range, block } => return self.start_job(command, disk, Job::fill(range, &block)),
        };
        self.submit(command, disk, Job::Single, request);
        None
    }

    /// Begins work of several requests.
    fn start_job(&mut self, command: Command, disk: Arc<dyn Disk>, mut job: Job) -> Option<Outcome> {
        match job.next_request(None) {
            Some(request) => {
                self.submit(command, disk, job, request);
                None
            }
            None => Some(Outcome::Good(0)),
        }
    }
}

/// Copies an answer to the guest, as much as it takes.
fn give(bytes: &[u8], data: &ScatterList) -> Outcome {
    let len = bytes.len().min(data.len() as usize);
    let _ = data.copy_from_slice(0, &bytes[..len]);
    Outcome::Good(len as u32)
}

/// "There is no unit, and none can be" (SPC-4, 6.6.2).
fn absent_inquiry() -> [u8; 36] {
    let mut bytes = [b' '; 36];
    bytes[..8].copy_from_slice(&[0x7f, 0, 6, 2, 31, 0, 0, 0]);
    bytes
}
