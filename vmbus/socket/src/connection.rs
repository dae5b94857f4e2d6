//! One connection: a channel of the guest and a Unix socket of the host, bytes both ways, each with its own end.

use crate::frame::{self, HEADER, MAX_DATA};
use bulkhead_device::QuiesceToken;
use bulkhead_reactor::{Interest, Reactor, Timer, Watch};
use bulkhead_vmbus_channel::{Channel, ChannelDevice, OpenRefused, Outgoing, Packet};
use parking_lot::Mutex;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A guest without a listener never answers.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Descriptor, our header and trailer in front of and behind the data in the ring.
const OVERHEAD: usize = 16 + HEADER + 8;
/// Less room is not worth a packet while the guest has much to read.
const MIN_ROOM: usize = OVERHEAD + 2048;
/// Packets each way in one turn of the loop.
const TURN: usize = 64;

/// A connection.
pub struct Connection {
    reactor: Reactor,
    paused: Arc<AtomicBool>,
    channel: Option<Channel>,
    stream: UnixStream,
    /// Set once the connection is in its place.
    watch: Option<Watch>,
    /// Gives up when the guest does not open the channel.
    _patience: Timer,
    packet: Packet,
    buffer: Vec<u8>,
    /// Data of the guest that the socket had no room for, from an offset on.
    to_host: (Vec<u8>, usize),
    guest_ended: bool,
    host_ended: bool,
    end_sent: bool,
    write_closed: bool,
    /// The host's end is gone: what the guest sends is thrown away.
    host_gone: bool,
    ended: Option<Box<dyn FnOnce() + Send>>,
}

impl Connection {
    /// A connection between `stream` and a channel that the guest will open. `ended` is called once, on the loop.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn new(
        reactor: &Reactor,
        paused: Arc<AtomicBool>,
        stream: UnixStream,
        ended: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Arc<Mutex<Connection>>> {
        stream.set_nonblocking(true)?;
        let connection = Arc::new_cyclic(|weak: &std::sync::Weak<Mutex<Connection>>| {
            let weak = weak.clone();
            let patience = reactor.timer(move |_| {
                if let Some(connection) = weak.upgrade() {
                    let mut connection = connection.lock();
                    if connection.channel.is_none() {
                        connection.end();
                    }
                }
            });
            patience.set(reactor.now() + OPEN_WITHIN);
            Mutex::new(Connection {
                reactor: reactor.clone(),
                paused,
                channel: None,
                stream,
                watch: None,
                _patience: patience,
                packet: Packet::default(),
                buffer: vec![0; HEADER + MAX_DATA],
                to_host: (Vec::new(), 0),
                guest_ended: false,
                host_ended: false,
                end_sent: false,
                write_closed: false,
                host_gone: false,
                ended: Some(ended),
            })
        });
        let weak = Arc::downgrade(&connection);
        let mut guard = connection.lock();
        let watch = reactor.watch(&guard.stream, Interest::NONE, move |_| {
            if let Some(connection) = weak.upgrade() {
                connection.lock().pump();
            }
        })?;
        guard.watch = Some(watch);
        drop(guard);
        Ok(connection)
    }

    /// Moves what can be moved.
    fn pump(&mut self) {
        let mut interest = Interest::NONE;
        if let Some(mut channel) = self.channel.take() {
            if !self.paused.load(Ordering::SeqCst) {
                let again =
                    self.send_to_host(&mut channel, &mut interest) | self.send_to_guest(&mut channel, &mut interest);
                if again {
                    channel.wake();
                }
                if channel.is_broken() || self.guest_ended && self.end_sent && self.to_host.0.is_empty() {
                    self.end();
                }
            }
            self.channel = Some(channel);
        }
        if self.ended.is_none() {
            interest = Interest::NONE;
        }
        if let Some(watch) = &self.watch
            && watch.set_interest(interest).is_err()
        {
            self.end();
        }
    }

    /// Guest to host. True when there may be more.
    fn send_to_host(&mut self, channel: &mut Channel, interest: &mut Interest) -> bool {
        for _ in 0..TURN {
            if !self.write_out() {
                interest.write = true;
                return false;
            }
            if self.guest_ended {
                if !std::mem::replace(&mut self.write_closed, true) {
                    // Fails when the other end is gone, and then it needs no end.
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
                return false;
            }
            if !channel.receive_into(&mut self.packet) {
                return false;
            }
            match frame::data(self.packet.payload()) {
                Ok([]) => self.guest_ended = true,
                Ok(_) if self.host_gone => {}
                Ok(data) => {
                    self.to_host.0.extend_from_slice(data);
                }
                Err(error) => channel.fail(&error),
            }
        }
        true
    }

    /// Writes what waits for the host. False when the socket is full.
    fn write_out(&mut self) -> bool {
        let (data, done) = &mut self.to_host;
        while *done < data.len() {
            match self.stream.write(&data[*done..]) {
                Ok(written) if written > 0 => *done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                _ => {
                    self.host_gone = true;
                    break;
                }
            }
        }
        data.clear();
        *done = 0;
        true
    }

    /// Host to guest. True when there may be more.
    fn send_to_guest(&mut self, channel: &mut Channel, interest: &mut Interest) -> bool {
        for _ in 0..TURN {
            if self.end_sent {
                return false;
            }
            if self.host_ended {
                self.end_sent = channel.reserve(OVERHEAD) && send(channel, &frame::header(0));
                channel.flush();
                return false;
            }
            let room = channel.room() as usize;
            if room < MIN_ROOM && !channel.reserve(MIN_ROOM) {
                channel.flush();
                return false;
            }
            // Packets are padded to 8 bytes.
            let most = MAX_DATA.min((room.max(MIN_ROOM) - OVERHEAD) & !7);
            match self.stream.read(&mut self.buffer[HEADER..HEADER + most]) {
                Ok(0) => self.host_ended = true,
                Ok(len) => {
                    self.buffer[..HEADER].copy_from_slice(&frame::header(len));
                    if !send(channel, &self.buffer[..HEADER + len]) {
                        return false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    interest.read = true;
                    channel.flush();
                    return false;
                }
                Err(_) => (self.host_ended, self.host_gone) = (true, true),
            }
        }
        channel.flush();
        true
    }

    /// The connection is over for both.
    fn end(&mut self) {
        if let Some(ended) = self.ended.take() {
            let _ = self.stream.shutdown(Shutdown::Both);
            self.reactor.post(ended);
        }
    }
}

/// There is room, so this fails only on a broken channel.
fn send(channel: &mut Channel, payload: &[u8]) -> bool {
    channel.push(Outgoing::InBand { transaction: 0, wants_completion: false, payload }).is_ok()
}

impl ChannelDevice for Connection {
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused> {
        if channel.is_restored() || self.ended.is_none() {
            return Err(OpenRefused { reason: "the connection has ended".into() });
        }
        self.channel = Some(channel);
        Ok(())
    }

    fn close(&mut self, _index: u16, quiet: QuiesceToken) {
        self.channel = None;
        // What the guest sent before still goes out, as far as there is room.
        self.write_out();
        self.end();
        self.pump();
        drop(quiet);
    }

    fn signalled(&mut self, _index: u16) {
        self.pump();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ends = (self.guest_ended, self.host_ended);
        f.debug_struct("Connection").field("open", &self.channel.is_some()).field("ended", &ends).finish()
    }
}
