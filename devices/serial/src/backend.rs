//! What a serial port is connected to.

/// Takes what the guest sends. Input goes the other way: the backend calls [`Serial::receive`](crate::Serial::receive).
///
/// Called under the port's lock, from any thread, so it must not block and must not call the port.
pub trait SerialBackend: Send {
    /// Takes bytes from the front of `bytes` and says how many. When it takes fewer, it calls
    /// [`Serial::resume_output`](crate::Serial::resume_output) once it can take more.
    fn send(&mut self, bytes: &[u8]) -> usize;

    /// The port has room for input again, after [`Serial::room`](crate::Serial::room) was 0.
    fn input_wanted(&mut self) {}
}

/// Levels of the modem's lines towards the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModemInputs {
    /// Clear to send.
    pub clear_to_send: bool,
    /// Data set ready.
    pub data_set_ready: bool,
    /// Ring indicator.
    pub ring: bool,
    /// Data carrier detect.
    pub carrier: bool,
}

impl ModemInputs {
    /// Nobody at the other end.
    pub const DISCONNECTED: ModemInputs =
        ModemInputs { clear_to_send: false, data_set_ready: false, ring: false, carrier: false };
    /// Somebody who listens.
    pub const CONNECTED: ModemInputs =
        ModemInputs { clear_to_send: true, data_set_ready: true, ring: false, carrier: true };
}
