//! The fuzz target: a random driver with random descriptors, random frames from the switch, damaged saved states.

use crate::saved_state::SavedLegacyNic;
use crate::{LegacyNic, Wiring};
use bulkhead_device::fuzz::{Step, Steps, damaged};
use bulkhead_device::{Device, Line, MmioBus, PciAddress, PciBus, PortBus};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_packets::{FrameMeta, MacAddress};
use bulkhead_port::{Nic, PortRing, RingSize};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

const AT: PciAddress = PciAddress { device: 3, function: 0 };
const PORTS: u16 = 0xc000;
const RAM: u64 = 64 << 10;

struct Pc {
    clock: VirtualReactor,
    reactor: Reactor,
    ports: PortBus,
    mmio: MmioBus,
    memory: GuestMemory,
}

impl Pc {
    fn wiring(&self, port: Option<PortRing>) -> Wiring {
        Wiring {
            reactor: self.reactor.clone(),
            memory: self.memory.clone(),
            ports: self.ports.clone(),
            mmio: self.mmio.clone(),
            irq: Line::unconnected(),
            address: MacAddress([0, 0x15, 0x5d, 1, 2, 3]),
            port,
        }
    }

    fn put_on_bus(&self, nic: &Arc<Mutex<LegacyNic>>) -> Option<PciBus> {
        let pci = PciBus::new();
        pci.add(AT, nic).ok()?;
        pci.write(AT, 0x10, 4, PORTS.into());
        pci.write(AT, 0x04, 2, 0x7);
        Some(pci)
    }
}

/// One random driver.
pub fn fuzz(data: &[u8]) {
    let _ = run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).ok()?;
    let memory = GuestMemory::builder().anonymous(0, RAM).build().ok()?;
    let mut pc = Pc { clock, reactor, ports: PortBus::new(), mmio: MmioBus::new(), memory };
    let (ours, mut switch) = bulkhead_port::pair(RingSize::default()).ok()?;
    let mut nic = LegacyNic::new("nic", pc.wiring(Some(ours))).ok()?;
    let mut pci = pc.put_on_bus(&nic)?;
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, size) => drop(pc.ports.read(PORTS + port % 0x80, size)),
            Step::PortWrite(port, size, value) => pc.ports.write(PORTS + port % 0x80, size, shape(port, value)),
            Step::MmioRead(at, size) => drop(pci.read(AT, at as u8 & 0xfc | size & 3)),
            Step::MmioWrite(at, size, value) if at & 0xf00 == 0 => {
                pci.write(AT, at as u8 & 0xfc, size.min(4), value as u32)
            }
            // Descriptors, mostly owned by the chip, with short addresses.
            Step::MmioWrite(at, _, value) => {
                let value = value & 0x81ff_ffff_0000_ffff | u64::from(at & 1) << 31;
                let _ = pc.memory.write((u64::from(at) % (RAM - 8)) & !3, &value.to_le_bytes());
            }
            Step::Advance(nanos) => pc.clock.advance_to(pc.reactor.now() + Duration::from_nanos(nanos)),
            Step::Event(what) if what & 3 == 0 => {
                let saved = nic.lock().save().ok()?;
                let saved = damaged::<SavedLegacyNic>(&saved, data).unwrap_or(saved);
                if let Ok(restored) = LegacyNic::restored("nic", pc.wiring(None), &saved) {
                    nic = restored;
                    pci = pc.put_on_bus(&nic)?;
                    nic.lock().start();
                    let (ours, theirs) = bulkhead_port::pair(RingSize::default()).ok()?;
                    nic.lock().connect(ours).ok()?;
                    switch = theirs;
                }
            }
            Step::Event(what) => {
                let len = 14 + what as usize % 2000;
                let frame: Vec<u8> = data.iter().cycle().take(len).copied().collect();
                let _ = switch.tx.send(&FrameMeta::default(), &[&frame]);
                let _ = switch.tx.publish();
                while let Ok(Some(_)) = switch.rx.peek() {
                    switch.rx.advance();
                }
                let _ = switch.rx.release();
                pc.clock.poll_fds();
            }
        }
    }
    Some(())
}

/// Values that get a random driver further than zeros: lists in RAM, both processes on, the chip not in reset.
fn shape(port: u16, value: u32) -> u32 {
    match port % 0x80 {
        0 => value & !1 | u32::from(value.is_multiple_of(64)),
        0x18 | 0x20 => value & 0xfffc,
        0x30 if value & 4 != 0 => value | 0x2002,
        _ => value,
    }
}
