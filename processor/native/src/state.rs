//! The state that stubs work on: vector registers in memory, MXCSR and x87 in the host's own registers.
//!
//! | state | while a VP runs | otherwise |
//! |---|---|---|
//! | XMM, YMM | [`NativeState::vector`]; loaded and stored by each stub | same |
//! | MXCSR | the host's MXCSR, from `enter` to `leave` | `mxcsr` |
//! | x87, MMX | the host's x87 registers, from the first `use_x87` to `leave` | `image` |
//!
//! **Invariant.** Between [`NativeState::enter`] and [`NativeState::leave`] the thread executes no x87 or MMX
//! instruction outside stubs (compiled Rust for x86-64 has none), and no floating-point arithmetic except between
//! `pause` and `resume`: it would run with the guest's rounding, set the guest's sticky bits, and trap where the
//! guest unmasked an exception. Moves and integer SIMD of compiled code are harmless. A signal handler starts with
//! clean registers and the kernel restores ours afterwards.
//!
//! FIP, FDP, FCS, FDS and FOP of the host point at stubs; the guest's are kept in [`X87Pointers`].

use std::arch::asm;
use std::mem::offset_of;

use crate::{ReservedBits, xsave};

/// CF, PF, AF, ZF, SF, OF.
pub const STATUS_FLAGS: u32 = 0x8d5;

pub(crate) const VECTOR_OFFSET: usize = offset_of!(NativeState, vector);
pub(crate) const FLAGS_OFFSET: usize = offset_of!(NativeState, flags);

/// MXCSR bits that exist: everything but AMD's misaligned-access mode.
pub(crate) const MXCSR_MASK: u32 = 0xffff;
const MXCSR_RESET: u32 = 0x1f80;
/// FCW after FNINIT.
const FCW_RESET: u16 = 0x037f;

/// A YMM register; its low half is the XMM register.
#[repr(C, align(32))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vector(pub [u8; 32]);

/// Where the last x87 instruction was, and its operand (SDM vol. 1, 8.1.8 and 8.1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct X87Pointers {
    /// Offset of the instruction.
    pub fip: u64,
    /// Offset of its memory operand.
    pub fdp: u64,
    /// Code segment.
    pub fcs: u16,
    /// Segment of the operand.
    pub fds: u16,
    /// Opcode, 11 bits: see [`crate::x87_opcode`].
    pub fop: u16,
}

/// Legacy part of an FXSAVE image; only its x87 fields mean anything here.
#[repr(C, align(16))]
#[derive(Clone)]
pub(crate) struct X87Image(pub [u8; 512]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The host's own MXCSR and x87 are in place.
    Outside,
    /// The guest's MXCSR is in place.
    Inside,
    /// Between `pause` and `resume`.
    Paused,
}

/// Vector, x87 and SSE control state of a VP. See the module's own description for what is where when.
#[repr(C, align(64))]
pub struct NativeState {
    /// YMM0–YMM15.
    pub vector: [Vector; 16],
    /// Stands in for memory operands that cross a page or hit a device.
    pub bounce: [u8; 64],
    image: X87Image,
    /// Status flags into and out of stubs, at their positions in RFLAGS.
    pub flags: u32,
    mxcsr: u32,
    host_mxcsr: u32,
    place: Place,
    x87_resident: bool,
    /// The guest's x87 pointers; the interpreter sets them before stubs with [`crate::Stub::x87_pointers`].
    pub pointers: X87Pointers,
}

impl Default for NativeState {
    fn default() -> Self {
        Self::new()
    }
}

impl NativeState {
    /// Registers after reset, x87 as after FNINIT.
    pub fn new() -> Self {
        let mut state = Self {
            vector: [Vector::default(); 16],
            bounce: [0; 64],
            image: X87Image([0; 512]),
            flags: 0,
            mxcsr: MXCSR_RESET,
            host_mxcsr: MXCSR_RESET,
            place: Place::Outside,
            x87_resident: false,
            pointers: X87Pointers::default(),
        };
        state.image.init();
        state
    }

    /// Puts the guest's MXCSR into the host. Once at the start of a run, on the thread that runs it.
    pub fn enter(&mut self) {
        if self.place == Place::Outside {
            self.host_mxcsr = read_mxcsr();
            write_mxcsr(self.mxcsr);
            self.place = Place::Inside;
        }
    }

    /// Takes the guest's MXCSR and x87 out of the host. Same thread as [`Self::enter`]; repeating it does nothing.
    pub fn leave(&mut self) {
        self.resume();
        if self.place == Place::Outside {
            return;
        }
        if self.x87_resident {
            save_x87(&mut self.image);
            reset_x87();
            self.x87_resident = false;
        }
        self.mxcsr = read_mxcsr();
        write_mxcsr(self.host_mxcsr);
        self.place = Place::Outside;
    }

    /// Before code that may compute with floats: the host's MXCSR comes back. Does nothing outside of a run.
    pub fn pause(&mut self) {
        if self.place == Place::Inside {
            self.mxcsr = read_mxcsr();
            write_mxcsr(self.host_mxcsr);
            self.place = Place::Paused;
        }
    }

    /// After [`Self::pause`].
    pub fn resume(&mut self) {
        if self.place == Place::Paused {
            write_mxcsr(self.mxcsr);
            self.place = Place::Inside;
        }
    }

    /// Makes x87 resident; required before stubs with [`crate::Stub::uses_x87`], between `enter` and `leave`.
    #[inline(always)]
    pub fn use_x87(&mut self) {
        if !self.x87_resident {
            self.load_x87();
        }
    }

    #[cold]
    fn load_x87(&mut self) {
        debug_assert!(self.place != Place::Outside, "x87 may be resident only between enter and leave");
        // FXRSTOR loads MXCSR too: give it what is there.
        self.image.set_u32(24, read_mxcsr());
        restore_x87(&self.image);
        self.x87_resident = true;
    }

    /// The guest's MXCSR.
    pub fn mxcsr(&self) -> u32 {
        if self.place == Place::Inside { read_mxcsr() } else { self.mxcsr }
    }

    /// LDMXCSR. An error is #GP(0).
    pub fn set_mxcsr(&mut self, value: u32) -> Result<(), ReservedBits> {
        if value & !MXCSR_MASK != 0 {
            return Err(ReservedBits);
        }
        self.mxcsr = value;
        if self.place == Place::Inside {
            write_mxcsr(value);
        }
        Ok(())
    }

    /// VZEROUPPER on the first `registers` registers: 16 in 64-bit mode, else 8.
    pub fn zero_upper(&mut self, registers: usize) {
        for vector in self.vector.iter_mut().take(registers) {
            vector.0[16..].fill(0);
        }
    }

    /// VZEROALL on the first `registers` registers.
    pub fn zero_all(&mut self, registers: usize) {
        self.vector.iter_mut().take(registers).for_each(|vector| vector.0 = [0; 32]);
    }

    /// FNINIT.
    pub fn fninit(&mut self) {
        self.pointers = X87Pointers::default();
        self.change_x87(|image, _| image.fninit());
    }

    /// Whether the next waiting x87 instruction raises #MF. It does so before anything about its memory operand, so ask
    /// when such an operand faults.
    pub fn x87_exception_pending(&mut self) -> bool {
        let image = self.x87();
        image.u16(2) & !image.u16(0) & 0x3f != 0
    }

    /// Value of an MMX register.
    pub(crate) fn mmx(&mut self, number: u8) -> [u8; 8] {
        let image = self.x87();
        let position = number.wrapping_sub(image.top()) & 7;
        let mut value = [0; 8];
        value.copy_from_slice(&image.register(usize::from(position))[..8]);
        value
    }

    /// The x87 registers as they are now.
    pub(crate) fn x87(&mut self) -> &X87Image {
        if self.x87_resident {
            save_x87(&mut self.image);
        }
        &self.image
    }

    /// Changes x87 registers, wherever they are.
    pub(crate) fn change_x87<R>(&mut self, change: impl FnOnce(&mut X87Image, &mut X87Pointers) -> R) -> R {
        let resident = self.x87_resident;
        self.x87();
        let result = change(&mut self.image, &mut self.pointers);
        if resident {
            self.load_x87();
        }
        result
    }

    /// x87, SSE and AVX state as a standard-format XSAVE area in its 64-bit layout, which has no room for FCS and FDS.
    pub fn to_xsave(&mut self) -> Box<[u8; 832]> {
        let mut area = Box::new([0; 832]);
        self.xsave(&mut area, xsave::ALL, true, 16);
        // Other readers than us take MXCSR from an area only if SSE is listed.
        area[512] |= 3;
        area
    }

    /// The reverse of [`Self::to_xsave`]: components that the area does not have take their initial state, and
    /// reserved bits of MXCSR are dropped.
    pub fn load_xsave(&mut self, area: &[u8; 832]) {
        let mut area = Box::new(*area);
        let mxcsr = u32::from_le_bytes([area[24], area[25], area[26], area[27]]) & MXCSR_MASK;
        area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        area[512] &= xsave::ALL as u8;
        area[513..576].fill(0);
        // Cannot fail: what it refuses was just removed.
        let _ = self.xrstor(&area, xsave::ALL, xsave::ALL, true, 16);
    }
}

/// Field offsets are those of FXSAVE (SDM vol. 2, table 3-43).
impl X87Image {
    /// x87 and tags as after reset by FNINIT; registers zero.
    pub fn init(&mut self) {
        self.0[..24].fill(0);
        self.0[32..160].fill(0);
        self.set_u16(0, FCW_RESET);
    }

    /// FNINIT leaves the registers' contents alone.
    pub fn fninit(&mut self) {
        self.set_status(0);
        self.0[..24].fill(0);
        self.set_u16(0, FCW_RESET);
    }

    /// A new status word. The image holds registers in stack order: another top turns them around.
    pub fn set_status(&mut self, status: u16) {
        let turn = (status >> 11 & 7).wrapping_sub(self.u16(2) >> 11 & 7) & 7;
        self.0[32..160].rotate_left(16 * usize::from(turn));
        self.set_u16(2, status);
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub fn set_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Stack top: the physical register that is ST(0).
    pub fn top(&self) -> u8 {
        (self.u16(2) >> 11 & 7) as u8
    }

    /// The ten bytes of ST(i).
    pub fn register(&self, i: usize) -> &[u8] {
        &self.0[32 + 16 * i..42 + 16 * i]
    }

    pub fn set_register(&mut self, i: usize, value: &[u8]) {
        self.0[32 + 16 * i..42 + 16 * i].copy_from_slice(value);
    }
}

fn read_mxcsr() -> u32 {
    let mut value = 0_u32;
    // SAFETY: stores four bytes into a live variable.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    value
}

fn write_mxcsr(value: u32) {
    debug_assert!(value & !MXCSR_MASK == 0, "{value:#x} would fault");
    // SAFETY: no reserved bit is set, so this does not fault. That rounding and masks differ from what compiled code
    // expects is this module's invariant.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
}

fn save_x87(image: &mut X87Image) {
    // SAFETY: 512 bytes, 16-aligned by the type. FXSAVE changes no register.
    unsafe { asm!("fxsave64 [{}]", in(reg) image.0.as_mut_ptr(), options(nostack, preserves_flags)) };
}

fn restore_x87(image: &X87Image) {
    // SAFETY: 512 bytes, 16-aligned by the type; MXCSR in it is the current one. The XMM registers that it loads are
    // declared lost; x87 registers are not used by compiled code.
    unsafe {
        asm!("fxrstor64 [{}]", in(reg) image.0.as_ptr(), options(nostack, preserves_flags, readonly),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
            out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
            out("xmm13") _, out("xmm14") _, out("xmm15") _);
    }
}

fn reset_x87() {
    // SAFETY: brings x87 into the state that the ABI wants at every call: empty, all masked, extended precision.
    unsafe { asm!("fninit", options(nomem, nostack, preserves_flags)) };
}
