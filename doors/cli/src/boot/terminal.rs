//! The terminal while a guest has it: every key goes to the guest, and everything is put back afterwards.

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

/// Standard input in raw mode, until dropped. Nothing happens if it is no terminal.
pub struct RawTerminal {
    saved: Option<Termios>,
}

impl RawTerminal {
    /// Switches to raw mode.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn enter() -> Result<RawTerminal> {
        let input = std::io::stdin();
        if !isatty(&input) {
            return Ok(RawTerminal { saved: None });
        }
        let saved = tcgetattr(&input).context("cannot read the terminal's settings")?;
        let mut raw = saved.clone();
        raw.make_raw();
        // Output stays as it is: our own messages must not run down like stairs.
        raw.output_modes = saved.output_modes;
        tcsetattr(&input, OptionalActions::Now, &raw).context("cannot set the terminal")?;
        Ok(RawTerminal { saved: Some(saved) })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // Nobody is left to tell.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, saved);
        }
    }
}
