//! Whether the host's KVM runs guests on the processor or only imitates one.
//!
//! A device that opens and a virtual machine that can be made prove nothing: there are hosts whose KVM emulates every
//! kernel-mode instruction. The probe runs 64-bit kernel code that hardware executes in microseconds.

use bulkhead_engine::{Engine, EngineError};
use kvm_bindings::{KVM_EXIT_IO, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};

use bulkhead_guest_memory::GuestMemory;

use crate::KvmEngine;
use crate::host_error;
use crate::kick::Kicker;
use crate::run_page::ImmediateExit;

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Guest kernel code runs natively.
    Hardware,
    /// The host kernel emulates it: correct at best, and a thousand times too slow.
    Emulated(String),
    /// The device is there, but a guest of a few instructions does not run.
    Broken(String),
    /// There is no usable device.
    Absent(String),
}

impl Verdict {
    /// Whether `--engine auto` should choose KVM.
    pub const fn is_hardware(&self) -> bool {
        matches!(self, Self::Hardware)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hardware => f.write_str("KVM runs guests on the processor"),
            Self::Emulated(why) => write!(f, "KVM here emulates guest kernel code ({why})"),
            Self::Broken(why) => write!(f, "KVM here does not work ({why})"),
            Self::Absent(why) => f.write_str(why),
        }
    }
}

const LOOPS: u32 = 40_000;
/// Hardware needs a tenth of a millisecond at most, an emulating kernel twenty.
const SLOW: std::time::Duration = std::time::Duration::from_millis(2);
const GIVE_UP: std::time::Duration = std::time::Duration::from_millis(200);
const MEMORY: u64 = 0x1_0000;
const CODE: u64 = 0x8000;

/// Asks the processor, then the kernel, then runs a guest. Takes a few milliseconds; call it once per process.
pub fn probe() -> Verdict {
    let engine = match KvmEngine::open() {
        Ok(engine) => engine,
        Err(error) => return Verdict::Absent(error.to_string()),
    };
    if !has_virtualization() {
        return Verdict::Emulated("the processor shows neither VMX nor SVM".into());
    }
    let features = engine.supported_cpuid().get(1, 0);
    if features.ecx & 1 == 0 || features.ecx & 1 << 26 == 0 {
        return Verdict::Emulated("it offers 64-bit guests without SSE3 or XSAVE".into());
    }
    match run_guest(&engine) {
        Ok(verdict) => verdict,
        Err(error) => Verdict::Broken(error.to_string()),
    }
}

/// VMX (leaf 1) or SVM (leaf 8000_0001) of the host.
fn has_virtualization() -> bool {
    let vmx = std::arch::x86_64::__cpuid(1).ecx >> 5 & 1 == 1;
    let has_leaf = std::arch::x86_64::__cpuid(0x8000_0000).eax >= 0x8000_0001;
    let svm = has_leaf && std::arch::x86_64::__cpuid(0x8000_0001).ecx >> 2 & 1 == 1;
    vmx || svm
}

/// x87, SSE, and a loop to be timed, at privilege level 0 in 64-bit mode.
fn payload() -> Vec<u8> {
    let mut code = vec![
        0xdb, 0xe3, // fninit
        0xd9, 0xe8, // fld1
        0xdd, 0xd8, // fstp st(0)
        0x66, 0x0f, 0xef, 0xc0, // pxor xmm0, xmm0
        0xe6, 0x10, // out 0x10, al
        0xb9, // mov ecx, LOOPS
    ];
    code.extend(LOOPS.to_le_bytes());
    code.extend([
        0xff, 0xc9, // dec ecx
        0x75, 0xfc, // jnz
        0xe6, 0x11, // out 0x11, al
    ]);
    code
}

#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the probe times the host itself, once, before any VM exists"
)]
fn run_guest(engine: &KvmEngine) -> Result<Verdict, EngineError> {
    let refuse = |reason: String| EngineError::Unavailable { engine: "kvm", reason };
    let memory = GuestMemory::builder().anonymous(0, MEMORY).build().map_err(|error| refuse(error.to_string()))?;
    let vm = engine.kvm().create_vm().map_err(host_error("KVM_CREATE_VM"))?;
    let mut vcpu = prepare(engine, &vm, &memory)?;
    let kicker = std::sync::Arc::new(Kicker::default());
    let guard = kicker.enter(ImmediateExit::of(&mut vcpu));
    let (done, timeout) = crossbeam_channel::bounded(1);
    let watchdog = {
        let kicker = kicker.clone();
        std::thread::spawn(move || {
            if timeout.recv_timeout(GIVE_UP).is_err() {
                kicker.interrupt();
            }
        })
    };
    let first = next_port(&mut vcpu);
    let start = std::time::Instant::now();
    let second = first.and_then(|()| next_port(&mut vcpu));
    let time = start.elapsed();
    let _ = done.send(());
    let _ = watchdog.join();
    drop(guard);
    Ok(match second {
        Err(reason) => Verdict::Emulated(reason),
        Ok(()) if time > SLOW => Verdict::Emulated(format!("{LOOPS} loops took {} ms", time.as_millis())),
        Ok(()) => Verdict::Hardware,
    })
}

/// Runs to the next OUT.
fn next_port(vcpu: &mut VcpuFd) -> Result<(), String> {
    vcpu.run().map(drop).map_err(|error| format!("the guest did not end in time: {error}"))?;
    match vcpu.get_kvm_run().exit_reason {
        KVM_EXIT_IO => Ok(()),
        other => Err(format!("x87 and SSE code ended with exit {other}")),
    }
}

/// A VP in 64-bit mode with the first 2 MiB mapped one to one, about to run the payload.
fn prepare(engine: &KvmEngine, vm: &VmFd, memory: &GuestMemory) -> Result<VcpuFd, EngineError> {
    let inside = "the tables lie within the probe's memory";
    for (at, entry) in [(0x1000, 0x2003_u64), (0x2000, 0x3003), (0x3000, 0x83)] {
        memory.write_u64(at, entry).expect(inside);
    }
    memory.write(CODE, &payload()).expect(inside);
    let host = memory.host_pointer(0, MEMORY).expect("one region");
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY,
        userspace_addr: host.as_ptr() as u64,
    };
    // SAFETY: the memory outlives the VM: both are the caller's, and the VM was made after it.
    unsafe { vm.set_user_memory_region(region) }.map_err(host_error("KVM_SET_USER_MEMORY_REGION"))?;
    let vcpu = vm.create_vcpu(0).map_err(host_error("KVM_CREATE_VCPU"))?;
    let leaves = engine.kvm().get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
    vcpu.set_cpuid2(&leaves.map_err(host_error("KVM_GET_SUPPORTED_CPUID"))?).map_err(host_error("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu.get_sregs().map_err(host_error("KVM_GET_SREGS"))?;
    let data =
        kvm_segment { limit: u32::MAX, selector: 16, type_: 3, present: 1, db: 1, s: 1, g: 1, ..Default::default() };
    sregs.cs = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8000_0033, 0x1000, 0x620, 0x500);
    vcpu.set_sregs(&sregs).map_err(host_error("KVM_SET_SREGS"))?;
    let regs = kvm_regs { rip: CODE, rsp: CODE, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(host_error("KVM_SET_REGS"))?;
    Ok(vcpu)
}
