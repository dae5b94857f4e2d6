//! One KVM virtual processor: the run loop and its exits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_engine::{
    EngineError, HYPERCALL_PORT, HypercallRegisters, RunLimit, Stop, Vp, VpExits, VpState, VpStats, msr,
};
use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO,
    KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_X86_RDMSR,
    KVM_EXIT_X86_WRMSR, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug, kvm_interrupt,
};
use kvm_ioctls::VcpuFd;

use crate::kick::RunGuard;
use crate::partition::Shared;
use crate::run_page::{ImmediateExit, port_data};
use crate::{cpuid, host_error, msrs, state};

const EXITS: [&str; 8] = ["port", "mmio", "msr", "eoi", "interrupt window", "interrupted", "other", "hypercall"];
const EFER_LMA: u64 = 1 << 10;

/// The VP.
pub struct KvmVp {
    shared: Arc<Shared>,
    index: u32,
    vcpu: VcpuFd,
    run_len: usize,
    counts: [u64; EXITS.len()],
    single_step: bool,
    /// MSRs of [`msr::SAVED`] that this host's KVM knows.
    known_msrs: Vec<u32>,
}

impl KvmVp {
    pub fn new(shared: Arc<Shared>, index: u32, initial: &VpState) -> Result<Self, EngineError> {
        let vcpu = shared.vm.create_vcpu(u64::from(index)).map_err(host_error(format!("KVM_CREATE_VCPU {index}")))?;
        let leaves = cpuid::to_kvm(&shared.config.cpuid, index)?;
        vcpu.set_cpuid2(&leaves).map_err(host_error("KVM_SET_CPUID2"))?;
        let list = shared.kvm.get_msr_index_list().map_err(host_error("KVM_GET_MSR_INDEX_LIST"))?;
        let is_known = |number: &u32| list.as_slice().contains(number) || (0x200..0x270).contains(number);
        let known_msrs = msr::SAVED.iter().copied().filter(is_known).collect();
        let run_len = shared.vm.run_size();
        let mut vp = Self { shared, index, vcpu, run_len, counts: [0; EXITS.len()], single_step: false, known_msrs };
        vp.set_state(initial)?;
        Ok(vp)
    }

    /// Enters the guest once. `None`: an exit was answered, or there was none.
    fn step(&mut self, exits: &mut dyn VpExits, guard: &RunGuard<'_>) -> Result<Option<Stop>, EngineError> {
        self.offer_ext_int(exits)?;
        if let Err(error) = self.vcpu.run() {
            return match error.errno() {
                libc::EINTR | libc::EAGAIN => {
                    guard.clear_exit_flag();
                    self.counts[5] += 1;
                    Ok(None)
                }
                _ => Err(host_error(format!("KVM_RUN of virtual processor {}", self.index))(error)),
            };
        }
        let reason = self.vcpu.get_kvm_run().exit_reason;
        match reason {
            KVM_EXIT_IO => self.port(exits),
            KVM_EXIT_MMIO => self.mmio(exits),
            KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => self.msr(exits, reason == KVM_EXIT_X86_WRMSR),
            KVM_EXIT_IOAPIC_EOI => {
                // SAFETY: the exit reason says that `eoi` is the valid member.
                let vector = unsafe { self.vcpu.get_kvm_run().__bindgen_anon_1.eoi.vector };
                self.counts[3] += 1;
                exits.end_of_interrupt(vector);
                Ok(None)
            }
            KVM_EXIT_IRQ_WINDOW_OPEN => {
                self.counts[4] += 1;
                Ok(None)
            }
            KVM_EXIT_INTR => Ok(None),
            KVM_EXIT_HLT => Ok(Some(Stop::Halted)),
            KVM_EXIT_SHUTDOWN => Ok(Some(Stop::TripleFault)),
            KVM_EXIT_DEBUG => Ok(Some(Stop::LimitReached)),
            _ => Err(self.stuck(reason)),
        }
    }

    fn port(&mut self, exits: &mut dyn VpExits) -> Result<Option<Stop>, EngineError> {
        let len = self.run_len;
        let Some((exit, data)) = port_data(self.vcpu.get_kvm_run(), len) else { return Err(self.stuck(KVM_EXIT_IO)) };
        let hypercall = exit.is_write && exit.size == 4 && data.len() == 4 && exit.port == u16::from(HYPERCALL_PORT);
        if hypercall && self.hypercall(exits)? {
            return Ok(None);
        }
        self.counts[0] += 1;
        let Some((exit, data)) = port_data(self.vcpu.get_kvm_run(), len) else { return Err(self.stuck(KVM_EXIT_IO)) };
        if exit.is_write {
            exits.port_out_string(exit.port, exit.size, data);
        } else {
            exits.port_in_string(exit.port, exit.size, data);
        }
        Ok(None)
    }

    /// OUT to the hypercall port; `false` if this is no hypercall. KVM moves RIP on when the VP runs again.
    fn hypercall(&mut self, exits: &mut dyn VpExits) -> Result<bool, EngineError> {
        const V86: u64 = 1 << 17;
        let sregs = self.vcpu.get_sregs().map_err(host_error("KVM_GET_SREGS"))?;
        let mut regs = self.vcpu.get_regs().map_err(host_error("KVM_GET_REGS"))?;
        if sregs.ss.dpl != 0 || sregs.cr0 & 1 == 0 || regs.rflags & V86 != 0 {
            return Ok(false);
        }
        let mut call = HypercallRegisters {
            long_mode: sregs.efer & EFER_LMA != 0 && sregs.cs.l != 0,
            rax: regs.rax,
            rbx: regs.rbx,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rsi: regs.rsi,
            rdi: regs.rdi,
            r8: regs.r8,
        };
        if !exits.hypercall(&mut call) {
            return Ok(false);
        }
        self.counts[7] += 1;
        let HypercallRegisters { rax, rbx, rcx, rdx, rsi, rdi, r8, .. } = call;
        (regs.rax, regs.rbx, regs.rcx, regs.rdx) = (rax, rbx, rcx, rdx);
        (regs.rsi, regs.rdi, regs.r8) = (rsi, rdi, r8);
        self.vcpu.set_regs(&regs).map_err(host_error("KVM_SET_REGS"))?;
        Ok(true)
    }

    fn mmio(&mut self, exits: &mut dyn VpExits) -> Result<Option<Stop>, EngineError> {
        self.counts[1] += 1;
        // SAFETY: the exit reason says that `mmio` is the valid member; it is plain data.
        let mmio = unsafe { &mut self.vcpu.get_kvm_run().__bindgen_anon_1.mmio };
        let len = mmio.data.len().min(mmio.len as usize);
        let data = &mut mmio.data[..len];
        if mmio.is_write != 0 {
            exits.mmio_write(mmio.phys_addr, data);
        } else {
            exits.mmio_read(mmio.phys_addr, data);
        }
        Ok(None)
    }

    fn msr(&mut self, exits: &mut dyn VpExits, is_write: bool) -> Result<Option<Stop>, EngineError> {
        self.counts[2] += 1;
        // SAFETY: the exit reason says that `msr` is the valid member; it is plain data.
        let (number, data) = unsafe {
            let exit = self.vcpu.get_kvm_run().__bindgen_anon_1.msr;
            (exit.index, exit.data)
        };
        let answer = match number {
            _ if is_write => exits.msr_write(number, data).map(|()| data),
            msr::TIME_REF_COUNT => exits.reference_count(msrs::read(&self.vcpu, msr::TSC)?),
            _ => exits.msr_read(number),
        };
        // SAFETY: as above; nothing ran in between.
        let exit = unsafe { &mut self.vcpu.get_kvm_run().__bindgen_anon_1.msr };
        exit.data = answer.unwrap_or_default();
        exit.error = u8::from(answer.is_none());
        Ok(None)
    }

    /// Hands over the PIC's interrupt if the VP can take it, or asks to be told when it can.
    fn offer_ext_int(&mut self, exits: &mut dyn VpExits) -> Result<(), EngineError> {
        let wanted = self.index == 0 && self.shared.ext_int.load(Ordering::SeqCst);
        let run = self.vcpu.get_kvm_run();
        run.request_interrupt_window = 0;
        if !wanted {
            return Ok(());
        }
        if run.ready_for_interrupt_injection == 0 || run.if_flag == 0 {
            run.request_interrupt_window = 1;
            return Ok(());
        }
        let Some(vector) = exits.acknowledge_ext_int() else { return Ok(()) };
        self.interrupt(vector)
    }

    /// KVM_INTERRUPT, which the wrapper crate does not have.
    fn interrupt(&self, vector: u8) -> Result<(), EngineError> {
        use std::os::fd::AsRawFd;
        /// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`.
        const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;
        let request = kvm_interrupt { irq: u32::from(vector) };
        // SAFETY: the descriptor is a VP's, and the kernel only reads the 4-byte request.
        if unsafe { libc::ioctl(self.vcpu.as_raw_fd(), KVM_INTERRUPT, &raw const request) } != 0 {
            let operation = format!("KVM_INTERRUPT {vector}");
            return Err(EngineError::Host { operation, source: std::io::Error::last_os_error() });
        }
        Ok(())
    }

    /// Lets the kernel finish a half-done port or MMIO instruction without running another.
    fn complete_exit(&mut self) {
        self.vcpu.set_kvm_immediate_exit(1);
        // Returns EINTR by design; anything else shows up in the next real run.
        let _ = self.vcpu.run();
        self.vcpu.set_kvm_immediate_exit(0);
    }

    fn set_single_step(&mut self, on: bool) -> Result<(), EngineError> {
        if self.single_step != on {
            let control = if on { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP } else { 0 };
            let request = kvm_guest_debug { control, ..Default::default() };
            self.vcpu.set_guest_debug(&request).map_err(host_error("KVM_SET_GUEST_DEBUG"))?;
            self.single_step = on;
        }
        Ok(())
    }

    fn stuck(&mut self, reason: u32) -> EngineError {
        let rip = self.vcpu.get_regs().map_or(0, |regs| regs.rip);
        let run = self.vcpu.get_kvm_run();
        let reason = match reason {
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: the exit reason says that `internal` is the valid member; it is plain data.
                let internal = unsafe { run.__bindgen_anon_1.internal };
                format!(
                    "KVM cannot execute the instruction (internal error {}, data {:x?})",
                    internal.suberror,
                    &internal.data[..4]
                )
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: as above, `fail_entry`.
                let entry = unsafe { run.__bindgen_anon_1.fail_entry };
                format!("the processor refused the state (hardware reason {:#x})", entry.hardware_entry_failure_reason)
            }
            other => format!("unexpected KVM exit {other}"),
        };
        EngineError::Stuck { index: self.index, rip, reason }
    }
}

impl Vp for KvmVp {
    fn run(&mut self, exits: &mut dyn VpExits, limit: RunLimit) -> Result<Stop, EngineError> {
        match limit {
            RunLimit::Unlimited => self.set_single_step(false)?,
            RunLimit::Instructions(1) => self.set_single_step(true)?,
            RunLimit::Instructions(n) => {
                return Err(EngineError::Unsupported {
                    engine: "kvm",
                    what: format!("running exactly {n} instructions"),
                });
            }
        }
        let shared = self.shared.clone();
        let kicker = &shared.kickers[self.index as usize];
        let guard = kicker.enter(ImmediateExit::of(&mut self.vcpu));
        loop {
            // First the flag, then the kick: a kick in between sets the flag again and KVM_RUN returns at once.
            guard.clear_exit_flag();
            if kicker.take() {
                drop(guard);
                self.complete_exit();
                return Ok(Stop::Kicked);
            }
            if let Some(stop) = self.step(exits, &guard)? {
                return Ok(stop);
            }
        }
    }

    fn state(&mut self) -> Result<VpState, EngineError> {
        state::save(&self.vcpu, &self.known_msrs, &self.shared.config)
    }

    fn set_state(&mut self, state: &VpState) -> Result<(), EngineError> {
        state::load(&self.vcpu, self.index, state, &self.known_msrs, &self.shared.config)
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        let translation = self.vcpu.translate_gva(linear).ok()?;
        (translation.valid != 0).then_some(translation.physical_address)
    }

    fn stats(&self) -> VpStats {
        VpStats { instructions: None, events: EXITS.into_iter().zip(self.counts).collect() }
    }
}
