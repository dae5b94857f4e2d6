//! The two cascaded 8259s of a PC, with the edge/level registers of the south bridge.

use crate::saved_state::{SavedChip, SavedPic};
use bulkhead_device::{Device, ExtIntSource, Line, LineInput, PortIo};
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;

const KIND: &str = "pic";
const VERSION: u32 = 1;
/// Where the secondary is connected to the primary.
const CASCADE: u8 = 2;
/// ELCR bits that can be set: not the timer, keyboard, cascade, RTC and coprocessor.
const ELCR_WRITABLE: [u8; 2] = [0xf8, 0xde];

/// The pair. Banks: 0 = ports 20h–21h, 1 = A0h–A1h, 2 = 4D0h–4D1h. Inputs 0 to 15; input 2 does not exist.
pub struct Pic {
    name: String,
    primary: Chip,
    secondary: Chip,
    intr: Line,
}

impl Pic {
    /// Number of the bank at 20h.
    pub const PRIMARY: u8 = 0;
    /// Number of the bank at A0h.
    pub const SECONDARY: u8 = 1;
    /// Number of the bank at 4D0h.
    pub const ELCR: u8 = 2;

    /// A pair after power-on. `intr` leads to LINT0 of the boot processor.
    pub fn new(name: &str, intr: Line) -> Pic {
        Pic { name: name.into(), primary: Chip::default(), secondary: Chip::default(), intr }
    }

    /// The pair that was saved.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(name: &str, intr: Line, state: &SavedState) -> Result<Pic, SavedStateError> {
        let saved: SavedPic = state.decode(VERSION..=VERSION)?;
        let (primary, secondary) = (Chip::from_saved(&saved.primary), Chip::from_saved(&saved.secondary));
        let mut pic = Pic { name: name.into(), primary, secondary, intr };
        pic.update();
        Ok(pic)
    }

    /// The processor's acknowledge cycle: the vector of the interrupt that is now in service, `None` when none is requested.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let input = self.primary.requested()?;
        self.primary.take(input);
        let vector = if input == CASCADE {
            // A request that went away in between is number 7, without being in service.
            let input = self.secondary.requested();
            if let Some(input) = input {
                self.secondary.take(input);
            }
            self.secondary.vector_base | input.unwrap_or(7)
        } else {
            self.primary.vector_base | input
        };
        self.update();
        Some(vector)
    }

    /// Carries a change of the secondary to the primary, and one of the primary to the processor.
    fn update(&mut self) {
        let cascade = 1 << CASCADE;
        match self.secondary.requested() {
            Some(_) => self.primary.irr |= cascade,
            None => self.primary.irr &= !cascade,
        }
        self.intr.set(self.primary.requested().is_some());
    }

    fn chip(&mut self, bank: u8) -> &mut Chip {
        if bank == Self::PRIMARY { &mut self.primary } else { &mut self.secondary }
    }
}

impl LineInput for Pic {
    fn set_input(&mut self, input: u32, level: bool) {
        match input {
            2 | 16.. => return,
            0..8 => self.primary.set_input(input as u8, level),
            8..16 => self.secondary.set_input(input as u8 - 8, level),
        }
        self.update();
    }
}

/// The acknowledge cycle through the lock, for the engine's side.
pub(crate) struct Acknowledge(pub std::sync::Arc<Mutex<Pic>>);

impl ExtIntSource for Acknowledge {
    fn acknowledge(&self) -> Option<u8> {
        self.0.lock().acknowledge()
    }
}

impl Pic {
    /// The pair as what answers acknowledge cycles.
    pub fn ext_int_source(pic: std::sync::Arc<Mutex<Pic>>) -> std::sync::Arc<dyn ExtIntSource> {
        std::sync::Arc::new(Acknowledge(pic))
    }
}

impl Device for Pic {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedPic { primary: self.primary.save(), secondary: self.secondary.save() };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let chip = |chip: &Chip| {
            json!({ "irr": chip.irr, "isr": chip.isr, "imr": chip.imr, "inputs": chip.inputs, "elcr": chip.elcr,
                    "vectorBase": chip.vector_base })
        };
        json!({ "intr": self.intr.level(), "primary": chip(&self.primary), "secondary": chip(&self.secondary) })
    }

    fn reset(&mut self) {
        for chip in [&mut self.primary, &mut self.secondary] {
            // The levels come from the devices, which set them on their own reset.
            *chip = Chip { inputs: chip.inputs, ..Chip::default() };
        }
        self.update();
    }
}

impl PortIo for Pic {
    fn port_read(&mut self, bank: u8, offset: u16, _size: u8) -> u32 {
        if bank == Self::ELCR {
            return u32::from(if offset == 0 { self.primary.elcr } else { self.secondary.elcr });
        }
        let chip = self.chip(bank);
        let value = if chip.poll {
            chip.poll = false;
            chip.requested().map_or(0, |input| {
                chip.take(input);
                input | 0x80
            })
        } else if offset == 1 {
            chip.imr
        } else if chip.read_isr {
            chip.isr
        } else {
            chip.irr
        };
        self.update();
        u32::from(value)
    }

    fn port_write(&mut self, bank: u8, offset: u16, _size: u8, value: u32) {
        let value = value as u8;
        match (bank, offset) {
            (Self::ELCR, 0) => self.primary.set_elcr(value & ELCR_WRITABLE[0]),
            (Self::ELCR, _) => self.secondary.set_elcr(value & ELCR_WRITABLE[1]),
            (_, 0) => self.chip(bank).command(value),
            _ => self.chip(bank).data(value),
        }
        self.update();
    }
}

/// One 8259.
#[derive(Default)]
struct Chip {
    irr: u8,
    isr: u8,
    imr: u8,
    inputs: u8,
    elcr: u8,
    vector_base: u8,
    /// Input after the one with the lowest priority, so 0 means the usual order.
    highest: u8,
    /// The initialization word that port 1 takes next; 0 when initialized.
    next_word: u8,
    fourth_word: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    fully_nested: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    fn set_input(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        let rises = level && self.inputs & bit == 0;
        self.inputs = if level { self.inputs | bit } else { self.inputs & !bit };
        if self.elcr & bit != 0 {
            self.irr = if level { self.irr | bit } else { self.irr & !bit };
        } else if rises {
            self.irr |= bit;
        }
    }

    fn set_elcr(&mut self, elcr: u8) {
        self.elcr = elcr;
        self.irr = self.irr & !elcr | self.inputs & elcr;
    }

    /// The first of `set` in order of priority: (place in the order, input).
    fn first(&self, set: u8) -> Option<(u8, u8)> {
        let place = set.rotate_right(u32::from(self.highest)).trailing_zeros() as u8;
        (place < 8).then_some((place, (place + self.highest) & 7))
    }

    /// The request that may interrupt the processor now.
    fn requested(&self) -> Option<u8> {
        let (place, input) = self.first(self.irr & !self.imr)?;
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        if self.fully_nested {
            // Lets further requests of the secondary through while one of them is served.
            serving &= !(1 << CASCADE);
        }
        self.first(serving).is_none_or(|(served, _)| place < served).then_some(input)
    }

    /// The request goes into service.
    fn take(&mut self, input: u8) {
        let bit = 1 << input;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.highest = (input + 1) & 7;
        }
    }

    fn command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.initialize(value);
        } else if value & 0x08 != 0 {
            self.poll |= value & 4 != 0;
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.end_of_interrupt(value >> 5, value & 7);
        }
    }

    /// ICW1.
    fn initialize(&mut self, value: u8) {
        *self = Chip {
            irr: self.inputs & self.elcr,
            inputs: self.inputs,
            elcr: self.elcr,
            vector_base: self.vector_base,
            next_word: 2,
            fourth_word: value & 1 != 0,
            single: value & 2 != 0,
            ..Chip::default()
        };
    }

    /// OCW2: `operation` is its bits R, SL, EOI.
    fn end_of_interrupt(&mut self, operation: u8, level: u8) {
        let served = self.first(self.isr).map(|(_, input)| input);
        match operation {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 | 5 => {
                let Some(input) = served else { return };
                self.isr &= !(1 << input);
                if operation == 5 {
                    self.highest = (input + 1) & 7;
                }
            }
            3 => self.isr &= !(1 << level),
            7 => {
                self.isr &= !(1 << level);
                self.highest = (level + 1) & 7;
            }
            6 => self.highest = (level + 1) & 7,
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        let after_third = if self.fourth_word { 4 } else { 0 };
        match self.next_word {
            0 => self.imr = value,
            2 => {
                self.vector_base = value & 0xf8;
                self.next_word = if self.single { after_third } else { 3 };
            }
            3 => self.next_word = after_third,
            _ => {
                self.auto_eoi = value & 2 != 0;
                self.fully_nested = value & 0x10 != 0;
                self.next_word = 0;
            }
        }
    }

    fn save(&self) -> SavedChip {
        SavedChip {
            irr: self.irr,
            isr: self.isr,
            imr: self.imr,
            inputs: self.inputs,
            elcr: self.elcr,
            vector_base: self.vector_base,
            lowest: self.highest.wrapping_sub(1) & 7,
            next_word: self.next_word,
            fourth_word: self.fourth_word,
            single: self.single,
            auto_eoi: self.auto_eoi,
            rotate_on_auto_eoi: self.rotate_on_auto_eoi,
            special_mask: self.special_mask,
            fully_nested: self.fully_nested,
            read_isr: self.read_isr,
            poll: self.poll,
        }
    }

    fn from_saved(saved: &SavedChip) -> Chip {
        Chip {
            irr: saved.irr,
            isr: saved.isr,
            imr: saved.imr,
            inputs: saved.inputs,
            elcr: saved.elcr,
            vector_base: saved.vector_base & 0xf8,
            highest: saved.lowest.wrapping_add(1) & 7,
            next_word: saved.next_word,
            fourth_word: saved.fourth_word,
            single: saved.single,
            auto_eoi: saved.auto_eoi,
            rotate_on_auto_eoi: saved.rotate_on_auto_eoi,
            special_mask: saved.special_mask,
            fully_nested: saved.fully_nested,
            read_isr: saved.read_isr,
            poll: saved.poll,
        }
    }
}
