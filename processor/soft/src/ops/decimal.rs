//! DAA, DAS, AAA, AAS, AAM, AAD: decimal arithmetic, in 16- and 32-bit code only.

use crate::cpu::{Cpu, vector};
use crate::flags::Flags;
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::Selection;
use crate::ops::word::Word;
use iced_x86::Mnemonic;

const AL: u8 = 0;
const AX: u8 = 0;
const AH: u8 = 16;

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    Some(match s.instruction.mnemonic() {
        Mnemonic::Daa => handler(packed::<false>),
        Mnemonic::Das => handler(packed::<true>),
        Mnemonic::Aaa => handler(unpacked::<false>),
        Mnemonic::Aas => handler(unpacked::<true>),
        Mnemonic::Aam => fallible(aam),
        Mnemonic::Aad => handler(aad),
        _ => return None,
    })
}

/// DAA and DAS.
fn packed<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Flow {
    let old: u8 = cpu.reg(AL);
    let low = old & 15 > 9 || cpu.flags.low & Flags::AF != 0;
    let high = old > 0x99 || cpu.flags.carry();
    let adjust = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let new = if SUBTRACT { old.wrapping_sub(adjust) } else { old.wrapping_add(adjust) };
    cpu.set_reg(AL, new);
    // A borrow out of the low digit's correction also counts.
    let carry = high || SUBTRACT && low && old < 6;
    cpu.flags = with_adjust(new.test(new), low).with_carry(carry);
    Flow::Next
}

/// AAA and AAS.
fn unpacked<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Flow {
    let old: u16 = cpu.reg(AX);
    let adjust = old & 15 > 9 || cpu.flags.low & Flags::AF != 0;
    let new = match (adjust, SUBTRACT) {
        (false, _) => old,
        (true, false) => old.wrapping_add(0x106),
        (true, true) => old.wrapping_sub(0x106),
    };
    cpu.set_reg(AX, new & 0xff0f);
    let digit = new as u8 & 15;
    cpu.flags = with_adjust(digit.test(digit), adjust).with_carry(adjust);
    Flow::Next
}

fn aam(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let (old, base): (u8, u8) = (cpu.reg(AL), op.imm as u8);
    let Some(tens) = old.checked_div(base) else {
        return Err(cpu.raise(vector::DE));
    };
    let ones = old % base;
    cpu.set_reg(AH, tens);
    cpu.set_reg(AL, ones);
    cpu.flags = ones.test(ones);
    Ok(())
}

fn aad(cpu: &mut Cpu, op: &Op) -> Flow {
    let (tens, ones): (u8, u8) = (cpu.reg(AH), cpu.reg(AL));
    let (value, flags) = Word::add(ones, tens.wrapping_mul(op.imm as u8));
    cpu.set_reg(AX, u16::from(value));
    cpu.flags = flags;
    Flow::Next
}

const fn with_adjust(flags: Flags, adjust: bool) -> Flags {
    Flags { low: flags.low & !Flags::AF | if adjust { Flags::AF } else { 0 }, ..flags }
}
