//! The server: accepts connections and serves each as tasks on the I/O loop of its exports.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::Duration;

use bulkhead_block_io::IoContext;

use crate::NbdError;
use crate::connection::Connection;
use crate::export::Export;
use crate::negotiation::{Negotiation, Step};
use crate::socket::Socket;

/// Connections at once; more are closed again.
const MOST_CONNECTIONS: usize = 100;
/// Time for the whole handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A set of exports on one I/O loop.
pub struct Server {
    exports: Vec<Rc<Export>>,
    context: IoContext,
    connections: Cell<usize>,
    /// Connections that ever got through the handshake.
    served: Cell<u64>,
}

impl Server {
    /// A server that nobody can reach yet.
    pub fn new(exports: Vec<Export>, context: IoContext) -> Rc<Self> {
        let exports = exports.into_iter().map(Rc::new).collect();
        Rc::new(Self { exports, context, connections: Cell::new(0), served: Cell::new(0) })
    }

    /// Accepts connections for as long as the future is polled.
    ///
    /// # Errors
    /// The listener fails for good.
    pub async fn listen(self: Rc<Self>, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.serve(stream.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.context.readable(listener.as_fd()).await
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Out of descriptors: others will close theirs.
                Err(error) if is_out_of_descriptors(&error) => {
                    self.context.sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Serves one connected socket.
    pub fn serve(self: &Rc<Self>, fd: OwnedFd) {
        if self.connections.get() >= MOST_CONNECTIONS {
            tracing::warn!("an NBD client is turned away: {MOST_CONNECTIONS} are connected");
            return;
        }
        let socket = match Socket::new(fd, self.context.clone()) {
            Ok(socket) => Rc::new(socket),
            Err(error) => return tracing::warn!(%error, "an NBD client's socket does not work"),
        };
        self.connections.set(self.connections.get() + 1);
        let (server, output) = (self.clone(), socket.clone());
        self.context.spawn(async move {
            // The reader notices the same failure. Whatever ended the output, the peer is told.
            let _ = output.run_output().await;
            output.fail();
            server.connections.set(server.connections.get() - 1);
        });
        let server = self.clone();
        self.context.spawn(async move {
            match server.session(&socket).await {
                Ok(()) => socket.finish_output(),
                Err(error) => {
                    tracing::info!(%error, "an NBD session ended early");
                    socket.fail();
                }
            }
        });
    }

    /// Serves until `stop` says so or, unless `persistent`, until at least one client was served and all are gone.
    pub async fn until(&self, persistent: bool, stop: impl Fn() -> bool) {
        while !stop() && (persistent || self.served.get() == 0 || self.connections.get() > 0) {
            // Someone else's word (a signal, a closed socket) is heard within this time.
            self.context.sleep(Duration::from_millis(100)).await;
        }
    }

    async fn session(&self, socket: &Rc<Socket>) -> Result<(), NbdError> {
        // A client that stalls in the handshake is cut off by shutting its socket down.
        let done = Rc::new(Cell::new(false));
        let (flag, watched, context) = (done.clone(), socket.clone(), self.context.clone());
        self.context.spawn(async move {
            context.sleep(HANDSHAKE).await;
            if !flag.get() {
                watched.fail();
            }
        });
        let mut out = Vec::new();
        let mut negotiation = Negotiation::new(self.exports.clone(), &mut out);
        let mut buffer = [0; 4096];
        let agreement = loop {
            socket.send(std::mem::take(&mut out));
            let count = socket.receive(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            match negotiation.feed(&buffer[..count], &mut out) {
                Step::More => {}
                Step::Done(agreement) => break agreement,
                Step::Close => {
                    socket.send(out);
                    return Ok(());
                }
            }
        };
        done.set(true);
        socket.send(out);
        self.served.set(self.served.get() + 1);
        Connection::new(agreement, socket.clone(), self.context.clone()).serve(negotiation.rest()).await
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::CONNABORTED))
}
