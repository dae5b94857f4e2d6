//! The device: ports, memory, PCI function, the host's view of the screen.

use crate::dispi::{Dispi, Effect};
use crate::memory::{PAGE, SIZE, VideoMemory};
use crate::mode::{Mode, Pixels};
use crate::registers::{Registers, port};
use crate::render::Renderer;
use crate::saved_state::{KIND, SavedDispi, SavedRegisters, SavedVga, VERSION, restored_memory, saved_pages};
use crate::{Changes, Picture};
use bulkhead_device::{
    BarKind, BusError, ConfigSpace, Device, Mmio, MmioBus, PciFunction, PciIdentity, PortBus, PortIo,
};
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

/// Port ranges; a range's place here is its bank.
const PORTS: [RangeInclusive<u16>; 6] =
    [0x3b4..=0x3b5, 0x3ba..=0x3ba, 0x3c0..=0x3cf, 0x3d4..=0x3d5, 0x3da..=0x3da, 0x1ce..=0x1d0];
const DISPI_BANK: u8 = 5;

/// Banks of memory.
const WINDOW: u8 = 0;
const FRAME_BUFFER: u8 = 1;
const REGISTERS: u8 = 2;
const ROM: u8 = 3;

/// 70 Hz, of which the vertical retrace takes the last part.
const FRAME_NANOS: u64 = 14_268_000;
const RETRACE_NANOS: u64 = 1_200_000;
/// 31.5 kHz.
const LINE_NANOS: u64 = 31_778;
const LINE_BLANK_NANOS: u64 = 6_356;

/// What the adapter is connected to.
pub struct Wiring {
    /// The clock of the retrace bits.
    pub reactor: Reactor,
    /// 3B4h, 3B5h, 3BAh, 3C0h–3CFh, 3D4h, 3D5h, 3DAh and 1CEh–1D0h are taken.
    pub ports: PortBus,
    /// A0000h–BFFFFh is taken; BARs 0 (frame buffer, 16 MiB), 2 (registers, 4 KiB) and the ROM move.
    pub memory: MmioBus,
    /// The option ROM: `vgabios-stdvga.bin`.
    pub rom: Option<Arc<[u8]>>,
}

/// An adapter that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VgaError {
    /// Another device has its ports or memory.
    #[error("graphics adapter `{name}` cannot have its ports or memory")]
    Bus {
        /// The adapter.
        name: String,
        /// Who is in the way.
        #[source]
        source: BusError,
    },
    /// The option ROM is too large.
    #[error("an option ROM of {len} bytes does not fit graphics adapter `{name}`: at most 1 MiB")]
    Rom {
        /// The adapter.
        name: String,
        /// Its length.
        len: usize,
    },
    /// The saved state cannot be read.
    #[error("graphics adapter `{name}` cannot be restored")]
    SavedState {
        /// The adapter.
        name: String,
        /// Why.
        #[source]
        source: SavedStateError,
    },
    /// The saved state is no state that an adapter can be in.
    #[error("graphics adapter `{name}` cannot be restored: its saved state is damaged; use another checkpoint")]
    Damaged {
        /// The adapter.
        name: String,
    },
}

/// A graphics adapter. Put it on the bus with `pci.add(address, &vga)`, usually at 00:02.0.
pub struct Vga {
    name: String,
    reactor: Reactor,
    config: ConfigSpace,
    rom: Arc<[u8]>,
    registers: Registers,
    dispi: Dispi,
    memory: VideoMemory,
    /// Registers changed since the last [`Vga::take_changes`].
    redraw: bool,
}

struct State {
    registers: Registers,
    dispi: Dispi,
    memory: VideoMemory,
}

impl Vga {
    /// An adapter after power-on.
    ///
    /// # Errors
    /// `Bus`, `Rom`.
    pub fn new(name: &str, wiring: Wiring) -> Result<Arc<Mutex<Vga>>, VgaError> {
        let dispi = Dispi::new(SIZE as u32);
        let state = State { registers: Registers::new(), dispi, memory: VideoMemory::new() };
        Vga::build(name, wiring, state, |config| config)
    }

    /// The adapter as it was saved.
    ///
    /// # Errors
    /// Those of [`Vga::new`]; `SavedState`, `Damaged`.
    pub fn restored(name: &str, wiring: Wiring, saved: &SavedState) -> Result<Arc<Mutex<Vga>>, VgaError> {
        let saved: SavedVga =
            saved.decode(VERSION..=VERSION).map_err(|source| VgaError::SavedState { name: name.into(), source })?;
        let damaged = || VgaError::Damaged { name: name.into() };
        let state = State {
            registers: saved.registers.restored(),
            dispi: saved.dispi.restored().ok_or_else(damaged)?,
            memory: restored_memory(&saved.pages, saved.latch).ok_or_else(damaged)?,
        };
        Vga::build(name, wiring, state, |config| config.restored(&saved.config))
    }

    fn build(
        name: &str,
        wiring: Wiring,
        state: State,
        restore: impl FnOnce(ConfigSpace) -> ConfigSpace,
    ) -> Result<Arc<Mutex<Vga>>, VgaError> {
        let Wiring { reactor, ports, memory: mmio, rom } = wiring;
        let rom = rom.unwrap_or_default();
        if rom.len() > 1 << 20 {
            return Err(VgaError::Rom { name: name.into(), len: rom.len() });
        }
        let State { registers, dispi, memory } = state;
        let vga = Arc::new_cyclic(|weak: &Weak<Mutex<Vga>>| {
            let region = |len: u64, bank| mmio.region(len, name, weak.clone(), bank);
            let identity = PciIdentity {
                vendor: 0x1234,
                device: 0x1111,
                revision: 2,
                class: 0x03_0000,
                subsystem: (0x1af4, 0x1100),
            };
            let mut config = ConfigSpace::new(identity)
                .with_bar(0, BarKind::Prefetchable(region(SIZE as u64, FRAME_BUFFER)))
                .with_bar(2, BarKind::Memory(region(0x1000, REGISTERS)));
            if !rom.is_empty() {
                let len = rom.len().next_power_of_two().max(2048) as u64;
                config = config.with_bar(ConfigSpace::ROM, BarKind::Rom(region(len, ROM)));
            }
            let config = restore(config);
            Mutex::new(Vga { name: name.into(), reactor, config, rom, registers, dispi, memory, redraw: true })
        });
        let bus = |source| VgaError::Bus { name: name.into(), source };
        for (range, bank) in PORTS.into_iter().zip(0..) {
            ports.map(range, &vga, bank).map_err(bus)?;
        }
        mmio.map(0xa_0000..0xc_0000, &vga, WINDOW).map_err(bus)?;
        Ok(vga)
    }

    fn renderer(&self) -> Renderer<'_> {
        let mode = Mode::of(&self.registers, &self.dispi);
        Renderer { registers: &self.registers, memory: &self.memory, mode }
    }

    /// Draws the screen into `picture`, whose memory is used again.
    pub fn draw(&self, picture: &mut Picture) {
        self.renderer().draw(picture);
    }

    /// The screen as a PNG file.
    ///
    /// # Errors
    /// Those of the encoder, which a screen never causes.
    pub fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut picture = Picture::default();
        self.draw(&mut picture);
        picture.to_png()
    }

    /// The lines of a text mode, without spaces at their ends.
    pub fn text(&self) -> Option<Vec<String>> {
        self.renderer().text()
    }

    /// What changed since the last call. Costs nothing per write of the guest but a bit.
    pub fn take_changes(&mut self) -> Changes {
        let pages: Vec<usize> = self.memory.take_written().collect();
        let mode = Mode::of(&self.registers, &self.dispi);
        if std::mem::take(&mut self.redraw) {
            return Changes::Everything;
        }
        if mode.small || mode.pixels == Pixels::Planar || mode.pitch == 0 {
            return if pages.is_empty() { Changes::Nothing } else { Changes::Everything };
        }
        let mut rows: Vec<std::ops::Range<u32>> = Vec::new();
        for page in pages {
            let (first, end) = (page * PAGE, (page + 1) * PAGE);
            if end <= mode.start {
                continue;
            }
            let from = (first.saturating_sub(mode.start) / mode.pitch) as u32;
            let to = ((end - mode.start).div_ceil(mode.pitch) as u32).min(mode.height);
            match rows.last_mut() {
                Some(last) if last.end >= from => last.end = last.end.max(to),
                _ if from < to => rows.push(from..to),
                _ => {}
            }
        }
        if rows.is_empty() { Changes::Nothing } else { Changes::Rows(rows) }
    }

    fn read_register(&mut self, port: u16) -> u8 {
        match self.registers.resolve(port) {
            Some(port::STATUS) => {
                self.registers.status_read();
                self.status()
            }
            Some(port) => self.registers.read(port, self.dispi.wide_palette()),
            None => 0xff,
        }
    }

    fn write_register(&mut self, port: u16, value: u8) {
        if let Some(port) = self.registers.resolve(port) {
            self.redraw |= self.registers.write(port, value, self.dispi.wide_palette());
        }
    }

    /// Bit 0: between lines or frames; bit 3: between frames.
    fn status(&self) -> u8 {
        let at = self.reactor.now().as_nanos() % FRAME_NANOS;
        if at >= FRAME_NANOS - RETRACE_NANOS {
            return 0x09;
        }
        u8::from(at % LINE_NANOS >= LINE_NANOS - LINE_BLANK_NANOS)
    }

    fn write_dispi(&mut self, index: u16, value: u16) {
        match self.dispi.write(index, value) {
            Effect::None => return,
            Effect::Redraw => {}
            Effect::Clear => {
                let len = self.dispi.pitch() as usize * usize::from(self.dispi.height);
                self.memory.clear(len);
            }
        }
        self.redraw = true;
    }

    /// Where a linear mode has put the window.
    fn bank(&self) -> Option<usize> {
        (self.dispi.enabled() && self.dispi.depth > 4).then(|| usize::from(self.dispi.bank) << 16)
    }

    /// BAR 2: the ports from 3C0h on at 400h, the Bochs registers at 500h.
    fn read_bar(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            0x400..0x420 => (0..u64::from(size)).rev().fold(0, |value, byte| {
                value << 8 | u64::from(self.read_register(0x3c0 + (offset + byte - 0x400) as u16))
            }),
            0x500..0x516 if size >= 2 => {
                let index = ((offset - 0x500) / 2) as u16;
                let high = if size == 4 { u64::from(self.dispi.read(index + 1)) << 16 } else { 0 };
                u64::from(self.dispi.read(index)) | high
            }
            // Size of the further registers, and little-endian pixels.
            0x600 => 8,
            0x604 => 0x1e1e_1e1e,
            _ => 0,
        }
    }

    fn write_bar(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            0x400..0x420 => {
                for (byte, value) in (0..u16::from(size)).zip(value.to_le_bytes()) {
                    self.write_register(0x3c0 + (offset - 0x400) as u16 + byte, value);
                }
            }
            0x500..0x516 if size >= 2 => {
                let index = ((offset - 0x500) / 2) as u16;
                self.write_dispi(index, value as u16);
                if size == 4 {
                    self.write_dispi(index + 1, (value >> 16) as u16);
                }
            }
            _ => {}
        }
    }
}

impl Device for Vga {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedVga {
            config: self.config.save(),
            registers: SavedRegisters::of(&self.registers),
            dispi: SavedDispi::of(&self.dispi),
            latch: self.memory.latch,
            pages: saved_pages(&self.memory),
        };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let mode = Mode::of(&self.registers, &self.dispi);
        json!({
            "mode": format!("{:?}", mode.pixels),
            "width": mode.width,
            "height": mode.height,
            "blank": mode.blank,
            "text": self.text(),
        })
    }

    fn reset(&mut self) {
        self.config.reset();
        self.registers = Registers::new();
        self.dispi = Dispi::new(SIZE as u32);
        self.redraw = true;
    }
}

impl PciFunction for Vga {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.config.write(offset, size, value);
    }
}

impl PortIo for Vga {
    fn port_read(&mut self, bank: u8, offset: u16, size: u8) -> u32 {
        match (bank, offset, size) {
            (DISPI_BANK, 0, 2) => self.dispi.index.into(),
            (DISPI_BANK, _, 2) => self.dispi.read(self.dispi.index).into(),
            (DISPI_BANK, ..) => 0xff,
            _ => self.read_register(PORTS[usize::from(bank)].start() + offset).into(),
        }
    }

    fn port_write(&mut self, bank: u8, offset: u16, size: u8, value: u32) {
        match (bank, offset, size) {
            (DISPI_BANK, 0, 2) => self.dispi.index = value as u16,
            (DISPI_BANK, _, 2) => self.write_dispi(self.dispi.index, value as u16),
            (DISPI_BANK, ..) => {}
            _ => self.write_register(PORTS[usize::from(bank)].start() + offset, value as u8),
        }
    }

    fn port_width(&self, bank: u8) -> u8 {
        if bank == DISPI_BANK { 2 } else { 1 }
    }
}

impl Mmio for Vga {
    fn mmio_read(&mut self, bank: u8, offset: u64, size: u8) -> u64 {
        match bank {
            REGISTERS => self.read_bar(offset, size),
            _ => {
                let mut bytes = [0; 8];
                self.mmio_read_bytes(bank, offset, &mut bytes[..usize::from(size)]);
                u64::from_le_bytes(bytes)
            }
        }
    }

    fn mmio_write(&mut self, bank: u8, offset: u64, size: u8, value: u64) {
        match bank {
            REGISTERS => self.write_bar(offset, size, value),
            _ => self.mmio_write_bytes(bank, offset, &value.to_le_bytes()[..usize::from(size)]),
        }
    }

    fn mmio_read_bytes(&mut self, bank: u8, offset: u64, data: &mut [u8]) {
        match bank {
            WINDOW => {
                let bank = self.bank();
                for (byte, offset) in data.iter_mut().zip(offset as u32..) {
                    *byte = self.memory.read_window(&self.registers, bank, offset);
                }
            }
            FRAME_BUFFER => self.memory.read_linear(offset, data),
            ROM => {
                let rest = self.rom.get(offset as usize..).unwrap_or(&[]);
                let len = rest.len().min(data.len());
                data[..len].copy_from_slice(&rest[..len]);
                data[len..].fill(0);
            }
            _ => {
                for (place, size) in pieces(offset, data.len()) {
                    let value = self.read_bar(offset + place as u64, size as u8).to_le_bytes();
                    data[place..place + size].copy_from_slice(&value[..size]);
                }
            }
        }
    }

    fn mmio_write_bytes(&mut self, bank: u8, offset: u64, data: &[u8]) {
        match bank {
            WINDOW => {
                let bank = self.bank();
                for (byte, offset) in data.iter().zip(offset as u32..) {
                    self.memory.write_window(&self.registers, bank, offset, *byte);
                }
            }
            FRAME_BUFFER => self.memory.write_linear(offset, data),
            REGISTERS => {
                for (place, size) in pieces(offset, data.len()) {
                    let value =
                        data[place..place + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                    self.write_bar(offset + place as u64, size as u8, value);
                }
            }
            _ => {}
        }
    }
}

/// Cuts an access to registers into aligned ones of 4, 2 or 1 bytes: (place in the data, size).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut place = 0;
    std::iter::from_fn(move || {
        let at = offset + place as u64;
        let size = [4, 2, 1].into_iter().find(|size| at.is_multiple_of(*size as u64) && place + size <= len)?;
        place += size;
        Some((place - size, size))
    })
}
