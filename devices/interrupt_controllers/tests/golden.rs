//! The saved forms have not changed.

use bulkhead_device::{Device, Line, Msi, MsiSink};
use bulkhead_interrupt_controllers::{Ioapic, Pic, SavedChip, SavedIoapic, SavedPic};
use bulkhead_saved_state::{SavedState, golden};
use std::sync::Arc;

struct Nowhere;

impl MsiSink for Nowhere {
    fn send_msi(&self, _msi: Msi) {}
}

#[test]
fn pic() {
    let chip = SavedChip {
        irr: 0x10,
        isr: 0x04,
        imr: 0xb8,
        inputs: 0x11,
        vector_base: 0x30,
        lowest: 7,
        ..SavedChip::default()
    };
    let secondary =
        SavedChip { elcr: 0x0c, next_word: 3, fourth_word: true, auto_eoi: true, poll: true, ..chip.clone() };
    let state = SavedState::encode("pic", 1, &SavedPic { primary: chip, secondary }).unwrap();
    golden::check("tests/golden/pic-1.state", state.body());
    assert_eq!(Pic::restore("pic", Line::unconnected(), &state).unwrap().save().unwrap(), state);
}

#[test]
fn ioapic() {
    let entries = (0..24).map(|pin| 0x0100_0000_0001_0930 + pin).collect();
    let state = SavedState::encode("ioapic", 1, &SavedIoapic { select: 0x18, id: 2, inputs: 0x400, entries }).unwrap();
    golden::check("tests/golden/ioapic-1.state", state.body());
    assert_eq!(Ioapic::restore("ioapic", Arc::new(Nowhere), &state).unwrap().save().unwrap(), state);
}
