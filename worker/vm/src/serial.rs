//! The other ends of the serial ports.

use crate::control::Input;
use anyhow::{Context, Result};
use bulkhead_machine::{Machine, Resources};
use bulkhead_reactor::Reactor;
use bulkhead_serial::{FdPort, InputFilter};
use bulkhead_vm_description::{SerialConnection, VmDescription};
use crossbeam_channel::Sender;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

/// Connects every serial port that has another end.
///
/// # Errors
/// A descriptor was not passed or cannot be watched.
pub fn connect(
    vm: &VmDescription,
    machine: &Machine,
    resources: &mut Resources,
    reactor: &Reactor,
    inputs: &Sender<Input>,
) -> Result<Vec<FdPort>> {
    let mut ports = Vec::new();
    for serial in &vm.serial {
        let Some(device) = machine.handles().serial[usize::from(serial.port) - 1].clone() else { continue };
        let mut take = |name: String| -> Result<OwnedFd> {
            let file = resources.take_file(&name);
            Ok(file
                .with_context(|| format!("serial port {}: the descriptor {name} was not passed", serial.port))?
                .into())
        };
        let port = match &serial.connection {
            SerialConnection::None => continue,
            SerialConnection::Stdio => {
                let (output, input) = (take(serial.resource())?, take(serial.input_resource())?);
                let inputs = inputs.clone();
                let filter = escape_filter(move || drop(inputs.send(Input::EscapeKey)));
                FdPort::connect(&device, reactor, Some(input), Some(output), Some(filter))
            }
            SerialConnection::File(_) => FdPort::connect(&device, reactor, None, Some(take(serial.resource())?), None),
            SerialConnection::Unix(_) => FdPort::listen(&device, reactor, UnixListener::from(take(serial.resource())?)),
        };
        ports.push(port.with_context(|| format!("serial port {} cannot be connected", serial.port))?);
    }
    Ok(ports)
}

/// Ctrl-A, then X ends the VM; Ctrl-A twice is one Ctrl-A for the guest; Ctrl-A and anything else is passed on.
fn escape_filter(end: impl Fn() + Send + 'static) -> InputFilter {
    const CTRL_A: u8 = 1;
    let mut escaped = false;
    Box::new(move |bytes| {
        let mut passed = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes.iter() {
            match (std::mem::take(&mut escaped), byte) {
                (false, CTRL_A) => escaped = true,
                (false, _) => passed.push(byte),
                (true, b'x' | b'X') => end(),
                (true, CTRL_A) => passed.push(CTRL_A),
                (true, _) => passed.extend([CTRL_A, byte]),
            }
        }
        *bytes = passed;
    })
}

#[cfg(test)]
mod tests {
    use super::escape_filter;

    #[test]
    fn the_escape_key_ends_the_vm_and_can_be_typed() {
        let (sender, ended) = crossbeam_channel::unbounded();
        let mut filter = escape_filter(move || sender.send(()).unwrap());
        let mut through = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            filter(&mut bytes);
            bytes
        };
        assert_eq!(through(b"ls\r"), b"ls\r");
        assert_eq!(through(b"\x01"), b"");
        assert_eq!(through(b"\x01\x01c"), b"\x01\x01c");
        assert!(ended.is_empty());
        assert_eq!(through(b"a\x01"), b"a");
        assert_eq!(through(b"xb"), b"b");
        assert_eq!(ended.len(), 1);
    }
}
