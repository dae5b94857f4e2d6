//! Connections to descriptors, on the deterministic twin of the reactor: pipes, files, sockets, slow readers, the filter.

use bulkhead_device::{Line, PortIo};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_serial::{FdPort, Serial};
use parking_lot::Mutex;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

fn port() -> (VirtualReactor, Reactor, Arc<Mutex<Serial>>) {
    let (clock, reactor) = VirtualReactor::new(Time::ZERO, 0).unwrap();
    let serial = Serial::new("serial0", &reactor, Line::unconnected());
    serial.lock().port_write(0, 2, 1, 0x81);
    (clock, reactor, serial)
}

fn send(serial: &Mutex<Serial>, bytes: &[u8]) {
    for byte in bytes {
        serial.lock().port_write(0, 0, 1, u32::from(*byte));
    }
}

fn received(serial: &Mutex<Serial>) -> Vec<u8> {
    let mut serial = serial.lock();
    let mut bytes = Vec::new();
    while serial.port_read(0, 5, 1) & 1 != 0 {
        bytes.push(serial.port_read(0, 0, 1) as u8);
    }
    bytes
}

#[test]
fn pipes_both_ways_and_end_of_input() {
    let (mut clock, reactor, serial) = port();
    let (input, mut to_guest) = std::io::pipe().unwrap();
    let (mut from_guest, output) = std::io::pipe().unwrap();
    FdPort::connect(&serial, &reactor, Some(input.into()), Some(output.into()), None).unwrap();
    to_guest.write_all(b"hello, serial port, this is long").unwrap();
    let mut all = Vec::new();
    while clock.poll_fds() > 0 {
        all.extend(received(&serial));
    }
    assert_eq!(all, b"hello, serial port, this is long");
    drop(to_guest);
    while clock.poll_fds() > 0 {}
    send(&serial, b"still here");
    clock.run_posted();
    let mut text = [0; 10];
    from_guest.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"still here");
    assert_eq!(serial.lock().port_read(0, 6, 1) & 0xb0, 0xb0, "connected");
}

#[test]
fn a_file_takes_output() {
    let (mut clock, reactor, serial) = port();
    let mut file = tempfile::tempfile().unwrap();
    FdPort::connect(&serial, &reactor, None, Some(file.try_clone().unwrap().into()), None).unwrap();
    let text = b"a log line\r\n".repeat(100);
    send(&serial, &text);
    clock.run_posted();
    let mut written = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut written).unwrap();
    assert_eq!(written, text);
}

#[test]
fn a_file_gives_input_as_fast_as_the_guest_reads() {
    let (mut clock, reactor, serial) = port();
    let mut file = tempfile::tempfile().unwrap();
    let text: Vec<u8> = (0..1000u32).map(|number| number as u8).collect();
    file.write_all(&text).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    FdPort::connect(&serial, &reactor, Some(file.into()), None, None).unwrap();
    let mut all = Vec::new();
    for _ in 0..100 {
        clock.run_posted();
        all.extend(received(&serial));
    }
    assert_eq!(all, text);
}

#[test]
fn a_reader_that_does_not_read_stops_the_guest_and_nothing_is_lost() {
    let (mut clock, reactor, serial) = port();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let ours = Arc::new(ours);
    FdPort::connect(&serial, &reactor, None, Some(ours.try_clone().unwrap().into()), None).unwrap();
    let mut sent = 0u32;
    // Sends as long as the port takes bytes.
    while serial.lock().port_read(0, 5, 1) & 0x20 != 0 {
        send(&serial, &[sent as u8]);
        sent += 1;
        if sent.is_multiple_of(1000) {
            clock.run_posted();
        }
    }
    assert!(sent > 64 * 1024);
    theirs.set_nonblocking(true).unwrap();
    let mut all = Vec::new();
    loop {
        match theirs.read_to_end(&mut all) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && clock.poll_fds() > 0 => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && all.len() == sent as usize => break,
            other => panic!("{other:?} after {} of {sent}", all.len()),
        }
    }
    assert!(all.iter().enumerate().all(|(index, byte)| *byte == index as u8));
    assert_eq!(serial.lock().port_read(0, 5, 1) & 0x60, 0x60);
}

#[test]
fn a_socket_serves_one_after_the_other() {
    let (mut clock, reactor, serial) = port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("com1");
    FdPort::listen(&serial, &reactor, UnixListener::bind(&path).unwrap()).unwrap();
    send(&serial, b"lost");
    clock.run_posted();
    for name in ["first", "second"] {
        let mut client = UnixStream::connect(&path).unwrap();
        clock.poll_fds();
        assert_eq!(serial.lock().port_read(0, 6, 1) & 0x88, 0x88, "carrier, changed");
        client.write_all(name.as_bytes()).unwrap();
        clock.poll_fds();
        assert_eq!(received(&serial), name.as_bytes());
        send(&serial, b"reply");
        clock.run_posted();
        let mut reply = [0; 5];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"reply");
        let mut busy = UnixStream::connect(&path).unwrap();
        clock.poll_fds();
        assert_eq!(busy.read(&mut reply).unwrap(), 0, "one at a time");
        drop(client);
        clock.poll_fds();
        assert_eq!(serial.lock().port_read(0, 6, 1) & 0x88, 0x08, "no carrier, changed");
    }
}

#[test]
fn the_filter_takes_keys_out() {
    let (mut clock, reactor, serial) = port();
    let (input, mut to_guest) = std::io::pipe().unwrap();
    let filter = Box::new(|bytes: &mut Vec<u8>| bytes.retain(|byte| *byte != 1));
    let port = FdPort::connect(&serial, &reactor, Some(input.into()), None, Some(filter)).unwrap();
    to_guest.write_all(b"a\x01b").unwrap();
    clock.poll_fds();
    assert_eq!(received(&serial), b"ab");
    port.flush();
}

#[test]
fn flush_needs_no_reactor() {
    let (_clock, reactor, serial) = port();
    let (mut from_guest, output) = std::io::pipe().unwrap();
    let port = FdPort::connect(&serial, &reactor, None, Some(output.into()), None).unwrap();
    send(&serial, b"Power down");
    port.flush();
    let mut text = [0; 10];
    from_guest.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"Power down");
}
