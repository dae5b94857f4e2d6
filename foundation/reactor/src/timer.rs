//! The handle of one timer.

use crate::Time;
use crate::core::Core;
use crate::timer_queue::{Callback, TimerKey};
use std::sync::Arc;

/// A one-shot timer; its callback may set it again, which makes it periodic. Dropping it cancels it.
///
/// `set`, `cancel` and drop never wait for a callback, so they may be called under the lock that the callback takes. Hence a
/// callback that has just begun may still run after `cancel`: it should look at its device's own state once it has the lock.
pub struct Timer {
    core: Arc<Core>,
    key: TimerKey,
}

impl Timer {
    pub(crate) fn new(core: Arc<Core>, callback: Callback) -> Timer {
        let key = core.state.lock().timers.create(callback);
        Timer { core, key }
    }

    /// Arms the timer for `at`, in place of an earlier deadline. A deadline in the past fires at once, on the loop thread.
    /// A periodic device must keep its deadlines advancing: a callback that always sets a past time keeps the loop busy,
    /// though others that are due still get their turn.
    pub fn set(&self, at: Time) {
        let mut state = self.core.state.lock();
        // A callback that is late again waits behind whoever is due by now, or it would be first for ever.
        let at = if state.timers.is_running(self.key) { at.max(self.core.clock.now()) } else { at };
        state.timers.set(self.key, at);
        self.core.deadline_changed(&mut state, at);
    }

    /// Disarms the timer.
    pub fn cancel(&self) {
        self.core.state.lock().timers.cancel(self.key);
    }

    /// The deadline; `None` while disarmed, also inside the callback.
    pub fn deadline(&self) -> Option<Time> {
        self.core.state.lock().timers.deadline(self.key)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let callback = self.core.state.lock().timers.remove(self.key);
        // Outside the lock: what it captured may own timers itself.
        drop(callback);
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timer").field("deadline", &self.deadline()).finish()
    }
}
