//! Two devices for bare-metal test programs and firmware logs, off unless asked for: [`DebugExit`] (usually at port F4h)
//! ends the VM with a code, [`DebugConsole`] (E9h or 402h) prints bytes. Neither keeps any state.

use bulkhead_device::{Device, PortIo};
use bulkhead_saved_state::{SavedState, SavedStateError};
use minicbor::{Decode, Encode};
use serde_json::json;

const VERSION: u32 = 1;

/// The saved form of both: that they were there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedDebugPort {}

/// Ends the VM. One bank of 4 ports. Reads as zero.
pub struct DebugExit {
    name: String,
    exit: Box<dyn FnMut(u32) + Send>,
}

impl DebugExit {
    const KIND: &str = "debug-exit";

    /// A port that gives what the guest writes (1, 2 or 4 bytes) to `exit`, under the device's lock and on the VP's thread.
    /// By convention the process exits with `value * 2 + 1`.
    pub fn new(name: &str, exit: impl FnMut(u32) + Send + 'static) -> DebugExit {
        DebugExit { name: name.into(), exit: Box::new(exit) }
    }

    /// As [`DebugExit::new`], for a machine that is restored.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        exit: impl FnMut(u32) + Send + 'static,
        state: &SavedState,
    ) -> Result<DebugExit, SavedStateError> {
        let SavedDebugPort {} = state.decode(VERSION..=VERSION)?;
        Ok(DebugExit::new(name, exit))
    }
}

impl Device for DebugExit {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode(Self::KIND, VERSION, &SavedDebugPort {})
    }

    fn inspect(&self) -> serde_json::Value {
        json!({})
    }

    fn reset(&mut self) {}
}

impl PortIo for DebugExit {
    fn port_read(&mut self, _bank: u8, _offset: u16, _size: u8) -> u32 {
        0
    }

    fn port_write(&mut self, _bank: u8, _offset: u16, _size: u8, value: u32) {
        (self.exit)(value);
    }

    fn port_width(&self, _bank: u8) -> u8 {
        4
    }
}

type Print = Box<dyn FnMut(&[u8]) + Send>;

/// Prints. One bank of one port. Reads as E9h, by which programs find it.
pub struct DebugConsole {
    name: String,
    print: Print,
}

impl DebugConsole {
    const KIND: &str = "debug-console";

    /// A port that gives what the guest writes to `print`, under the device's lock and on the VP's thread: it must not block.
    pub fn new(name: &str, print: impl FnMut(&[u8]) + Send + 'static) -> DebugConsole {
        DebugConsole { name: name.into(), print: Box::new(print) }
    }

    /// As [`DebugConsole::new`], for a machine that is restored.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        print: impl FnMut(&[u8]) + Send + 'static,
        state: &SavedState,
    ) -> Result<DebugConsole, SavedStateError> {
        let SavedDebugPort {} = state.decode(VERSION..=VERSION)?;
        Ok(DebugConsole::new(name, print))
    }
}

impl Device for DebugConsole {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode(Self::KIND, VERSION, &SavedDebugPort {})
    }

    fn inspect(&self) -> serde_json::Value {
        json!({})
    }

    fn reset(&mut self) {}
}

impl PortIo for DebugConsole {
    fn port_read(&mut self, _bank: u8, _offset: u16, _size: u8) -> u32 {
        0xe9
    }

    fn port_write(&mut self, _bank: u8, _offset: u16, _size: u8, value: u32) {
        (self.print)(&[value as u8]);
    }

    fn port_write_string(&mut self, _bank: u8, _offset: u16, _size: u8, data: &[u8]) {
        (self.print)(data);
    }
}
