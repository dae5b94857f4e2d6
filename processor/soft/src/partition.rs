//! `SoftEngine` and `SoftPartition`: the handles that the rest of the product holds.

use crate::cpu::{Cpu, Events, Exception, Mode, Msrs, SegmentRegister};
use crate::decode::cache::BlockCache;
use crate::features::Features;
use crate::mmu::tlb::{Privilege, Tlb};
use crate::options::{Options, Tier};
use crate::shared::{CodeObserver, PartitionShared, request};
use crate::translate::{Translator, targets::TargetTable};
use crate::vp::SoftVp;
use bulkhead_engine::{
    Access, Activity, CpuidTable, CpuidValue, DescriptorTable, Engine, EngineError, EngineKind, InterruptShadow, Msi,
    Partition, PartitionConfig, Vp, VpState, cpu_model,
};
use bulkhead_native::{NativeState, Stubs};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const NAME: &str = EngineKind::Soft.name();
/// VPs that xAPIC ids can name.
const MAX_VPS: u32 = 254;

/// The software engine.
#[derive(Debug, Default)]
pub struct SoftEngine {
    options: Options,
}

impl SoftEngine {
    /// The engine with its default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// The engine with other options.
    pub fn with_options(options: Options) -> Self {
        Self { options }
    }
}

impl Engine for SoftEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Soft
    }

    fn max_vps(&self) -> u32 {
        MAX_VPS
    }

    /// Everything in the CPU models that either the interpreter does itself or the host can execute.
    fn supported_cpuid(&self) -> CpuidTable {
        let richest = cpu_model::CpuModel { level: cpu_model::CpuLevel::V3, crypto: true }.cpuid(1);
        let host = bulkhead_native::Features::host();
        let mut table = CpuidTable::new();
        for (leaf, subleaf, mut value) in richest.iter() {
            drop_what_the_host_lacks(leaf, subleaf, &mut value, host);
            if richest.is_indexed(leaf) { table.set_indexed(leaf, subleaf, value) } else { table.set(leaf, value) }
        }
        table
    }

    fn create_partition(&self, config: PartitionConfig) -> Result<Arc<dyn Partition>, EngineError> {
        if config.vp_count == 0 || config.vp_count > MAX_VPS {
            let what = format!("{} virtual processors (it has 1 to {MAX_VPS})", config.vp_count);
            return Err(EngineError::Unsupported { engine: NAME, what });
        }
        let stubs = Stubs::new()
            .map_err(|error| EngineError::Unavailable { engine: NAME, reason: format!("native stubs: {error}") })?;
        let features = Arc::new(Features::new(&config.cpuid));
        let shared = Arc::new(PartitionShared::new(config, stubs, self.options));
        for (index, vp) in shared.vps.iter().enumerate() {
            let partition = Arc::downgrade(&shared);
            let timer = shared.reactor.timer(move |_| {
                if let Some(partition) = partition.upgrade() {
                    partition.arm_apic_timer(index);
                }
            });
            let _ = vp.timer.set(timer);
        }
        shared.memory.set_write_observer(Arc::new(CodeObserver(Arc::downgrade(&shared))));
        let created = Mutex::new(vec![false; shared.vps.len()]);
        Ok(Arc::new(SoftPartition { shared, features, created }))
    }
}

/// Feature bits whose instructions only native stubs execute: clear those that this host lacks.
fn drop_what_the_host_lacks(leaf: u32, subleaf: u32, value: &mut CpuidValue, host: &bulkhead_native::Features) {
    use iced_x86::CpuidFeature as F;
    let checks: &[(F, u32, u32)] = match (leaf, subleaf) {
        // (feature, register 1 = EBX, 2 = ECX, 3 = EDX, bit)
        (1, _) => &[
            (F::SSE3, 2, 0),
            (F::PCLMULQDQ, 2, 1),
            (F::SSSE3, 2, 9),
            (F::FMA, 2, 12),
            (F::SSE4_1, 2, 19),
            (F::SSE4_2, 2, 20),
            (F::AES, 2, 25),
            (F::AVX, 2, 28),
            (F::F16C, 2, 29),
            (F::RDRAND, 2, 30),
        ],
        (7, 0) => &[(F::BMI1, 1, 3), (F::AVX2, 1, 5), (F::BMI2, 1, 8), (F::RDSEED, 1, 18), (F::SHA, 1, 29)],
        _ => &[],
    };
    for &(feature, register, bit) in checks {
        if !host.has(feature) {
            let word = match register {
                1 => &mut value.ebx,
                2 => &mut value.ecx,
                _ => &mut value.edx,
            };
            *word &= !(1 << bit);
        }
    }
}

/// A partition of the software engine.
pub struct SoftPartition {
    shared: Arc<PartitionShared>,
    features: Arc<Features>,
    created: Mutex<Vec<bool>>,
}

impl SoftPartition {
    fn change_map(&self, change: impl FnOnce(&mut bulkhead_engine::MemoryMap)) {
        let mut map = self.shared.map.write();
        change(Arc::make_mut(&mut map));
        drop(map);
        for vp in &self.shared.vps {
            vp.request(request::MAP);
        }
    }
}

impl Partition for SoftPartition {
    fn map(&self, gpa: Range<u64>, source: u64, access: Access) -> Result<(), EngineError> {
        bulkhead_engine::check_range(&gpa, source)?;
        if self.shared.memory.check(source, gpa.end - gpa.start).is_err() {
            let reason = "its source is not all inside the VM's memory";
            return Err(EngineError::BadMapping { start: gpa.start, end: gpa.end, reason });
        }
        self.change_map(|map| map.map(gpa, source, access));
        Ok(())
    }

    fn unmap(&self, gpa: Range<u64>) -> Result<(), EngineError> {
        bulkhead_engine::check_range(&gpa, 0)?;
        self.change_map(|map| map.unmap(gpa));
        Ok(())
    }

    fn create_vp(&self, index: u32, state: &VpState) -> Result<Box<dyn Vp>, EngineError> {
        let bad = |reason| Err(EngineError::BadVp { index, reason });
        if index as usize >= self.shared.vps.len() {
            return bad("the partition has fewer VPs");
        }
        crate::state::check(index, state, &self.features)?;
        if std::mem::replace(&mut self.created.lock()[index as usize], true) {
            return bad("it exists already");
        }
        let mut cpu = new_cpu(self.shared.clone(), self.features.clone(), index as usize);
        let Options { tier, threshold, code_cache } = self.shared.options;
        if tier != Tier::Interpreter {
            let reason = |error| format!("memory for translated code: {error}");
            let unavailable = |error| EngineError::Unavailable { engine: NAME, reason: reason(error) };
            cpu.use_translator(Translator::new(code_cache, threshold).map_err(unavailable)?);
        }
        cpu.restore(state);
        self.shared.arm_apic_timer(index as usize);
        Ok(Box::new(SoftVp { cpu }))
    }

    fn kick(&self, index: u32) {
        if let Some(vp) = self.shared.vps.get(index as usize) {
            vp.request(request::KICK);
        }
    }

    fn send_msi(&self, msi: Msi) {
        self.shared.deliver_msi(msi);
    }

    fn set_ext_int(&self, asserted: bool) {
        let before = self.shared.ext_int.swap(asserted, Ordering::SeqCst);
        if asserted && !before {
            self.shared.vps[0].request(request::INTERRUPT);
        }
    }

    fn inject_nmi(&self, index: u32) {
        if let Some(vp) = self.shared.vps.get(index as usize) {
            vp.nmi.store(true, Ordering::SeqCst);
            vp.request(request::INTERRUPT);
        }
    }

    /// Writes are logged when a page is first written after the tags were taken away: that is done here, while no
    /// VP executes.
    fn sync_dirty_log(&self) -> Result<(), EngineError> {
        self.shared.stop_world(|| {
            for vp in &self.shared.vps {
                vp.request(request::FORBID_WRITES);
            }
        });
        Ok(())
    }

    fn set_dirty_logging(&self, on: bool) -> Result<(), EngineError> {
        if on {
            if !self.shared.memory.dirty().is_enabled() {
                self.shared.memory.dirty().enable();
            }
            return self.sync_dirty_log();
        }
        self.shared.memory.dirty().disable();
        Ok(())
    }
}

fn new_cpu(partition: Arc<PartitionShared>, features: Arc<Features>, index: usize) -> Box<Cpu> {
    let mut mmu = Tlb::new();
    let mut regs = [0; 32];
    regs[usize::from(Cpu::PAGE)] = 4096;
    regs[usize::from(Cpu::MINUS_PAGE)] = 4096_u64.wrapping_neg();
    let map = partition.map.read().clone();
    let mut cpu = Box::new(Cpu {
        regs,
        flags: Default::default(),
        slow_data: false,
        cpl: 0,
        mode: Mode::default(),
        system_flags: 2,
        tlb: mmu.pointer(Privilege::Supervisor),
        last_op: None,
        budget: 0,
        requests: std::ptr::NonNull::from(&partition.vps[index].requests),
        segments: [SegmentRegister::default(); 8],
        native: NativeState::new(),
        code_page: 0,
        temporary: 0,
        slice: 0,
        exit_site: 0,
        fault: Exception::default(),
        ldtr: SegmentRegister::default(),
        tr: SegmentRegister::default(),
        gdtr: DescriptorTable::default(),
        idtr: DescriptorTable::default(),
        cr0: 0,
        cr2: 0,
        cr3: 0,
        cr4: 0,
        dr: [0; 6],
        efer: 0,
        xcr0: 1,
        msrs: Msrs::default(),
        apic_base: 0,
        tsc_offset: 0,
        activity: Activity::Running,
        shadow: InterruptShadow::None,
        nmi_blocked: false,
        interrupt_waiting: false,
        pending_exception: None,
        breakpoints_met: 0,
        mmu,
        targets: TargetTable::new(),
        translator: None,
        undo: None,
        lockstep_report: None,
        cache: BlockCache::new(crate::op::handler(crate::ops::control::stale)),
        index,
        partition,
        map,
        features,
        exits: None,
        budget_start: 0,
        instructions_before: 0,
        pauses: 0,
        events: Events::default(),
    });
    // The table has moved into the box.
    cpu.tlb = cpu.mmu.pointer(Privilege::Supervisor);
    cpu
}
