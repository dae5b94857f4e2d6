//! Commands of CD and DVD readers (MMC-6, and MMC-3 for what it dropped).

use crate::cdb::Cdb;
use crate::unit::{ATTENTION_MEDIUM, Action, MediaEvent, Step, UnitKind};
use crate::{LogicalUnit, Sense, block};
use bulkhead_disk::DiskFacts;

/// Bytes of a block on a data disc.
pub const CD_BLOCK: u64 = 2048;
/// Blocks of an 80-minute CD with some overburning; larger media are DVDs.
const CD_BLOCKS: u64 = 90 * 60 * 75;
const PROFILE_CD_ROM: u16 = 0x0008;
const PROFILE_DVD_ROM: u16 = 0x0010;

pub(crate) fn command(unit: &mut LogicalUnit, cdb: &Cdb, medium: Option<&DiskFacts>) -> Step {
    // These work without a medium.
    match cdb.opcode() {
        0x1b => return start_stop(unit, cdb, medium),
        0x46 => return get_configuration(cdb, medium),
        0x4a => return event_status(unit, cdb, medium),
        0xbd => return mechanism_status(unit, cdb),
        // SET CD SPEED, STOP PLAY/SCAN.
        0xbb | 0x4e => return Step::Good,
        _ => {}
    }
    let Some(facts) = medium else { return unit.not_ready() };
    match cdb.opcode() {
        0x00 => Step::Good,
        0x25 => read_capacity(facts),
        0x28 | 0xa8 => read(cdb.blocks(), facts),
        0x2b => seek(cdb, facts),
        0x42 => read_sub_channel(cdb),
        0x43 => read_toc(cdb, facts),
        0x51 => read_disc_information(cdb),
        0x52 => read_track_information(cdb, facts),
        0xad => read_dvd_structure(cdb, facts),
        0xbe => read_cd(cdb, facts),
        _ => Step::Check(Sense::INVALID_OPCODE),
    }
}

fn blocks(facts: &DiskFacts) -> u64 {
    facts.size / CD_BLOCK
}

fn profile(medium: Option<&DiskFacts>) -> u16 {
    match medium {
        None => 0,
        Some(facts) if blocks(facts) <= CD_BLOCKS => PROFILE_CD_ROM,
        Some(_) => PROFILE_DVD_ROM,
    }
}

fn read((first, count): (u64, u64), facts: &DiskFacts) -> Step {
    match block::bytes(first, count, UnitKind::Optical, facts) {
        Ok(range) if range.is_empty() => Step::Good,
        Ok(range) => Step::Disk(Action::Read { offset: range.start, len: range.end - range.start }),
        Err(sense) => Step::Check(sense),
    }
}

/// READ CD of user data (the other parts of a raw sector are not in an image).
fn read_cd(cdb: &Cdb, facts: &DiskFacts) -> Step {
    let count = u64::from(cdb.u24(6));
    match (cdb.u8(1) >> 2 & 7, cdb.u8(9) & 0xf8) {
        (_, 0) => Step::Good,
        (0 | 2 | 4, 0x10) => read((u64::from(cdb.u32(2)), count), facts),
        _ => Step::Check(Sense::INVALID_FIELD),
    }
}

fn seek(cdb: &Cdb, facts: &DiskFacts) -> Step {
    if u64::from(cdb.u32(2)) < blocks(facts) { Step::Good } else { Step::Check(Sense::OUT_OF_RANGE) }
}

fn read_capacity(facts: &DiskFacts) -> Step {
    let last = u32::try_from(blocks(facts).saturating_sub(1)).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend((CD_BLOCK as u32).to_be_bytes());
    Step::DataIn(data)
}

fn start_stop(unit: &mut LogicalUnit, cdb: &Cdb, medium: Option<&DiskFacts>) -> Step {
    let (start, load_eject) = (cdb.bit(4, 0), cdb.bit(4, 1));
    if cdb.u8(4) >> 4 != 0 || !load_eject {
        // Power conditions and the motor change nothing that a guest sees.
        return if start && medium.is_none() { unit.not_ready() } else { Step::Good };
    }
    match (start, unit.tray_open) {
        (false, false) if unit.locked => return Step::Check(Sense::REMOVAL_PREVENTED),
        (false, false) => {
            unit.tray_open = true;
            unit.event = MediaEvent::Removed;
        }
        (true, true) => {
            // Whether the same disc is in it, nobody knows without looking.
            unit.tray_open = false;
            unit.event = MediaEvent::NewMedium;
            unit.attention |= ATTENTION_MEDIUM;
        }
        _ => {}
    }
    Step::Good
}

/// Features with their version and flags (persistent 2, current 1), and what follows.
fn features(medium: Option<&DiskFacts>) -> Vec<(u16, u8, Vec<u8>)> {
    let current = profile(medium);
    let now = |profile: u16| u8::from(current == profile);
    let any = u8::from(medium.is_some());
    let profiles =
        [PROFILE_DVD_ROM, PROFILE_CD_ROM].iter().flat_map(|p| [(p >> 8) as u8, *p as u8, now(*p), 0]).collect();
    vec![
        (0x0000, 0x03, profiles),
        // Core: ATAPI.
        (0x0001, 0x0b, vec![0, 0, 0, 2, 1, 0, 0, 0]),
        // Removable medium: tray, ejects, locks.
        (0x0003, 0x03, vec![0x29, 0, 0, 0]),
        // Random readable: 2048-byte blocks, 16 to an error correction block.
        (0x0010, any, vec![0, 0, 8, 0, 0, 16, 0, 0]),
        (0x001d, any, vec![]),
        (0x001e, now(PROFILE_CD_ROM), vec![0, 0, 0, 0]),
        (0x001f, now(PROFILE_DVD_ROM), vec![]),
        // Power management; timeouts.
        (0x0100, 0x03, vec![]),
        (0x0105, 0x03, vec![0, 0, 0, 0]),
    ]
}

fn get_configuration(cdb: &Cdb, medium: Option<&DiskFacts>) -> Step {
    let (wanted, first) = (cdb.u8(1) & 3, cdb.u16(2));
    if wanted == 3 {
        return Step::Check(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 6];
    data.extend(profile(medium).to_be_bytes());
    for (code, flags, body) in features(medium) {
        let take = match wanted {
            0 => code >= first,
            1 => code >= first && flags & 1 != 0,
            _ => code == first,
        };
        if take {
            data.extend(code.to_be_bytes());
            data.extend([flags, body.len() as u8]);
            data.extend(body);
        }
    }
    let len = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&len.to_be_bytes());
    Step::data(data, cdb.u16(7).into())
}

/// Only the media class (4) is there, and only polling.
fn event_status(unit: &mut LogicalUnit, cdb: &Cdb, medium: Option<&DiskFacts>) -> Step {
    const MEDIA: u8 = 4;
    if !cdb.bit(1, 0) {
        return Step::Check(Sense::INVALID_FIELD);
    }
    let allocation = usize::from(cdb.u16(7));
    if !cdb.bit(4, MEDIA) {
        return Step::data(vec![0, 2, 0x80, 1 << MEDIA], allocation);
    }
    let event = match unit.event {
        MediaEvent::None => 0,
        MediaEvent::EjectRequest => 1,
        MediaEvent::NewMedium => 2,
        MediaEvent::Removed => 3,
    };
    if allocation > 4 {
        unit.event = MediaEvent::None;
    }
    let status = u8::from(unit.tray_open) | u8::from(medium.is_some()) << 1;
    Step::data(vec![0, 6, MEDIA, 1 << MEDIA, event, status, 0, 0], allocation)
}

fn mechanism_status(unit: &LogicalUnit, cdb: &Cdb) -> Step {
    Step::data(vec![0, u8::from(unit.tray_open) << 4, 0, 0, 0, 1, 0, 0], cdb.u16(8).into())
}

/// No audio is playing; there are no catalogue numbers.
fn read_sub_channel(cdb: &Cdb) -> Step {
    let format = cdb.u8(3);
    let mut data = vec![0, 0x15, 0, 0];
    if cdb.bit(2, 6) {
        match format {
            1 => data.extend([1, 0x14, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            2 | 3 => {
                data.push(format);
                data.resize(24, 0);
            }
            _ => return Step::Check(Sense::INVALID_FIELD),
        }
        data[3] = (data.len() - 4) as u8;
    }
    Step::data(data, cdb.u16(7).into())
}

/// A block address as one, or as minute, second and frame.
fn address(block: u64, msf: bool) -> [u8; 4] {
    if msf {
        let frames = block + 150;
        return [0, (frames / (60 * 75)).min(255) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8];
    }
    (block as u32).to_be_bytes()
}

/// One session with one data track.
fn read_toc(cdb: &Cdb, facts: &DiskFacts) -> Step {
    const LEAD_OUT: u8 = 0xaa;
    let (msf, start) = (cdb.bit(1, 1), cdb.u8(6));
    // Old drivers have the format in the control byte.
    let format = if cdb.u8(2) & 0xf == 0 { cdb.u8(9) >> 6 } else { cdb.u8(2) & 0xf };
    let mut data = vec![0, 0, 1, 1];
    match format {
        0 => {
            if start > 1 && start != LEAD_OUT {
                return Step::Check(Sense::INVALID_FIELD);
            }
            if start <= 1 {
                data.extend([0, 0x14, 1, 0]);
                data.extend(address(0, msf));
            }
            data.extend([0, 0x16, LEAD_OUT, 0]);
            data.extend(address(blocks(facts), msf));
        }
        1 => {
            data.extend([0, 0x14, 1, 0]);
            data.extend(address(0, msf));
        }
        2 => {
            for (point, place) in [(0xa0, [0, 1, 0, 0]), (0xa1, [0, 1, 0, 0])] {
                data.extend([1, 0x14, 0, point, 0, 0, 0]);
                data.extend(place);
            }
            for (point, block) in [(0xa2, blocks(facts)), (1, 0)] {
                data.extend([1, 0x14, 0, point, 0, 0, 0]);
                // Raw entries are always minute, second and frame.
                data.extend(address(block, true));
            }
        }
        _ => return Step::Check(Sense::INVALID_FIELD),
    }
    let len = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&len.to_be_bytes());
    Step::data(data, cdb.u16(7).into())
}

fn read_disc_information(cdb: &Cdb) -> Step {
    if cdb.u8(1) & 7 != 0 {
        return Step::Check(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 34];
    data[1] = 32;
    // Complete session on a complete disc; one session with track 1; unrestricted use.
    data[2] = 0x0e;
    data[3..8].copy_from_slice(&[1, 1, 1, 1, 0x20]);
    data[17..24].fill(0xff);
    Step::data(data, cdb.u16(7).into())
}

fn read_track_information(cdb: &Cdb, facts: &DiskFacts) -> Step {
    let (kind, number) = (cdb.u8(1) & 3, cdb.u32(2));
    let exists = match kind {
        0 => u64::from(number) < blocks(facts),
        _ => number == 1,
    };
    if !exists {
        return Step::Check(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 36];
    data[1] = 34;
    // Track 1 of session 1, data, mode 1.
    (data[2], data[3], data[5], data[6]) = (1, 1, 4, 1);
    data[24..28].copy_from_slice(&(blocks(facts) as u32).to_be_bytes());
    Step::data(data, cdb.u16(7).into())
}

/// Physical format (0), copyright (1) and manufacturer (4) of a DVD.
fn read_dvd_structure(cdb: &Cdb, facts: &DiskFacts) -> Step {
    if profile(Some(facts)) != PROFILE_DVD_ROM || cdb.u8(6) != 0 {
        return Step::Check(Sense::new(5, 0x30, 0));
    }
    let last = (0x3_0000 + blocks(facts) - 1).min(0xff_ffff) as u32;
    let body = match cdb.u8(7) {
        0 => {
            let mut body = vec![0; 2048];
            // DVD-ROM part version 1, 120 mm, one layer; from 30000h.
            (body[0], body[1], body[2]) = (1, 0x0f, 1);
            body[4..8].copy_from_slice(&0x3_0000u32.to_be_bytes());
            body[8..12].copy_from_slice(&last.to_be_bytes());
            body
        }
        1 => vec![0; 4],
        4 => vec![0; 2048],
        _ => return Step::Check(Sense::INVALID_FIELD),
    };
    let mut data = ((body.len() + 2) as u16).to_be_bytes().to_vec();
    data.extend([0, 0]);
    data.extend(body);
    Step::data(data, cdb.u16(8).into())
}
