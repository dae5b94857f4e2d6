//! Throw-away: boots a bzImage with a serial port and nothing else.
#![allow(clippy::all, clippy::disallowed_methods, missing_docs, reason = "throw-away")]

use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_engine::*;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{HostReactor, Time};
use bulkhead_soft::SoftEngine;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct Machine {
    line: Vec<u8>,
    cmos_index: u8,
    trace: bool,
    partition: Arc<dyn Partition>,
    done: Arc<AtomicBool>,
    vps: u32,
}

impl VpExits for Machine {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        match port {
            0x3fd => 0x60,
            0x3fa => 1,
            0x3f9 | 0x3fb | 0x3fc | 0x3fe | 0x3ff | 0x3f8 => 0,
            0x71 => match self.cmos_index & 0x7f {
                0x0a => 0x26,
                0x0b => 0x02,
                0x0d => 0x80,
                0 | 2 | 4 => 0x10,
                7 | 8 => 1,
                9 => 0x24,
                _ => 0,
            },
            0x64 => 0,
            0x61 => 0x20,
            _ => u32::MAX >> (32 - 8 * u32::from(size)),
        }
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        match port {
            0x3f8 => {
                self.line.push(value as u8);
                if value == 10 {
                    let t = cpu_seconds();
                    print!("[{t:.2}] {}", String::from_utf8_lossy(&self.line));
                    std::io::stdout().flush().unwrap();
                    let text = String::from_utf8_lossy(&self.line).to_string();
                    if text.contains("ALL DONE") || text.contains("Rebooting in") || text.contains("end Kernel panic") {
                        self.done.store(true, Ordering::SeqCst);
                        for i in 0..self.vps {
                            self.partition.kick(i);
                        }
                    }
                    self.line.clear();
                }
            }
            0x70 => self.cmos_index = value as u8,
            0x64 if value == 0xfe => {
                self.done.store(true, Ordering::SeqCst);
                for i in 0..self.vps {
                    self.partition.kick(i);
                }
            }
            _ => {
                if self.trace {
                    eprintln!("out {port:#x} {size} {value:#x}");
                }
            }
        }
    }
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        if self.trace {
            eprintln!("mmio read {gpa:#x}");
        }
        data.fill(0xff);
    }
    fn mmio_write(&mut self, gpa: u64, _: &[u8]) {
        if self.trace {
            eprintln!("mmio write {gpa:#x}");
        }
    }
    fn msr_read(&mut self, msr: u32) -> Option<u64> {
        if self.trace {
            eprintln!("rdmsr {msr:#x}");
        }
        None
    }
    fn msr_write(&mut self, msr: u32, value: u64) -> Option<()> {
        if self.trace {
            eprintln!("wrmsr {msr:#x} {value:#x}");
        }
        None
    }
    fn acknowledge_ext_int(&mut self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&mut self, _: u8) {}
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let rest = &stat[stat.rfind(')').unwrap() + 2..];
    let fields: Vec<&str> = rest.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn table(sig: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut t = vec![0u8; 36];
    t[0..4].copy_from_slice(sig);
    t[4..8].copy_from_slice(&((36 + body.len()) as u32).to_le_bytes());
    t[8] = 1;
    t[10..16].copy_from_slice(b"BULKHD");
    t[16..24].copy_from_slice(b"TESTTABL");
    t.extend(body);
    let sum = t.iter().fold(0u8, |a, b| a.wrapping_add(*b));
    t[9] = 0u8.wrapping_sub(sum);
    t
}

fn mptable(memory: &GuestMemory, vps: u32) {
    let mut body = Vec::new();
    body.extend(0xfee00000u32.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    for i in 0..vps {
        body.extend([0, 8, i as u8, i as u8, 1, 0, 0, 0]);
    }
    memory.write(0xf1000, &table(b"APIC", &body)).unwrap();
    memory.write(0xf2000, &table(b"RSDT", &0xf1000u32.to_le_bytes())).unwrap();
    let mut r = vec![0u8; 20];
    r[0..8].copy_from_slice(b"RSD PTR ");
    r[9..15].copy_from_slice(b"BULKHD");
    r[16..20].copy_from_slice(&0xf2000u32.to_le_bytes());
    let sum = r.iter().fold(0u8, |a, b| a.wrapping_add(*b));
    r[8] = 0u8.wrapping_sub(sum);
    memory.write(0xf0000, &r).unwrap();
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let kernel = std::fs::read(&args[1]).unwrap();
    let initrd = std::fs::read(&args[2]).unwrap();
    let vps: u32 = std::env::var("VPS").map_or(1, |v| v.parse().unwrap());
    let level = if std::env::var("V3").is_ok() { CpuLevel::V3 } else { CpuLevel::V2 };
    let extra = std::env::var("CMDLINE").unwrap_or_default();
    const RAM: u64 = 512 << 20;
    let (_reactor, handle) = HostReactor::start(Time::ZERO).unwrap();
    let memory = GuestMemory::builder().anonymous(0, RAM).build().unwrap();
    let setup = u64::from(kernel[0x1f1]) * 512 + 512;
    memory.write(0x10_0000, &kernel[setup as usize..]).unwrap();
    let zero = 0x1_0000u64;
    let header_end = 0x202 + usize::from(kernel[0x201]);
    memory.write(zero + 0x1f1, &kernel[0x1f1..header_end]).unwrap();
    memory.write_u8(zero + 0x210, 0xff).unwrap();
    let cmdline = format!(
        "console=ttyS0 earlyprintk=serial,ttyS0 tsc_early_khz=1000000 no_timer_check pci=off panic=-1 {extra}\0"
    );
    memory.write(0x2_0000, cmdline.as_bytes()).unwrap();
    memory.write_u32(zero + 0x228, 0x2_0000).unwrap();
    let ramdisk = (RAM - initrd.len() as u64 - 4096) & !0xfff;
    memory.write(ramdisk, &initrd).unwrap();
    memory.write_u32(zero + 0x218, ramdisk as u32).unwrap();
    memory.write_u32(zero + 0x21c, initrd.len() as u32).unwrap();
    memory.write_u8(zero + 0x1e8, 2).unwrap();
    for (i, (start, len)) in [(0u64, 0x9_f000u64), (0x10_0000, RAM - 0x10_0000)].into_iter().enumerate() {
        let e = zero + 0x2d0 + 20 * i as u64;
        memory.write_u64(e, start).unwrap();
        memory.write_u64(e + 8, len).unwrap();
        memory.write_u32(e + 16, 1).unwrap();
    }
    mptable(&memory, vps);
    // page tables
    memory.write_u64(0x9000, 0xa003).unwrap();
    memory.write_u64(0xa000, 0xb003).unwrap();
    for i in 0..512 {
        memory.write_u64(0xb000 + 8 * i, i << 21 | 0x83).unwrap();
    }
    memory.write(0x8000, &[0u8; 16]).unwrap();
    memory.write_u64(0x8010, 0x00af_9b00_0000_ffff).unwrap();
    memory.write_u64(0x8018, 0x00cf_9300_0000_ffff).unwrap();
    let cpuid = CpuModel { level, crypto: false }.cpuid(vps);
    let signature = cpuid.get(1, 0).eax;
    let config =
        PartitionConfig { vp_count: vps, memory, cpuid, reactor: handle, tsc_hz: 1_000_000_000, deterministic: false };
    let partition = SoftEngine::new().create_partition(config).unwrap();
    partition.map(0..RAM, 0, Access::ReadWrite).unwrap();
    let mut state = VpState::power_on(0, signature);
    state.cr0 = 0x8000_0011;
    state.cr3 = 0x9000;
    state.cr4 = 0x20;
    state.efer = 0x500;
    let seg = |selector, attributes| Segment { base: 0, limit: u32::MAX, selector, attributes };
    for i in 0..6 {
        state.segments[i] = seg(0x18, 0xc093);
    }
    state.segments[1] = seg(0x10, 0xa09b);
    state.gdtr = DescriptorTable { base: 0x8000, limit: 0x1f };
    state.idtr = DescriptorTable { base: 0, limit: 0 };
    state.rip = 0x10_0200;
    state.gpr[6] = zero;
    state.gpr[4] = 0x7000;
    let done = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for i in 0..vps {
        let s = if i == 0 { state.clone() } else { VpState::power_on(i, signature) };
        let mut vp = partition.create_vp(i, &s).unwrap();
        let mut machine = Machine {
            line: vec![],
            cmos_index: 0,
            trace: std::env::var("TRACE").is_ok(),
            partition: partition.clone(),
            done: done.clone(),
            vps,
        };
        let done = done.clone();
        threads.push(std::thread::spawn(move || {
            let limit =
                std::env::var("LIMIT").ok().map_or(RunLimit::Unlimited, |v| RunLimit::Instructions(v.parse().unwrap()));
            if std::env::var("STEP").is_ok() {
                loop {
                    vp.run(&mut machine, RunLimit::Instructions(200)).unwrap();
                    let s = vp.state().unwrap();
                    if s.segments[1].selector & 3 == 3 {
                        break;
                    }
                }
                for _ in 0..3_000_000 {
                    let s = vp.state().unwrap();
                    if s.segments[1].selector & 3 == 3 {
                        eprintln!("{:x} {:x?}", s.rip, s.gpr);
                    }
                    vp.run(&mut machine, RunLimit::Instructions(1)).unwrap();
                    if s.rip == 0xc {
                        std::process::exit(0);
                    }
                }
            }
            loop {
                let stop = vp.run(&mut machine, limit).unwrap();
                if done.load(Ordering::SeqCst) || stop == Stop::TripleFault || stop == Stop::LimitReached {
                    let s = vp.state().unwrap();
                    println!("vp {i} {stop:?} rip {:#x} rsp {:#x} cr2 {:#x} gpr {:x?}", s.rip, s.gpr[4], s.cr2, s.gpr);
                    break;
                }
            }
            println!("{:?}", vp.stats());
            vp.stats().instructions.unwrap()
        }));
    }
    let total: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    let s = cpu_seconds();
    for line in std::fs::read_to_string("/proc/self/status").unwrap().lines() {
        if line.starts_with("VmHWM") || line.starts_with("RssAnon") || line.starts_with("RssShmem") {
            println!("{line}");
        }
    }
    println!("{total} instructions, {s:.2} CPU-s, {:.1} MIPS", total as f64 / s / 1e6);
}
