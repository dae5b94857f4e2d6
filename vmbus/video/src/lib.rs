//! Synthetic video: the guest's driver (`hyperv_drm`, `hyperv_fb`) says where its frame buffer is and what shape it has; the
//! host reads the picture from there.
//!
//! | module | what |
//! |---|---|
//! | `message` | the messages, read and written |
//! | `device` | [`SynthVideo`]: negotiation, place and shape of the frame buffer, what changed |
//! | `picture` | pixels and PNG |

mod device;
#[doc(hidden)]
pub mod fuzz;
mod message;
mod picture;
mod saved_state;

pub use device::{SynthVideo, VideoConfig, VideoMemory};
pub use message::Area;
pub use picture::{Picture, PictureError};
pub use saved_state::SavedVideo;
