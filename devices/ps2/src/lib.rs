//! The i8042 keyboard controller ([`Ps2`]) with a keyboard and a wheel mouse.
//!
//! The guest sees ports 60h and 64h, port 92h, IRQ 1 and IRQ 12. The host gives keys and movements and reads the LEDs.
//! Gate A20 is kept and shown, but moves no memory: address line 20 is always on, as in processors since 2008.
//! Documents: IBM PS/2 Technical Reference (keyboard, auxiliary device, 8042), Microsoft's wheel extension.

mod controller;
#[doc(hidden)]
pub mod fuzz;
mod keyboard;
mod mouse;
mod saved_state;
mod scancode;

pub use controller::Ps2;
pub use keyboard::{Key, Leds};
pub use mouse::{Buttons, Movement};
pub use saved_state::{SavedKeyboard, SavedMouse, SavedPs2};
