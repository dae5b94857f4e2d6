//! What a guest may ask of the whole machine through a device: reset, power-off, sleep.

/// A guest's request to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Reset everything: keyboard controller, port 92h, reset control register, ACPI reset.
    Reset,
    /// ACPI S5.
    PowerOff,
    /// Another sleep type: the number that the firmware's `\_Sx` object gives to a sleep state.
    Sleep(u8),
}

/// Takes such requests. Called under the asking device's lock and on a VP's thread, so it only notes the request: the VP
/// has to stop before its next instruction, and devices are reset after that.
pub trait PowerSink: Send + Sync {
    /// Notes the request.
    fn request(&self, request: PowerRequest);
}
