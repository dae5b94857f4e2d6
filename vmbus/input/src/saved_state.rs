//! Saved forms of keyboard and mouse.

use minicbor::{Decode, Encode};

/// Version of both forms.
pub(crate) const VERSION: u32 = 1;

/// The keyboard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedKeyboard {
    /// The guest's driver has introduced itself.
    #[n(0)]
    pub ready: bool,
    /// Scroll, Num, Caps from bit 0 on.
    #[n(1)]
    pub leds: u8,
    /// Messages that wait for room in the ring: make code and flags.
    #[n(2)]
    pub unsent: Vec<(u16, u32)>,
    /// A guest's introduction has not been answered for lack of room: whether its version is accepted.
    #[n(3)]
    pub answer: Option<bool>,
}

/// The mouse.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedMouse {
    /// 0 closed, 1 asked for its version, 2 described, 3 in use.
    #[n(0)]
    pub phase: u8,
    /// The last position, horizontal and vertical.
    #[n(1)]
    pub at: (u16, u16),
    /// Left, right, middle, back, forward from bit 0 on.
    #[n(2)]
    pub buttons: u8,
    /// Turns of the wheel that the guest has not been told.
    #[n(3)]
    pub wheel: i16,
    /// The guest does not know the last position.
    #[n(4)]
    pub moved: bool,
    /// The version that the guest asked for and that has not been answered.
    #[n(5)]
    pub asked: Option<u32>,
}
