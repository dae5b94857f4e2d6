//! Commands of disks (SBC-3).

use crate::Sense;
use crate::cdb::Cdb;
use crate::unit::{Action, Step, UnitKind};
use bulkhead_disk::DiskFacts;
use std::ops::Range;

/// Ranges in one UNMAP.
pub(crate) const MAX_UNMAP_RANGES: usize = 256;
/// Bytes of one WRITE SAME.
pub(crate) const MAX_WRITE_SAME: u64 = 16 << 20;

pub(crate) fn command(cdb: &Cdb, medium: Option<&DiskFacts>) -> Step {
    let Some(facts) = medium else { return Step::Check(Sense::NO_MEDIUM) };
    match cdb.opcode() {
        // TEST UNIT READY; START STOP UNIT, which has no motor to stop.
        0x00 | 0x1b => Step::Good,
        0x08 | 0x28 | 0xa8 | 0x88 => {
            transfer(cdb, facts, |range| Action::Read { offset: range.start, len: len(&range) })
        }
        0x0a | 0x2a | 0xaa | 0x8a | 0x2e | 0xae | 0x8e => write(cdb, facts),
        0x2f | 0xaf | 0x8f => verify(cdb, facts),
        0x34 | 0x90 => transfer(cdb, facts, |_| Action::Flush).without_action(),
        0x35 | 0x91 => Step::Disk(Action::Flush),
        0x25 => read_capacity_10(facts),
        0x9e if cdb.u8(1) & 0x1f == 0x10 => read_capacity_16(cdb, facts),
        0x41 | 0x93 => write_same(cdb, facts),
        0x42 => unmap(cdb, facts),
        _ => Step::Check(Sense::INVALID_OPCODE),
    }
}

pub(crate) fn parameters(cdb: &Cdb, data: &[u8], facts: &DiskFacts) -> Step {
    match cdb.opcode() {
        0x41 | 0x93 => match same_range(cdb, facts) {
            Ok(range) => same_action(cdb, range, data, facts),
            Err(sense) => Step::Check(sense),
        },
        0x42 => unmap_ranges(data, facts).map_or_else(Step::Check, |ranges| match ranges.is_empty() {
            true => Step::Good,
            false => Step::Disk(Action::Discard(ranges)),
        }),
        _ => Step::Check(Sense::INVALID_OPCODE),
    }
}

impl Step {
    /// The checks of a command whose work is a hint that is not needed.
    fn without_action(self) -> Step {
        if let Step::Disk(_) = self { Step::Good } else { self }
    }
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// Bytes of `count` blocks at `block`, if they are on the disk.
pub(crate) fn bytes(block: u64, count: u64, kind: UnitKind, facts: &DiskFacts) -> Result<Range<u64>, Sense> {
    let size = kind.block(facts);
    let blocks = facts.size / size;
    match block.checked_add(count) {
        Some(end) if end <= blocks => Ok(block * size..end * size),
        _ => Err(Sense::OUT_OF_RANGE),
    }
}

fn transfer(cdb: &Cdb, facts: &DiskFacts, action: impl FnOnce(Range<u64>) -> Action) -> Step {
    let (block, count) = cdb.blocks();
    match bytes(block, count, UnitKind::Disk, facts) {
        Ok(range) if range.is_empty() => Step::Good,
        Ok(range) => Step::Disk(action(range)),
        Err(sense) => Step::Check(sense),
    }
}

/// WRITE, and WRITE AND VERIFY, whose verification is the host storage's own.
fn write(cdb: &Cdb, facts: &DiskFacts) -> Step {
    let fua = cdb.opcode() != 0x0a && cdb.bit(1, 3);
    match transfer(cdb, facts, |range| Action::Write { offset: range.start, len: len(&range), fua }) {
        Step::Disk(_) if facts.read_only => Step::Check(Sense::WRITE_PROTECTED),
        step => step,
    }
}

/// VERIFY without comparing.
fn verify(cdb: &Cdb, facts: &DiskFacts) -> Step {
    if cdb.u8(1) & 0x06 != 0 {
        return Step::Check(Sense::INVALID_FIELD);
    }
    transfer(cdb, facts, |range| Action::Verify { offset: range.start, len: len(&range) })
}

fn read_capacity_10(facts: &DiskFacts) -> Step {
    let block = UnitKind::Disk.block(facts);
    let last = (facts.size / block).saturating_sub(1);
    let mut data = u32::try_from(last).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    data.extend((block as u32).to_be_bytes());
    Step::DataIn(data)
}

fn read_capacity_16(cdb: &Cdb, facts: &DiskFacts) -> Step {
    let block = UnitKind::Disk.block(facts);
    let mut data = (facts.size / block).saturating_sub(1).to_be_bytes().to_vec();
    data.extend((block as u32).to_be_bytes());
    data.resize(32, 0);
    data[13] = (u64::from(facts.physical_sector) / block).max(1).ilog2().min(15) as u8;
    if facts.discard_granularity > 0 && !facts.read_only {
        // Provisioned by need; what was unmapped reads as anything.
        data[14] = 0x80;
    }
    Step::data(data, cdb.u32(10) as usize)
}

fn same_range(cdb: &Cdb, facts: &DiskFacts) -> Result<Range<u64>, Sense> {
    let (block, count) = match cdb.opcode() {
        0x41 => (u64::from(cdb.u32(2)), u64::from(cdb.u16(7))),
        _ => (cdb.u64(2), u64::from(cdb.u32(10))),
    };
    let range = bytes(block, count, UnitKind::Disk, facts)?;
    let anchored = cdb.bit(1, 4);
    // Without UNMAP the data may have to be written block by block.
    if range.is_empty() || anchored || len(&range) > MAX_WRITE_SAME {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(range)
}

fn write_same(cdb: &Cdb, facts: &DiskFacts) -> Step {
    let no_data = cdb.opcode() == 0x93 && cdb.bit(1, 0);
    match same_range(cdb, facts) {
        Err(sense) => Step::Check(sense),
        Ok(_) if facts.read_only => Step::Check(Sense::WRITE_PROTECTED),
        Ok(range) if no_data => Step::Disk(Action::Zero { range, may_unmap: cdb.bit(1, 3) }),
        Ok(_) => Step::DataOut(facts.logical_sector),
    }
}

fn same_action(cdb: &Cdb, range: Range<u64>, data: &[u8], facts: &DiskFacts) -> Step {
    if data.len() as u64 != u64::from(facts.logical_sector) {
        return Step::Check(Sense::PARAMETER_LENGTH);
    }
    if data.iter().all(|byte| *byte == 0) {
        return Step::Disk(Action::Zero { range, may_unmap: cdb.bit(1, 3) });
    }
    Step::Disk(Action::Fill { range, block: data.to_vec() })
}

fn unmap(cdb: &Cdb, facts: &DiskFacts) -> Step {
    let anchored = cdb.bit(1, 0);
    match cdb.u16(7) {
        _ if facts.discard_granularity == 0 => Step::Check(Sense::INVALID_OPCODE),
        _ if anchored => Step::Check(Sense::INVALID_FIELD),
        _ if facts.read_only => Step::Check(Sense::WRITE_PROTECTED),
        0 => Step::Good,
        1..8 => Step::Check(Sense::PARAMETER_LENGTH),
        count => Step::DataOut(count.into()),
    }
}

/// UNMAP parameters: a head of 8 bytes, then 16 bytes per range: block, count, zero.
fn unmap_ranges(data: &[u8], facts: &DiskFacts) -> Result<Vec<Range<u64>>, Sense> {
    let [_, _, high, low, _, _, _, _, descriptors @ ..] = data else { return Err(Sense::PARAMETER_LENGTH) };
    let len = usize::from(u16::from_be_bytes([*high, *low])) & !15;
    let descriptors = descriptors.get(..len).ok_or(Sense::PARAMETER_LENGTH)?;
    if len / 16 > MAX_UNMAP_RANGES {
        return Err(Sense::INVALID_PARAMETER);
    }
    let mut ranges = Vec::new();
    for descriptor in descriptors.chunks_exact(16) {
        let field = Cdb::new(descriptor);
        let range = bytes(field.u64(0), u64::from(field.u32(8)), UnitKind::Disk, facts)?;
        if !range.is_empty() {
            ranges.push(range);
        }
    }
    Ok(ranges)
}
