//! The saved form of the interface, kind `hyperv`, version 1. The pages that guests lend are saved with RAM.

use crate::SynicMessage;
use crate::overlay::PageMsr;
use crate::synic::{MAX_WAITING, SINTS, SynicVp, is_legal_sint};
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};
use bulkhead_saved_state::SavedStateError;
use minicbor::{Decode, Encode};

/// Section kind.
pub(crate) const KIND: &str = "hyperv";
/// Version that this build writes.
pub(crate) const VERSION: u32 = 1;

/// The partition's part.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedHyperV {
    #[n(0)]
    pub guest_os_id: u64,
    #[n(1)]
    pub hypercall: u64,
    /// What the hypercall page replaced; empty while it is off.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub replaced: Vec<u8>,
    #[n(3)]
    pub reference_tsc: u64,
    #[n(4)]
    pub crash_parameters: Vec<u64>,
    #[n(5)]
    pub vps: Vec<SavedSynicVp>,
}

/// One VP's SynIC.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedSynicVp {
    #[n(0)]
    pub control: u64,
    #[n(1)]
    pub event_page: u64,
    #[n(2)]
    pub message_page: u64,
    #[n(3)]
    pub assist_page: u64,
    #[n(4)]
    pub sints: Vec<u64>,
    /// In order of arrival per source.
    #[n(5)]
    pub waiting: Vec<SavedMessage>,
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedMessage {
    #[n(0)]
    pub sint: u8,
    #[n(1)]
    pub message_type: u32,
    #[n(2)]
    pub sender: u64,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub payload: Vec<u8>,
}

/// The error for a value that no interface has.
pub(crate) fn bad(what: &str) -> SavedStateError {
    let source = minicbor::decode::Error::message(what);
    SavedStateError::Decode { kind: KIND.into(), version: VERSION, source }
}

/// A page MSR whose page is RAM, or off.
pub(crate) fn page(value: u64, memory: &GuestMemory) -> Result<PageMsr, SavedStateError> {
    let msr = PageMsr(value);
    match msr.page() {
        Some(gpa) if memory.check(gpa, PAGE_SIZE).is_err() => Err(bad("a page is not in this VM's RAM")),
        _ => Ok(msr),
    }
}

impl SavedSynicVp {
    /// The live form.
    pub fn restore(self, memory: &GuestMemory) -> Result<SynicVp, SavedStateError> {
        let mut vp = SynicVp {
            control: self.control,
            event_page: page(self.event_page, memory)?,
            message_page: page(self.message_page, memory)?,
            assist_page: page(self.assist_page, memory)?,
            sints: self.sints.try_into().map_err(|_: Vec<_>| bad("a SynIC has not 16 sources"))?,
            waiting: Default::default(),
        };
        if !vp.sints.iter().all(|&sint| is_legal_sint(sint)) {
            return Err(bad("an interrupt source raises an exception's vector"));
        }
        for saved in self.waiting {
            let message = SynicMessage::new(saved.message_type, saved.sender, &saved.payload);
            let message = message.map_err(|error| bad(&error.to_string()))?;
            let queue = vp.waiting.get_mut(usize::from(saved.sint).min(SINTS));
            let queue = queue.filter(|queue| queue.len() < MAX_WAITING);
            queue.ok_or_else(|| bad("a message waits for no source, or too many for one"))?.push_back(message);
        }
        Ok(vp)
    }
}
