//! The PIIX4 power-management function: ACPI registers, SMI command port, SMBus host.

mod acpi;
mod smbus;

use crate::saved_state::SavedPowerManagement;
use acpi::{AcpiBlock, Effect};
use bulkhead_device::{
    ConfigSpace, Device, Line, PciFunction, PciIdentity, PortBus, PortIo, PortRegion, PowerRequest, PowerSink,
};
use bulkhead_reactor::{Reactor, Timer};
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use smbus::SmbusHost;
use std::sync::{Arc, Weak};

const KIND: &str = "power-management";
const VERSION: u32 = 1;
const PM_BASE: usize = 0x40;
const PM_ENABLE: usize = 0x80;
const SMBUS_BASE: usize = 0x90;
const SMBUS_ENABLE: usize = 0xd2;
/// Device activity B; bit 25 makes the SMI command port raise SMIs.
const ACTIVITY_B: usize = 0x58;
/// What firmware writes to the SMI command port to hand over to ACPI and back; the FADT must say so.
const ACPI_ON: u8 = 0xf1;
const ACPI_OFF: u8 = 0xf0;

/// The function. Banks: 2 = ports B2h–B3h, which the machine maps. The ACPI registers (64 ports) and the SMBus host
/// (16 ports) lie where the guest puts them.
pub struct PowerManagement {
    name: String,
    reactor: Reactor,
    config: ConfigSpace,
    acpi: AcpiBlock,
    smbus: SmbusHost,
    smi: (u8, u8),
    acpi_region: PortRegion,
    smbus_region: PortRegion,
    sci: Line,
    power: Arc<dyn PowerSink>,
    timer: Timer,
}

impl PowerManagement {
    /// Number of the bank of the ACPI registers.
    pub const ACPI: u8 = 0;
    /// Number of the bank of the SMBus host.
    pub const SMBUS: u8 = 1;
    /// Number of the bank at B2h.
    pub const SMI: u8 = 2;
    /// Ports of the ACPI block, from its base: event status (4 bytes with enable), control (2), timer (4), GPE0 (4).
    pub const BLOCKS: [u16; 4] = [0x00, 0x04, 0x08, 0x0c];
    /// Values of the SMI command port that switch ACPI mode on and off.
    pub const SMI_COMMANDS: (u8, u8) = (ACPI_ON, ACPI_OFF);

    /// A function after reset. `sci` is a driver of IRQ 9.
    pub fn new(
        name: &str,
        reactor: &Reactor,
        ports: &PortBus,
        sci: Line,
        power: Arc<dyn PowerSink>,
    ) -> Arc<Mutex<PowerManagement>> {
        PowerManagement::build(name, reactor, ports, sci, power, None)
    }

    /// The function that was saved.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        reactor: &Reactor,
        ports: &PortBus,
        sci: Line,
        power: Arc<dyn PowerSink>,
        state: &SavedState,
    ) -> Result<Arc<Mutex<PowerManagement>>, SavedStateError> {
        let saved: SavedPowerManagement = state.decode(VERSION..=VERSION)?;
        Ok(PowerManagement::build(name, reactor, ports, sci, power, Some(&saved)))
    }

    fn build(
        name: &str,
        reactor: &Reactor,
        ports: &PortBus,
        sci: Line,
        power: Arc<dyn PowerSink>,
        saved: Option<&SavedPowerManagement>,
    ) -> Arc<Mutex<PowerManagement>> {
        Arc::new_cyclic(|this: &Weak<Mutex<PowerManagement>>| {
            let weak = this.clone();
            let timer = reactor.timer(move |_| {
                if let Some(function) = weak.upgrade() {
                    function.lock().update();
                }
            });
            let mut function = PowerManagement {
                name: name.into(),
                reactor: reactor.clone(),
                config: config(),
                acpi: AcpiBlock::new(reactor.now()),
                smbus: SmbusHost::default(),
                smi: (0, 0),
                acpi_region: ports.region(64, name, this.clone(), Self::ACPI),
                smbus_region: ports.region(16, name, this.clone(), Self::SMBUS),
                sci,
                power,
                timer,
            };
            if let Some(saved) = saved {
                function.config = function.config.restored(&saved.config);
                function.acpi = AcpiBlock::from_saved(saved);
                function.smbus = SmbusHost::from_saved(&saved.smbus);
                function.smi = saved.smi;
            }
            function.place();
            function.sci.set(function.acpi.sci());
            function.arm();
            Mutex::new(function)
        })
    }

    /// Somebody presses the power button; a guest with ACPI shuts down in order.
    pub fn press_power_button(&mut self) {
        self.acpi.press_power_button();
        self.update();
    }

    /// General-purpose event `event`, 0 to 15, happened.
    pub fn raise_event(&mut self, event: u8) {
        self.acpi.raise_event(event);
        self.update();
    }

    /// Puts the two blocks of ports where the configuration space says.
    fn place(&self) {
        for (region, base, enable) in
            [(&self.acpi_region, PM_BASE, PM_ENABLE), (&self.smbus_region, SMBUS_BASE, SMBUS_ENABLE)]
        {
            let at = u64::from(self.config.u16(base)) & !(region.len() - 1);
            if self.config.u8(enable) & 1 != 0 && at != 0 { region.move_to(at) } else { region.unmap() }
        }
    }

    fn update(&mut self) {
        self.acpi.settle(self.reactor.now());
        self.sci.set(self.acpi.sci());
        self.arm();
    }

    fn arm(&self) {
        match self.acpi.next_carry() {
            Some(at) => self.timer.set(at),
            None => self.timer.cancel(),
        }
    }
}

fn config() -> ConfigSpace {
    let identity =
        PciIdentity { vendor: 0x8086, device: 0x7113, revision: 3, class: 0x06_8000, subsystem: (0x1af4, 0x1100) };
    ConfigSpace::new(identity)
        .with_interrupt_pin(1)
        .with_register(0x06, [0x80, 0x02], [0, 0])
        .with_register(PM_BASE, [0x01, 0, 0, 0], [0xc0, 0xff, 0, 0])
        .with_register(0x44, [0; 20], [0xff; 20])
        // SMIs at the command port count as set up: there is no system management mode for firmware to install itself in.
        .with_register(ACTIVITY_B, [0, 0, 0, 0x02], [0xff; 4])
        .with_register(0x5c, [0; 36], [0xff; 36])
        .with_register(PM_ENABLE, [0], [0x01])
        .with_register(SMBUS_BASE, [0x01, 0, 0, 0], [0xf0, 0xff, 0, 0])
        .with_register(SMBUS_ENABLE, [0; 4], [0xff; 4])
}

impl Device for PowerManagement {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = self.acpi.save(self.config.save(), self.smi, self.smbus.save());
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        json!({ "base": self.config.u16(PM_BASE) & !1, "enabled": self.config.u8(PM_ENABLE) & 1 != 0,
                "acpi": self.acpi.inspect(), "sci": self.sci.level() })
    }

    fn reset(&mut self) {
        self.config.reset();
        self.acpi = AcpiBlock::new(self.reactor.now());
        self.smbus = SmbusHost::default();
        self.smi = (0, 0);
        self.place();
        self.update();
    }
}

impl PciFunction for PowerManagement {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.config.write(offset, size, value);
        self.place();
    }
}

impl PortIo for PowerManagement {
    fn port_read(&mut self, bank: u8, offset: u16, size: u8) -> u32 {
        match (bank, offset) {
            (Self::SMI, 0) => u32::from(self.smi.0),
            (Self::SMI, _) => u32::from(self.smi.1),
            (Self::SMBUS, _) => u32::from(self.smbus.read(offset)),
            _ => {
                // The timer as a clock is read all the time and depends on nothing else.
                if offset != Self::BLOCKS[2] {
                    self.update();
                }
                self.acpi.read(offset, size, self.reactor.now())
            }
        }
    }

    fn port_write(&mut self, bank: u8, offset: u16, size: u8, value: u32) {
        match (bank, offset) {
            (Self::SMI, 0) => {
                self.smi.0 = value as u8;
                match self.smi.0 {
                    ACPI_ON => self.acpi.set_acpi_mode(true),
                    ACPI_OFF => self.acpi.set_acpi_mode(false),
                    _ => {}
                }
            }
            (Self::SMI, _) => self.smi.1 = value as u8,
            (Self::SMBUS, _) => self.smbus.write(offset, value as u8),
            _ => {
                self.acpi.settle(self.reactor.now());
                match self.acpi.write(offset, size, value) {
                    Effect::None => {}
                    // Type 0 is "soft off" on the PIIX4.
                    Effect::Sleep(0) => self.power.request(PowerRequest::PowerOff),
                    Effect::Sleep(kind) => self.power.request(PowerRequest::Sleep(kind)),
                }
            }
        }
        self.update();
    }

    fn port_width(&self, bank: u8) -> u8 {
        if bank == Self::ACPI { 4 } else { 1 }
    }
}
