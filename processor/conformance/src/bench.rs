//! The bench: one partition with a program in it, the devices that programs talk to, and a watchdog.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_engine::saved_state::SavedVp;
use bulkhead_engine::{
    Access, Engine, EngineError, HypercallRegisters, Msi, Partition, PartitionConfig, RunLimit, Stop, Vp, VpExits,
    VpState,
};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_hyperv::HyperV;
use bulkhead_reactor::{HostReactor, Reactor};
use parking_lot::Mutex;

use crate::hyperv::{self, Interface, Outside};
use crate::{Program, start};

/// RAM of the bench: 6 MiB from address 0.
pub const RAM: u64 = 6 << 20;
/// First MMIO address that reads as its own low bytes.
const MMIO: u64 = 0xd000_0000;
const TSC_HZ: u64 = 1_000_000_000;
/// A program that takes longer hangs.
const TOO_LONG: Duration = Duration::from_secs(20);

/// What a program reported and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Dwords written to port 0x80, and what the bench itself noted, in order.
    pub reports: Vec<u32>,
    /// `ended` for port 0xf4, else what stopped it.
    pub end: String,
}

/// State that exits of all VPs share.
pub(crate) struct Devices {
    pub reports: Mutex<Vec<u32>>,
    ended: Mutex<Option<String>>,
    latch: Mutex<u32>,
    ext_int: Mutex<Option<u8>>,
    read_only: Mutex<Vec<Range<u64>>>,
}

/// A partition with a program, its devices, and its VPs.
pub struct Bench {
    /// The partition.
    pub partition: Arc<dyn Partition>,
    /// The VPs, by index.
    pub vps: Vec<Box<dyn Vp>>,
    /// RAM.
    pub memory: GuestMemory,
    devices: Arc<Devices>,
    hyperv: Option<Arc<HyperV>>,
    vp_count: u32,
    reactor: Reactor,
    _host: HostReactor,
}

impl Bench {
    /// A fresh partition about to run `program`.
    pub fn new(engine: &dyn Engine, program: &Program) -> Result<Self, EngineError> {
        let memory = GuestMemory::builder().anonymous(0, RAM).build().map_err(|error| refused(&error))?;
        let first = start::prepare(&memory, program.mode, program.code);
        let states = (0..program.vps).map(|index| if index == 0 { first.clone() } else { VpState::power_on(index, 0) });
        let hyperv = if program.hyperv { Interface::New } else { Interface::Absent };
        Self::assemble(engine, memory, states.collect(), Arc::new(Devices::new()), hyperv)
    }

    /// Takes the partition apart and makes an equal one over the same RAM; the VPs go through their saved form.
    pub fn save_and_restore(mut self, engine: &dyn Engine) -> Result<Self, EngineError> {
        let mut states = Vec::new();
        for (index, vp) in (0..).zip(&mut self.vps) {
            let bytes = minicbor::to_vec(SavedVp::from(&vp.state()?)).map_err(|error| refused(&error))?;
            states.push(minicbor::decode::<SavedVp>(&bytes).map_err(|error| refused(&error))?.restore(index)?);
        }
        let hyperv = match &self.hyperv {
            Some(interface) => Interface::Saved(interface.save().map_err(|error| refused(&error))?),
            None => Interface::Absent,
        };
        let restored = Self::assemble(engine, self.memory.clone(), states, self.devices.clone(), hyperv)?;
        for range in &*self.devices.read_only.lock() {
            restored.partition.map(range.clone(), range.start, Access::ReadOnly)?;
        }
        restored.partition.set_ext_int(self.devices.ext_int.lock().is_some());
        Ok(restored)
    }

    fn assemble(
        engine: &dyn Engine,
        memory: GuestMemory,
        states: Vec<VpState>,
        devices: Arc<Devices>,
        interface: Interface,
    ) -> Result<Self, EngineError> {
        let (host, reactor) = HostReactor::start(bulkhead_reactor::Time::ZERO).map_err(|error| refused(&error))?;
        let vp_count = u32::try_from(states.len()).unwrap_or(u32::MAX);
        let model = CpuModel { level: CpuLevel::V2, crypto: false };
        let mut cpuid = model.cpuid(vp_count);
        if !matches!(interface, Interface::Absent) {
            bulkhead_hyperv::add_leaves(&mut cpuid, vp_count);
        }
        let config = PartitionConfig {
            vp_count,
            memory: memory.clone(),
            cpuid,
            reactor: reactor.clone(),
            tsc_hz: TSC_HZ,
            deterministic: false,
        };
        let partition = engine.create_partition(config)?;
        partition.map(0..RAM, 0, Access::ReadWrite)?;
        let vps = (0..).zip(&states).map(|(index, state)| partition.create_vp(index, state));
        let vps = vps.collect::<Result<Vec<_>, _>>()?;
        let outside = Outside { partition: Arc::downgrade(&partition), devices: devices.clone(), vp_count };
        let hyperv = hyperv::interface(interface, Arc::new(outside), &memory, &reactor, TSC_HZ)?;
        Ok(Self { partition, vps, memory, devices, hyperv, vp_count, reactor, _host: host })
    }

    /// Runs all VPs, a thread each, until the program ends, one of them stops for good, or time is up.
    pub fn run(&mut self) -> Outcome {
        let (partition, devices, vp_count) = (self.partition.clone(), self.devices.clone(), self.vp_count);
        let watchdog = {
            let (partition, devices) = (partition.clone(), devices.clone());
            self.reactor.timer(move |_| devices.end("did not end in time", &*partition, vp_count))
        };
        watchdog.set(self.reactor.now() + TOO_LONG);
        std::thread::scope(|scope| {
            for (index, vp) in (0..).zip(&mut self.vps) {
                let hyperv = self.hyperv.clone();
                let mut exits =
                    Exits { index, partition: partition.clone(), devices: devices.clone(), hyperv, vp_count };
                let (partition, devices) = (partition.clone(), devices.clone());
                scope.spawn(move || {
                    while devices.ended.lock().is_none() {
                        match vp.run(&mut exits, RunLimit::Unlimited) {
                            Ok(Stop::Kicked) => {}
                            Ok(stop) => devices.end(&format!("{stop:?}"), &*partition, vp_count),
                            Err(error) => devices.end(&error.to_string(), &*partition, vp_count),
                        }
                    }
                });
            }
        });
        self.outcome()
    }

    /// Runs VP 0 for one instruction on this thread.
    pub fn step(&mut self) -> Result<Stop, EngineError> {
        let (partition, devices) = (self.partition.clone(), self.devices.clone());
        let mut exits = Exits { index: 0, partition, devices, hyperv: self.hyperv.clone(), vp_count: self.vp_count };
        self.vps[0].run(&mut exits, RunLimit::Instructions(1))
    }

    /// Whether the program has ended.
    pub fn is_over(&self) -> bool {
        self.devices.ended.lock().is_some()
    }

    /// What was reported so far.
    pub fn outcome(&self) -> Outcome {
        let end = self.devices.ended.lock().clone().unwrap_or_else(|| "still running".into());
        Outcome { reports: self.devices.reports.lock().clone(), end }
    }
}

impl Devices {
    fn new() -> Self {
        Self {
            reports: Mutex::new(Vec::new()),
            ended: Mutex::new(None),
            latch: Mutex::new(0),
            ext_int: Mutex::new(None),
            read_only: Mutex::default(),
        }
    }

    pub fn end(&self, how: &str, partition: &dyn Partition, vp_count: u32) {
        self.ended.lock().get_or_insert_with(|| how.to_owned());
        (0..vp_count).for_each(|index| partition.kick(index));
    }
}

/// Exits of one VP.
struct Exits {
    index: u32,
    partition: Arc<dyn Partition>,
    devices: Arc<Devices>,
    hyperv: Option<Arc<HyperV>>,
    vp_count: u32,
}

/// Fixed delivery to APIC 0.
fn fixed(vector: u32) -> Msi {
    Msi { address: 0xfee0_0000, data: vector & 0xff }
}

impl VpExits for Exits {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        let mask = u32::MAX >> (32 - u32::from(size) * 8);
        match port {
            0x90..=0x93 => *self.devices.latch.lock() & mask,
            _ => mask,
        }
    }

    fn port_out(&mut self, port: u16, _size: u8, value: u32) {
        match port {
            0x80 => self.devices.reports.lock().push(value),
            0x90..=0x93 => *self.devices.latch.lock() = value,
            0xa0 => self.partition.send_msi(fixed(value)),
            0xa1 => {
                *self.devices.ext_int.lock() = Some(value as u8);
                self.partition.set_ext_int(true);
            }
            0xa2 => self.partition.inject_nmi(0),
            0xa3 => self.partition.send_msi(Msi { data: fixed(value).data | 1 << 15 | 1 << 14, ..fixed(value) }),
            0xa4 => {
                let range = u64::from(value)..u64::from(value) + 0x1000;
                let done = self.partition.map(range.clone(), range.start, Access::ReadOnly);
                self.devices.read_only.lock().push(range);
                self.devices.reports.lock().push(u32::from(done.is_ok()));
            }
            0xf4 => self.devices.end("ended", &*self.partition, self.vp_count),
            _ => {}
        }
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        for (byte, address) in data.iter_mut().zip(gpa..) {
            *byte = if gpa >= MMIO { address as u8 } else { 0xff };
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let mut value = [0; 4];
        let len = data.len().min(4);
        value[..len].copy_from_slice(&data[..len]);
        let mut reports = self.devices.reports.lock();
        reports.extend([0x3300_0000 | data.len() as u32, gpa as u32, u32::from_le_bytes(value)]);
    }

    fn hypercall(&mut self, registers: &mut HypercallRegisters) -> bool {
        self.hyperv.as_ref().is_some_and(|hyperv| hyperv.hypercall(registers))
    }

    fn reference_count(&mut self, tsc: u64) -> Option<u64> {
        match &self.hyperv {
            Some(hyperv) => Some(hyperv.reference_count(tsc)),
            None => self.msr_read(bulkhead_engine::msr::TIME_REF_COUNT),
        }
    }

    fn msr_read(&mut self, msr: u32) -> Option<u64> {
        if let Some(hyperv) = &self.hyperv {
            return hyperv.msr_read(self.index, msr);
        }
        (msr == 0x4000_0020).then_some(0x1234_5678_9abc_def0)
    }

    fn msr_write(&mut self, msr: u32, value: u64) -> Option<()> {
        if let Some(hyperv) = &self.hyperv {
            return hyperv.msr_write(self.index, msr, value);
        }
        (msr == 0x4000_0021).then(|| self.devices.reports.lock().extend([value as u32, (value >> 32) as u32]))
    }

    fn acknowledge_ext_int(&mut self) -> Option<u8> {
        self.partition.set_ext_int(false);
        self.devices.ext_int.lock().take()
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        self.devices.reports.lock().push(0xe010_0000 | u32::from(vector));
    }
}

pub(crate) fn refused(error: &dyn std::error::Error) -> EngineError {
    EngineError::Unavailable { engine: "bench", reason: error.to_string() }
}
