//! A VGA with the Bochs display interface, as a PCI function (1234:1111).
//!
//! The guest sees the VGA of old (ports 3B4h–3DAh, window A0000h–BFFFFh) and the interface of Bochs (ports 1CEh/1CFh, or
//! BAR 2; 16 MiB of video memory at BAR 0), which the `vgabios-stdvga` option ROM and Linux (`bochs-drm`, `vgacon`) drive.
//! Sources: IBM VGA technical reference as in "Hardware Level VGA and SVGA Video Programming" (FreeVGA), QEMU
//! `docs/specs/standard-vga.rst`, Bochs `vbe_display_api.txt`.
//!
//! The host reads the screen as [`Picture`] or PNG, in text modes also as text, and asks what changed ([`Changes`]).
//!
//! Video memory is stored with its four planes interleaved: byte `a` of plane `p` is at `4 * a + p`. So the 256-colour
//! modes, chained or not, are linear, and a planar access is one 32-bit word.
//!
//! | module | holds |
//! |---|---|
//! | `device` | ports, PCI function, saving |
//! | `registers` | sequencer, CRT controller, graphics and attribute controllers, palette |
//! | `dispi` | the Bochs display interface |
//! | `memory` | video memory, the window, what was written |
//! | `mode`, `render` | what is shown, and its pixels |

mod code_page;
mod device;
mod dispi;
#[doc(hidden)]
pub mod fuzz;
mod memory;
mod mode;
mod picture;
mod registers;
mod render;
mod saved_state;

pub use device::{Vga, VgaError, Wiring};
pub use picture::{Changes, Picture};
