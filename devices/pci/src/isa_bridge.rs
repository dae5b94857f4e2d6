//! The PIIX3 ISA bridge: which ISA interrupts the four PCI interrupts drive.

use crate::saved_state::SavedIsaBridge;
use bulkhead_device::{ConfigSpace, Device, Line, LineInput, OrGate, PciAddress, PciFunction, PciIdentity};
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const KIND: &str = "isa-bridge";
const VERSION: u32 = 1;
/// The routing registers of PIRQA–D.
const ROUTES: usize = 0x60;
const ROUTE_OFF: u8 = 0x80;
/// ISA interrupts that a PCI interrupt may drive: not the timer, keyboard, cascade, RTC and coprocessor.
const ALLOWED: u16 = 0xdef8;

/// The ISA bridge. Inputs 0 to 3 are PIRQA to PIRQD.
pub struct IsaBridge {
    name: String,
    config: ConfigSpace,
    /// Levels of the inputs, one bit each.
    inputs: u8,
    irqs: [Line; 16],
}

impl IsaBridge {
    /// A bridge after reset: nothing is routed. `irqs` are drivers of the ISA interrupts 0 to 15.
    pub fn new(name: &str, irqs: [Line; 16]) -> IsaBridge {
        IsaBridge { name: name.into(), config: config(), inputs: 0, irqs }
    }

    /// The bridge that was saved.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(name: &str, irqs: [Line; 16], state: &SavedState) -> Result<IsaBridge, SavedStateError> {
        let saved: SavedIsaBridge = state.decode(VERSION..=VERSION)?;
        let config = config().restored(&saved.config);
        Ok(IsaBridge { name: name.into(), config, inputs: 0, irqs })
    }

    fn update(&self) {
        let mut levels = 0u16;
        for pirq in 0..4 {
            let route = self.config.u8(ROUTES + pirq);
            if self.inputs >> pirq & 1 != 0 && route & ROUTE_OFF == 0 {
                levels |= 1 << (route & 0xf) & ALLOWED;
            }
        }
        for (irq, line) in self.irqs.iter().enumerate() {
            line.set(levels >> irq & 1 != 0);
        }
    }
}

impl LineInput for IsaBridge {
    fn set_input(&mut self, input: u32, level: bool) {
        if input < 4 {
            self.inputs = self.inputs & !(1 << input) | u8::from(level) << input;
            self.update();
        }
    }
}

/// The interrupt pins of the slots, wired to the ISA bridge.
#[derive(Clone)]
pub struct PciInterrupts {
    pirqs: Arc<[(Arc<OrGate>, AtomicU32); 4]>,
}

impl PciInterrupts {
    /// Wires the slots to `bridge`.
    pub fn new(bridge: &Arc<Mutex<IsaBridge>>) -> PciInterrupts {
        let gate = |pirq| (OrGate::new(Line::new(bridge.clone(), pirq)), AtomicU32::new(0));
        PciInterrupts { pirqs: Arc::new([gate(0), gate(1), gate(2), gate(3)]) }
    }

    /// Which PIRQ (0 to 3) the pin (1 = INTA to 4) of a slot is wired to; the ACPI tables must say the same. Pins rotate from
    /// slot to slot: INTA of device 1 is PIRQA.
    pub fn pirq(at: PciAddress, pin: u8) -> u8 {
        at.device.wrapping_add(pin).wrapping_sub(2) & 3
    }

    /// A driver of the pin of a slot.
    pub fn line(&self, at: PciAddress, pin: u8) -> Line {
        let (gate, used) = &self.pirqs[usize::from(PciInterrupts::pirq(at, pin))];
        gate.line(used.fetch_add(1, Relaxed))
    }
}

impl std::fmt::Debug for PciInterrupts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PciInterrupts")
    }
}

fn config() -> ConfigSpace {
    let identity =
        PciIdentity { vendor: 0x8086, device: 0x7000, revision: 0, class: 0x06_0100, subsystem: (0x1af4, 0x1100) };
    ConfigSpace::new(identity)
        // Ports, memory and mastering are always on; several functions.
        .with_register(0x04, [0x07, 0x00], [0x40, 0x01])
        .with_register(0x06, [0x00, 0x02], [0, 0])
        .with_register(0x0e, [0x80], [0])
        .with_register(0x4c, [0x4d, 0x00, 0x03, 0x00], [0xff; 4])
        .with_register(ROUTES, [ROUTE_OFF; 4], [0x8f; 4])
        .with_register(0x69, [0x02, 0x00], [0xff; 2])
        .with_register(0x70, [0x80, 0, 0, 0, 0, 0, 0x0c, 0x0c, 0x02], [0xff; 9])
        .with_register(0x80, [0; 3], [0xff; 3])
        .with_register(0xa0, [0x08, 0, 0, 0, 0, 0, 0, 0, 0x0f], [0xff; 9])
}

impl Device for IsaBridge {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode(KIND, VERSION, &SavedIsaBridge { config: self.config.save() })
    }

    fn inspect(&self) -> serde_json::Value {
        let routes: Vec<u8> = (0..4).map(|pirq| self.config.u8(ROUTES + pirq)).collect();
        json!({ "routes": routes, "inputs": self.inputs })
    }

    fn reset(&mut self) {
        self.config.reset();
        self.update();
    }
}

impl PciFunction for IsaBridge {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.config.write(offset, size, value);
        self.update();
    }
}
