//! Saved forms of the controller, the keyboard and the mouse.

use minicbor::{Decode, Encode};

/// The controller with both devices.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedPs2 {
    /// The controller's 32 bytes of memory; byte 0 is the command byte.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub memory: Vec<u8>,
    /// The command whose parameter comes next.
    #[n(1)]
    pub command: Option<u8>,
    /// The last byte written was a command.
    #[n(2)]
    pub last_was_command: bool,
    /// The output buffer: the byte, whether it is unread, and whether it comes from the mouse.
    #[n(3)]
    pub output: (u8, bool, bool),
    /// The controller's own bytes that follow, each with "for the mouse".
    #[n(4)]
    pub replies: Vec<(u8, bool)>,
    /// A break prefix was translated away.
    #[n(5)]
    pub break_prefix: bool,
    /// Gate A20.
    #[n(6)]
    pub a20: bool,
    /// The self-test has run.
    #[n(9)]
    pub tested: bool,
    /// The keyboard.
    #[n(7)]
    pub keyboard: SavedKeyboard,
    /// The mouse.
    #[n(8)]
    pub mouse: SavedMouse,
}

/// The keyboard.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedKeyboard {
    /// Answers to commands.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub replies: Vec<u8>,
    /// Scan codes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub keys: Vec<u8>,
    /// The command whose parameter comes next.
    #[n(2)]
    pub command: Option<u8>,
    /// Scan code set, 1 or 2.
    #[n(3)]
    pub set: u8,
    /// Keys are reported.
    #[n(4)]
    pub scanning: bool,
    /// Scroll, Num, Caps from bit 0 on.
    #[n(5)]
    pub leds: u8,
    /// The byte to send again.
    #[n(6)]
    pub last: u8,
}

/// The mouse.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedMouse {
    /// Answers to commands.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub replies: Vec<u8>,
    /// Packets.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub packets: Vec<u8>,
    /// The command whose parameter comes next.
    #[n(2)]
    pub command: Option<u8>,
    /// Movements are reported.
    #[n(3)]
    pub reporting: bool,
    /// Remote mode.
    #[n(4)]
    pub remote: bool,
    /// Wrap mode.
    #[n(5)]
    pub wrap: bool,
    /// Scaling 2:1.
    #[n(6)]
    pub doubled: bool,
    /// Resolution.
    #[n(7)]
    pub resolution: u8,
    /// Sample rate.
    #[n(8)]
    pub rate: u8,
    /// The last three sample rates.
    #[n(9)]
    pub rates: [u8; 3],
    /// 0, 3 (wheel) or 4 (five buttons).
    #[n(10)]
    pub id: u8,
    /// Left, right, middle, back, forward from bit 0 on.
    #[n(11)]
    pub buttons: u8,
    /// The buttons of the last packet.
    #[n(12)]
    pub reported_buttons: u8,
    /// Right, up and wheel, not reported yet.
    #[n(13)]
    pub moved: [i32; 3],
    /// The byte to send again.
    #[n(14)]
    pub last: u8,
}
