//! [`HyperV`]: the interface of one partition, as its VPs' exits see it.

use crate::clock::ReferenceClock;
use crate::overlay::{PageMsr, hypercall_code};
use crate::saved_state::{self, SavedHyperV};
use crate::synic::{Synic, SynicVp};
use crate::{CrashSink, HypercallPorts, crash, hypercall, msr};
use bulkhead_device::{MsiSink, PowerRequest, PowerSink};
use bulkhead_engine::{APIC_TIMER_HZ, HypercallRegisters};
use bulkhead_guest_log::{GuestLog, guest_warn};
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Hypercall MSR: it cannot be changed until the next reset.
const LOCKED: u64 = 2;

/// What the interface of a partition needs.
pub struct HyperVConfig {
    /// Virtual processors; VP index = APIC id.
    pub vps: u32,
    /// RAM, in which guests lend pages.
    pub memory: GuestMemory,
    /// VM time, which is also reference time.
    pub reactor: Reactor,
    /// Rate of the guest's TSC in Hz.
    pub tsc_hz: u64,
    /// Takes the interrupts.
    pub interrupts: Arc<dyn MsiSink>,
    /// Takes a reset that the guest asks for.
    pub power: Arc<dyn PowerSink>,
    /// Takes reports of guests that crash.
    pub crashes: Arc<dyn CrashSink>,
}

/// State of the partition; that of each VP is in [`Synic`].
#[derive(Debug, Default)]
struct State {
    guest_os_id: u64,
    hypercall: PageMsr,
    /// What the hypercall page replaced.
    replaced: Option<Box<[u8]>>,
    reference_tsc: PageMsr,
    crash_parameters: [u64; 5],
    /// Reports since the last reset.
    crash_reports: u32,
}

/// The Hyper-V interface of one partition. All methods may be called from every thread.
pub struct HyperV {
    memory: GuestMemory,
    clock: ReferenceClock,
    vps: u32,
    power: Arc<dyn PowerSink>,
    crashes: Arc<dyn CrashSink>,
    synic: Arc<Synic>,
    ports: OnceLock<Arc<dyn HypercallPorts>>,
    state: Mutex<State>,
    /// Whether the hypercall page is on: looked at by each hypercall, without a lock.
    calls: AtomicBool,
    log: GuestLog,
}

impl HyperV {
    /// The interface as it is after power-on.
    pub fn new(config: HyperVConfig) -> Arc<Self> {
        let vps = (0..config.vps).map(|_| SynicVp::default()).collect();
        Self::with_state(config, State::default(), vps)
    }

    /// The interface as [`HyperV::save`] saved it, over restored RAM.
    ///
    /// # Errors
    /// It is no state of this interface, or of another machine.
    pub fn restore(config: HyperVConfig, saved: &SavedState) -> Result<Arc<Self>, SavedStateError> {
        let saved: SavedHyperV = saved.decode(1..=saved_state::VERSION)?;
        if saved.vps.len() != config.vps as usize {
            return Err(saved_state::bad("it was saved with another number of processors"));
        }
        let hypercall = saved_state::page(saved.hypercall, &config.memory)?;
        let wanted = if hypercall.page().is_some() { PAGE_SIZE as usize } else { 0 };
        if saved.replaced.len() != wanted {
            return Err(saved_state::bad("the hypercall page and what it replaced do not fit"));
        }
        let state = State {
            guest_os_id: saved.guest_os_id,
            hypercall,
            replaced: hypercall.page().map(|_| saved.replaced.into_boxed_slice()),
            reference_tsc: saved_state::page(saved.reference_tsc, &config.memory)?,
            crash_parameters: saved.crash_parameters.try_into().map_err(|_| saved_state::bad("not 5 parameters"))?,
            crash_reports: 0,
        };
        let vps = saved.vps.into_iter().map(|vp| vp.restore(&config.memory)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::with_state(config, state, vps))
    }

    fn with_state(config: HyperVConfig, state: State, vps: Vec<SynicVp>) -> Arc<Self> {
        Arc::new(Self {
            clock: ReferenceClock { reactor: config.reactor.clone(), tsc_hz: config.tsc_hz },
            vps: config.vps,
            power: config.power,
            crashes: config.crashes,
            synic: Arc::new(Synic::new(vps, config.memory.clone(), config.interrupts)),
            ports: OnceLock::new(),
            calls: AtomicBool::new(state.hypercall.page().is_some()),
            state: Mutex::new(state),
            memory: config.memory,
            log: GuestLog::new(&config.reactor, "hyperv"),
        })
    }

    /// Who takes messages and signals. Once, before the first VP runs; `false` if there is one already. Until then guests get
    /// "invalid connection id".
    pub fn connect(&self, ports: Arc<dyn HypercallPorts>) -> bool {
        self.ports.set(ports).is_ok()
    }

    /// What sends messages and events to the guest.
    pub fn synic(&self) -> Arc<Synic> {
        self.synic.clone()
    }

    /// Reference time in units of 100 ns: what the guest's counter and TSC page show.
    pub fn reference_time(&self) -> u64 {
        self.clock.now()
    }

    /// RDMSR of an MSR in [`msr::RANGE`] by VP `vp`; `None` is #GP(0).
    pub fn msr_read(&self, vp: u32, number: u32) -> Option<u64> {
        let value = match number {
            msr::GUEST_OS_ID => Some(self.state.lock().guest_os_id),
            msr::HYPERCALL => Some(self.state.lock().hypercall.0),
            msr::VP_INDEX => (vp < self.vps).then_some(u64::from(vp)),
            msr::RESET => Some(0),
            msr::TIME_REF_COUNT => Some(self.clock.now()),
            msr::REFERENCE_TSC => Some(self.state.lock().reference_tsc.0),
            msr::TSC_FREQUENCY => Some(self.clock.tsc_hz),
            msr::APIC_FREQUENCY => Some(APIC_TIMER_HZ),
            msr::CRASH_P0..=msr::CRASH_P4 => {
                Some(self.state.lock().crash_parameters[(number - msr::CRASH_P0) as usize])
            }
            msr::CRASH_CTL => Some(crash::NOTIFY | crash::MESSAGE),
            _ => self.synic.msr_read(vp, number),
        };
        if value.is_none() {
            guest_warn!(self.log, vp, "the guest reads MSR {number:#x}, which there is not");
        }
        value
    }

    /// RDMSR of the reference counter by a VP whose TSC reads `tsc` now.
    pub fn reference_count(&self, tsc: u64) -> u64 {
        self.clock.at_tsc(tsc)
    }

    /// WRMSR of an MSR in [`msr::RANGE`] by VP `vp`; `None` is #GP(0).
    pub fn msr_write(&self, vp: u32, number: u32, value: u64) -> Option<()> {
        let done = match number {
            msr::GUEST_OS_ID => {
                let mut state = self.state.lock();
                state.guest_os_id = value;
                if value == 0 {
                    self.set_hypercall_page(&mut state, PageMsr::default());
                }
                Some(())
            }
            msr::HYPERCALL => self.write_hypercall_msr(value),
            msr::RESET => {
                if value & 1 != 0 {
                    self.power.request(PowerRequest::Reset);
                }
                Some(())
            }
            msr::REFERENCE_TSC => self.write_reference_tsc(value),
            msr::CRASH_P0..=msr::CRASH_P4 => {
                self.state.lock().crash_parameters[(number - msr::CRASH_P0) as usize] = value;
                Some(())
            }
            msr::CRASH_CTL => {
                self.report_crash(value);
                Some(())
            }
            _ => self.synic.msr_write(vp, number, value),
        };
        if done.is_none() {
            guest_warn!(self.log, vp, "the guest writes {value:#x} to MSR {number:#x}, which does not take it");
        }
        done
    }

    fn report_crash(&self, control: u64) {
        let parameters = {
            let mut state = self.state.lock();
            if control & crash::NOTIFY == 0 || state.crash_reports == crash::MAX_REPORTS {
                return;
            }
            state.crash_reports += 1;
            state.crash_parameters
        };
        self.crashes.guest_crashed(crash::report(control, parameters, &self.memory));
    }

    /// A hypercall; `false` if the hypercall page is off, and the port therefore nobody's.
    pub fn hypercall(&self, registers: &mut HypercallRegisters) -> bool {
        if !self.calls.load(Ordering::Acquire) {
            return false;
        }
        hypercall::call(registers, &self.memory, self.ports.get().map(|ports| &**ports));
        true
    }

    fn write_hypercall_msr(&self, value: u64) -> Option<()> {
        let mut state = self.state.lock();
        if state.hypercall.0 & LOCKED != 0 {
            return None;
        }
        // Before a guest has said who it is, the enable bit does not stick (TLFS 3.13).
        let value = if state.guest_os_id == 0 { value & !PageMsr::ENABLE } else { value };
        let (new, _) = state.hypercall.written(value, &self.memory)?;
        self.set_hypercall_page(&mut state, new);
        Some(())
    }

    /// Puts the hypercall page where `new` says, and what it covered before back.
    fn set_hypercall_page(&self, state: &mut State, new: PageMsr) {
        let (old_page, new_page) = (state.hypercall.page(), new.page());
        state.hypercall = new;
        if old_page == new_page {
            return;
        }
        if let (Some(gpa), Some(replaced)) = (old_page, state.replaced.take()) {
            // It was RAM when it was enabled, and RAM does not go away.
            let _ = self.memory.write(gpa, &replaced);
        }
        if let Some(gpa) = new_page {
            let mut replaced = vec![0; PAGE_SIZE as usize].into_boxed_slice();
            let _ = self.memory.read(gpa, &mut replaced);
            let _ = self.memory.write(gpa, &hypercall_code());
            state.replaced = Some(replaced);
        }
        self.calls.store(new_page.is_some(), Ordering::Release);
    }

    fn write_reference_tsc(&self, value: u64) -> Option<()> {
        let mut state = self.state.lock();
        let (new, _) = state.reference_tsc.written(value, &self.memory)?;
        state.reference_tsc = new;
        if let Some(page) = new.page() {
            self.clock.write_page(&self.memory, page);
        }
        Some(())
    }

    /// Back to the state after power-on; who is connected stays.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        self.set_hypercall_page(&mut state, PageMsr::default());
        *state = State::default();
        self.synic.reset();
    }

    /// The whole state, while no VP runs.
    ///
    /// # Errors
    /// `Encode`, which plain values never cause.
    pub fn save(&self) -> Result<SavedState, SavedStateError> {
        let state = self.state.lock();
        let saved = SavedHyperV {
            guest_os_id: state.guest_os_id,
            hypercall: state.hypercall.0,
            replaced: state.replaced.as_ref().map_or_else(Vec::new, |replaced| replaced.to_vec()),
            reference_tsc: state.reference_tsc.0,
            crash_parameters: state.crash_parameters.to_vec(),
            vps: self.synic.save(),
        };
        SavedState::encode(saved_state::KIND, saved_state::VERSION, &saved)
    }

    /// Readable state.
    pub fn inspect(&self) -> serde_json::Value {
        let state = self.state.lock();
        serde_json::json!({
            "guest_os_id": format!("{:#x}", state.guest_os_id),
            "hypercall_page": state.hypercall.page(),
            "reference_tsc_page": state.reference_tsc.page(),
            "reference_time": self.clock.now(),
            "vps": self.synic.inspect(),
        })
    }
}
