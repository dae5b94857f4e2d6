//! Saved forms of the controllers.

use minicbor::{Decode, Encode};

/// The pair of 8259s.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedPic {
    /// The one at port 20h.
    #[n(0)]
    pub primary: SavedChip,
    /// The one at port A0h.
    #[n(1)]
    pub secondary: SavedChip,
}

/// One 8259.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedChip {
    /// Requests.
    #[n(0)]
    pub irr: u8,
    /// In service.
    #[n(1)]
    pub isr: u8,
    /// Masked.
    #[n(2)]
    pub imr: u8,
    /// Levels of the inputs.
    #[n(3)]
    pub inputs: u8,
    /// Level-triggered inputs.
    #[n(4)]
    pub elcr: u8,
    /// Vector of input 0.
    #[n(5)]
    pub vector_base: u8,
    /// The input with the lowest priority.
    #[n(6)]
    pub lowest: u8,
    /// Which initialization word comes next: 2, 3, 4; 0 when initialized.
    #[n(7)]
    pub next_word: u8,
    /// ICW1: a fourth word comes.
    #[n(8)]
    pub fourth_word: bool,
    /// ICW1: no third word comes.
    #[n(9)]
    pub single: bool,
    /// Automatic end of interrupt.
    #[n(10)]
    pub auto_eoi: bool,
    /// Rotation with automatic end of interrupt.
    #[n(11)]
    pub rotate_on_auto_eoi: bool,
    /// Special mask mode.
    #[n(12)]
    pub special_mask: bool,
    /// Special fully nested mode.
    #[n(13)]
    pub fully_nested: bool,
    /// Port 0 reads the in-service register.
    #[n(14)]
    pub read_isr: bool,
    /// The next read is a poll.
    #[n(15)]
    pub poll: bool,
}

/// The I/O APIC.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedIoapic {
    /// Selected register.
    #[n(0)]
    pub select: u8,
    /// APIC id.
    #[n(1)]
    pub id: u8,
    /// Levels of the inputs, one bit per pin.
    #[n(2)]
    pub inputs: u32,
    /// Redirection entries.
    #[n(3)]
    pub entries: Vec<u64>,
}
