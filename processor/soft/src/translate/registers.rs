//! Where guest registers live while translated code runs.
//!
//! | host | holds |
//! |---|---|
//! | RCX RDX RBX RBP RSI RDI R8 R9 | the same guest register |
//! | R10 R11 R12 R13 | guest R12 R13 RAX RSP |
//! | RAX, R14 | nothing: scratch within the translation of one guest instruction |
//! | R15 | the `Cpu` |
//! | RSP | the host's stack |
//!
//! Guest R10, R11, R14 and R15, which compilers use least, stay in `Cpu::regs`. RAX is scratch because LAHF and SAHF
//! work on it; RCX keeps its place because shifts count in CL.

use super::assembler::{Mem, host};
use crate::cpu::Cpu;
use iced_x86::Register;
use std::mem::offset_of;

/// The first scratch register.
pub(super) const VALUE: u8 = host::RAX;
/// The second one; holds addresses.
pub(super) const ADDRESS: u8 = host::R14;
/// The register that points to the `Cpu`.
pub(super) const CPU: u8 = host::R15;
/// Where guest RAX lives.
pub(super) const GUEST_RAX: u8 = host::R12;
/// Where guest RSP lives.
pub(super) const GUEST_RSP: u8 = host::R13;

/// Where a guest register lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a host register.
    Host(u8),
    /// In `Cpu::regs`.
    Slot(u8),
}

/// By guest register number.
const PLACES: [Place; 16] = [
    Place::Host(GUEST_RAX),
    Place::Host(host::RCX),
    Place::Host(host::RDX),
    Place::Host(host::RBX),
    Place::Host(GUEST_RSP),
    Place::Host(host::RBP),
    Place::Host(host::RSI),
    Place::Host(host::RDI),
    Place::Host(host::R8),
    Place::Host(host::R9),
    Place::Slot(10),
    Place::Slot(11),
    Place::Host(host::R10),
    Place::Host(host::R11),
    Place::Slot(14),
    Place::Slot(15),
];

/// Where guest register `number` lives.
pub(super) fn place(number: u8) -> Place {
    PLACES[usize::from(number & 15)]
}

/// All pinned registers: (host, guest).
pub(super) fn pinned() -> impl Iterator<Item = (u8, u8)> {
    (0..16).filter_map(|guest| match place(guest) {
        Place::Host(host) => Some((host, guest)),
        Place::Slot(_) => None,
    })
}

/// A field of the `Cpu` as an operand.
pub(super) const fn field(offset: usize) -> Mem {
    Mem::at(CPU, offset as i32)
}

/// The slot of a guest register in `Cpu::regs`.
pub(super) const fn slot(number: u8) -> Mem {
    field(offset_of!(Cpu, regs) + 8 * number as usize)
}

/// The host register `number` in a size of 1, 2, 4 or 8 bytes (as 8-bit register always the low byte).
pub(super) fn sized(number: u8, bytes: usize) -> Register {
    let number = u32::from(number);
    match bytes {
        1 if number < 4 => Register::AL + number,
        1 if number < 8 => Register::SPL + (number - 4),
        1 => Register::R8L + (number - 8),
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}

/// Number of a general register; `None` for AH, CH, DH, BH and everything else.
pub(super) fn general(register: Register) -> Option<u8> {
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    (register.is_gpr() && !high).then(|| register.full_register().number() as u8)
}
