//! Both ports through the bus.

use bulkhead_debug_ports::{DebugConsole, DebugExit};
use bulkhead_device::{Device, PortBus};
use parking_lot::Mutex;
use std::sync::Arc;

#[test]
fn text_arrives_and_the_exit_code_too() {
    let (text, code) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
    let (ports, printed, exited) = (PortBus::new(), text.clone(), code.clone());
    let console = DebugConsole::new("console", move |bytes| printed.lock().extend_from_slice(bytes));
    let exit = DebugExit::new("exit", move |value| *exited.lock() = Some(value));
    let (console, exit) = (Arc::new(Mutex::new(console)), Arc::new(Mutex::new(exit)));
    ports.map(0xe9..=0xe9, &console, 0).unwrap();
    ports.map(0xf4..=0xf7, &exit, 0).unwrap();
    assert_eq!((ports.read(0xe9, 1), ports.read(0xf4, 1)), (0xe9, 0));
    ports.write(0xe9, 1, u32::from(b'o'));
    ports.write_string(0xe9, 1, b"kay");
    ports.write(0xf4, 4, 0x1234_5678);
    assert_eq!((text.lock().as_slice(), *code.lock()), (&b"okay"[..], Some(0x1234_5678)));
    let state = exit.lock().save().unwrap();
    assert_eq!(DebugExit::restore("exit", |_| {}, &state).unwrap().save().unwrap(), state);
    let state = console.lock().save().unwrap();
    assert_eq!(DebugConsole::restore("console", |_| {}, &state).unwrap().save().unwrap(), state);
}
