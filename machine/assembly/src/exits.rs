//! What VPs' exits reach: the buses, the interrupt controllers, and a few MSRs that guests expect of the processor model.

use crate::windows::Windows;
use bulkhead_device::{ExtIntSource, MmioBus, PortBus};
use bulkhead_engine::{HypercallRegisters, VpExits};
use bulkhead_hyperv::HyperV;
use bulkhead_interrupt_controllers::Ioapic;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Everything that an exit may reach.
pub(crate) struct Wiring {
    pub ports: PortBus,
    pub mmio: MmioBus,
    pub windows: Arc<Windows>,
    pub pic: Arc<dyn ExtIntSource>,
    pub ioapic: Arc<Mutex<Ioapic>>,
    /// `None` in a VM without the Hyper-V interface.
    pub hyperv: Option<Arc<HyperV>>,
}

macro_rules! counters {
    ($($name:ident),+) => {
        /// How often a VP left the guest, by kind.
        #[derive(Debug, Default)]
        pub struct ExitCounters {
            $($name: AtomicU64),+
        }

        impl ExitCounters {
            /// Names and counts.
            pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name.load(Relaxed))),+].into_iter()
            }
        }
    };
}

counters!(
    port_in,
    port_out,
    port_string,
    mmio_read,
    mmio_write,
    msr_read,
    msr_write,
    hypercall,
    interrupt_acknowledge,
    end_of_interrupt
);

/// The exits of one VP.
pub struct Exits {
    vp: u32,
    wiring: Arc<Wiring>,
    counters: Arc<ExitCounters>,
}

impl Exits {
    pub(crate) fn new(vp: u32, wiring: Arc<Wiring>, counters: Arc<ExitCounters>) -> Exits {
        Exits { vp, wiring, counters }
    }

    /// The Hyper-V interface, if there is one and `msr` is its.
    fn hyperv(&self, msr: u32) -> Option<&HyperV> {
        self.wiring.hyperv.as_deref().filter(|_| bulkhead_hyperv::msr::RANGE.contains(&msr))
    }
}

fn count(counter: &AtomicU64) {
    // One writer: the VP's thread. A plain add is enough, and cheaper than a locked one.
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl VpExits for Exits {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        count(&self.counters.port_in);
        self.wiring.ports.read(port, size)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        count(&self.counters.port_out);
        self.wiring.ports.write(port, size, value);
    }

    fn port_in_string(&mut self, port: u16, size: u8, data: &mut [u8]) {
        count(&self.counters.port_string);
        self.wiring.ports.read_string(port, size, data);
    }

    fn port_out_string(&mut self, port: u16, size: u8, data: &[u8]) {
        count(&self.counters.port_string);
        self.wiring.ports.write_string(port, size, data);
    }

    fn hypercall(&mut self, registers: &mut HypercallRegisters) -> bool {
        let Some(hyperv) = &self.wiring.hyperv else { return false };
        count(&self.counters.hypercall);
        hyperv.hypercall(registers)
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        count(&self.counters.mmio_read);
        self.wiring.mmio.read(gpa, data);
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        count(&self.counters.mmio_write);
        if !self.wiring.windows.write(gpa, data) {
            self.wiring.mmio.write(gpa, data);
        }
    }

    fn msr_read(&mut self, msr: u32) -> Option<u64> {
        count(&self.counters.msr_read);
        match self.hyperv(msr) {
            Some(hyperv) => hyperv.msr_read(self.vp, msr),
            None => expected_msr(msr),
        }
    }

    fn reference_count(&mut self, tsc: u64) -> Option<u64> {
        count(&self.counters.msr_read);
        self.wiring.hyperv.as_ref().map(|hyperv| hyperv.reference_count(tsc))
    }

    fn msr_write(&mut self, msr: u32, value: u64) -> Option<()> {
        count(&self.counters.msr_write);
        match self.hyperv(msr) {
            Some(hyperv) => hyperv.msr_write(self.vp, msr, value),
            None => expected_msr(msr).map(drop),
        }
    }

    fn acknowledge_ext_int(&mut self) -> Option<u8> {
        count(&self.counters.interrupt_acknowledge);
        self.wiring.pic.acknowledge()
    }

    fn end_of_interrupt(&mut self, vector: u8) {
        count(&self.counters.end_of_interrupt);
        self.wiring.ioapic.lock().end_of_interrupt(vector);
    }
}

/// MSRs that operating systems read without asking whether they are there, because every processor of this family has them
/// (AMD PPR for family 19h). They have fixed values; writes are accepted and change nothing.
fn expected_msr(msr: u32) -> Option<u64> {
    Some(match msr {
        // Microcode: loading none, level.
        0x79 => 0,
        0x8b => 0x0a10_1148,
        // Machine check: no banks.
        0x179..=0x17b => 0,
        // Debug control; power management.
        0x1d9 | 0x198 | 0x199 => 0,
        // SYSCFG, HWCR (the TSC counts at the base frequency), top of memory, NB_CFG, interrupt pending.
        0xc001_0010 => 0,
        0xc001_0015 => 1 << 24,
        0xc001_001a | 0xc001_001d | 0xc001_001f | 0xc001_0055 | 0xc001_0058 => 0,
        // P-states: one.
        0xc001_0061..=0xc001_0063 => 0,
        // SMM and OS-visible workarounds: none.
        0xc001_0111..=0xc001_0114 | 0xc001_0140 | 0xc001_0141 => 0,
        // LS_CFG, IC_CFG, DC_CFG, BU_CFG, DE_CFG (LFENCE serializes).
        0xc001_1020..=0xc001_1023 | 0xc001_102a => 0,
        0xc001_1029 => 2,
        _ => return None,
    })
}
