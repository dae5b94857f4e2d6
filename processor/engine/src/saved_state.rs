//! The saved form of [`VpState`], kind `vp`, version 1: its own types, explicit field numbers.

use minicbor::{Decode, Encode};

use crate::{
    Activity, DescriptorTable, EngineError, InterruptShadow, LocalApicState, PendingException, Segment, VpState,
};

/// Section kind in a saved-state file.
pub const KIND: &str = "vp";
/// Version that this build writes.
pub const VERSION: u32 = 1;

/// A segment register.
#[derive(Debug, Encode, Decode)]
struct SavedSegment {
    #[n(0)]
    base: u64,
    #[n(1)]
    limit: u32,
    #[n(2)]
    selector: u16,
    #[n(3)]
    attributes: u16,
}

/// An exception that waits.
#[derive(Debug, Encode, Decode)]
struct SavedException {
    #[n(0)]
    vector: u8,
    #[n(1)]
    error_code: Option<u32>,
    #[n(2)]
    payload: u64,
}

/// One VP as it stands in a saved-state file.
#[derive(Debug, Encode, Decode)]
pub struct SavedVp {
    #[n(0)]
    gpr: Vec<u64>,
    #[n(1)]
    rip: u64,
    #[n(2)]
    rflags: u64,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    #[n(3)]
    segments: Vec<SavedSegment>,
    /// (base, limit) of GDTR and IDTR.
    #[n(4)]
    tables: Vec<(u64, u16)>,
    /// CR0, CR2, CR3, CR4.
    #[n(5)]
    cr: Vec<u64>,
    #[n(6)]
    dr: Vec<u64>,
    #[n(7)]
    efer: u64,
    #[n(8)]
    xcr0: u64,
    #[cbor(n(9), with = "minicbor::bytes")]
    xsave: Vec<u8>,
    #[n(10)]
    msrs: Vec<(u32, u64)>,
    #[n(11)]
    apic_base: u64,
    #[cbor(n(12), with = "minicbor::bytes")]
    apic_registers: Vec<u8>,
    #[n(13)]
    apic_tsc_deadline: u64,
    #[n(14)]
    apic_timer_started: u64,
    #[n(15)]
    tsc_offset: u64,
    /// 0 running, 1 halted, 2 waiting for SIPI, 3 shutdown.
    #[n(16)]
    activity: u8,
    /// 0 none, 1 STI, 2 MOV SS.
    #[n(17)]
    shadow: u8,
    #[n(18)]
    nmi_blocked: bool,
    #[n(19)]
    nmi_pending: bool,
    #[n(20)]
    pending_exception: Option<SavedException>,
}

impl From<&VpState> for SavedVp {
    fn from(state: &VpState) -> Self {
        let segments = state.segments.iter().chain([&state.ldtr, &state.tr]);
        Self {
            gpr: state.gpr.to_vec(),
            rip: state.rip,
            rflags: state.rflags,
            segments: segments.map(save_segment).collect(),
            tables: [state.gdtr, state.idtr].map(|table| (table.base, table.limit)).to_vec(),
            cr: vec![state.cr0, state.cr2, state.cr3, state.cr4],
            dr: state.dr.to_vec(),
            efer: state.efer,
            xcr0: state.xcr0,
            xsave: state.xsave.to_vec(),
            msrs: state.msrs.clone(),
            apic_base: state.apic_base,
            apic_registers: state.apic.registers.to_vec(),
            apic_tsc_deadline: state.apic.tsc_deadline,
            apic_timer_started: state.apic.timer_started,
            tsc_offset: state.tsc_offset,
            activity: match state.activity {
                Activity::Running => 0,
                Activity::Halted => 1,
                Activity::WaitForSipi => 2,
                Activity::Shutdown => 3,
            },
            shadow: match state.shadow {
                InterruptShadow::None => 0,
                InterruptShadow::Sti => 1,
                InterruptShadow::MovSs => 2,
            },
            nmi_blocked: state.nmi_blocked,
            nmi_pending: state.nmi_pending,
            pending_exception: state.pending_exception.map(|exception| SavedException {
                vector: exception.vector,
                error_code: exception.error_code,
                payload: exception.payload,
            }),
        }
    }
}

impl SavedVp {
    /// The live state of VP `index`; an error names the field that no VP can have.
    pub fn restore(self, index: u32) -> Result<VpState, EngineError> {
        let bad = |field: &str| EngineError::BadState { index, reason: format!("{field} has a wrong length or value") };
        let segments: [SavedSegment; 8] = self.segments.try_into().map_err(|_: Vec<_>| bad("segments"))?;
        let [es, cs, ss, ds, fs, gs, ldtr, tr] = segments.map(restore_segment);
        let [gdtr, idtr]: [(u64, u16); 2] = self.tables.try_into().map_err(|_: Vec<_>| bad("tables"))?;
        let [cr0, cr2, cr3, cr4]: [u64; 4] = self.cr.try_into().map_err(|_: Vec<_>| bad("cr"))?;
        if !self.msrs.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(bad("msrs"));
        }
        let table = |(base, limit)| DescriptorTable { base, limit };
        Ok(VpState {
            gpr: self.gpr.try_into().map_err(|_: Vec<_>| bad("gpr"))?,
            rip: self.rip,
            rflags: self.rflags,
            segments: [es, cs, ss, ds, fs, gs],
            ldtr,
            tr,
            gdtr: table(gdtr),
            idtr: table(idtr),
            cr0,
            cr2,
            cr3,
            cr4,
            dr: self.dr.try_into().map_err(|_: Vec<_>| bad("dr"))?,
            efer: self.efer,
            xcr0: self.xcr0,
            xsave: self.xsave.into_boxed_slice().try_into().map_err(|_: Box<_>| bad("xsave"))?,
            msrs: self.msrs,
            apic_base: self.apic_base,
            apic: LocalApicState {
                registers: self.apic_registers.into_boxed_slice().try_into().map_err(|_: Box<_>| bad("apic"))?,
                tsc_deadline: self.apic_tsc_deadline,
                timer_started: self.apic_timer_started,
            },
            tsc_offset: self.tsc_offset,
            activity: match self.activity {
                0 => Activity::Running,
                1 => Activity::Halted,
                2 => Activity::WaitForSipi,
                3 => Activity::Shutdown,
                _ => return Err(bad("activity")),
            },
            shadow: match self.shadow {
                0 => InterruptShadow::None,
                1 => InterruptShadow::Sti,
                2 => InterruptShadow::MovSs,
                _ => return Err(bad("shadow")),
            },
            nmi_blocked: self.nmi_blocked,
            nmi_pending: self.nmi_pending,
            pending_exception: self.pending_exception.map(|saved| PendingException {
                vector: saved.vector,
                error_code: saved.error_code,
                payload: saved.payload,
            }),
        })
    }
}

fn save_segment(segment: &Segment) -> SavedSegment {
    SavedSegment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        attributes: segment.attributes,
    }
}

fn restore_segment(saved: SavedSegment) -> Segment {
    Segment { base: saved.base, limit: saved.limit, selector: saved.selector, attributes: saved.attributes }
}
