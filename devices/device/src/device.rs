//! The base of every device, and the token with which it reports that it is quiet.

use bulkhead_saved_state::{SavedState, SavedStateError};
use std::sync::Arc;

/// What every device can do. Everything else is an ability of its own.
///
/// Restoring is not here: it is a constructor of the concrete type.
pub trait Device: Send {
    /// Name of this instance, unique in the machine: `serial0`. Also the name of its section in a saved state.
    fn name(&self) -> &str;

    /// The whole state, of a paused device.
    ///
    /// # Errors
    /// `Encode`, which saved types made of plain values never cause.
    fn save(&self) -> Result<SavedState, SavedStateError>;

    /// Readable state for people and tests. Has no side effect; the names are not a stable format.
    fn inspect(&self) -> serde_json::Value;

    /// The hardware reset signal: back to the state after power-on, except for what a battery or the outside keeps.
    fn reset(&mut self);

    /// The VM starts or goes on. Called once before the first VP runs, and after each pause.
    fn start(&mut self) {}

    /// The VM stops for a while: begin no new work and drop `quiet` when nothing is in flight any more. Timers need no
    /// care, because VM time stands still.
    fn pause(&mut self, quiet: QuiesceToken) {
        drop(quiet);
    }
}

/// Held by devices that still have work in flight after [`Device::pause`]. When the last clone is dropped, all are quiet.
#[derive(Clone)]
pub struct QuiesceToken {
    _shared: Arc<OnDrop>,
}

impl QuiesceToken {
    /// `all_quiet` runs once, on the thread that drops the last clone, possibly under a device's lock.
    pub fn new(all_quiet: impl FnOnce() + Send + Sync + 'static) -> QuiesceToken {
        QuiesceToken { _shared: Arc::new(OnDrop(Some(Box::new(all_quiet)))) }
    }
}

impl std::fmt::Debug for QuiesceToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuiesceToken")
    }
}

struct OnDrop(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(all_quiet) = self.0.take() {
            all_quiet();
        }
    }
}
