//! The SMBus host of the PIIX4, with no device on its bus: every transaction ends at once with "no answer".

const STATUS: usize = 0x00;
const SLAVE_STATUS: usize = 0x01;
const CONTROL: usize = 0x02;
const REGISTERS: usize = 16;

const START: u8 = 1 << 6;
/// No device acknowledged.
const DEVICE_ERROR: u8 = 1 << 2;
const STATUS_BITS: u8 = 0x1e;

#[derive(Default)]
pub(super) struct SmbusHost {
    registers: [u8; REGISTERS],
}

impl SmbusHost {
    pub fn read(&self, offset: u16) -> u8 {
        self.registers[usize::from(offset) % REGISTERS]
    }

    pub fn write(&mut self, offset: u16, value: u8) {
        let offset = usize::from(offset) % REGISTERS;
        match offset {
            STATUS => self.registers[STATUS] &= !(value & STATUS_BITS),
            SLAVE_STATUS => {}
            CONTROL => {
                self.registers[CONTROL] = value & !START;
                if value & START != 0 {
                    self.registers[STATUS] |= DEVICE_ERROR;
                }
            }
            _ => self.registers[offset] = value,
        }
    }

    pub fn save(&self) -> Vec<u8> {
        self.registers.to_vec()
    }

    pub fn from_saved(saved: &[u8]) -> SmbusHost {
        let mut registers = [0; REGISTERS];
        registers.iter_mut().zip(saved).for_each(|(byte, saved)| *byte = *saved);
        SmbusHost { registers }
    }
}
