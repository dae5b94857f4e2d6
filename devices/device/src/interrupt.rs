//! Ways from interrupt controllers to the processors other than lines.

/// A message-signalled interrupt (Intel SDM vol. 3, 11.11): a write of `data` to `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msi {
    /// `0xfee0_0000` with destination, redirection hint and destination mode.
    pub address: u64,
    /// Vector, delivery mode, level, trigger mode.
    pub data: u32,
}

/// Delivers messages to the local APICs.
pub trait MsiSink: Send + Sync {
    /// Delivers one. Messages that no APIC accepts are lost.
    fn send_msi(&self, msi: Msi);
}

/// What answers the processor's acknowledge cycle for ExtINT: the PIC.
pub trait ExtIntSource: Send + Sync {
    /// The vector to take now, or `None` when nothing asks (any more).
    fn acknowledge(&self) -> Option<u8>;
}
