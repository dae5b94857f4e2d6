//! Executes cases of natively executed instructions alone, through `bulkhead_native` and nothing else: tells a wrong
//! stub from a wrong interpreter.

use std::ptr;

use bulkhead_native::{EnvFormat, Gather, Lowered, MemoryOperand, NativeError, NativeState, Slot, Stub, Stubs};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::case::layout::{CODE, CODE_SIZE, DATA, DATA_SIZE, READ_ONLY_FILL, READ_ONLY_SIZE, slot};
use crate::{Case, Exception, Executor, Form, Mode, Outcome, Registers};

/// Bytes from [`DATA`] on that are mapped.
const MAPPED: usize = DATA_SIZE + READ_ONLY_SIZE;
/// Code can be read too.
const MEMORY_SIZE: usize = MAPPED + CODE_SIZE;

/// Data, read-only page, code; aligned like the guest's addresses.
#[repr(C, align(4096))]
struct Memory([u8; MEMORY_SIZE]);

/// The executor.
pub struct StubExecutor {
    stubs: Stubs,
    state: Box<NativeState>,
    gprs: [u64; 16],
    flags: u64,
    memory: Box<Memory>,
    mode: Mode,
}

const PAGE_FAULT: u8 = 14;
const GENERAL_PROTECTION: u8 = 13;
const STACK_FAULT: u8 = 12;

fn general_protection() -> Exception {
    Exception { vector: GENERAL_PROTECTION, error: 0, address: 0 }
}

impl StubExecutor {
    /// An executor with an empty cache.
    pub fn new() -> Result<Self, NativeError> {
        let mut memory = Box::new(Memory([0; MEMORY_SIZE]));
        memory.0[DATA_SIZE..MAPPED].fill(READ_ONLY_FILL);
        Ok(Self {
            stubs: Stubs::new()?,
            state: Box::new(NativeState::new()),
            gprs: [0; 16],
            flags: 2,
            memory,
            mode: Mode::Long,
        })
    }

    /// The forms that it can execute. It knows flat segments only.
    pub fn accepts(form: &Form) -> bool {
        let flat = form.mode != Mode::Segmented;
        flat && (bulkhead_native::lowers(form.code) || is_state_instruction(form.code.mnemonic()))
    }

    fn run_case(&mut self, case: &Case) -> Outcome {
        self.mode = case.mode;
        self.gprs = case.registers.gpr;
        self.flags = case.registers.rflags;
        self.memory.0[..DATA_SIZE].copy_from_slice(&case.memory()[..]);
        self.state.load_xsave(&case.registers.to_xsave());
        self.state.enter();
        let mut rip = case.registers.rip;
        let mut end = None;
        for instruction in &case.instructions {
            if let Err(exception) = self.step(instruction) {
                end = Some(exception);
                break;
            }
            rip = instruction.next_ip();
        }
        self.state.leave();
        let mut registers = self.registers();
        registers.rip = if end.is_some() { rip } else { rip + 1 };
        let mut memory = Box::new([0; DATA_SIZE]);
        memory.copy_from_slice(&self.memory.0[..DATA_SIZE]);
        Outcome { registers, exception: end.unwrap_or(Exception { vector: 3, error: 0, address: 0 }), memory }
    }

    fn registers(&mut self) -> Registers {
        let mut registers = Registers { gpr: self.gprs, rflags: self.flags, ..Registers::initial() };
        registers.set_from_xsave(&self.state.to_xsave());
        registers
    }

    fn step(&mut self, instruction: &Instruction) -> Result<(), Exception> {
        if is_state_instruction(instruction.mnemonic()) {
            return self.state_instruction(instruction);
        }
        match self.stubs.get(instruction) {
            Ok(Lowered::Stub(stub)) => self.call(instruction, &stub),
            Ok(Lowered::Gather(gather)) => self.gather(instruction, &gather),
            Err(_) => Err(Exception { vector: 6, error: 0, address: 0 }),
        }
    }

    fn call(&mut self, instruction: &Instruction, stub: &Stub) -> Result<(), Exception> {
        self.state.flags = self.flags as u32 & bulkhead_native::STATUS_FLAGS;
        if stub.uses_x87 {
            self.state.use_x87();
        }
        let Some(memory) = stub.memory else { return self.enter_stub(stub, ptr::null_mut()) };
        let address = self.address(instruction, 0);
        let result = self.call_with_memory(instruction, stub, &memory, address);
        // A pending x87 exception comes before anything about the memory operand.
        if result.is_err_and(|e| e.vector != 16) && stub.waits && self.state.x87_exception_pending() {
            return Err(Exception { vector: 16, error: 0, address: 0 });
        }
        result
    }

    fn call_with_memory(
        &mut self,
        instruction: &Instruction,
        stub: &Stub,
        memory: &MemoryOperand,
        address: u64,
    ) -> Result<(), Exception> {
        let size = usize::from(memory.size);
        if !address.is_multiple_of(u64::from(memory.alignment)) {
            return Err(general_protection());
        }
        if let Some(masked) = memory.masked {
            let (active, element) = (masked.active(&mut self.state), usize::from(masked.element));
            self.state.bounce = [0; 64];
            let elements = (0..usize::from(masked.count)).filter(|i| active >> i & 1 != 0);
            for i in elements.clone() {
                let at = i * element;
                let offset = self.translate(instruction, address.wrapping_add(at as u64), element, memory.write)?;
                self.state.bounce[at..at + element].copy_from_slice(&self.memory.0[offset..offset + element]);
            }
            let bounce = self.state.bounce.as_mut_ptr();
            self.enter_stub(stub, bounce)?;
            for i in elements.filter(|_| memory.write) {
                let at = i * element;
                let offset = self.translate(instruction, address.wrapping_add(at as u64), element, true)?;
                self.memory.0[offset..offset + element].copy_from_slice(&self.state.bounce[at..at + element]);
            }
            return Ok(());
        }
        let offset = self.translate(instruction, address, size, memory.write)?;
        if address & 0xfff <= 0x1000 - memory.size as u64 {
            let host = self.memory.0[offset..].as_mut_ptr();
            return self.enter_stub(stub, host);
        }
        // Across a page: through the bounce buffer, as the interpreter does.
        self.state.bounce[..size].copy_from_slice(&self.memory.0[offset..offset + size]);
        let bounce = self.state.bounce.as_mut_ptr();
        self.enter_stub(stub, bounce)?;
        if memory.write {
            self.memory.0[offset..offset + size].copy_from_slice(&self.state.bounce[..size]);
        }
        Ok(())
    }

    fn enter_stub(&mut self, stub: &Stub, memory: *mut u8) -> Result<(), Exception> {
        let state: *mut NativeState = &mut *self.state;
        let gprs = self.gprs.as_mut_ptr();
        let mut pointers = stub.registers.map(|slot| match slot {
            Slot::None => ptr::null_mut(),
            // SAFETY: register numbers are below 16.
            Slot::Gpr { register, byte } => unsafe { gprs.add(register.into()).cast::<u8>().add(byte.into()) },
            // SAFETY: as above.
            Slot::Vector(number) => unsafe { (&raw mut (*state).vector[usize::from(number)]).cast() },
        });
        if stub.memory.is_some() {
            pointers[3] = memory;
        }
        let [a, b, c, m] = pointers;
        // SAFETY: pointers to live memory of the operands' sizes; entered by `run_case`, x87 resident if needed.
        let vector = unsafe { (stub.entry)(state, gprs, a, b, c, m) };
        if vector != 0 {
            return Err(Exception { vector: vector as u8, error: 0, address: 0 });
        }
        if stub.writes_flags {
            let status = u64::from(bulkhead_native::STATUS_FLAGS);
            self.flags = self.flags & !status | u64::from(self.state.flags) & status;
        }
        Ok(())
    }

    fn gather(&mut self, instruction: &Instruction, gather: &Gather) -> Result<(), Exception> {
        let base = self.register(instruction.memory_base());
        let wide = matches!(instruction.memory_base().size(), 8) || instruction.memory_displ_size() == 8;
        let origin = base.wrapping_add(instruction.memory_displacement64());
        let mut state = std::mem::take(&mut *self.state);
        let size = usize::from(gather.element);
        let result = gather.run(&mut state, |offset| {
            let address = origin.wrapping_add(offset as u64);
            let address = if wide && self.mode == Mode::Long { address } else { address & 0xffff_ffff };
            let at = self.translate(instruction, address, size, false)?;
            let mut value = [0; 8];
            value[..size].copy_from_slice(&self.memory.0[at..at + size]);
            Ok(u64::from_le_bytes(value))
        });
        *self.state = state;
        result
    }

    /// LDMXCSR, FLDENV and the like.
    fn state_instruction(&mut self, instruction: &Instruction) -> Result<(), Exception> {
        use Mnemonic as M;
        let registers = self.mode.registers();
        let format = |wide| EnvFormat { protected: true, wide };
        match instruction.mnemonic() {
            M::Vzeroupper => self.state.zero_upper(registers),
            M::Vzeroall => self.state.zero_all(registers),
            M::Fninit => self.state.fninit(),
            M::Stmxcsr | M::Vstmxcsr => {
                let value = self.state.mxcsr().to_le_bytes();
                let at = self.operand(instruction, 4, 1, true)?;
                self.memory.0[at..at + 4].copy_from_slice(&value);
            }
            M::Ldmxcsr | M::Vldmxcsr => {
                let at = self.operand(instruction, 4, 1, false)?;
                let bytes = &self.memory.0[at..at + 4];
                let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                self.state.set_mxcsr(value).ok().ok_or_else(general_protection)?;
            }
            M::Fldenv => {
                let size = instruction.memory_size().size();
                self.pending()?;
                let at = self.operand(instruction, size, 1, false)?;
                self.state.fldenv(&self.memory.0[at..at + size], format(size == 28));
            }
            M::Frstor => {
                let size = instruction.memory_size().size();
                self.pending()?;
                let at = self.operand(instruction, size, 1, false)?;
                self.state.frstor(&self.memory.0[at..at + size], format(size == 108));
            }
            _ => {
                let at = self.operand(instruction, 512, 16, false)?;
                let mut image = [0; 512];
                image.copy_from_slice(&self.memory.0[at..at + 512]);
                let wide = instruction.mnemonic() == M::Fxrstor64;
                self.state.fxrstor(&image, wide, registers).ok().ok_or_else(general_protection)?;
            }
        }
        Ok(())
    }

    fn pending(&mut self) -> Result<(), Exception> {
        let pending = self.state.x87_exception_pending();
        if pending { Err(Exception { vector: 16, error: 0, address: 0 }) } else { Ok(()) }
    }

    fn operand(&self, instruction: &Instruction, size: usize, align: u64, write: bool) -> Result<usize, Exception> {
        let address = self.address(instruction, 0);
        if !address.is_multiple_of(align) {
            return Err(general_protection());
        }
        self.translate(instruction, address, size, write)
    }

    fn register(&self, register: Register) -> u64 {
        match register {
            Register::RIP | Register::EIP | Register::None => 0,
            _ if register.is_gpr() => {
                let value = self.gprs[register.full_register().number()];
                if register.size() == 8 { value } else { value & 0xffff_ffff }
            }
            _ => 0,
        }
    }

    fn address(&self, instruction: &Instruction, element: usize) -> u64 {
        let operand = (0..instruction.op_count()).find(|&i| {
            let kind = instruction.op_kind(i);
            matches!(kind, OpKind::Memory | OpKind::MemorySegRDI | OpKind::MemorySegEDI)
        });
        let value = |register: Register, _, _| Some(self.register(register));
        let address = instruction.virtual_address(operand.unwrap_or(0), element, value).unwrap_or(0);
        if self.mode == Mode::Long { address } else { address & 0xffff_ffff }
    }

    /// Offset in `memory`, or the fault of the first byte that cannot be accessed.
    fn translate(&self, at: &Instruction, address: u64, size: usize, write: bool) -> Result<usize, Exception> {
        let last = address.wrapping_add(size as u64 - 1);
        let canonical = |address: u64| (address as i64) << 16 >> 16 == address as i64;
        if self.mode == Mode::Long && !(canonical(address) && canonical(last)) {
            let stack = at.memory_segment() == Register::SS;
            return Err(Exception {
                vector: if stack { STACK_FAULT } else { GENERAL_PROTECTION },
                error: 0,
                address: 0,
            });
        }
        for byte in [address, last] {
            let mapped = place(byte);
            let writable = mapped.is_some_and(|offset| offset < DATA_SIZE);
            if mapped.is_none() || write && !writable {
                let error = 4 | u32::from(write) << 1 | u32::from(mapped.is_some());
                let address = if byte == address { address } else { byte & !0xfff };
                return Err(Exception { vector: PAGE_FAULT, error, address });
            }
        }
        place(address).ok_or_else(general_protection)
    }
}

/// Offset of a mapped address in `Memory`.
fn place(address: u64) -> Option<usize> {
    let within = |start, len: usize| address.checked_sub(start).map(|at| at as usize).filter(|&at| at < len);
    within(DATA, MAPPED).or_else(|| within(CODE, CODE_SIZE).map(|at| MAPPED + at))
}

impl Executor for StubExecutor {
    fn load(&mut self, cases: &[Case]) -> Result<(), Box<dyn std::error::Error>> {
        for case in cases {
            let at = MAPPED + (slot(case.slot) - CODE) as usize;
            self.memory.0[at..at + case.code.len()].copy_from_slice(&case.code);
        }
        Ok(())
    }

    fn run(&mut self, case: &Case) -> Result<Outcome, Box<dyn std::error::Error>> {
        Ok(self.run_case(case))
    }
}

fn is_state_instruction(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Vzeroupper
            | M::Vzeroall
            | M::Fninit
            | M::Stmxcsr
            | M::Vstmxcsr
            | M::Ldmxcsr
            | M::Vldmxcsr
            | M::Fldenv
            | M::Frstor
            | M::Fxrstor
            | M::Fxrstor64
    )
}
