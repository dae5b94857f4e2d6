//! Saved state: a file of named, versioned, checksummed sections with CBOR bodies. The rules: `docs/reference/saved-state.md`.

mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod golden;
mod layout;
mod reader;
mod state;
mod writer;

pub use error::{Corruption, SavedStateError};
pub use layout::{MAX_BODY, MAX_FILE, MAX_NAME, MAX_SECTIONS};
pub use reader::{SavedFile, Section};
pub use state::SavedState;
pub use writer::SaveWriter;
