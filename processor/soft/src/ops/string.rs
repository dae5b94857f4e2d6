//! MOVS, STOS, LODS, SCAS, CMPS. Repeated ones work on runs: what source and destination have before the end of their
//! pages, of their segments and of the address size. Between two runs the VP may be interrupted.

use crate::cpu::{Cpu, Mode, rflags};
use crate::int::Int;
use crate::memory::{Address, Full, Span};
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::Selection;
use crate::ops::word::Word;
use iced_x86::{Code, OpKind, Register};

const RAX: u8 = 0;
const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;
const ES: u8 = 0;
const DS: u8 = 3;

/// The group's handlers.
pub(crate) fn select(s: &Selection, op: &mut Op) -> Option<Handler> {
    use Code::*;
    let size = address_size(s);
    macro_rules! plain {
        ($single:ident, $repeated:ident, $t:ty) => {
            match (size, repeats(s) != Repeat::None) {
                (2, false) => fallible($single::<$t, u16>),
                (4, false) => fallible($single::<$t, u32>),
                (_, false) => fallible($single::<$t, u64>),
                (2, true) => handler($repeated::<$t, u16>),
                (4, true) => handler($repeated::<$t, u32>),
                (_, true) => handler($repeated::<$t, u64>),
            }
        };
    }
    macro_rules! comparing {
        ($single:ident, $repeated:ident, $t:ty) => {
            match (size, repeats(s)) {
                (2, Repeat::None) => fallible($single::<$t, u16>),
                (4, Repeat::None) => fallible($single::<$t, u32>),
                (_, Repeat::None) => fallible($single::<$t, u64>),
                (2, Repeat::WhileEqual) => handler($repeated::<$t, u16, true>),
                (4, Repeat::WhileEqual) => handler($repeated::<$t, u32, true>),
                (_, Repeat::WhileEqual) => handler($repeated::<$t, u64, true>),
                (2, _) => handler($repeated::<$t, u16, false>),
                (4, _) => handler($repeated::<$t, u32, false>),
                (_, _) => handler($repeated::<$t, u64, false>),
            }
        };
    }
    let handler = match s.instruction.code() {
        Movsb_m8_m8 => plain!(movs, rep_movs, u8),
        Movsw_m16_m16 => plain!(movs, rep_movs, u16),
        Movsd_m32_m32 => plain!(movs, rep_movs, u32),
        Movsq_m64_m64 => plain!(movs, rep_movs, u64),
        Stosb_m8_AL => plain!(stos, rep_stos, u8),
        Stosw_m16_AX => plain!(stos, rep_stos, u16),
        Stosd_m32_EAX => plain!(stos, rep_stos, u32),
        Stosq_m64_RAX => plain!(stos, rep_stos, u64),
        Lodsb_AL_m8 => plain!(lods, rep_lods, u8),
        Lodsw_AX_m16 => plain!(lods, rep_lods, u16),
        Lodsd_EAX_m32 => plain!(lods, rep_lods, u32),
        Lodsq_RAX_m64 => plain!(lods, rep_lods, u64),
        Scasb_AL_m8 => comparing!(scas, rep_scas, u8),
        Scasw_AX_m16 => comparing!(scas, rep_scas, u16),
        Scasd_EAX_m32 => comparing!(scas, rep_scas, u32),
        Scasq_RAX_m64 => comparing!(scas, rep_scas, u64),
        Cmpsb_m8_m8 => comparing!(cmps, rep_cmps, u8),
        Cmpsw_m16_m16 => comparing!(cmps, rep_cmps, u16),
        Cmpsd_m32_m32 => comparing!(cmps, rep_cmps, u32),
        Cmpsq_m64_m64 => comparing!(cmps, rep_cmps, u64),
        _ => return None,
    };
    op.seg = source_segment(s);
    Some(handler)
}

/// The REP prefixes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    None,
    WhileEqual,
    WhileNotEqual,
}

fn repeats(s: &Selection) -> Repeat {
    if s.instruction.has_rep_prefix() {
        Repeat::WhileEqual
    } else if s.instruction.has_repne_prefix() {
        Repeat::WhileNotEqual
    } else {
        Repeat::None
    }
}

/// Address size in bytes.
fn address_size(s: &Selection) -> usize {
    let kinds = [s.instruction.op0_kind(), s.instruction.op1_kind()];
    let is = |of: &[OpKind]| kinds.iter().any(|kind| of.contains(kind));
    if is(&[OpKind::MemorySegSI, OpKind::MemoryESDI]) {
        2
    } else if is(&[OpKind::MemorySegESI, OpKind::MemoryESEDI]) {
        4
    } else {
        8
    }
}

fn source_segment(s: &Selection) -> u8 {
    match s.instruction.segment_prefix() {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => DS,
    }
}

/// Moves a string register on by `count` elements, in the direction that DF says.
#[inline(always)]
fn advance<T: Int, N: Int>(cpu: &mut Cpu, register: u8, count: u64) {
    let bytes = count << T::LOG;
    let step = if is_down(cpu) { bytes.wrapping_neg() } else { bytes };
    cpu.set_reg(register, N::from_u64(cpu.reg::<N>(register).to_u64().wrapping_add(step)));
}

#[inline(always)]
fn is_down(cpu: &Cpu) -> bool {
    cpu.system_flags & rflags::DF != 0
}

#[inline(always)]
fn read<T: Int, N: Int>(cpu: &mut Cpu, seg: u8, register: u8) -> Result<T, Fault> {
    let offset = cpu.reg::<N>(register).to_u64();
    cpu.read_at::<T, Full>(seg, offset)
}

#[inline(always)]
fn write<T: Int, N: Int>(cpu: &mut Cpu, value: T) -> Result<(), Fault> {
    let offset = cpu.reg::<N>(RDI).to_u64();
    cpu.write_at::<T, Full>(ES, offset, value)
}

#[inline(always)]
fn movs<T: Int, N: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = read::<T, N>(cpu, op.seg, RSI)?;
    write::<T, N>(cpu, value)?;
    advance::<T, N>(cpu, RSI, 1);
    advance::<T, N>(cpu, RDI, 1);
    Ok(())
}

#[inline(always)]
fn stos<T: Int, N: Int>(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    let value = cpu.reg::<T>(RAX);
    write::<T, N>(cpu, value)?;
    advance::<T, N>(cpu, RDI, 1);
    Ok(())
}

#[inline(always)]
fn lods<T: Int, N: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = read::<T, N>(cpu, op.seg, RSI)?;
    cpu.set_reg(RAX, value);
    advance::<T, N>(cpu, RSI, 1);
    Ok(())
}

/// The two elements that SCAS compares; the string register has moved on.
#[inline(always)]
fn scas_pair<T: Int, N: Int>(cpu: &mut Cpu) -> Result<(T, T), Fault> {
    let value = read::<T, N>(cpu, ES, RDI)?;
    advance::<T, N>(cpu, RDI, 1);
    Ok((cpu.reg(RAX), value))
}

/// The two elements that CMPS compares; the string registers have moved on.
#[inline(always)]
fn cmps_pair<T: Int, N: Int>(cpu: &mut Cpu, op: &Op) -> Result<(T, T), Fault> {
    // In this order, which shows if both fault.
    let b = read::<T, N>(cpu, ES, RDI)?;
    let a = read::<T, N>(cpu, op.seg, RSI)?;
    advance::<T, N>(cpu, RSI, 1);
    advance::<T, N>(cpu, RDI, 1);
    Ok((a, b))
}

#[inline(always)]
fn scas<T: Word, N: Int>(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    let (a, b) = scas_pair::<T, N>(cpu)?;
    cpu.flags = a.compare(b);
    Ok(())
}

#[inline(always)]
fn cmps<T: Word, N: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let (a, b) = cmps_pair::<T, N>(cpu, op)?;
    cpu.flags = a.compare(b);
    Ok(())
}

/// What a step of a repeated instruction did: elements, and whether they end it.
struct Step {
    count: u64,
    end: bool,
}

impl Step {
    const ONE: Self = Self { count: 1, end: false };

    fn of(count: u64) -> Self {
        Self { count, end: false }
    }
}

/// Repeats `step`, which gets the number of elements left and does at least one of them. On a fault the registers tell
/// how far it came, and the instruction begins again from there.
#[inline(always)]
fn repeat<N: Int>(cpu: &mut Cpu, mut step: impl FnMut(&mut Cpu, u64) -> Result<Step, Fault>) -> Flow {
    loop {
        let left = cpu.reg::<N>(RCX).to_u64();
        if left == 0 {
            return Flow::Next;
        }
        // With TF set there is a trap after every element.
        let single = cpu.system_flags & rflags::TF != 0;
        let Ok(done) = step(cpu, if single { 1 } else { left }) else {
            return Flow::Fault;
        };
        cpu.set_reg(RCX, N::from_u64(left - done.count));
        if done.end || left == done.count {
            return Flow::Next;
        }
        if single || cpu.must_pause_repeat() {
            return Flow::Again;
        }
    }
}

fn rep_movs<T: Int, N: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    repeat::<N>(cpu, |cpu, left| {
        let Some((from, to, count)) = runs::<T, N>(cpu, op.seg, left, true) else {
            return movs::<T, N>(cpu, op).map(|()| Step::ONE);
        };
        if is_down(cpu) {
            let (from, to) = (from.tail::<T>(count), to.tail::<T>(count));
            to.copy_elements_down::<T>(&from, count as usize);
        } else {
            to.span.copy_elements::<T>(&from.span, count as usize);
        }
        advance::<T, N>(cpu, RSI, count);
        advance::<T, N>(cpu, RDI, count);
        Ok(Step::of(count))
    })
}

fn rep_stos<T: Int, N: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    repeat::<N>(cpu, |cpu, left| {
        let Some(run) = Run::new::<T, N>(cpu, ES, RDI, left, true) else {
            return stos::<T, N>(cpu, op).map(|()| Step::ONE);
        };
        // All elements are alike: the direction does not matter.
        run.span.fill::<T>(run.count as usize, cpu.reg(RAX));
        advance::<T, N>(cpu, RDI, run.count);
        Ok(Step::of(run.count))
    })
}

fn rep_lods<T: Int, N: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    repeat::<N>(cpu, |cpu, left| {
        let Some(run) = Run::new::<T, N>(cpu, op.seg, RSI, left, false) else {
            return lods::<T, N>(cpu, op).map(|()| Step::ONE);
        };
        // Only the last one is left in the accumulator.
        cpu.set_reg(RAX, run.get::<T>(run.count - 1));
        advance::<T, N>(cpu, RSI, run.count);
        Ok(Step::of(run.count))
    })
}

/// The flags change when the instruction ends or is interrupted, not if it faults.
fn rep_scas<T: Word, N: Int, const EQUAL: bool>(cpu: &mut Cpu, _: &Op) -> Flow {
    let mut last = None;
    let flow = repeat::<N>(cpu, |cpu, left| {
        let value = cpu.reg::<T>(RAX);
        let Some(run) = Run::new::<T, N>(cpu, ES, RDI, left, false) else {
            let (a, b) = scas_pair::<T, N>(cpu)?;
            last = Some((a, b));
            return Ok(Step { count: 1, end: (a == b) != EQUAL });
        };
        let skipped = if run.down { 0 } else { run.span.skip_value::<T, EQUAL>(run.count as usize, value) as u64 };
        let stop = (skipped..run.count).find(|&index| (run.get::<T>(index) == value) != EQUAL);
        let count = stop.map_or(run.count, |index| index + 1);
        last = Some((value, run.get(count - 1)));
        advance::<T, N>(cpu, RDI, count);
        Ok(Step { count, end: stop.is_some() })
    });
    set_flags(cpu, flow, last);
    flow
}

fn rep_cmps<T: Word, N: Int, const EQUAL: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mut last = None;
    let flow = repeat::<N>(cpu, |cpu, left| {
        let Some((from, to, available)) = runs::<T, N>(cpu, op.seg, left, false) else {
            let (a, b) = cmps_pair::<T, N>(cpu, op)?;
            last = Some((a, b));
            return Ok(Step { count: 1, end: (a == b) != EQUAL });
        };
        let pair = |index| (from.get::<T>(index), to.get::<T>(index));
        let bytes = (available << T::LOG) as usize;
        let skipped = if EQUAL && !from.down { from.span.equal_prefix(&to.span, bytes) >> T::LOG } else { 0 };
        let stop = (skipped as u64..available).find(|&index| {
            let (a, b) = pair(index);
            (a == b) != EQUAL
        });
        let count = stop.map_or(available, |index| index + 1);
        last = Some(pair(count - 1));
        advance::<T, N>(cpu, RSI, count);
        advance::<T, N>(cpu, RDI, count);
        Ok(Step { count, end: stop.is_some() })
    });
    set_flags(cpu, flow, last);
    flow
}

fn set_flags<T: Word>(cpu: &mut Cpu, flow: Flow, last: Option<(T, T)>) {
    if let Some((a, b)) = last
        && flow != Flow::Fault
    {
        cpu.flags = a.compare(b);
    }
}

/// The next elements of a string that lie in one page of plain memory and pass all checks; at least one.
struct Run {
    /// From the element with the lowest address on.
    span: Span,
    /// Elements.
    count: u64,
    /// The first element is the one with the highest address.
    down: bool,
}

impl Run {
    /// At most `left` elements at the offset in `register`. `None`: do a single element the ordinary way, which may
    /// fault, reach a device, or just cross a page.
    #[inline]
    fn new<T: Int, N: Int>(cpu: &mut Cpu, seg: u8, register: u8, left: u64, write: bool) -> Option<Self> {
        let offset = cpu.reg::<N>(register).to_u64();
        let linear = Full::linear(cpu, seg, offset, T::SIZE, write).ok()?;
        let segment = &cpu.segments[usize::from(seg)];
        let (low, high) = match cpu.mode.has(Mode::LONG64) {
            true => (0, N::MASK),
            false => (u64::from(segment.low), N::MASK.min(u64::from(segment.high))),
        };
        let (down, in_page) = (is_down(cpu), linear & 0xfff);
        if in_page + T::SIZE > 4096 || offset > high {
            return None;
        }
        let count = if down {
            (in_page >> T::LOG).min((offset - low) >> T::LOG) + 1
        } else {
            ((4096 - in_page) >> T::LOG).min((high - offset).saturating_add(1) >> T::LOG)
        };
        let count = count.min(left);
        if count == 0 {
            return None;
        }
        let lowest = if down { linear - ((count - 1) << T::LOG) } else { linear };
        let span = if write { cpu.write_span(lowest, seg) } else { cpu.read_span(lowest, seg) }?;
        Some(Self { span, count, down })
    }

    /// Where element `index` is, in the order of the instruction.
    #[inline(always)]
    fn place(&self, index: u64) -> usize {
        (if self.down { self.count - 1 - index } else { index }) as usize
    }

    #[inline(always)]
    fn get<T: Int>(&self, index: u64) -> T {
        self.span.get(self.place(index))
    }

    /// Downwards: the first `count` elements, which are the upper ones.
    fn tail<T: Int>(&self, count: u64) -> Span {
        self.span.skipping(((self.count - count) << T::LOG) as usize)
    }
}

/// Source, destination, and how many elements both have.
#[inline]
fn runs<T: Int, N: Int>(cpu: &mut Cpu, seg: u8, left: u64, write: bool) -> Option<(Run, Run, u64)> {
    let from = Run::new::<T, N>(cpu, seg, RSI, left, false)?;
    let to = Run::new::<T, N>(cpu, ES, RDI, left, write)?;
    let count = from.count.min(to.count);
    Some((from, to, count))
}
