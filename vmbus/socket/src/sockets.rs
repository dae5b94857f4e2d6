//! All connections of a VM, the ports of the host that programs in the guest may connect to, and the Unix sockets at which
//! programs of the host connect to ports of the guest.

use crate::connection::Connection;
use crate::frame::{port_of, service_id};
use bulkhead_device::{Device, QuiesceToken};
use bulkhead_guest_log::{GuestLog, guest_warn};
use bulkhead_reactor::{Interest, Reactor, Watch};
use bulkhead_saved_state::{SavedState, SavedStateError};
use bulkhead_vmbus_channel::{BusError, ChannelBus, ChannelFlags, Offer, OfferId, SocketAcceptor};
use minicbor::{Decode, Encode};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use uuid::Uuid;

const KIND: &str = "sockets";
const VERSION: u32 = 1;
/// Connections that may be open at once; a guest cannot make us open more descriptors.
const MAX_CONNECTIONS: usize = 256;
/// User byte of the offer (after the mode, which is 0): the host connects.
const FROM_HOST: usize = 4;

/// Gets the host's end of a connection that a program in the guest made to this port. Called on the loop.
pub type Accepted = Arc<dyn Fn(u32, UnixStream) + Send + Sync>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Too many.
    #[error("cannot connect to port {port} of the guest: {MAX_CONNECTIONS} connections are open; close some")]
    TooMany {
        /// Which port.
        port: u32,
    },
    /// The bus is full.
    #[error("cannot connect to port {port} of the guest")]
    Bus {
        /// Which port.
        port: u32,
        /// Why.
        #[source]
        source: BusError,
    },
    /// The host has no socket for it.
    #[error("cannot connect to port {port} of the guest: the host refuses a socket")]
    Host {
        /// Which port.
        port: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Ports of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct SavedSockets {
    /// Those that accept connections.
    #[n(0)]
    pub ports: Vec<u32>,
}

/// Sockets of one VM. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Sockets {
    shared: Arc<Shared>,
}

struct Shared {
    bus: Arc<dyn ChannelBus>,
    reactor: Reactor,
    log: GuestLog,
    paused: Arc<AtomicBool>,
    accepted: Accepted,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ports: BTreeSet<u32>,
    connections: BTreeMap<u64, Entry>,
    last: u64,
    listeners: Vec<Watch>,
}

struct Entry {
    port: u32,
    /// `None` while it is being offered.
    offer: Option<OfferId>,
    /// It ended before it was offered.
    ended: bool,
}

impl Sockets {
    /// Its name in the machine.
    pub const NAME: &str = "sockets";

    /// A VM without connections, none of whose host's ports accept any.
    pub fn new(reactor: &Reactor, bus: Arc<dyn ChannelBus>, accepted: Accepted) -> Sockets {
        let shared = Shared {
            bus,
            reactor: reactor.clone(),
            log: GuestLog::new(reactor, Sockets::NAME),
            paused: Arc::new(AtomicBool::new(false)),
            accepted,
            state: Mutex::default(),
        };
        Sockets { shared: Arc::new(shared) }
    }

    /// With the ports that were saved.
    ///
    /// # Errors
    /// The state is not one of this kind.
    pub fn restore(
        reactor: &Reactor,
        bus: Arc<dyn ChannelBus>,
        accepted: Accepted,
        state: &SavedState,
    ) -> Result<Sockets, SavedStateError> {
        let saved: SavedSockets = state.decode(1..=VERSION)?;
        let sockets = Sockets::new(reactor, bus, accepted);
        sockets.shared.state.lock().ports = saved.ports.into_iter().collect();
        Ok(sockets)
    }

    /// Connects to a port of the guest; returns the host's end at once. It is closed when nobody in the guest listens.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn connect(&self, port: u32) -> Result<UnixStream, SocketError> {
        let (ours, theirs) = UnixStream::pair().map_err(|source| SocketError::Host { port, source })?;
        self.join(port, ours)?;
        Ok(theirs)
    }

    /// Connects a socket of the host to a port of the guest.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn join(&self, port: u32, stream: UnixStream) -> Result<(), SocketError> {
        let mut instance = [0; 16];
        self.shared.reactor.entropy(&mut instance);
        let instance = uuid::Builder::from_random_bytes(instance).into_uuid();
        self.shared.offer(port, service_id(port), instance, true, stream)
    }

    /// Connects every program that connects at this Unix socket to a port of the guest.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn serve(&self, port: u32, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let watched = listener.try_clone()?;
        let shared = Arc::downgrade(&self.shared);
        let watch = self.shared.reactor.watch(watched, Interest::READ, move |_| {
            let Some(shared) = shared.upgrade() else { return };
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Err(error) = (Sockets { shared: shared.clone() }).join(port, stream) {
                        guest_warn!(shared.log, "{error}");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => guest_warn!(shared.log, "a connection to port {port} is not accepted: {error}"),
            }
        })?;
        self.shared.state.lock().listeners.push(watch);
        Ok(())
    }

    /// For the bus. It holds the connections weakly, because they hold the bus.
    pub fn acceptor(&self) -> Arc<dyn SocketAcceptor> {
        Arc::new(Acceptor(Arc::downgrade(&self.shared)))
    }

    /// Lets programs in the guest connect to a port of the host, or no more.
    pub fn listen(&self, port: u32, on: bool) {
        let mut state = self.shared.state.lock();
        if on {
            state.ports.insert(port);
        } else {
            state.ports.remove(&port);
        }
    }
}

impl Shared {
    fn offer(
        self: &Arc<Self>,
        port: u32,
        class: Uuid,
        instance: Uuid,
        from_host: bool,
        stream: UnixStream,
    ) -> Result<(), SocketError> {
        let key = {
            let mut state = self.state.lock();
            if state.connections.len() >= MAX_CONNECTIONS {
                return Err(SocketError::TooMany { port });
            }
            state.last += 1;
            let key = state.last;
            state.connections.insert(key, Entry { port, offer: None, ended: false });
            key
        };
        let shared = Arc::downgrade(self);
        let ended = Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.ended(key);
            }
        });
        let connection = Connection::new(&self.reactor, self.paused.clone(), stream, ended).map_err(|source| {
            self.state.lock().connections.remove(&key);
            SocketError::Host { port, source }
        })?;
        let mut offer = Offer::new(format!("socket:{port}"), class, instance);
        offer.flags = ChannelFlags::SOCKET | ChannelFlags::NAMED_PIPE | ChannelFlags::ENUMERATE_DEVICE_INTERFACE;
        offer.user[FROM_HOST] = u8::from(from_host);
        let offered = self.bus.offer(offer, connection);
        let mut state = self.state.lock();
        let id = offered.map_err(|source| {
            state.connections.remove(&key);
            SocketError::Bus { port, source }
        })?;
        let entry = state.connections.get_mut(&key);
        let ended = entry.is_some_and(|entry| {
            entry.offer = Some(id);
            entry.ended
        });
        drop(state);
        if ended {
            self.ended(key);
        }
        Ok(())
    }

    /// A connection is over: its channel is taken away from the guest.
    fn ended(&self, key: u64) {
        let offer = {
            let mut state = self.state.lock();
            let Some(entry) = state.connections.get_mut(&key) else { return };
            entry.ended = true;
            let Some(offer) = entry.offer else { return };
            state.connections.remove(&key);
            offer
        };
        // Gone already when the bus was reset.
        let _ = self.bus.remove(offer);
    }

    fn accept(self: &Arc<Self>, endpoint: Uuid, service: Uuid) -> Result<(u32, UnixStream), String> {
        let port = port_of(service).filter(|port| self.state.lock().ports.contains(port));
        let port = port.ok_or_else(|| format!("nobody listens at {service}"))?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        self.offer(port, service, endpoint, false, ours).map_err(|error| error.to_string())?;
        Ok((port, theirs))
    }
}

struct Acceptor(Weak<Shared>);

impl SocketAcceptor for Acceptor {
    fn connect(&self, endpoint: Uuid, service: Uuid) {
        let Some(shared) = self.0.upgrade() else { return };
        match shared.accept(endpoint, service) {
            Ok((port, stream)) => (shared.accepted)(port, stream),
            Err(error) => {
                guest_warn!(shared.log, "a connection of the guest is refused: {error}");
                shared.bus.refuse_socket(endpoint, service);
            }
        }
    }
}

impl Device for Sockets {
    fn name(&self) -> &str {
        Sockets::NAME
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let ports = self.shared.state.lock().ports.iter().copied().collect();
        SavedState::encode(KIND, VERSION, &SavedSockets { ports })
    }

    fn inspect(&self) -> serde_json::Value {
        let state = self.shared.state.lock();
        let connections: Vec<u32> = state.connections.values().map(|entry| entry.port).collect();
        json!({ "ports": state.ports, "connections": connections })
    }

    /// The bus closes the channels, and that ends the connections.
    fn reset(&mut self) {}

    /// The bus signals every channel after this, and bytes move again.
    fn start(&mut self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Whoever is in the middle of moving bytes is done before the loop gets to the task.
    fn pause(&mut self, quiet: QuiesceToken) {
        self.shared.paused.store(true, Ordering::SeqCst);
        self.shared.reactor.post(move || drop(quiet));
    }
}
