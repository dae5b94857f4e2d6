//! The device: registers, interrupts, PCI function, the port, saving.

use crate::filter::Filter;
use crate::mii::Mii;
use crate::regs::{
    self, BUS_MODE, COUNT, ENABLE, MISSED, MODE, RECEIVE_LIST, RECEIVE_POLL, RESET, SERIAL, STATUS, TIMER,
    TRANSMIT_LIST, TRANSMIT_POLL, bus_mode, mode, serial, status,
};
use crate::saved_state::{KIND, SavedLegacyNic, VERSION};
use crate::srom::{Contents, SerialRom};
use bulkhead_device::{
    BarKind, ConfigSpace, Device, Line, Mmio, MmioBus, PciFunction, PciIdentity, PortBus, PortIo, QuiesceToken,
};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_packets::MacAddress;
use bulkhead_port::{Nic, PortRing};
use bulkhead_reactor::{Interest, Reactor, Time, Timer, Watch};
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Subsystem of the adapter as Hyper-V's guests see it.
const SUBSYSTEM: (u16, u16) = (0x0a00, 0x2114);
/// One count of the general-purpose timer at 100 Mbit/s.
const TIMER_COUNT: Duration = Duration::from_nanos(81_920);

/// What an adapter is connected to.
pub struct Wiring {
    /// Runs what the switch wakes, and the timers.
    pub reactor: Reactor,
    /// Where descriptors and buffers are.
    pub memory: GuestMemory,
    /// 128 ports at BAR 0.
    pub ports: PortBus,
    /// The same registers at BAR 1.
    pub mmio: MmioBus,
    /// INTA.
    pub irq: Line,
    /// The adapter's address.
    pub address: MacAddress,
    /// The port of a switch; `None` is a cable that is not plugged in.
    pub port: Option<PortRing>,
}

/// An adapter that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LegacyNicError {
    /// The saved state cannot be read.
    #[error("legacy network adapter `{name}` cannot be restored")]
    SavedState {
        /// The adapter.
        name: String,
        /// Why.
        #[source]
        source: SavedStateError,
    },
    /// The saved state is no state that an adapter can be in.
    #[error("legacy network adapter `{name}` cannot be restored: its saved state is damaged; use another checkpoint")]
    Damaged {
        /// The adapter.
        name: String,
    },
    /// The host has no descriptors left.
    #[error("legacy network adapter `{name}` cannot watch its port")]
    Watch {
        /// The adapter.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A legacy network adapter. Put it on the bus with `pci.add(address, &nic)`.
pub struct LegacyNic {
    name: String,
    reactor: Reactor,
    pub(crate) memory: GuestMemory,
    pub(crate) config: ConfigSpace,
    irq: Line,
    address: MacAddress,
    contents: Contents,
    me: Weak<Mutex<LegacyNic>>,
    pub(crate) state: State,
    timer: Timer,
    /// Tries a waiting frame again.
    pub(crate) retry: Timer,
    pub(crate) port: Option<Connection>,
    /// Between `pause` and `start`: guest memory is left alone.
    pub(crate) paused: bool,
    /// A continuation is posted to the reactor.
    continues: bool,
    pub(crate) counters: Counters,
}

/// What is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub registers: [u32; COUNT],
    /// Current descriptors.
    pub transmit_at: u32,
    pub receive_at: u32,
    pub filter: Filter,
    pub rom: SerialRom,
    pub mii: Mii,
    /// The frame that is being gathered from several descriptors; too long a one is `None` until its end.
    pub partial: Option<Vec<u8>>,
    /// Deadline of the general-purpose timer.
    pub timer_at: Option<Time>,
}

/// A plugged-in cable.
pub(crate) struct Connection {
    pub ring: PortRing,
    _watch: Watch,
}

/// What happened since the adapter was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub sent: u64,
    pub received: u64,
    pub not_sent: u64,
    pub filtered: u64,
    pub dropped: u64,
}

impl State {
    fn new() -> State {
        State {
            registers: RESET,
            transmit_at: 0,
            receive_at: 0,
            filter: Filter::none(),
            rom: SerialRom::new(),
            mii: Mii::new(),
            partial: Some(Vec::new()),
            timer_at: None,
        }
    }
}

impl LegacyNic {
    /// An adapter after power-on.
    ///
    /// # Errors
    /// `Watch`.
    pub fn new(name: &str, wiring: Wiring) -> Result<Arc<Mutex<LegacyNic>>, LegacyNicError> {
        LegacyNic::build(name, wiring, State::new(), |config| config)
    }

    /// The adapter as it was saved. Address and port are those of `wiring`.
    ///
    /// # Errors
    /// `SavedState`, `Damaged`, `Watch`.
    pub fn restored(name: &str, wiring: Wiring, saved: &SavedState) -> Result<Arc<Mutex<LegacyNic>>, LegacyNicError> {
        let saved: SavedLegacyNic = saved
            .decode(VERSION..=VERSION)
            .map_err(|source| LegacyNicError::SavedState { name: name.into(), source })?;
        let config = saved.config.clone();
        let state = saved.restored().ok_or_else(|| LegacyNicError::Damaged { name: name.into() })?;
        let nic = LegacyNic::build(name, wiring, state, |fresh| fresh.restored(&config))?;
        {
            let mut nic = nic.lock();
            // Nothing runs before the VM does.
            nic.paused = true;
            if let Some(at) = nic.state.timer_at {
                nic.timer.set(at);
            }
            nic.update_interrupt();
        }
        Ok(nic)
    }

    fn build(
        name: &str,
        wiring: Wiring,
        state: State,
        restore: impl FnOnce(ConfigSpace) -> ConfigSpace,
    ) -> Result<Arc<Mutex<LegacyNic>>, LegacyNicError> {
        let Wiring { reactor, memory, ports, mmio, irq, address, port } = wiring;
        let nic = Arc::new_cyclic(|weak: &Weak<Mutex<LegacyNic>>| {
            let identity =
                PciIdentity { vendor: 0x1011, device: 0x0009, revision: 0x20, class: 0x02_0000, subsystem: SUBSYSTEM };
            let config = ConfigSpace::new(identity)
                .with_bar(0, BarKind::Ports(ports.region(regs::LEN, name, weak.clone(), 0)))
                .with_bar(1, BarKind::Memory(mmio.region(regs::LEN.into(), name, weak.clone(), 0)))
                .with_register(0x06, [0x80, 0x02], [0, 0])
                .with_interrupt_pin(1)
                // Latencies that the chip asks for; the driver's area with its sleep and snooze bits.
                .with_register(0x3e, [0x14, 0x28], [0, 0])
                .with_register(0x40, [0; 4], [0, 0xff, 0, 0xc0]);
            let callback = |act: fn(&mut LegacyNic, Time)| {
                let nic = weak.clone();
                reactor.timer(move |now| {
                    if let Some(nic) = nic.upgrade() {
                        act(&mut nic.lock(), now);
                    }
                })
            };
            Mutex::new(LegacyNic {
                name: name.into(),
                memory,
                config: restore(config),
                irq,
                address,
                contents: Contents::new(address.0, SUBSYSTEM),
                me: weak.clone(),
                state,
                timer: callback(LegacyNic::timer_expired),
                retry: callback(|nic, _| nic.run()),
                reactor: reactor.clone(),
                port: None,
                paused: false,
                continues: false,
                counters: Counters::default(),
            })
        });
        if let Some(ring) = port {
            let connected = nic.lock().connect(ring);
            connected.map_err(|source| LegacyNicError::Watch { name: name.into(), source })?;
        }
        Ok(nic)
    }

    /// Whether the cable is in a port that works.
    pub fn is_connected(&self) -> bool {
        self.port.is_some()
    }

    /// The switch has frames, or room, or is gone.
    fn woken(&mut self) {
        let Some(connection) = &self.port else { return };
        match connection.ring.wake.clear() {
            Ok(()) => self.run(),
            Err(_) => self.port = None,
        }
    }

    /// Does what can be done: sends what waits for room, receives what waits for descriptors.
    pub(crate) fn run(&mut self) {
        if self.paused || !self.config.bus_master() {
            return;
        }
        let more = self.transmit() | self.receive();
        self.update_interrupt();
        if more && !self.continues {
            // A long list must not hold the VP, or other devices, for long.
            self.continues = true;
            let me = self.me.clone();
            self.reactor.post(move || {
                if let Some(nic) = me.upgrade() {
                    let mut nic = nic.lock();
                    nic.continues = false;
                    nic.run();
                }
            });
        }
    }

    /// Something is wrong with the port: it is closed, as by pulling the cable.
    pub(crate) fn port_failed(&mut self) {
        self.port = None;
    }

    pub(crate) fn now(&self) -> Time {
        self.reactor.now()
    }

    pub(crate) fn raise(&mut self, bits: u32) {
        self.state.registers[STATUS] |= bits;
    }

    /// Sets the state field of the receiver or transmitter.
    pub(crate) fn set_process(&mut self, field: u32, value: u32) {
        let csr5 = &mut self.state.registers[STATUS];
        *csr5 = *csr5 & !field | value;
    }

    /// A bus error stops both processes.
    pub(crate) fn bus_error(&mut self) {
        self.raise(status::BUS_ERROR);
        self.set_process(status::RECEIVER, 0);
        self.set_process(status::TRANSMITTER, 0);
        self.state.registers[MODE] &= !(mode::RECEIVE | mode::TRANSMIT);
    }

    pub(crate) fn update_interrupt(&mut self) {
        let enabled = self.state.registers[ENABLE];
        let csr5 = &mut self.state.registers[STATUS];
        let pending = *csr5 & enabled;
        *csr5 &= !(status::NORMAL | status::ABNORMAL);
        if pending & status::NORMAL_SOURCES != 0 {
            *csr5 |= status::NORMAL;
        }
        if pending & status::ABNORMAL_SOURCES != 0 {
            *csr5 |= status::ABNORMAL;
        }
        let level = *csr5 & enabled & (status::NORMAL | status::ABNORMAL) != 0;
        self.config.set_interrupt_status(level);
        self.irq.set(level && !self.config.interrupt_disabled());
    }

    fn timer_expired(&mut self, now: Time) {
        let Some(at) = self.state.timer_at.filter(|at| *at <= now) else { return };
        self.raise(status::TIMER);
        let csr11 = self.state.registers[TIMER];
        let period = TIMER_COUNT * (csr11 & 0xffff);
        self.state.timer_at = None;
        if csr11 & 1 << 16 != 0 {
            // Not from `at`: a host that was late would catch up with a burst.
            let next = at.max(now) + period;
            self.state.timer_at = Some(next);
            self.timer.set(next);
        }
        self.update_interrupt();
    }

    fn read_register(&mut self, index: usize) -> u32 {
        let value = self.state.registers[index];
        match index {
            MISSED => {
                self.state.registers[MISSED] = RESET[MISSED];
                value
            }
            SERIAL => {
                let out = self.state.rom.output() | self.state.mii.output();
                value & !(serial::ROM_OUT | serial::MII_IN) | out
            }
            TIMER => {
                let left = self.state.timer_at.map_or(0, |at| (at - self.reactor.now()).as_nanos());
                let counts = left.div_ceil(TIMER_COUNT.as_nanos()) as u32;
                value & !0xffff | counts.min(0xffff)
            }
            _ => value,
        }
    }

    fn write_register(&mut self, index: usize, value: u32) {
        match index {
            BUS_MODE if value & bus_mode::RESET != 0 => self.reset_chip(),
            BUS_MODE => self.state.registers[BUS_MODE] = 0xfe00_0000 | value & 0x01ff_fffe,
            TRANSMIT_POLL => self.poll(status::TRANSMITTER, status::TRANSMITTER_SUSPENDED, status::TRANSMITTER_RUNS),
            RECEIVE_POLL => self.poll(status::RECEIVER, status::RECEIVER_SUSPENDED, status::RECEIVER_WAITS),
            RECEIVE_LIST => {
                self.state.registers[RECEIVE_LIST] = value & !3;
                self.state.receive_at = value & !3;
            }
            TRANSMIT_LIST => {
                self.state.registers[TRANSMIT_LIST] = value & !3;
                self.state.transmit_at = value & !3;
            }
            STATUS => {
                self.state.registers[STATUS] &= !(value & status::CLEARABLE);
                self.update_interrupt();
            }
            MODE => self.set_mode(value | mode::FIXED),
            ENABLE => {
                self.state.registers[ENABLE] = 0xf3fe_0000 | value;
                self.update_interrupt();
            }
            MISSED => {}
            SERIAL => self.write_serial(value),
            TIMER => {
                self.state.registers[TIMER] = 0xfffe_0000 | value & 0x1_ffff;
                let count = value & 0xffff;
                self.state.timer_at = (count > 0).then(|| self.reactor.now() + TIMER_COUNT * count);
                match self.state.timer_at {
                    Some(at) => self.timer.set(at),
                    None => self.timer.cancel(),
                }
            }
            12 => self.state.registers[12] = 0xffff_ff00 | value & 0xff,
            _ => self.state.registers[index] = value,
        }
    }

    fn write_serial(&mut self, value: u32) {
        self.state.registers[SERIAL] = RESET[SERIAL] & !serial::KEPT | value & serial::KEPT;
        if value & serial::ROM != 0 || value & serial::ROM_SELECT == 0 {
            self.state.rom.write(value, &self.contents);
        }
        self.state.mii.write(value, self.port.is_some());
    }

    /// A poll demand wakes a suspended process.
    fn poll(&mut self, field: u32, suspended: u32, running: u32) {
        if self.state.registers[STATUS] & field == suspended {
            self.set_process(field, running);
        }
        self.run();
    }

    fn set_mode(&mut self, value: u32) {
        let was = std::mem::replace(&mut self.state.registers[MODE], value);
        let (started, stopped) = (value & !was, was & !value);
        if started & mode::RECEIVE != 0 {
            self.set_process(status::RECEIVER, status::RECEIVER_WAITS);
        }
        if stopped & mode::RECEIVE != 0 {
            // Without the interrupt "stopped": Linux answers it by starting the receiver again, in the middle of its own stop.
            self.set_process(status::RECEIVER, 0);
        }
        if started & mode::TRANSMIT != 0 {
            self.state.partial = Some(Vec::new());
            self.set_process(status::TRANSMITTER, status::TRANSMITTER_RUNS);
        }
        if stopped & mode::TRANSMIT != 0 {
            self.set_process(status::TRANSMITTER, 0);
        }
        self.run();
        self.update_interrupt();
    }

    fn reset_chip(&mut self) {
        let mii = self.state.mii;
        self.state = State { mii, ..State::new() };
        self.timer.cancel();
        self.retry.cancel();
        self.update_interrupt();
    }

    fn read(&mut self, offset: u16, size: u8) -> u32 {
        // Registers are eight bytes apart and four long.
        if offset & 4 != 0 {
            return 0;
        }
        let value = self.read_register(usize::from(offset / 8) % COUNT);
        value >> (8 * (offset & 3)) & mask(size)
    }

    fn write(&mut self, offset: u16, size: u8, value: u32) {
        if offset & 4 != 0 {
            return;
        }
        let index = usize::from(offset / 8) % COUNT;
        let shift = 8 * (offset & 3);
        // Bits that are not written stay; those of the status must not be cleared by it.
        let kept = if index == STATUS { 0 } else { self.state.registers[index] & !(mask(size) << shift) };
        self.write_register(index, kept | (value & mask(size)) << shift);
    }
}

fn mask(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

impl Nic for LegacyNic {
    fn connect(&mut self, ring: PortRing) -> std::io::Result<()> {
        self.port = None;
        let me = self.me.clone();
        let watch = self.reactor.watch(&ring.wake, Interest::READ, move |_| {
            if let Some(nic) = me.upgrade() {
                nic.lock().woken();
            }
        })?;
        self.port = Some(Connection { ring, _watch: watch });
        self.run();
        Ok(())
    }

    fn disconnect(&mut self) {
        self.port = None;
    }
}

impl Device for LegacyNic {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode(KIND, VERSION, &SavedLegacyNic::of(&self.state, self.config.save()))
    }

    fn inspect(&self) -> serde_json::Value {
        let Counters { sent, received, not_sent, filtered, dropped } = self.counters;
        json!({
            "address": self.address.to_string(),
            "connected": self.port.is_some(),
            "status": self.state.registers[STATUS],
            "mode": self.state.registers[MODE],
            "sent": sent, "received": received, "not_sent": not_sent, "filtered": filtered, "dropped": dropped,
        })
    }

    fn reset(&mut self) {
        self.config.reset();
        self.state.mii = Mii::new();
        self.reset_chip();
    }

    fn start(&mut self) {
        self.paused = false;
        self.run();
    }

    fn pause(&mut self, quiet: QuiesceToken) {
        self.paused = true;
        drop(quiet);
    }
}

impl PciFunction for LegacyNic {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        let was = self.config.bus_master();
        self.config.write(offset, size, value);
        self.update_interrupt();
        if !was && self.config.bus_master() {
            self.run();
        }
    }
}

impl PortIo for LegacyNic {
    fn port_read(&mut self, _bank: u8, offset: u16, size: u8) -> u32 {
        self.read(offset, size)
    }

    fn port_write(&mut self, _bank: u8, offset: u16, size: u8, value: u32) {
        self.write(offset, size, value);
    }

    fn port_width(&self, _bank: u8) -> u8 {
        4
    }
}

impl Mmio for LegacyNic {
    fn mmio_read(&mut self, _bank: u8, offset: u64, size: u8) -> u64 {
        self.read(offset as u16, size).into()
    }

    fn mmio_write(&mut self, _bank: u8, offset: u64, size: u8, value: u64) {
        self.write(offset as u16, size, value as u32);
    }
}
