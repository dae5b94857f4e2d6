//! The synthetic interrupt controller of each VP: message slots, event flags, and the vectors they raise (TLFS 11).

use crate::overlay::PageMsr;
use crate::saved_state::{SavedMessage, SavedSynicVp};
use crate::{SynicError, SynicMessage, SynicPort, msr};
use bulkhead_device::{Msi, MsiSink};
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Interrupt sources of a VP.
pub(crate) const SINTS: usize = 16;
/// Event flags of a source.
const FLAGS: u16 = 2048;
/// Bytes that a source has in each of the two pages.
const AREA: u64 = 256;
/// Most messages that wait for one source of one VP: all offers of a machine full of devices, and then some.
pub(crate) const MAX_WAITING: usize = 4096;

/// State of an interrupt source.
const MASKED: u64 = 1 << 16;
const POLLING: u64 = 1 << 18;
/// A source after reset.
pub(crate) const SINT_RESET: u64 = MASKED;
/// SCONTROL: the SynIC is on.
const ENABLED: u64 = 1;
/// In the second word of a slot, whose bytes are size, flags, and two reserved ones: another message waits.
const PENDING: u32 = 1 << 8;

/// Vectors below 16 are exceptions: no source may raise them.
pub(crate) fn is_legal_sint(value: u64) -> bool {
    value & (MASKED | POLLING) != 0 || value as u8 > 15
}

/// One VP's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SynicVp {
    pub control: u64,
    pub event_page: PageMsr,
    pub message_page: PageMsr,
    pub assist_page: PageMsr,
    pub sints: [u64; SINTS],
    pub waiting: [VecDeque<SynicMessage>; SINTS],
}

impl Default for SynicVp {
    fn default() -> Self {
        Self {
            control: 0,
            event_page: PageMsr::default(),
            message_page: PageMsr::default(),
            assist_page: PageMsr::default(),
            sints: [SINT_RESET; SINTS],
            waiting: Default::default(),
        }
    }
}

impl SynicVp {
    /// The vector that source `sint` raises now.
    fn vector(&self, sint: usize) -> Option<u8> {
        (self.sints[sint] & (MASKED | POLLING) == 0).then_some(self.sints[sint] as u8)
    }

    /// Address of a page that is in use.
    fn active(&self, page: PageMsr) -> Option<u64> {
        page.page().filter(|_| self.control & ENABLED != 0)
    }

    /// Puts the first waiting message into its slot if that is free; whether it did (TLFS 11.9). If it is not, the guest
    /// is told to say when it is.
    fn deliver(&mut self, sint: usize, memory: &GuestMemory) -> bool {
        let Some(page) = self.active(self.message_page) else { return false };
        let slot = page + sint as u64 * AREA;
        let Some(message) = self.waiting[sint].front() else { return false };
        if memory.read_u32(slot) != Ok(0) {
            let _ = memory.fetch_or_u32(slot + 4, PENDING);
            // The guest may have freed the slot before it could see the flag: then nobody would come back.
            if memory.read_u32(slot) != Ok(0) {
                return false;
            }
        }
        let more = if self.waiting[sint].len() > 1 { PENDING } else { 0 };
        let payload = message.payload();
        let written = memory
            .write_u32(slot + 4, payload.len() as u32 | more)
            .and_then(|()| memory.write_u64(slot + 8, message.sender()))
            .and_then(|()| memory.write(slot + 16, payload))
            // Last, with release ordering: the type says that the rest is there.
            .and_then(|()| memory.write_u32(slot, message.message_type()));
        if written.is_ok() {
            self.waiting[sint].pop_front();
        }
        written.is_ok()
    }
}

/// The SynIC of a partition. Cheap to share; see [`SynicPort`] for what others may do with it.
pub struct Synic {
    vps: Vec<Mutex<SynicVp>>,
    memory: GuestMemory,
    interrupts: Arc<dyn MsiSink>,
}

impl Synic {
    pub(crate) fn new(vps: Vec<SynicVp>, memory: GuestMemory, interrupts: Arc<dyn MsiSink>) -> Self {
        Self { vps: vps.into_iter().map(Mutex::new).collect(), memory, interrupts }
    }

    /// RDMSR of VP `index`; `None` is #GP.
    pub(crate) fn msr_read(&self, index: u32, number: u32) -> Option<u64> {
        let vp = self.vps.get(index as usize)?.lock();
        Some(match number {
            msr::VP_ASSIST_PAGE => vp.assist_page.0,
            msr::SCONTROL => vp.control,
            msr::SVERSION => 1,
            msr::SIEFP => vp.event_page.0,
            msr::SIMP => vp.message_page.0,
            msr::EOM => 0,
            msr::SINT0..=msr::SINT15 => vp.sints[(number - msr::SINT0) as usize],
            _ => return None,
        })
    }

    /// WRMSR of VP `index`; `None` is #GP.
    pub(crate) fn msr_write(&self, index: u32, number: u32, value: u64) -> Option<()> {
        if number == msr::EOM {
            self.end_of_message();
            return Some(());
        }
        let mut vp = self.vps.get(index as usize)?.lock();
        let vp = &mut *vp;
        match number {
            msr::VP_ASSIST_PAGE => self.change_page(&mut vp.assist_page, value)?,
            msr::SIEFP => self.change_page(&mut vp.event_page, value)?,
            msr::SIMP => {
                self.change_page(&mut vp.message_page, value)?;
                self.deliver_all(index, vp);
            }
            msr::SCONTROL => {
                vp.control = value;
                self.deliver_all(index, vp);
            }
            msr::SINT0..=msr::SINT15 => {
                if !is_legal_sint(value) {
                    return None;
                }
                let sint = (number - msr::SINT0) as usize;
                vp.sints[sint] = value;
                self.deliver(index, vp, sint);
            }
            _ => return None,
        }
        Some(())
    }

    /// Writes an MSR that names a page. A page that becomes active is cleared: what RAM held before must not be taken for
    /// messages, which would block their slots for ever.
    fn change_page(&self, page: &mut PageMsr, value: u64) -> Option<()> {
        let (new, fresh) = page.written(value, &self.memory)?;
        if let Some(gpa) = fresh {
            self.memory.fill(gpa, PAGE_SIZE, 0).ok()?;
        }
        *page = new;
        Some(())
    }

    /// A slot is free, and not always one of the VP that says so: after a crash, Linux frees the slots of all VPs on the only
    /// one that still runs.
    fn end_of_message(&self) {
        for (index, vp) in (0..).zip(&self.vps) {
            self.deliver_all(index, &mut vp.lock());
        }
    }

    fn deliver_all(&self, index: u32, vp: &mut SynicVp) {
        (0..SINTS).for_each(|sint| self.deliver(index, vp, sint));
    }

    fn deliver(&self, index: u32, vp: &mut SynicVp, sint: usize) {
        if vp.deliver(sint, &self.memory) {
            self.raise(index, vp.vector(sint));
        }
    }

    /// VP indices are APIC ids.
    fn raise(&self, index: u32, vector: Option<u8>) {
        let Some(vector) = vector else { return };
        let address = 0xfee0_0000 | u64::from(index & 0xff) << 12;
        self.interrupts.send_msi(Msi { address, data: u32::from(vector) });
    }

    /// Back to the state after power-on.
    pub(crate) fn reset(&self) {
        for vp in &self.vps {
            *vp.lock() = SynicVp::default();
        }
    }

    pub(crate) fn save(&self) -> Vec<SavedSynicVp> {
        self.vps.iter().map(|vp| SavedSynicVp::from(&*vp.lock())).collect()
    }

    /// One line per VP for people: pages, sources in use, messages that wait.
    pub(crate) fn inspect(&self) -> Vec<serde_json::Value> {
        let one = |vp: &Mutex<SynicVp>| {
            let vp = vp.lock();
            let used = vp.sints.iter().enumerate().filter(|(_, value)| **value != SINT_RESET);
            let sints: serde_json::Map<_, _> =
                used.map(|(n, value)| (n.to_string(), format!("{value:#x}").into())).collect();
            serde_json::json!({
                "control": vp.control,
                "event_page": vp.event_page.page(),
                "message_page": vp.message_page.page(),
                "sints": sints,
                "waiting": vp.waiting.iter().map(VecDeque::len).sum::<usize>(),
            })
        };
        self.vps.iter().map(one).collect()
    }

    fn vp(&self, vp: u32, sint: u8, flag: u16) -> Result<&Mutex<SynicVp>, SynicError> {
        if usize::from(sint) >= SINTS || flag >= FLAGS {
            return Err(SynicError::NoFlag { sint, flag });
        }
        self.vps.get(vp as usize).ok_or(SynicError::NoVp { vp, vps: self.vps.len() as u32 })
    }
}

impl SynicPort for Synic {
    fn post_message(&self, vp: u32, sint: u8, message: &SynicMessage) -> Result<(), SynicError> {
        let mut state = self.vp(vp, sint, 0)?.lock();
        let queue = &mut state.waiting[usize::from(sint)];
        if queue.len() >= MAX_WAITING {
            return Err(SynicError::QueueFull { vp, sint, waiting: queue.len() });
        }
        queue.push_back(message.clone());
        self.deliver(vp, &mut state, usize::from(sint));
        Ok(())
    }

    fn signal_event(&self, vp: u32, sint: u8, flag: u16) -> Result<(), SynicError> {
        let state = self.vp(vp, sint, flag)?.lock();
        let lost = SynicError::Disabled { vp, sint };
        let page = state.active(state.event_page).ok_or(lost)?;
        let word = page + u64::from(sint) * AREA + u64::from(flag / 32) * 4;
        let bit = 1 << (flag % 32);
        let before = self.memory.fetch_or_u32(word, bit).map_err(|_| lost)?;
        if before & bit == 0 {
            self.raise(vp, state.vector(usize::from(sint)));
        }
        Ok(())
    }

    fn discard_messages(&self, sint: u8) {
        for vp in &self.vps {
            if let Some(queue) = vp.lock().waiting.get_mut(usize::from(sint)) {
                queue.clear();
            }
        }
    }
}

impl From<&SynicVp> for SavedSynicVp {
    fn from(vp: &SynicVp) -> Self {
        let waiting = vp.waiting.iter().enumerate().flat_map(|(sint, queue)| {
            queue.iter().map(move |message| SavedMessage {
                sint: sint as u8,
                message_type: message.message_type(),
                sender: message.sender(),
                payload: message.payload().to_vec(),
            })
        });
        Self {
            control: vp.control,
            event_page: vp.event_page.0,
            message_page: vp.message_page.0,
            assist_page: vp.assist_page.0,
            sints: vp.sints.to_vec(),
            waiting: waiting.collect(),
        }
    }
}
