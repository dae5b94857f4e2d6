//! Guest memory operands: the inline TLB check.
//!
//! ```text
//! lea  r14, [address]
//! lea  rax, [address + size - 1]     the last byte's page: an access over a page boundary never equals the tag
//! shr  r14d, 7
//! and  r14d, 0x1ffe0                 the entry found through the first byte
//! and  rax, -4096                    and the low bits that alignment wants to be zero
//! cmp  rax, [r15 + r14 + tag]
//! jne  detour
//! mov  r14, [r15 + r14 + addend]     host minus guest address
//! ```
//!
//! Then `[r14 + address]` is the operand.

use super::assembler::Mem;
use super::emit::{Emitter, NoRule};
use super::registers::{ADDRESS, CPU, Place, VALUE, field, general, place, slot};
use crate::cpu::{Cpu, Mode};
use crate::memory::{TLB_ENTRIES, TlbEntry};
use crate::mmu::tlb::{Privilege, Tlb};
use iced_x86::{Instruction, Register};
use std::mem::offset_of;

/// A guest address: the sum of its parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub base: Option<Place>,
    pub index: Option<(Place, u8)>,
    pub disp: i32,
    /// Fields of the `Cpu` that are added: a segment's base, the code page.
    pub fields: [Option<usize>; 2],
}

impl Address {
    /// A guest register plus a displacement.
    pub fn based(register: u8, disp: i32) -> Self {
        Self { base: Some(place(register)), index: None, disp, fields: [None; 2] }
    }
}

/// What an access needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub size: u32,
    pub write: bool,
    /// The address must be a multiple of this (1: any), or the handler does it.
    pub alignment: u32,
}

const _: () = assert!(size_of::<TlbEntry>() == 32 && TLB_ENTRIES.is_power_of_two());

/// The address of an instruction's explicit memory operand, in 64-bit mode.
pub(super) fn address_of(instruction: &Instruction) -> Result<Address, NoRule> {
    let mut fields = [None; 2];
    match instruction.memory_segment() {
        Register::FS => fields[0] = Some(segment_base(4)),
        Register::GS => fields[0] = Some(segment_base(5)),
        _ => {}
    }
    let displacement = instruction.memory_displacement64() as i64;
    // Room for the size of an operand.
    let disp = i32::try_from(displacement).ok().filter(|disp| disp.checked_add(64).is_some()).ok_or(NoRule)?;
    let base = match instruction.memory_base() {
        Register::None => None,
        Register::RIP => {
            fields[1] = Some(offset_of!(Cpu, code_page));
            None
        }
        base if base.size() == 8 => Some(place(general(base).ok_or(NoRule)?)),
        _ => return Err(NoRule),
    };
    let index = match instruction.memory_index() {
        Register::None => None,
        index if index.size() == 8 => {
            let scale = instruction.memory_index_scale().trailing_zeros() as u8;
            Some((place(general(index).ok_or(NoRule)?), scale))
        }
        _ => return Err(NoRule),
    };
    if base.is_none() && index.is_none() && fields[1].is_none() && instruction.memory_displ_size() != 8 {
        // Absolute with a 32-bit address size.
        return Err(NoRule);
    }
    Ok(Address { base, index, disp, fields })
}

fn segment_base(index: usize) -> usize {
    offset_of!(Cpu, segments)
        + index * size_of::<crate::cpu::SegmentRegister>()
        + offset_of!(crate::cpu::SegmentRegister, base)
}

impl Emitter<'_> {
    /// `to` becomes the address plus `extra`. Uses no other register; the host's flags are lost if fields are added.
    pub(super) fn compute(&mut self, to: u8, address: Address, extra: i32) {
        let disp = address.disp.wrapping_add(extra);
        let mut fields = address.fields;
        match (address.base, address.index) {
            (None, None) => {
                let first = fields.iter_mut().find_map(Option::take);
                match first {
                    Some(offset) => {
                        self.asm.load(to, field(offset));
                        if disp != 0 {
                            self.asm.lea(to, Mem::at(to, disp));
                        }
                    }
                    None => self.asm.lea(to, Mem { base: None, index: None, disp }),
                }
            }
            (base, Some((Place::Slot(index), scale))) => {
                self.asm.load(to, slot(index));
                let host = match base {
                    Some(Place::Host(base)) => Some(base),
                    _ => None,
                };
                self.asm.lea(to, Mem { base: host, index: Some((to, scale)), disp });
                if let Some(Place::Slot(base)) = base {
                    self.asm.memory(true, &[0x03], to, slot(base));
                }
            }
            (Some(Place::Slot(base)), index) => {
                self.asm.load(to, slot(base));
                let index = host_index(index);
                if index.is_some() || disp != 0 {
                    self.asm.lea(to, Mem { base: Some(to), index, disp });
                }
            }
            (Some(Place::Host(base)), None) if disp == 0 => self.asm.mov(to, base),
            (base, index) => {
                let base = match base {
                    Some(Place::Host(base)) => Some(base),
                    _ => None,
                };
                self.asm.lea(to, Mem { base, index: host_index(index), disp });
            }
        }
        for offset in fields.into_iter().flatten() {
            self.asm.memory(true, &[0x03], to, field(offset));
        }
    }

    /// Checks an access of the current instruction and returns the operand, which is good until the second scratch
    /// register is used otherwise. The guest's flags are in memory only afterwards; the first scratch register is free.
    pub(super) fn check(&mut self, address: Address, access: Access) -> Mem {
        self.spend_flags();
        self.compute(ADDRESS, address, 0);
        let last = if access.alignment >= access.size { 0 } else { access.size as i32 - 1 };
        let simple = matches!(address.base, None | Some(Place::Host(_)))
            && matches!(address.index, None | Some((Place::Host(_), _)))
            && address.fields == [None; 2];
        match (simple, last) {
            (_, 0) => self.asm.mov(VALUE, ADDRESS),
            (true, _) => self.compute(VALUE, address, last),
            (false, _) => self.asm.lea(VALUE, Mem::at(ADDRESS, last)),
        }
        // SHR R14D, 7; AND R14D, mask.
        self.asm.put(&[0x41, 0xc1, 0xee, 0x07, 0x41, 0x81, 0xe6]);
        self.asm.put(&((TLB_ENTRIES as u32 - 1) << 5).to_le_bytes());
        // AND RAX, mask.
        self.asm.put(&[0x48, 0x25]);
        self.asm.put(&(-4096 | (access.alignment as i32 - 1)).to_le_bytes());
        let privilege = Privilege::of(self.mode.has(Mode::USER));
        let table = offset_of!(Cpu, mmu) + Tlb::table_offset(privilege);
        let tag = if access.write { offset_of!(TlbEntry, write) } else { offset_of!(TlbEntry, read) };
        self.asm.memory(true, &[0x3b], VALUE, Mem::indexed(CPU, ADDRESS, 0, (table + tag) as i32));
        let miss = self.asm.jcc(5);
        self.detour(miss);
        let addend = (table + offset_of!(TlbEntry, addend)) as i32;
        self.asm.load(ADDRESS, Mem::indexed(CPU, ADDRESS, 0, addend));
        self.operand(address)
    }

    /// The operand, when the second scratch register holds the addend.
    fn operand(&mut self, address: Address) -> Mem {
        for offset in address.fields.into_iter().flatten() {
            self.asm.memory(true, &[0x03], ADDRESS, field(offset));
        }
        if let Some(Place::Slot(base)) = address.base {
            self.asm.memory(true, &[0x03], ADDRESS, slot(base));
        }
        if let Some((Place::Slot(index), scale)) = address.index {
            self.asm.load(VALUE, slot(index));
            self.asm.lea(ADDRESS, Mem::indexed(ADDRESS, VALUE, scale, 0));
        }
        let mut mem = Mem::at(ADDRESS, address.disp);
        if let Some((Place::Host(index), scale)) = address.index {
            mem.index = Some((index, scale));
        }
        if let Some(Place::Host(base)) = address.base {
            if let Some((index, scale)) = mem.index {
                self.asm.lea(ADDRESS, Mem::indexed(ADDRESS, index, scale, 0));
            }
            mem.index = Some((base, 0));
        }
        mem
    }
}

fn host_index(index: Option<(Place, u8)>) -> Option<(u8, u8)> {
    match index {
        Some((Place::Host(index), scale)) => Some((index, scale)),
        _ => None,
    }
}
