//! Single stubs: operands, flags, faults, x87 residency. Every form against the host itself is `processor/differential`.

use std::ptr;

use bulkhead_native::{Lowered, NativeState, NotNative, Slot, Stub, Stubs};
use iced_x86::{Decoder, DecoderOptions};

struct Machine {
    stubs: Stubs,
    state: Box<NativeState>,
    gprs: [u64; 16],
    memory: [u64; 8],
}

impl Machine {
    fn new() -> Self {
        let mut state = Box::new(NativeState::new());
        state.enter();
        Self { stubs: Stubs::new().unwrap(), state, gprs: [0; 16], memory: [0; 8] }
    }

    fn stub(&self, bytes: &[u8], bits: u32) -> Result<Stub, NotNative> {
        let instruction = Decoder::new(bits, bytes, DecoderOptions::NONE).decode();
        match self.stubs.get(&instruction)? {
            Lowered::Stub(stub) => Ok(stub),
            Lowered::Gather(_) => panic!("a gather"),
        }
    }

    /// Executes one instruction as the interpreter does; its memory operand is `self.memory`.
    fn run(&mut self, bytes: &[u8]) -> u32 {
        let stub = self.stub(bytes, 64).unwrap();
        if stub.uses_x87 {
            self.state.use_x87();
        }
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
            pointers[3] = self.memory.as_mut_ptr().cast();
        }
        let [a, b, c, m] = pointers;
        // SAFETY: pointers to live state as the stub asked for; entered in `new`.
        unsafe { (stub.entry)(state, gprs, a, b, c, m) }
    }

    fn set_xmm(&mut self, register: usize, low: u64, high: u64) {
        self.state.vector[register].0[..8].copy_from_slice(&low.to_le_bytes());
        self.state.vector[register].0[8..16].copy_from_slice(&high.to_le_bytes());
    }

    fn xmm(&self, register: usize) -> (u64, u64) {
        let value = u128::from_le_bytes(self.state.vector[register].0[..16].try_into().unwrap());
        (value as u64, (value >> 64) as u64)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.state.leave();
    }
}

#[test]
fn one_stub_serves_all_register_numbers() {
    let machine = Machine::new();
    let first = machine.stub(&[0x0f, 0x58, 0xc1], 64).unwrap(); // addps xmm0, xmm1
    let second = machine.stub(&[0x45, 0x0f, 0x58, 0xfe], 64).unwrap(); // addps xmm15, xmm14
    let old_mode = machine.stub(&[0x0f, 0x58, 0xd3], 16).unwrap(); // addps xmm2, xmm3
    assert_eq!(first.offset, second.offset);
    assert_eq!(first.offset, old_mode.offset);
    assert_eq!(second.registers[..2], [Slot::Vector(15), Slot::Vector(14)]);
    let memory = machine.stub(&[0x0f, 0x58, 0x03], 64).unwrap(); // addps xmm0, [rbx]
    assert_eq!(memory.memory.unwrap().alignment, 16);
}

#[test]
fn vectors_memory_and_gprs() {
    let mut machine = Machine::new();
    machine.set_xmm(3, 5, 6);
    machine.set_xmm(9, 10, 20);
    assert_eq!(machine.run(&[0x66, 0x41, 0x0f, 0xd4, 0xd9]), 0); // paddq xmm3, xmm9
    assert_eq!(machine.xmm(3), (15, 26));
    machine.memory = [7, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(machine.run(&[0x48, 0x0f, 0x6e, 0x00]), 0); // movq mm0, [rax]
    assert_eq!(machine.run(&[0x0f, 0xd4, 0xc0]), 0); // paddq mm0, mm0
    assert_eq!(machine.run(&[0x49, 0x0f, 0x7e, 0xc0]), 0); // movq r8, mm0
    assert_eq!(machine.gprs[8], 14);
    assert_eq!(machine.run(&[0x0f, 0x77]), 0); // emms
    machine.gprs[0] = u64::MAX;
    assert_eq!(machine.run(&[0x66, 0x41, 0x0f, 0x7e, 0xd8]), 0); // movd r8d, xmm3
    assert_eq!(machine.gprs[8], 15);
}

#[test]
fn flags_go_in_and_out() {
    let mut machine = Machine::new();
    machine.state.flags = 0x8d5;
    machine.gprs[0] = 0;
    machine.gprs[1] = 41;
    assert_eq!(machine.run(&[0x66, 0x0f, 0x38, 0xf6, 0xc1]), 0); // adcx eax, ecx: CF in and out, OF stays
    assert_eq!((machine.gprs[0], machine.state.flags), (42, 0x8d4));
    machine.state.flags = 0x8d5;
    machine.gprs[1] = 0;
    assert_eq!(machine.run(&[0xf3, 0x48, 0x0f, 0xb8, 0xc1]), 0); // popcnt rax, rcx: only ZF
    assert_eq!((machine.gprs[0], machine.state.flags), (0, 0x40));
}

#[test]
fn random_numbers() {
    if !is_x86_feature_detected!("rdrand") || !is_x86_feature_detected!("rdseed") {
        eprintln!("skipped: the host has no RDRAND or RDSEED");
        return;
    }
    let mut machine = Machine::new();
    let mut seen = std::collections::HashSet::new();
    for bytes in [&[0x48, 0x0f, 0xc7, 0xf1][..], &[0x48, 0x0f, 0xc7, 0xf9]] {
        // rdrand rcx, rdseed rcx. RDSEED may be out of entropy for a while: then CF is 0 and the result 0.
        for _ in 0..100 {
            assert_eq!(machine.run(bytes), 0);
            let valid = machine.state.flags & 1 != 0;
            assert_eq!(valid, machine.gprs[1] != 0);
            seen.extend(valid.then_some(machine.gprs[1]));
        }
    }
    assert!(seen.len() > 100, "{}", seen.len());
}

#[test]
fn exceptions_return_their_vector_and_change_nothing() {
    let mut machine = Machine::new();
    machine.state.set_mxcsr(0x1f80 & !0x200).unwrap(); // divide by zero unmasked
    machine.set_xmm(0, 1.0_f64.to_bits(), 77);
    assert_eq!(machine.run(&[0xf2, 0x0f, 0x5e, 0xc1]), 19); // divsd xmm0, xmm1
    assert_eq!(machine.xmm(0), (1.0_f64.to_bits(), 77));
    assert_eq!(machine.state.mxcsr(), 0x1d84);
    machine.memory[0] = 0x37b; // FCW with zero divide unmasked
    assert_eq!(machine.run(&[0xd9, 0x28]), 0); // fldcw [rax]
    assert_eq!(machine.run(&[0xd9, 0xe8]), 0); // fld1
    assert_eq!(machine.run(&[0xd9, 0xee]), 0); // fldz
    assert_eq!(machine.run(&[0xdc, 0xf9]), 0); // fdiv st(1), st: pends
    assert_eq!(machine.run(&[0xdd, 0x18]), 16); // fstp [rax]
    assert_eq!(machine.memory[0], 0x37b);
    assert_eq!(machine.run(&[0xdb, 0xe2]), 0); // fnclex
    assert_eq!(machine.run(&[0xdd, 0x18]), 0);
    assert_eq!(machine.memory[0], 0);
}

#[test]
fn x87_survives_a_pause_between_runs() {
    let mut machine = Machine::new();
    assert_eq!(machine.run(&[0xd9, 0xeb]), 0); // fldpi
    machine.state.leave();
    assert_eq!(std::hint::black_box(1.5_f64) * 2.0, 3.0);
    let saved = machine.state.to_xsave();
    let mut other = Machine::new();
    other.state.load_xsave(&saved);
    assert_eq!(other.run(&[0xdd, 0x18]), 0); // fstp [rax]
    assert_eq!(f64::from_bits(other.memory[0]), std::f64::consts::PI);
    machine.state.enter();
    assert_eq!(machine.run(&[0xdd, 0x18]), 0);
    assert_eq!(f64::from_bits(machine.memory[0]), std::f64::consts::PI);
}

#[test]
fn foreign_instructions_are_refused() {
    let machine = Machine::new();
    for bytes in [&[0x90_u8][..], &[0x01, 0xc8], &[0x0f, 0xae, 0x10], &[0x0f, 0x05], &[0xd9, 0x30]] {
        assert!(matches!(machine.stub(bytes, 64), Err(NotNative::OutOfScope(_))), "{bytes:x?}");
    }
}
