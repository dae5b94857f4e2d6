//! The saved form of a unit, part of its transport's.

use crate::unit::MediaEvent;
use crate::{LogicalUnit, Sense};
use minicbor::{Decode, Encode};

/// State of a unit that its guest changed. Medium and identity come from the VM description.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedUnit {
    #[n(0)]
    attention: u8,
    /// Key, code and qualifier.
    #[n(1)]
    held: Option<(u8, u8, u8)>,
    #[n(2)]
    locked: bool,
    #[n(3)]
    tray_open: bool,
    #[n(4)]
    event: SavedEvent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
enum SavedEvent {
    #[n(0)]
    None,
    #[n(1)]
    EjectRequest,
    #[n(2)]
    NewMedium,
    #[n(3)]
    Removed,
}

impl SavedUnit {
    pub(crate) fn of(unit: &LogicalUnit) -> SavedUnit {
        SavedUnit {
            attention: unit.attention,
            held: unit.held.map(|Sense { key, code, qualifier }| (key, code, qualifier)),
            locked: unit.locked,
            tray_open: unit.tray_open,
            event: match unit.event {
                MediaEvent::None => SavedEvent::None,
                MediaEvent::EjectRequest => SavedEvent::EjectRequest,
                MediaEvent::NewMedium => SavedEvent::NewMedium,
                MediaEvent::Removed => SavedEvent::Removed,
            },
        }
    }

    pub(crate) fn apply(&self, unit: &mut LogicalUnit) {
        unit.attention = self.attention;
        unit.held = self.held.map(|(key, code, qualifier)| Sense::new(key & 0xf, code, qualifier));
        unit.locked = self.locked;
        unit.tray_open = self.tray_open;
        unit.event = match self.event {
            SavedEvent::None => MediaEvent::None,
            SavedEvent::EjectRequest => MediaEvent::EjectRequest,
            SavedEvent::NewMedium => MediaEvent::NewMedium,
            SavedEvent::Removed => MediaEvent::Removed,
        };
    }
}
