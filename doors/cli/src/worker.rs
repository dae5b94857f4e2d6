//! Starting a worker and speaking with it.

use anyhow::{Context, Result, anyhow, bail};
use bulkhead_linux::SeqPacket;
use bulkhead_worker_protocol::{
    Answer, Channel, Event, FromWorker, Hello, Incoming, Problem, Reply, Request, ToWorker, VERSION,
};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

/// Descriptors that one packet carries at most.
const MAX_DESCRIPTORS: usize = 32;

/// A running worker.
pub struct Worker {
    child: Child,
    channel: Channel<ToWorker, FromWorker>,
    last_id: u64,
    /// Events that came while an answer was awaited.
    events: VecDeque<Event>,
}

/// An answer and what came along.
type Exchanged = (Result<Answer, Problem>, Vec<OwnedFd>);

/// What comes from a worker besides answers.
pub enum News {
    /// Something happened.
    Event(Event),
    /// An answer that nobody waited for.
    LateReply,
    /// The worker is gone.
    Gone,
}

impl Worker {
    /// Starts the `bulkhead-vm` beside this executable and greets it.
    ///
    /// # Errors
    /// It is not there, or of another version.
    pub fn start() -> Result<Worker> {
        let own = std::env::current_exe().context("cannot find this executable")?;
        let program = own.with_file_name("bulkhead-vm");
        let (ours, theirs) = SeqPacket::pair().context("cannot make a socket")?;
        let child = Command::new(&program)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}; it belongs beside this program", program.display()))?;
        let mut worker = Worker { child, channel: Channel::new(ours), last_id: 0, events: VecDeque::new() };
        let hello = Request::Hello(Hello { version: VERSION, features: Vec::new() });
        match worker.ask(hello)?? {
            Answer::Hello(hello) if hello.version == VERSION => Ok(worker),
            other => bail!("{} speaks another protocol: {other:?}; install matching versions", program.display()),
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn ask(&mut self, request: Request) -> Result<Result<Answer, Problem>> {
        self.ask_with(request, &[])
    }

    /// Passes files under their names.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn pass(&mut self, files: &[(String, OwnedFd)]) -> Result<()> {
        for some in files.chunks(MAX_DESCRIPTORS) {
            let names = some.iter().map(|(name, _)| name.clone()).collect();
            let descriptors: Vec<_> = some.iter().map(|(_, file)| file.as_fd()).collect();
            self.ask_with(Request::Resources { names }, &descriptors)??;
        }
        Ok(())
    }

    /// Sends a request whose answer comes later, as [`News::LateReply`].
    ///
    /// # Errors
    /// The worker is gone.
    pub fn tell(&mut self, request: Request) -> Result<()> {
        self.last_id += 1;
        Ok(self.channel.send(&ToWorker { id: self.last_id, request }, &[])?)
    }

    /// Asks for something that is answered with a document.
    ///
    /// # Errors
    /// The worker is gone, or refuses.
    pub fn document(&mut self, request: Request) -> Result<Vec<u8>> {
        let (answer, descriptors) = self.exchange(request, &[])?;
        let (Answer::Document { length, .. }, Some(file)) = (answer?, descriptors.into_iter().next()) else {
            bail!("the worker sent no document");
        };
        let mut bytes = vec![0; usize::try_from(length).context("the document is too long")?];
        File::from(file).read_exact_at(&mut bytes, 0).context("cannot read the document")?;
        Ok(bytes)
    }

    fn ask_with(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Result<Answer, Problem>> {
        Ok(self.exchange(request, descriptors)?.0)
    }

    fn exchange(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Exchanged> {
        self.last_id += 1;
        let id = self.last_id;
        let sent = self.channel.send(&ToWorker { id, request }, descriptors);
        sent.map_err(|error| self.gone().context(error))?;
        loop {
            let received = self.channel.receive().map_err(|error| self.gone().context(error))?;
            let Some(Incoming { message, descriptors }) = received else { return Err(self.gone()) };
            match message {
                FromWorker::Reply(Reply { id: answered, result }) if answered == id => {
                    return Ok((result, descriptors));
                }
                FromWorker::Reply(_) => {}
                FromWorker::Event(event) => self.events.push_back(event),
            }
        }
    }

    /// The next thing that happens; waits for it.
    ///
    /// # Errors
    /// The worker says something that nobody understands.
    pub fn next(&mut self) -> Result<News> {
        if let Some(event) = self.events.pop_front() {
            return Ok(News::Event(event));
        }
        Ok(match self.channel.receive()?.map(|packet| packet.message) {
            Some(FromWorker::Event(event)) => News::Event(event),
            Some(FromWorker::Reply(_)) => News::LateReply,
            None => News::Gone,
        })
    }

    /// Whether [`Worker::next`] has something without waiting for the socket.
    pub fn has_news(&self) -> bool {
        !self.events.is_empty()
    }

    /// Waits for the process to end, and says how it did.
    pub fn gone(&mut self) -> anyhow::Error {
        match self.child.wait() {
            Ok(status) => anyhow!("the worker ended unexpectedly ({status}); its messages stand above"),
            Err(error) => anyhow!("the worker is gone: {error}"),
        }
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Its socket closes with ours, and it ends by itself then; it must not outlive us as a zombie.
        let ended = self.child.try_wait();
        if !matches!(ended, Ok(Some(_))) {
            let (placeholder, _) = match SeqPacket::pair() {
                Ok(pair) => pair,
                Err(_) => return,
            };
            drop(std::mem::replace(&mut self.channel, Channel::new(placeholder)));
            let _ = self.child.wait();
        }
    }
}
