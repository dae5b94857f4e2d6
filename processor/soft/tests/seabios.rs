//! The stock SeaBIOS reaches its banner: 16-bit code, unreal mode, 32-bit protected mode, shadow RAM, port I/O.

use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_engine::{Access, Engine, PartitionConfig, RunLimit, VpExits, VpState};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{HostReactor, Time};
use bulkhead_soft::SoftEngine;

const BIOS: &str = "/usr/share/seabios/bios-256k.bin";
const RAM: u64 = 16 << 20;

/// As much of a machine as SeaBIOS needs to say who it is.
#[derive(Default)]
struct Machine {
    log: Vec<u8>,
    cmos_index: u8,
    unclaimed: usize,
}

impl Machine {
    fn cmos(&self) -> u8 {
        let extended = (RAM - (1 << 20)) >> 10;
        let above_16m = (RAM - (16 << 20)) >> 16;
        match self.cmos_index & 0x7f {
            0x30 | 0x17 => extended as u8,
            0x31 | 0x18 => (extended >> 8) as u8,
            0x34 => above_16m as u8,
            0x35 => (above_16m >> 8) as u8,
            0x0a => 0x26,
            0x0b => 0x02,
            0x0d => 0x80,
            _ => 0,
        }
    }
}

impl VpExits for Machine {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        match port {
            0x402 => 0xe9,
            0x71 => self.cmos().into(),
            0x61 => 0x20,
            _ => u32::MAX >> (32 - 8 * u32::from(size)),
        }
    }
    fn port_out(&mut self, port: u16, _: u8, value: u32) {
        match port {
            0x402 => self.log.push(value as u8),
            0x70 => self.cmos_index = value as u8,
            _ => self.unclaimed += 1,
        }
    }
    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {}
    fn msr_read(&mut self, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: u32, _: u64) -> Option<()> {
        None
    }
    fn acknowledge_ext_int(&mut self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&mut self, _: u8) {}
}

#[test]
fn seabios_reaches_its_banner() {
    let Ok(bios) = std::fs::read(BIOS) else {
        eprintln!("skipped: {BIOS} is not installed (Debian package seabios)");
        return;
    };
    let (_reactor, handle) = HostReactor::start(Time::ZERO).unwrap();
    let rom = 0x1_0000_0000 - bios.len() as u64;
    let memory = GuestMemory::builder().anonymous(0, RAM).anonymous(rom, bios.len() as u64).build().unwrap();
    memory.write(rom, &bios).unwrap();
    memory.write(0x10_0000 - 0x2_0000, &bios[bios.len() - 0x2_0000..]).unwrap();
    let cpuid = CpuModel { level: CpuLevel::V2, crypto: false }.cpuid(1);
    let signature = cpuid.get(1, 0).eax;
    let config =
        PartitionConfig { vp_count: 1, memory, cpuid, reactor: handle, tsc_hz: 1_000_000_000, deterministic: false };
    let partition = SoftEngine::new().create_partition(config).unwrap();
    partition.map(0..RAM, 0, Access::ReadWrite).unwrap();
    partition.map(rom..0x1_0000_0000, rom, Access::ReadOnly).unwrap();
    let mut vp = partition.create_vp(0, &VpState::power_on(0, signature)).unwrap();
    let mut machine = Machine::default();
    let mut stop = None;
    for _ in 0..400 {
        stop = Some(vp.run(&mut machine, RunLimit::Instructions(50_000)).unwrap());
        if String::from_utf8_lossy(&machine.log).contains("RamSize") {
            break;
        }
    }
    let log = String::from_utf8_lossy(&machine.log);
    let state = vp.state().unwrap();
    assert!(
        log.contains("SeaBIOS (version"),
        "no banner; stop {stop:?}, rip {:#x}, cs {:?}, stats {:?}, log:\n{log}",
        state.rip,
        state.segments[1],
        vp.stats()
    );
    println!("{log}\n{:?}", vp.stats());
}
