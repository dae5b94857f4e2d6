//! The two serial ports.

use serde::{Deserialize, Serialize};

/// A serial port that the VM has. Ports that are not listed do not exist and cost nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialPort {
    /// 1 for COM1, 2 for COM2.
    pub port: u8,
    /// Where its other end is.
    pub connection: SerialConnection,
}

/// The other end of a serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SerialConnection {
    /// Nobody: output vanishes.
    None,
    /// Standard input and output of whoever started the worker.
    Stdio,
    /// Output goes to a file.
    File(String),
    /// A Unix socket at which one client at a time may connect.
    Unix(String),
}

impl SerialPort {
    /// The resource that carries the port's input and output: what a starter passes beside the description.
    pub fn resource(&self) -> String {
        format!("serial{}", self.port)
    }

    /// The second resource of a [`SerialConnection::Stdio`] port: where it reads from.
    pub fn input_resource(&self) -> String {
        format!("serial{}.input", self.port)
    }
}
