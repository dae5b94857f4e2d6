//! The local APIC: registers and priorities (SDM vol. 3, chapter 11). Pure; `bus.rs` connects them.

mod access;
mod bus;
mod timer;

use bulkhead_engine::LocalApicState;

/// Register offsets of the xAPIC page.
pub(crate) mod register {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const APR: u32 = 0x90;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

const VERSION: u32 = 0x0005_0014;
const LVT_MASKED: u32 = 1 << 16;
const SVR_ENABLED: u32 = 1 << 8;
/// IA32_APIC_BASE bits.
pub(crate) mod base {
    pub const BSP: u64 = 1 << 8;
    pub const X2APIC: u64 = 1 << 10;
    pub const ENABLED: u64 = 1 << 11;
}
/// ESR bits.
mod error {
    pub const SEND_VECTOR: u32 = 1 << 5;
    pub const RECEIVE_VECTOR: u32 = 1 << 6;
    pub const REGISTER: u32 = 1 << 7;
}

/// 256 bits, one per vector.
type VectorSet = [u32; 8];

fn highest(set: &VectorSet) -> Option<u8> {
    (0..8).rev().find(|&word| set[word] != 0).map(|word| (word as u8) << 5 | (31 - set[word].leading_zeros()) as u8)
}

fn has(set: &VectorSet, vector: u8) -> bool {
    set[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
}

fn put(set: &mut VectorSet, vector: u8, on: bool) {
    let (word, bit) = (&mut set[usize::from(vector >> 5)], 1 << (vector & 31));
    *word = if on { *word | bit } else { *word & !bit };
}

/// What a register write asks the rest of the machine to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Priorities changed: look for interrupts again.
    Recheck,
    /// A level-triggered interrupt ended: tell the IOAPIC.
    Eoi(u8),
    /// Send an interprocessor interrupt: ICR.
    Send(u64),
    /// The timer's registers changed: set the host timer again.
    Timer,
    /// In x2APIC mode: #GP.
    Illegal,
}

/// A local APIC.
#[derive(Debug, Clone)]
pub(crate) struct LocalApic {
    /// IA32_APIC_BASE.
    pub base: u64,
    id: u32,
    tpr: u32,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: VectorSet,
    tmr: VectorSet,
    irr: VectorSet,
    esr: u32,
    esr_pending: u32,
    icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    lvt: [u32; 6],
    timer: timer::ApicTimer,
}

impl LocalApic {
    /// As after power-on.
    pub fn new(index: u32) -> Self {
        Self {
            base: 0xfee0_0000 | base::ENABLED | if index == 0 { base::BSP } else { 0 },
            id: index,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            esr_pending: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            timer: timer::ApicTimer::default(),
        }
    }

    /// INIT: everything but the base register and the id.
    pub fn init(&mut self) {
        let (base, id, tsc) = (self.base, self.id, self.timer.tsc_offset);
        *self = Self::new(id);
        self.base = base;
        self.timer.tsc_offset = tsc;
    }

    /// Globally enabled by IA32_APIC_BASE.
    pub fn is_enabled(&self) -> bool {
        self.base & base::ENABLED != 0
    }

    /// In x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & base::X2APIC != 0
    }

    /// Globally and by software.
    pub fn is_active(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLED != 0
    }

    /// Task priority as CR8 shows it.
    pub fn cr8(&self) -> u64 {
        u64::from(self.tpr >> 4)
    }

    /// MOV CR8.
    pub fn set_cr8(&mut self, value: u64) {
        self.tpr = (value as u32 & 15) << 4;
    }

    /// Processor priority.
    fn ppr(&self) -> u32 {
        let service = highest(&self.isr).map_or(0, u32::from);
        if self.tpr >> 4 >= service >> 4 { self.tpr } else { service & 0xf0 }
    }

    /// Priority for lowest-priority arbitration.
    pub fn arbitration_priority(&self) -> u32 {
        self.ppr()
    }

    /// Takes an interrupt for `vector`; vectors below 16 are errors.
    pub fn receive(&mut self, vector: u8, level: bool) {
        if !self.is_active() {
            return;
        }
        if vector < 16 {
            self.raise_error(error::RECEIVE_VECTOR);
            return;
        }
        put(&mut self.tmr, vector, level);
        put(&mut self.irr, vector, true);
    }

    /// The vector that the processor should take now, if interrupts are enabled.
    pub fn pending(&self) -> Option<u8> {
        if !self.is_active() {
            return None;
        }
        highest(&self.irr).filter(|&vector| u32::from(vector) >> 4 > self.ppr() >> 4)
    }

    /// The processor takes it.
    pub fn acknowledge(&mut self, vector: u8) {
        put(&mut self.irr, vector, false);
        put(&mut self.isr, vector, true);
    }

    /// Whether the PIC's INTR reaches the processor through LINT0, or directly because the APIC is off.
    pub fn passes_ext_int(&self) -> bool {
        let lint0 = self.lvt[3];
        !self.is_enabled() || lint0 & LVT_MASKED == 0 && lint0 >> 8 & 7 == 7
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = highest(&self.isr) else { return Effect::None };
        put(&mut self.isr, vector, false);
        if has(&self.tmr, vector) { Effect::Eoi(vector) } else { Effect::Recheck }
    }

    fn raise_error(&mut self, bits: u32) {
        self.esr_pending |= bits;
        let lvt = self.lvt[5];
        // An error vector below 16 would be an error again, and so on.
        if lvt & LVT_MASKED == 0 && lvt & 0xff >= 16 {
            self.receive(lvt as u8, false);
        }
    }

    /// Whether a message with a logical destination is for this APIC.
    pub fn matches_logical(&self, destination: u32) -> bool {
        if self.is_x2apic() {
            let ldr = self.id >> 4 << 16 | 1 << (self.id & 15);
            return destination == u32::MAX || destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0;
        }
        let destination = destination & 0xff;
        let logical = self.ldr >> 24;
        if destination == 0xff {
            return true;
        }
        match self.dfr >> 28 {
            0xf => destination & logical != 0,
            0 => destination >> 4 == logical >> 4 && destination & logical & 15 != 0,
            _ => false,
        }
    }

    /// Whether a message with a physical destination is for this APIC.
    pub fn matches_physical(&self, destination: u32) -> bool {
        let broadcast = if self.is_x2apic() { u32::MAX } else { 0xff };
        destination == broadcast || destination == 0xff || destination == self.id
    }

    /// Reads a register; `now` is VM time in nanoseconds.
    pub fn read(&mut self, offset: u32, now: u64) -> u32 {
        let word = (offset >> 4 & 7) as usize;
        match offset {
            register::ID => {
                if self.is_x2apic() {
                    self.id
                } else {
                    self.id << 24
                }
            }
            register::VERSION => VERSION,
            register::TPR => self.tpr,
            register::APR => self.arbitration_priority(),
            register::PPR => self.ppr(),
            register::LDR if self.is_x2apic() => self.id >> 4 << 16 | 1 << (self.id & 15),
            register::LDR => self.ldr,
            register::DFR => self.dfr,
            register::SVR => self.svr,
            0x100..0x180 => self.isr[word],
            0x180..0x200 => self.tmr[word],
            0x200..0x280 => self.irr[word],
            register::ESR => self.esr,
            register::ICR => self.icr as u32,
            register::ICR_HIGH => (self.icr >> 32) as u32,
            register::LVT_TIMER..=register::LVT_ERROR => self.lvt[(offset - register::LVT_TIMER) as usize >> 4],
            register::TIMER_INITIAL => self.timer.initial,
            register::TIMER_CURRENT => self.timer.current(self.lvt[0], now),
            register::TIMER_DIVIDE => self.timer.divide,
            register::EOI => 0,
            _ => {
                self.raise_error(error::REGISTER);
                0
            }
        }
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        match offset {
            register::ID => {}
            register::TPR => {
                self.tpr = value & 0xff;
                return Effect::Recheck;
            }
            register::EOI => return self.end_of_interrupt(),
            register::LDR => self.ldr = value & 0xff00_0000,
            register::DFR => self.dfr = value | 0x0fff_ffff,
            register::SVR => {
                self.svr = value & 0x3ff;
                if value & SVR_ENABLED == 0 {
                    self.lvt.iter_mut().for_each(|lvt| *lvt |= LVT_MASKED);
                }
                return Effect::Recheck;
            }
            register::ESR => self.esr = std::mem::take(&mut self.esr_pending),
            register::ICR => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & !(1 << 12));
                return self.checked_send(self.icr);
            }
            register::ICR_HIGH => self.icr = u64::from(value) << 32 | self.icr & 0xffff_ffff,
            register::LVT_TIMER..=register::LVT_ERROR => return self.write_lvt(offset, value),
            register::TIMER_INITIAL => {
                self.timer.start(value, now);
                return Effect::Timer;
            }
            register::TIMER_DIVIDE => {
                self.timer.set_divide(value, self.lvt[0], now);
                return Effect::Timer;
            }
            _ => self.raise_error(error::REGISTER),
        }
        Effect::None
    }

    /// A 64-bit ICR, as x2APIC writes it.
    pub fn write_icr(&mut self, value: u64) -> Effect {
        self.icr = value & !(1 << 12);
        self.checked_send(self.icr)
    }

    fn checked_send(&mut self, icr: u64) -> Effect {
        let (mode, vector) = (icr >> 8 & 7, icr as u8);
        if mode <= 1 && vector < 16 {
            self.raise_error(error::SEND_VECTOR);
            return Effect::None;
        }
        Effect::Send(icr)
    }

    fn write_lvt(&mut self, offset: u32, value: u32) -> Effect {
        let index = (offset - register::LVT_TIMER) as usize >> 4;
        let writable = match offset {
            register::LVT_TIMER => 0x0007_00ff,
            register::LVT_LINT0 | register::LVT_LINT1 => 0x0001_a7ff,
            register::LVT_ERROR => 0x0001_00ff,
            _ => 0x0001_07ff,
        };
        let forced = if self.svr & SVR_ENABLED == 0 { LVT_MASKED } else { 0 };
        let old = std::mem::replace(&mut self.lvt[index], value & writable | forced);
        if offset != register::LVT_TIMER {
            return Effect::Recheck;
        }
        self.timer.mode_changed(old, self.lvt[0]);
        Effect::Timer
    }

    /// The saved form.
    pub fn save(&mut self, now: u64) -> LocalApicState {
        let mut state = LocalApicState::default();
        for offset in (register::ID..=register::SELF_IPI).step_by(16) {
            let readable = matches!(offset, 0x20 | 0x30 | 0x80 | 0xa0 | 0xd0..=0x280 | 0x300..=0x390 | 0x3e0);
            let value = if !readable {
                0
            } else if offset == register::ESR {
                self.esr_pending
            } else if offset == register::LDR {
                self.ldr
            } else {
                self.read(offset, now)
            };
            state.registers[offset as usize..offset as usize + 4].copy_from_slice(&value.to_le_bytes());
        }
        state.tsc_deadline = self.timer.tsc_deadline;
        state.timer_started = self.timer.started;
        state
    }

    /// From the saved form.
    pub fn restore(state: &LocalApicState, base: u64, index: u32, tsc_offset: u64) -> Self {
        let get = |offset: u32| {
            let bytes = &state.registers[offset as usize..offset as usize + 4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let set = |offset: u32| std::array::from_fn(|word| get(offset + 16 * word as u32));
        Self {
            base,
            id: index,
            tpr: get(register::TPR) & 0xff,
            ldr: get(register::LDR),
            dfr: get(register::DFR) | 0x0fff_ffff,
            svr: get(register::SVR) & 0x3ff,
            isr: set(register::ISR),
            tmr: set(register::TMR),
            irr: set(register::IRR),
            esr: 0,
            esr_pending: get(register::ESR),
            icr: u64::from(get(register::ICR_HIGH)) << 32 | u64::from(get(register::ICR)),
            lvt: std::array::from_fn(|index| get(register::LVT_TIMER + 16 * index as u32)),
            timer: timer::ApicTimer {
                initial: get(register::TIMER_INITIAL),
                divide: get(register::TIMER_DIVIDE),
                started: state.timer_started,
                tsc_deadline: state.tsc_deadline,
                tsc_offset,
            },
        }
    }
}
