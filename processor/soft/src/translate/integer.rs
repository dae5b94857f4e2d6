//! The rules for integer instructions: the host executes the guest's instruction with registers renamed and the memory
//! operand checked; implied registers are moved.

use super::assembler::Mem;
use super::emit::{Emitter, FlagPlaces, NoRule};
use super::memory::{Access, Address, address_of};
use super::registers::{ADDRESS, GUEST_RAX, Place, VALUE, general, place, sized, slot};
use iced_x86::{Code, Instruction, Mnemonic, OpAccess, OpKind, Register, RflagsBits};

const STATUS: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Gives a copied instruction another memory operand.
pub(super) fn set_memory(copy: &mut Instruction, mem: Mem) {
    copy.set_segment_prefix(Register::None);
    copy.set_memory_base(mem.base.map_or(Register::None, |base| sized(base, 8)));
    let (index, scale) = mem.index.map_or((Register::None, 0), |(index, scale)| (sized(index, 8), scale));
    copy.set_memory_index(index);
    copy.set_memory_index_scale(1 << scale);
    copy.set_memory_displacement64(i64::from(mem.disp) as u64);
    copy.set_memory_displ_size(u32::from(mem.disp != 0));
}

/// Whether all status flags are written without regard to what they were. Undefined ones are as the host leaves them,
/// which for these instructions depends on operands only.
fn sets_all_flags(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar | Mnemonic::Sal => {
            // By an immediate that is not zero; else flags may stay.
            let size = match instruction.op0_kind() {
                OpKind::Memory => instruction.memory_size().size(),
                _ => instruction.op0_register().size(),
            };
            let mask = if size == 8 { 63 } else { 31 };
            instruction.op1_kind() == OpKind::Immediate8 && instruction.immediate(1) & mask != 0
        }
        Mnemonic::Imul => true,
        _ => {
            let written = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
            (written | RflagsBits::AF) & STATUS == STATUS
        }
    }
}

/// The instruction with register numbers that are not part of its code: ADD EAX, imm as ADD rm, imm.
fn general_form(instruction: &Instruction) -> Instruction {
    use Code::*;
    let code = match instruction.code() {
        Add_AL_imm8 => Add_rm8_imm8,
        Add_AX_imm16 => Add_rm16_imm16,
        Add_EAX_imm32 => Add_rm32_imm32,
        Add_RAX_imm32 => Add_rm64_imm32,
        Or_AL_imm8 => Or_rm8_imm8,
        Or_AX_imm16 => Or_rm16_imm16,
        Or_EAX_imm32 => Or_rm32_imm32,
        Or_RAX_imm32 => Or_rm64_imm32,
        Adc_AL_imm8 => Adc_rm8_imm8,
        Adc_AX_imm16 => Adc_rm16_imm16,
        Adc_EAX_imm32 => Adc_rm32_imm32,
        Adc_RAX_imm32 => Adc_rm64_imm32,
        Sbb_AL_imm8 => Sbb_rm8_imm8,
        Sbb_AX_imm16 => Sbb_rm16_imm16,
        Sbb_EAX_imm32 => Sbb_rm32_imm32,
        Sbb_RAX_imm32 => Sbb_rm64_imm32,
        And_AL_imm8 => And_rm8_imm8,
        And_AX_imm16 => And_rm16_imm16,
        And_EAX_imm32 => And_rm32_imm32,
        And_RAX_imm32 => And_rm64_imm32,
        Sub_AL_imm8 => Sub_rm8_imm8,
        Sub_AX_imm16 => Sub_rm16_imm16,
        Sub_EAX_imm32 => Sub_rm32_imm32,
        Sub_RAX_imm32 => Sub_rm64_imm32,
        Xor_AL_imm8 => Xor_rm8_imm8,
        Xor_AX_imm16 => Xor_rm16_imm16,
        Xor_EAX_imm32 => Xor_rm32_imm32,
        Xor_RAX_imm32 => Xor_rm64_imm32,
        Cmp_AL_imm8 => Cmp_rm8_imm8,
        Cmp_AX_imm16 => Cmp_rm16_imm16,
        Cmp_EAX_imm32 => Cmp_rm32_imm32,
        Cmp_RAX_imm32 => Cmp_rm64_imm32,
        Test_AL_imm8 => Test_rm8_imm8,
        Test_AX_imm16 => Test_rm16_imm16,
        Test_EAX_imm32 => Test_rm32_imm32,
        Test_RAX_imm32 => Test_rm64_imm32,
        Xchg_r32_EAX => Xchg_rm32_r32,
        Xchg_r64_RAX => Xchg_rm64_r64,
        same => same,
    };
    let mut copy = *instruction;
    copy.set_code(code);
    // Prefixes without a meaning here would have one on a host with more features: F3 makes BSF a TZCNT.
    copy.set_has_rep_prefix(false);
    copy.set_has_repne_prefix(false);
    copy.set_has_xacquire_prefix(false);
    copy.set_has_xrelease_prefix(false);
    copy
}

impl Emitter<'_> {
    /// The host register for a guest register: its own, or the next scratch register.
    pub fn bring(&mut self, number: u8, load: bool, scratch: &mut impl Iterator<Item = u8>) -> Result<u8, NoRule> {
        match place(number) {
            Place::Host(host) => Ok(host),
            Place::Slot(guest) => {
                let host = scratch.next().ok_or(NoRule)?;
                if load {
                    self.asm.load(host, slot(guest));
                }
                Ok(host)
            }
        }
    }

    /// A guest register that [`Self::bring`] put into `host` was written.
    pub fn put_back(&mut self, number: u8, host: u8) {
        if let Place::Slot(guest) = place(number) {
            self.asm.store(slot(guest), host);
        }
    }

    /// The instruction, if there is a rule for it.
    pub fn integer_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        use Mnemonic::*;
        match instruction.mnemonic() {
            Nop | Endbr32 | Endbr64 | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchw => Ok(()),
            Lea => self.lea_rule(instruction),
            Mov if instruction.op0_register().is_segment_register()
                || instruction.op1_register().is_segment_register() =>
            {
                Err(NoRule)
            }
            Mov | Movzx | Movsx | Movsxd | Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Inc | Dec | Neg
            | Not | Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd | Bswap | Bsf | Bsr | Tzcnt | Lzcnt
            | Popcnt | Seta | Setae | Setb | Setbe | Sete | Setg | Setge | Setl | Setle | Setne | Setno | Setnp
            | Setns | Seto | Setp | Sets | Cmova | Cmovae | Cmovb | Cmovbe | Cmove | Cmovg | Cmovge | Cmovl
            | Cmovle | Cmovne | Cmovno | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs | Andn | Bextr | Blsi | Blsmsk
            | Blsr | Bzhi | Pdep | Pext | Rorx | Sarx | Shlx | Shrx | Mulx | Adcx | Adox | Movbe | Crc32 | Xadd => {
                self.copy_rule(instruction)
            }
            Xchg if instruction.code() != Code::Nopd => self.copy_rule(instruction),
            Bt | Btc | Btr | Bts
                if instruction.op0_kind() == OpKind::Register || instruction.op1_kind() == OpKind::Immediate8 =>
            {
                self.copy_rule(instruction)
            }
            Imul if instruction.op_count() > 1 => self.copy_rule(instruction),
            Imul | Mul | Div | Idiv => self.wide_rule(instruction),
            Cmpxchg => self.compare_exchange_rule(instruction),
            Cdq | Cqo | Cdqe | Cwde | Cbw => self.extend_rule(instruction.mnemonic()),
            Push | Pop | Leave => self.stack_rule(instruction),
            _ => Err(NoRule),
        }
    }

    fn lea_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        let mut plain = *instruction;
        plain.set_segment_prefix(Register::None);
        let address = address_of(&plain)?;
        let number = general(instruction.op0_register()).ok_or(NoRule)?;
        let size = instruction.op0_register().size();
        if size == 2 {
            return Err(NoRule);
        }
        let slot_base = matches!(address.base, Some(Place::Slot(_)));
        let slot_index = matches!(address.index, Some((Place::Slot(_), _)));
        if slot_base && slot_index {
            // They are added, which destroys flags.
            self.spend_flags();
        }
        let to = match place(number) {
            // A part that is needed after another one was loaded is no destination yet.
            Place::Host(host) if !((slot_base || slot_index) && uses(&address, host)) => host,
            _ => VALUE,
        };
        self.compute(to, address, 0);
        if size == 4 {
            // MOV to, to: the upper half is cleared.
            self.asm.registers(false, &[0x8b], to, to);
        }
        match place(number) {
            Place::Host(host) if host != to => self.asm.mov(host, to),
            Place::Host(_) => {}
            Place::Slot(guest) => self.asm.store(slot(guest), to),
        }
        Ok(())
    }

    /// A copy of the instruction with other registers.
    fn copy_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        let mut copy = general_form(instruction);
        let writes_flags = instruction.rflags_modified() & STATUS != 0;
        let reads_flags = instruction.rflags_read() & STATUS != 0 || writes_flags && !sets_all_flags(instruction);
        let memory = (0..instruction.op_count()).find(|&index| instruction.op_kind(index) == OpKind::Memory);
        if let Some(index) = memory {
            let mem = self.check_operand(instruction, index)?;
            set_memory(&mut copy, mem);
        }
        if reads_flags {
            self.load_flags();
        }
        let mut scratch = [VALUE, ADDRESS].into_iter().take(if memory.is_some() { 1 } else { 2 });
        let mut stores = [None; 2];
        let mut brought: [(u8, u8); 2] = [(0xff, 0); 2];
        for index in 0..instruction.op_count() {
            match instruction.op_kind(index) {
                OpKind::Register => {
                    let register = instruction.op_register(index);
                    let number = general(register).ok_or(NoRule)?;
                    let known = brought.iter().find(|(guest, _)| *guest == number).map(|(_, host)| *host);
                    let access = self.info.info(instruction).op_access(index);
                    let whole = access == OpAccess::Write && register.size() >= 4;
                    let host = match known {
                        Some(host) => host,
                        None => self.bring(number, !whole || used_again(instruction, index), &mut scratch)?,
                    };
                    if known.is_none() {
                        brought[usize::from(brought[0].0 != 0xff)] = (number, host);
                    }
                    copy.set_op_register(index, sized(host, register.size()));
                    let written = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
                    if written {
                        stores[usize::from(stores[0].is_some())] = Some((number, host));
                    }
                }
                OpKind::Memory => {}
                OpKind::MemorySegSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRSI
                | OpKind::FarBranch16
                | OpKind::FarBranch32 => return Err(NoRule),
                _ => {}
            }
        }
        self.asm.encode(&copy)?;
        for (number, host) in stores.into_iter().flatten() {
            self.put_back(number, host);
        }
        if writes_flags {
            self.flags_set();
        }
        Ok(())
    }

    /// Checks the memory operand number `index` of an instruction.
    pub fn check_operand(&mut self, instruction: &Instruction, index: u32) -> Result<Mem, NoRule> {
        let size = instruction.memory_size().size() as u32;
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(NoRule);
        }
        let access = self.info.info(instruction).op_access(index);
        let write = !matches!(access, OpAccess::Read | OpAccess::CondRead);
        // An atomic access over two cache lines would lock the whole host: left to the handler.
        let atomic = instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg;
        let alignment = if atomic { size } else { 1 };
        Ok(self.check(address_of(instruction)?, Access { size, write, alignment }))
    }

    /// MUL, IMUL, DIV, IDIV with RDX:RAX implied.
    fn wide_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        let mut copy = general_form(instruction);
        let memory = instruction.op0_kind() == OpKind::Memory;
        let size = if memory { instruction.memory_size().size() } else { instruction.op0_register().size() };
        if memory {
            let mem = self.check_operand(instruction, 0)?;
            set_memory(&mut copy, mem);
        }
        let divides = matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv);
        if divides {
            self.save_flags();
        }
        if !memory {
            let number = general(instruction.op0_register()).ok_or(NoRule)?;
            let source = self.bring(number, true, &mut std::iter::once(ADDRESS))?;
            copy.set_op0_register(sized(source, size));
        }
        self.asm.mov(VALUE, GUEST_RAX);
        if divides {
            self.fault_marker();
        }
        self.asm.encode(&copy)?;
        match size {
            1 | 2 => {
                // MOV R12W, AX.
                self.asm.put(&[0x66]);
                self.asm.registers(false, &[0x8b], GUEST_RAX, VALUE);
            }
            _ => self.asm.mov(GUEST_RAX, VALUE),
        }
        if divides {
            // What is left of the flags is undefined: the handlers leave them alone.
            self.flags = FlagPlaces::MEMORY;
        } else {
            self.flags_set();
        }
        Ok(())
    }

    fn compare_exchange_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        let mut copy = general_form(instruction);
        let size = instruction.op1_register().size();
        let number = general(instruction.op1_register()).ok_or(NoRule)?;
        if instruction.op0_kind() == OpKind::Memory {
            let mem = self.check_operand(instruction, 0)?;
            set_memory(&mut copy, mem);
        } else {
            // The destination may be RAX itself.
            return Err(NoRule);
        }
        let Place::Host(source) = place(number) else { return Err(NoRule) };
        copy.set_op1_register(sized(source, size));
        self.asm.mov(VALUE, GUEST_RAX);
        self.asm.encode(&copy)?;
        self.asm.mov(GUEST_RAX, VALUE);
        self.flags_set();
        Ok(())
    }

    fn extend_rule(&mut self, mnemonic: Mnemonic) -> Result<(), NoRule> {
        match mnemonic {
            // MOVSXD R12, R12D.
            Mnemonic::Cdqe => self.asm.registers(true, &[0x63], GUEST_RAX, GUEST_RAX),
            // MOVSX R12D, R12W.
            Mnemonic::Cwde => self.asm.registers(false, &[0x0f, 0xbf], GUEST_RAX, GUEST_RAX),
            // CDQ, CQO with the host's RAX; RDX is where it belongs.
            Mnemonic::Cdq => {
                self.asm.mov(VALUE, GUEST_RAX);
                self.asm.put(&[0x99]);
            }
            Mnemonic::Cqo => {
                self.asm.mov(VALUE, GUEST_RAX);
                self.asm.put(&[0x48, 0x99]);
            }
            _ => return Err(NoRule),
        }
        Ok(())
    }
}

/// Whether `host` is a part of the address.
fn uses(address: &Address, host: u8) -> bool {
    let index = address.index.map(|(index, _)| index);
    [address.base, index].contains(&Some(Place::Host(host)))
}

/// Whether a register that an operand writes is read by another operand.
fn used_again(instruction: &Instruction, index: u32) -> bool {
    let register = instruction.op_register(index).full_register();
    (0..instruction.op_count()).any(|other| {
        other != index
            && instruction.op_kind(other) == OpKind::Register
            && instruction.op_register(other).full_register() == register
    })
}
