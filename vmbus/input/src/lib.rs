//! Synthetic input devices: [`SynthKeyboard`] (set-1 scan codes) and [`SynthMouse`] (absolute positions, buttons, wheel).
//!
//! Guests drive them with `hyperv_keyboard` and `hid_hyperv`. Both take input only once the guest's driver has opened them;
//! until then whoever has input uses the PS/2 devices.

#[doc(hidden)]
pub mod fuzz;
mod keyboard;
mod mouse;
mod saved_state;

pub use keyboard::{Key, Leds, SynthKeyboard};
pub use mouse::{Buttons, POSITIONS, Pointer, SynthMouse};
pub use saved_state::{SavedKeyboard, SavedMouse};
