//! The ACPI register block of the PIIX4: events, control, the 24-bit timer, general-purpose events.

use crate::saved_state::SavedPowerManagement;
use bulkhead_device::SavedConfigSpace;
use bulkhead_reactor::Time;
use serde_json::json;

const HZ: u128 = 3_579_545;
const NANOS: u128 = 1_000_000_000;
const TIMER_BITS: u32 = 24;

const STATUS: u16 = 0x00;
const ENABLE: u16 = 0x02;
const CONTROL: u16 = 0x04;
const TIMER: u16 = 0x08;
const EVENT_STATUS: u16 = 0x0c;
const EVENT_ENABLE: u16 = 0x0e;
/// From here on registers keep what is written: global and device enables, control, outputs.
const PLAIN: u16 = 0x20;
const PLAIN_LEN: usize = 0x20;

const TIMER_EVENT: u16 = 1 << 0;
const POWER_BUTTON: u16 = 1 << 8;
/// Timer, bus master, global, power button, RTC, wake.
const STATUS_BITS: u16 = 0x8531;
/// Timer, global, power button, RTC.
const ENABLE_BITS: u16 = 0x0521;
/// SCI enable, bus master reload, sleep type.
const CONTROL_BITS: u16 = 0x1c03;
const SCI_ENABLE: u16 = 1 << 0;
/// Sleep enable, in the upper byte of the control register.
const SLEEP: u8 = 1 << 5;

/// What a write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Sleep(u8),
}

pub(super) struct AcpiBlock {
    status: u16,
    enable: u16,
    control: u16,
    event_status: u16,
    event_enable: u16,
    carry: u64,
    plain: [u8; PLAIN_LEN],
}

fn ticks(now: Time) -> u64 {
    (u128::from(now.as_nanos()) * HZ / NANOS) as u64
}

/// The tick after `tick` at which the timer's highest bit changes.
fn carry_after(tick: u64) -> u64 {
    ((tick >> (TIMER_BITS - 1)) + 1) << (TIMER_BITS - 1)
}

impl AcpiBlock {
    pub fn new(now: Time) -> AcpiBlock {
        AcpiBlock {
            status: 0,
            enable: 0,
            control: 0,
            event_status: 0,
            event_enable: 0,
            carry: carry_after(ticks(now)),
            plain: [0; PLAIN_LEN],
        }
    }

    /// Notes whether the timer's highest bit has changed.
    pub fn settle(&mut self, now: Time) {
        let tick = ticks(now);
        if tick >= self.carry {
            self.status |= TIMER_EVENT;
            self.carry = carry_after(tick);
        }
    }

    /// When the host must look for the timer's event: only if it interrupts and has not happened yet.
    pub fn next_carry(&self) -> Option<Time> {
        let wanted = self.control & SCI_ENABLE != 0 && self.enable & !self.status & TIMER_EVENT != 0;
        let nanos = (u128::from(self.carry) * NANOS).div_ceil(HZ);
        wanted.then(|| Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Level of the system control interrupt.
    pub fn sci(&self) -> bool {
        let events = self.status & self.enable & ENABLE_BITS != 0 || self.event_status & self.event_enable != 0;
        self.control & SCI_ENABLE != 0 && events
    }

    pub fn set_acpi_mode(&mut self, on: bool) {
        self.control = self.control & !SCI_ENABLE | if on { SCI_ENABLE } else { 0 };
    }

    pub fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
    }

    pub fn raise_event(&mut self, event: u8) {
        self.event_status |= 1u16.checked_shl(event.into()).unwrap_or(0);
    }

    pub fn read(&self, offset: u16, size: u8, now: Time) -> u32 {
        let timer = (ticks(now) & ((1 << TIMER_BITS) - 1)) as u32;
        let byte = |at: u16| -> u8 {
            let word = |value: u16| value.to_le_bytes()[usize::from(at & 1)];
            match at & !1 {
                STATUS => word(self.status),
                ENABLE => word(self.enable),
                CONTROL => word(self.control),
                EVENT_STATUS => word(self.event_status),
                EVENT_ENABLE => word(self.event_enable),
                TIMER..EVENT_STATUS => timer.to_le_bytes()[usize::from(at - TIMER)],
                PLAIN.. => self.plain.get(usize::from(at - PLAIN)).copied().unwrap_or(0),
                _ => 0,
            }
        };
        (offset..offset + u16::from(size)).rev().fold(0, |value, at| value << 8 | u32::from(byte(at)))
    }

    pub fn write(&mut self, offset: u16, size: u8, value: u32) -> Effect {
        let mut effect = Effect::None;
        for (at, byte) in (offset..).zip(value.to_le_bytes()).take(usize::from(size)) {
            let shift = 8 * u32::from(at & 1);
            let (mask, bits) = (0xffu16 << shift, u16::from(byte) << shift);
            let replace = |old: u16, writable: u16| old & !(mask & writable) | bits & writable;
            match at & !1 {
                STATUS => self.status &= !(bits & STATUS_BITS),
                ENABLE => self.enable = replace(self.enable, ENABLE_BITS),
                CONTROL => {
                    self.control = replace(self.control, CONTROL_BITS);
                    if at & 1 == 1 && byte & SLEEP != 0 {
                        effect = Effect::Sleep(byte >> 2 & 7);
                    }
                }
                EVENT_STATUS => self.event_status &= !bits,
                EVENT_ENABLE => self.event_enable = replace(self.event_enable, u16::MAX),
                PLAIN.. => {
                    if let Some(place) = self.plain.get_mut(usize::from(at - PLAIN)) {
                        *place = byte;
                    }
                }
                // The timer, and status registers of sources that do not exist.
                _ => {}
            }
        }
        effect
    }

    pub fn inspect(&self) -> serde_json::Value {
        json!({ "status": self.status, "enable": self.enable, "control": self.control,
                "eventStatus": self.event_status, "eventEnable": self.event_enable })
    }

    pub fn save(&self, config: SavedConfigSpace, smi: (u8, u8), smbus: Vec<u8>) -> SavedPowerManagement {
        SavedPowerManagement {
            config,
            status: self.status,
            enable: self.enable,
            control: self.control,
            event_status: self.event_status,
            event_enable: self.event_enable,
            carry: self.carry,
            plain: self.plain.to_vec(),
            smi,
            smbus,
        }
    }

    pub fn from_saved(saved: &SavedPowerManagement) -> AcpiBlock {
        let mut plain = [0; PLAIN_LEN];
        plain.iter_mut().zip(&saved.plain).for_each(|(byte, saved)| *byte = *saved);
        AcpiBlock {
            status: saved.status & STATUS_BITS,
            enable: saved.enable & ENABLE_BITS,
            control: saved.control & CONTROL_BITS,
            event_status: saved.event_status,
            event_enable: saved.event_enable,
            carry: saved.carry,
            plain,
        }
    }
}
