//! The child process: runs cases on the host processor.
//!
//! All of it happens in one signal handler. A case ends with an exception (INT3 if nothing else), which the kernel
//! delivers as a signal; the handler records the interrupted registers, puts the next case's registers into the
//! signal frame and returns: `sigreturn` loads them all at once, the code segment included. So a case costs one
//! signal, and no register has to be spared for the harness.
//!
//! After `fork` in a process with threads nothing may allocate: this module works on memory mapped beforehand.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::case::layout::{
    CODE, CODE_SIZE, DATA, DATA_SIZE, IMAGES, READ_ONLY, READ_ONLY_FILL, READ_ONLY_SIZE, SEGMENT_SLOTS, SLOTS,
};
use crate::case::{Exception, Mode, Registers};

/// Patches that a case may have.
pub const PATCHES: usize = 8;

/// A case and its outcome in memory that both processes see.
#[repr(C)]
pub struct Entry {
    pub registers: Registers,
    /// Selectors of CS, and of SS, DS and ES.
    pub code: u16,
    pub data: u16,
    pub image: u32,
    pub patch_count: u32,
    pub patches: [(u32, u64); PATCHES],
    pub result: Registers,
    pub exception: Exception,
    pub memory: [u8; DATA_SIZE],
}

/// Memory shared by both processes.
#[repr(C)]
pub struct Shared {
    pub count: u32,
    /// The child has made the local descriptors of [`Mode::Segmented`].
    pub segmented: bool,
    /// Entry being executed: tells the parent which case hung or killed the child.
    pub current: AtomicU32,
    /// Where the handler goes back to when all cases are done: the child's own registers.
    home: [i64; 23],
    pub images: [[u8; DATA_SIZE]; IMAGES],
    pub entries: [Entry; SLOTS],
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());

const NOT_STARTED: u32 = u32::MAX;

/// CS and data selectors of a mode: those that Linux gives to all processes, or of the local table made by
/// [`make_segments`].
pub fn selectors(mode: Mode, slot: usize) -> (u16, u16) {
    // In the local table, CPL 3.
    let local = |index: usize| (index as u16) << 3 | 7;
    match mode {
        Mode::Long => (0x33, FLAT_DATA),
        Mode::Compatibility => (0x23, FLAT_DATA),
        Mode::Segmented => (local(slot / SEGMENT_SLOTS), local(2)),
    }
}

const FLAT_DATA: u16 = 0x2b;

/// Everything the child does; exits when the pipe closes.
///
/// # Safety
/// Only in a freshly forked child, with `shared` and `code` mapped for it alone.
pub unsafe fn main(shared: *mut Shared, code: c_int, commands: c_int, answers: c_int) -> ! {
    SHARED.store(shared, Ordering::Relaxed);
    // SAFETY: system calls with valid arguments; mappings only where nothing else is (NOREPLACE).
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if !map_all(code) || !install() {
            libc::_exit(3);
        }
        (*shared).segmented = make_segments();
        let mut byte = 0_u8;
        let byte: *mut c_void = (&raw mut byte).cast();
        // Says that `segmented` is valid.
        libc::write(answers, byte, 1);
        while libc::read(commands, byte, 1) == 1 {
            (*shared).current.store(NOT_STARTED, Ordering::Relaxed);
            // The handler takes over here and comes back after the last case.
            std::arch::asm!("int3", clobber_abi("C"));
            if libc::write(answers, byte, 1) != 1 {
                break;
            }
        }
        libc::_exit(0);
    }
}

unsafe fn map_all(code: c_int) -> bool {
    let map = |address: u64, len: usize, protection, flags, file| {
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: refuses to replace anything.
        let got = unsafe { libc::mmap(address as *mut c_void, len, protection, flags, file, 0) };
        got as u64 == address
    };
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    if !map(DATA, DATA_SIZE, writable, anonymous, -1)
        || !map(READ_ONLY, READ_ONLY_SIZE, writable, anonymous, -1)
        || !map(CODE, CODE_SIZE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED | libc::MAP_POPULATE, code)
    {
        return false;
    }
    // SAFETY: the page mapped just above.
    unsafe {
        ptr::write_bytes(READ_ONLY as *mut u8, READ_ONLY_FILL, READ_ONLY_SIZE);
        libc::mprotect(READ_ONLY as *mut c_void, READ_ONLY_SIZE, libc::PROT_READ) == 0
    }
}

/// Two code segments and one for data and stack, 16-bit, in the local descriptor table. Kernels may lack that.
unsafe fn make_segments() -> bool {
    /// `struct user_desc` of modify_ldt(2).
    #[repr(C)]
    struct Descriptor {
        number: u32,
        base: u32,
        limit: u32,
        flags: u32,
    }
    const WRITE: c_int = 0x11;
    // Bits 1 and 2 of the flags: contents, 2 = code; bit 6: useable.
    let make = |number, base: u64, code: u32| {
        let descriptor = Descriptor { number, base: base as u32, limit: 0xffff, flags: code << 2 | 0x40 };
        let size = size_of::<Descriptor>();
        // SAFETY: a valid descriptor of the stated size; nobody uses the entry yet.
        unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE, &raw const descriptor, size) == 0 }
    };
    make(0, Mode::Segmented.code_base(0), 1) && make(1, Mode::Segmented.code_base(SEGMENT_SLOTS), 1) && make(2, DATA, 0)
}

unsafe fn install() -> bool {
    const STACK: usize = 256 << 10;
    // SAFETY: fresh mapping as alternate stack; zeroed sigaction filled in; valid signal numbers.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let stack = libc::mmap(ptr::null_mut(), STACK, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        let alternate = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK };
        if stack == libc::MAP_FAILED || libc::sigaltstack(&alternate, ptr::null_mut()) != 0 {
            return false;
        }
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);
        [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGBUS]
            .into_iter()
            .all(|signal| libc::sigaction(signal, &action, ptr::null_mut()) == 0)
    }
}

/// `gregs` indices in encoding order.
const GPRS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn handler(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's frame, ours until we return; `Shared` was mapped before the fork, and the parent does not
    // touch it while we work.
    unsafe {
        let context = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let (registers, area) = (&mut context.gregs, context.fpregs.cast::<u8>());
        let shared = &mut *SHARED.load(Ordering::Relaxed);
        let current = shared.current.load(Ordering::Relaxed);
        let next = if current == NOT_STARTED {
            shared.home = *registers;
            0
        } else {
            record(&mut shared.entries[current as usize], registers, area);
            current + 1
        };
        shared.current.store(next, Ordering::Relaxed);
        if next < shared.count {
            clear_sticky_flags();
            let Shared { images, entries, .. } = shared;
            start(&entries[next as usize], images, registers, area);
        } else {
            *registers = shared.home;
            load_area(&Registers::initial(), area);
        }
    }
}

/// NT and ID, which a case may have popped: `sigreturn` does not load them from the frame, so they would stay for all
/// later cases.
fn clear_sticky_flags() {
    // SAFETY: changes two flags that mean nothing to user programs.
    unsafe {
        std::arch::asm!("pushfq", "and dword ptr [rsp], {keep}", "popfq", keep = const !0x0020_4000_u32 as i32);
    }
}

/// Keeps what the case left.
unsafe fn record(entry: &mut Entry, registers: &[i64; 23], area: *const u8) {
    let result = &mut entry.result;
    for (value, index) in result.gpr.iter_mut().zip(GPRS) {
        *value = registers[index as usize] as u64;
    }
    result.rip = registers[libc::REG_RIP as usize] as u64;
    result.rflags = registers[libc::REG_EFL as usize] as u64;
    let vector = registers[libc::REG_TRAPNO as usize] as u8;
    let page_fault = vector == 14;
    let has_error = matches!(vector, 8 | 10..=14 | 17);
    entry.exception = Exception {
        vector,
        error: if has_error { registers[libc::REG_ERR as usize] as u32 } else { 0 },
        address: if page_fault { registers[libc::REG_CR2 as usize] as u64 } else { 0 },
    };
    // SAFETY: the frame holds an XSAVE area in standard format of at least 832 bytes (AVX is a precondition of
    // `Host::new`); DATA is mapped.
    unsafe {
        let read = |at: usize| ptr::read_unaligned(area.add(at).cast::<u16>());
        result.fcw = read(0);
        result.fsw = read(2);
        result.ftw = read(4) & 0xff;
        result.mxcsr = ptr::read_unaligned(area.add(24).cast());
        for (i, register) in result.st.iter_mut().enumerate() {
            ptr::copy_nonoverlapping(area.add(32 + 16 * i), register.as_mut_ptr(), 10);
        }
        let present = ptr::read_unaligned(area.add(512).cast::<u64>());
        for (i, vector) in result.vector.iter_mut().enumerate() {
            // A component that is in its initial state may not have been written.
            let (sse, avx) = (present & 2 != 0, present & 4 != 0);
            vector.fill(0);
            if sse {
                ptr::copy_nonoverlapping(area.add(160 + 16 * i), vector.as_mut_ptr(), 16);
            }
            if avx {
                ptr::copy_nonoverlapping(area.add(576 + 16 * i), vector.as_mut_ptr().add(16), 16);
            }
        }
        if present & 1 == 0 {
            (result.fcw, result.fsw, result.ftw, result.st) = (0x37f, 0, 0, [[0; 10]; 8]);
        }
        ptr::copy_nonoverlapping(DATA as *const u8, entry.memory.as_mut_ptr(), DATA_SIZE);
    }
}

/// Makes the signal frame return into a case.
unsafe fn start(entry: &Entry, images: &[[u8; DATA_SIZE]; IMAGES], registers: &mut [i64; 23], area: *mut u8) {
    for (value, index) in entry.registers.gpr.iter().zip(GPRS) {
        registers[index as usize] = *value as i64;
    }
    registers[libc::REG_RIP as usize] = entry.registers.rip as i64;
    registers[libc::REG_EFL as usize] = entry.registers.rflags as i64;
    let (code, data) = (u64::from(entry.code), u64::from(entry.data));
    let others = registers[libc::REG_CSGSFS as usize] as u64 & 0x0000_ffff_ffff_0000;
    registers[libc::REG_CSGSFS as usize] = (others | code | data << 48) as i64;
    // SAFETY: 64-bit code ignores DS and ES, and the kernel keeps them through the return to the case.
    unsafe {
        std::arch::asm!("mov ds, {0:e}", "mov es, {0:e}", in(reg) entry.data, options(nostack, preserves_flags));
    }
    // SAFETY: DATA is mapped writable and nobody's; the area as in `record`.
    unsafe {
        ptr::copy_nonoverlapping(images[entry.image as usize].as_ptr(), DATA as *mut u8, DATA_SIZE);
        for &(offset, value) in &entry.patches[..entry.patch_count as usize] {
            ptr::write_unaligned((DATA + u64::from(offset)) as *mut u64, value);
        }
        load_area(&entry.registers, area);
    }
}

unsafe fn load_area(from: &Registers, area: *mut u8) {
    // SAFETY: the XSAVE area of the frame, standard format, at least 832 bytes.
    unsafe {
        ptr::write_bytes(area, 0, 24);
        let write = |at: usize, value: u16| ptr::write_unaligned(area.add(at).cast(), value);
        write(0, from.fcw);
        write(2, from.fsw);
        write(4, from.ftw);
        ptr::write_unaligned(area.add(24).cast(), from.mxcsr);
        ptr::write_bytes(area.add(32), 0, 128);
        for (i, register) in from.st.iter().enumerate() {
            ptr::copy_nonoverlapping(register.as_ptr(), area.add(32 + 16 * i), 10);
        }
        for (i, vector) in from.vector.iter().enumerate() {
            ptr::copy_nonoverlapping(vector.as_ptr(), area.add(160 + 16 * i), 16);
            ptr::copy_nonoverlapping(vector.as_ptr().add(16), area.add(576 + 16 * i), 16);
        }
        let present = area.add(512).cast::<u64>();
        ptr::write_unaligned(present, ptr::read_unaligned(present) | 7);
    }
}
