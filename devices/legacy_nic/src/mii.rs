//! The transceiver behind the MII management bus: bits in and out (IEEE 802.3, 22.2.4), and the registers of the PHY.

use crate::regs::serial::{MII_CLOCK, MII_IN, MII_OUT};
use minicbor::{Decode, Encode};

/// The PHY's address on its bus.
const ADDRESS: u32 = 1;
/// An identifier like that of the transceivers of the time (National DP83840A).
const IDENTIFIER: [u16; 2] = [0x2000, 0x5c01];
const CONTROL: u32 = 0;
const ADVERTISEMENT: u32 = 4;
const CONTROL_RESET: u16 = 0x8000;
/// What is left of a written control register: loopback, speed, negotiation, power-down, isolation, duplex.
const CONTROL_KEPT: u16 = 0x7d80;
const CONTROL_INITIAL: u16 = 0x3100;
const ADVERTISEMENT_INITIAL: u16 = 0x01e1;

/// Where a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
enum Phase {
    /// Ones, until a zero begins a frame.
    #[n(0)]
    Idle,
    /// Bits after the first zero: one, operation, PHY, register.
    #[n(1)]
    Command(#[n(0)] u32, #[n(1)] u8),
    /// What comes out, and how many clocks ago the command ended.
    #[n(2)]
    Read(#[n(0)] u16, #[n(1)] u8),
    /// The register, then turnaround and data.
    #[n(3)]
    Write(#[n(0)] Option<u32>, #[n(1)] u32, #[n(2)] u8),
}

/// The transceiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Mii {
    #[n(0)]
    clock: bool,
    #[n(1)]
    phase: Phase,
    #[n(2)]
    control: u16,
    #[n(3)]
    advertisement: u16,
}

impl Mii {
    pub fn new() -> Mii {
        Mii { clock: false, phase: Phase::Idle, control: CONTROL_INITIAL, advertisement: ADVERTISEMENT_INITIAL }
    }

    /// The data line, as a bit of CSR9: driven by the PHY while it is read, else pulled up.
    pub fn output(&self) -> u32 {
        let high = match self.phase {
            Phase::Read(_, 1) => false,
            Phase::Read(data, clocks @ 2..) => data >> (17 - clocks) & 1 != 0,
            _ => true,
        };
        if high { MII_IN } else { 0 }
    }

    /// A write of CSR9; `link` is whether the cable is in.
    pub fn write(&mut self, value: u32, link: bool) {
        let clock = value & MII_CLOCK != 0;
        if clock && !self.clock {
            self.rising(value & MII_OUT != 0, link);
        }
        self.clock = clock;
    }

    fn rising(&mut self, bit: bool, link: bool) {
        self.phase = match self.phase {
            Phase::Idle if bit => Phase::Idle,
            Phase::Idle => Phase::Command(0, 0),
            // The second bit of a frame is a one; otherwise this was none.
            Phase::Command(_, 0) if !bit => Phase::Idle,
            Phase::Command(bits, count) => {
                let bits = bits << 1 | u32::from(bit);
                match count {
                    ..12 => Phase::Command(bits, count + 1),
                    _ => self.command(bits, link),
                }
            }
            Phase::Read(data, clocks) if clocks < 17 => Phase::Read(data, clocks + 1),
            Phase::Read(..) => Phase::Idle,
            Phase::Write(register, bits, count) => {
                let bits = bits << 1 | u32::from(bit);
                if count < 17 {
                    Phase::Write(register, bits, count + 1)
                } else {
                    if let Some(register) = register {
                        self.set_register(register, bits as u16);
                    }
                    Phase::Idle
                }
            }
        };
    }

    /// `bits`: one, operation (2), PHY (5), register (5).
    fn command(&self, bits: u32, link: bool) -> Phase {
        let (operation, phy, register) = (bits >> 10 & 3, bits >> 5 & 31, bits & 31);
        let ours = phy == ADDRESS;
        match operation {
            2 if ours => Phase::Read(self.register(register, link), 0),
            1 => Phase::Write(ours.then_some(register), 0, 0),
            // Nobody drives the line.
            _ => Phase::Idle,
        }
    }

    fn register(&self, register: u32, link: bool) -> u16 {
        match register {
            CONTROL => self.control,
            // 10 and 100 Mbit/s, half and full duplex, negotiates; with a link it has done so.
            1 => 0x7809 | if link { 0x24 } else { 0 },
            2 => IDENTIFIER[0],
            3 => IDENTIFIER[1],
            ADVERTISEMENT => self.advertisement,
            // The partner can do the same.
            5 if link => 0x45e1,
            6 if link => 1,
            _ => 0,
        }
    }

    fn set_register(&mut self, register: u32, value: u16) {
        match register {
            CONTROL if value & CONTROL_RESET != 0 => {
                (self.control, self.advertisement) = (CONTROL_INITIAL, ADVERTISEMENT_INITIAL);
            }
            CONTROL => self.control = value & CONTROL_KEPT,
            ADVERTISEMENT => self.advertisement = value & 0x2fe0 | 1,
            _ => {}
        }
    }

    /// A state that a PHY can be in, from a file that may say anything.
    pub fn checked(self) -> Option<Mii> {
        let sound = match self.phase {
            Phase::Idle => true,
            Phase::Command(_, count) => count <= 12,
            Phase::Read(_, clocks) => clocks <= 17,
            Phase::Write(_, _, count) => count <= 17,
        };
        sound.then_some(self)
    }
}
