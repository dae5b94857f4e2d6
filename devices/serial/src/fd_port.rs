//! The shell between a serial port and the host: descriptors watched through the reactor.

use crate::Serial;
use crate::backend::{ModemInputs, SerialBackend};
use bulkhead_reactor::{Interest, Reactor, Watch};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Weak};

/// Output that may wait for a slow reader; then the guest waits.
const PENDING: usize = 64 * 1024;
/// Bytes per system call: few enough that a terminal which is ready takes them without blocking.
const CHUNK: usize = 256;

/// Sees input before the guest does and may take bytes out or change them, for escape keys. What it adds beyond the length of
/// the input may be lost.
pub type InputFilter = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// A serial port's connection to descriptors. Clones are the same connection; dropping all of them leaves it in place.
///
/// All reading and writing happens on the reactor's thread. Output to a socket nobody is connected to vanishes; output to a
/// reader that does not read waits, up to 64 KiB here and then in the guest.
#[derive(Clone)]
pub struct FdPort {
    shared: Arc<Shared>,
}

struct Shared {
    reactor: Reactor,
    serial: Weak<Mutex<Serial>>,
    state: Mutex<State>,
    filter: Mutex<Option<InputFilter>>,
}

#[derive(Default)]
struct State {
    connection: Connection,
    listener: Option<(UnixListener, Watch)>,
    pending: VecDeque<u8>,
    /// A task or watch will write what is pending.
    writing: bool,
    /// The port was refused bytes.
    refused: bool,
}

/// Locks: the port's, then `state`. Watches are dropped on the reactor's thread only, so that no drop waits for a callback.
#[derive(Default)]
struct Connection {
    input: Option<Arc<OwnedFd>>,
    output: Option<Arc<OwnedFd>>,
    /// Learned by the first attempt; a socket never blocks.
    output_is_no_socket: bool,
    input_watch: Option<Watch>,
    output_watch: Option<Watch>,
}

impl FdPort {
    /// Connects `serial` to descriptors: `input` is read, `output` written; for a socket or terminal both may be the same.
    /// End of input leaves the output in use.
    ///
    /// # Errors
    /// Those of watching a descriptor: out of descriptors or kernel memory.
    pub fn connect(
        serial: &Arc<Mutex<Serial>>,
        reactor: &Reactor,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
        filter: Option<InputFilter>,
    ) -> io::Result<FdPort> {
        let port = FdPort::new(serial, reactor, filter);
        port.shared.open(input.map(Arc::new), output.map(Arc::new))?;
        port.attach(serial);
        Ok(port)
    }

    /// Connects `serial` to whoever connects to `listener`, one at a time.
    ///
    /// # Errors
    /// As [`FdPort::connect`], and those of making the listener non-blocking.
    pub fn listen(serial: &Arc<Mutex<Serial>>, reactor: &Reactor, listener: UnixListener) -> io::Result<FdPort> {
        listener.set_nonblocking(true)?;
        let port = FdPort::new(serial, reactor, None);
        let shared = Arc::downgrade(&port.shared);
        let watch = reactor.watch(&listener, Interest::READ, move |_| {
            if let Some(shared) = shared.upgrade() {
                shared.accept();
            }
        })?;
        port.shared.state.lock().listener = Some((listener, watch));
        port.attach(serial);
        Ok(port)
    }

    /// Writes what is pending now, on this thread and without the reactor; gives up when the reader does not read. For the
    /// end of a VM.
    pub fn flush(&self) {
        let mut state = self.shared.state.lock();
        while !state.pending.is_empty() && state.write_chunk().is_ok() {}
    }

    fn new(serial: &Arc<Mutex<Serial>>, reactor: &Reactor, filter: Option<InputFilter>) -> FdPort {
        let shared = Shared {
            reactor: reactor.clone(),
            serial: Arc::downgrade(serial),
            state: Mutex::default(),
            filter: Mutex::new(filter),
        };
        FdPort { shared: Arc::new(shared) }
    }

    fn attach(&self, serial: &Arc<Mutex<Serial>>) {
        let connected = self.shared.state.lock().connected();
        let mut port = serial.lock();
        let previous = port.attach(Box::new(Backend { shared: self.shared.clone() }));
        port.set_modem(if connected { ModemInputs::CONNECTED } else { ModemInputs::DISCONNECTED });
        drop(port);
        drop(previous);
    }
}

impl std::fmt::Debug for FdPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("FdPort").field("connected", &state.connected()).field("pending", &state.pending.len()).finish()
    }
}

struct Backend {
    shared: Arc<Shared>,
}

impl SerialBackend for Backend {
    fn send(&mut self, bytes: &[u8]) -> usize {
        let mut state = self.shared.state.lock();
        if state.connection.output.is_none() {
            return bytes.len();
        }
        let taken = bytes.len().min(PENDING - state.pending.len().min(PENDING));
        state.pending.extend(&bytes[..taken]);
        state.refused |= taken < bytes.len();
        if !std::mem::replace(&mut state.writing, true) {
            let shared = Arc::downgrade(&self.shared);
            self.shared.reactor.post(move || {
                if let Some(shared) = shared.upgrade() {
                    shared.write();
                }
            });
        }
        taken
    }

    fn input_wanted(&mut self) {
        self.shared.watch_input(Interest::READ);
    }
}

impl State {
    fn connected(&self) -> bool {
        self.connection.output.is_some() || self.connection.input.is_some()
    }

    fn ready_to_write(&self) -> bool {
        let Some(output) = &self.connection.output else { return true };
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(output.as_fd(), rustix::event::PollFlags::OUT)];
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1..))
    }

    /// Writes a bit of what is pending.
    fn write_chunk(&mut self) -> Result<(), Errno> {
        let Some(output) = &self.connection.output else {
            self.pending.clear();
            return Ok(());
        };
        let (front, _) = self.pending.as_slices();
        let chunk = &front[..front.len().min(CHUNK)];
        let mut written = Err(Errno::NOTSOCK);
        if !self.connection.output_is_no_socket {
            written = send(output, chunk, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        if written == Err(Errno::NOTSOCK) {
            self.connection.output_is_no_socket = true;
            written = rustix::io::write(output, chunk);
        }
        match written {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Shared {
    /// Takes descriptors into use.
    fn open(self: &Arc<Self>, input: Option<Arc<OwnedFd>>, output: Option<Arc<OwnedFd>>) -> io::Result<()> {
        let weak = Arc::downgrade(self);
        let input_watch = input.as_ref().map(|fd| {
            let weak = weak.clone();
            watch(&self.reactor, fd, Interest::READ, move || {
                if let Some(shared) = weak.upgrade() {
                    shared.read();
                }
            })
        });
        let output_watch = output.as_ref().map(|fd| {
            watch(&self.reactor, fd, Interest::NONE, move || {
                if let Some(shared) = weak.upgrade() {
                    shared.write();
                }
            })
        });
        let (input_watch, output_watch) = (input_watch.transpose()?.flatten(), output_watch.transpose()?.flatten());
        self.state.lock().connection =
            Connection { input, output, output_is_no_socket: false, input_watch, output_watch };
        if self.state.lock().connection.input_watch.is_none() {
            self.watch_input(Interest::READ);
        }
        Ok(())
    }

    /// Starts or stops reading. Files cannot be watched: they are read until the port has no room.
    fn watch_input(self: &Arc<Self>, interest: Interest) {
        let state = self.state.lock();
        if let Some(watch) = &state.connection.input_watch {
            // Only kernel memory can be missing, and then the input stands still until the next try.
            let _ = watch.set_interest(interest);
        } else if state.connection.input.is_some() && interest == Interest::READ {
            let shared = Arc::downgrade(self);
            self.reactor.post(move || {
                if let Some(shared) = shared.upgrade() {
                    shared.read();
                }
            });
        }
    }

    /// There is input.
    fn read(self: &Arc<Self>) {
        let Some(serial) = self.serial.upgrade() else { return };
        let room = {
            let mut port = serial.lock();
            let room = port.room();
            if room == 0 {
                // Under the port's lock: the call that wants input again comes after this.
                self.watch_input(Interest::NONE);
            }
            room
        };
        let Some(input) = self.state.lock().connection.input.clone().filter(|_| room > 0) else { return };
        let mut bytes = vec![0; room];
        match rustix::io::read(&*input, &mut bytes) {
            Ok(count) if count > 0 => {
                bytes.truncate(count);
                if let Some(filter) = &mut *self.filter.lock() {
                    filter(&mut bytes);
                }
                serial.lock().receive(&bytes);
                if self.state.lock().connection.input_watch.is_none() {
                    self.watch_input(Interest::READ);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => self.end_of_input(&serial),
        }
    }

    fn end_of_input(&self, serial: &Mutex<Serial>) {
        let mut state = self.state.lock();
        state.connection.input = None;
        let watch = state.connection.input_watch.take();
        let listens = state.listener.is_some();
        let gone = if listens { std::mem::take(&mut state.connection) } else { Connection::default() };
        if listens {
            state.pending.clear();
        }
        drop(state);
        drop((watch, gone));
        if listens {
            let mut port = serial.lock();
            port.set_modem(ModemInputs::DISCONNECTED);
            port.resume_output();
        }
    }

    /// Writes until nothing is pending or the descriptor takes no more.
    fn write(&self) {
        let mut state = self.state.lock();
        let waits = loop {
            if state.pending.is_empty() {
                break false;
            }
            // A terminal or pipe that could block is written only when it is ready.
            if state.connection.output_watch.is_some() && !state.ready_to_write() {
                break true;
            }
            match state.write_chunk() {
                Ok(()) => {}
                Err(Errno::AGAIN) => break true,
                Err(_) => {
                    // Nobody reads this any more.
                    state.connection.output = None;
                    state.pending.clear();
                }
            }
        };
        state.writing = waits;
        let refused = !waits && std::mem::take(&mut state.refused);
        if let Some(watch) = &state.connection.output_watch {
            // As for input: without kernel memory the output waits for the next byte.
            let done = watch.set_interest(if waits { Interest::WRITE } else { Interest::NONE });
            state.writing &= done.is_ok();
        }
        drop(state);
        if refused && let Some(serial) = self.serial.upgrade() {
            serial.lock().resume_output();
        }
    }

    /// Somebody connects.
    fn accept(self: &Arc<Self>) {
        let accepted = {
            let state = self.state.lock();
            let Some((listener, _)) = &state.listener else { return };
            listener.accept()
        };
        let Ok((stream, _)) = accepted else { return };
        if self.state.lock().connected() {
            // One at a time: dropping the stream tells the other one.
            return;
        }
        let fd = Arc::new(OwnedFd::from(stream));
        if self.open(Some(fd.clone()), Some(fd)).is_ok()
            && let Some(serial) = self.serial.upgrade()
        {
            serial.lock().set_modem(ModemInputs::CONNECTED);
        }
    }
}

/// Watches a descriptor; `None` for files, which are always ready.
fn watch(
    reactor: &Reactor,
    fd: &OwnedFd,
    interest: Interest,
    mut ready: impl FnMut() + Send + 'static,
) -> io::Result<Option<Watch>> {
    // A sleeping watch does not tell whether the descriptor can be watched at all.
    let watch = reactor.watch(fd, Interest::READ_WRITE, move |_| ready());
    match watch {
        Ok(watch) => {
            watch.set_interest(interest)?;
            Ok(Some(watch))
        }
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}
