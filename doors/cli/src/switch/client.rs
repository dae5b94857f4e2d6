//! Speaking with `bulkhead-switch`.

use crate::exit::Failure;
use anyhow::{Context, anyhow};
use bulkhead_linux::SeqPacket;
use bulkhead_switch_protocol::{
    Answer, Channel, FromSwitch, Hello, PortStatus, Problem, ProblemKind, Request, SwitchStatus, ToSwitch, VERSION,
    paths,
};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// A connection to the switch process.
pub struct Client {
    channel: Channel<ToSwitch, FromSwitch>,
    last_id: u64,
}

impl Client {
    /// Connects to the switch process below `root` (default: `BULKHEAD_ROOT`, or `/`).
    ///
    /// # Errors
    /// It does not run, or speaks another version.
    pub fn connect(root: Option<&Path>) -> Result<Client, Failure> {
        let path = paths::control_socket(&paths::root(root));
        let socket = SeqPacket::connect(&path).map_err(|error| {
            Failure::of(error, format!("cannot reach bulkhead-switch at {}: start it", path.display()))
        })?;
        let mut client = Client { channel: Channel::new(socket), last_id: 0 };
        match client.ask(Request::Hello(Hello { version: VERSION, features: Vec::new() }))? {
            Answer::Hello(hello) if hello.version == VERSION => Ok(client),
            other => {
                Err(anyhow!("bulkhead-switch speaks another protocol: {other:?}; install matching versions").into())
            }
        }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// A refusal, as the exit code that fits; the connection broke.
    pub fn ask(&mut self, request: Request) -> Result<Answer, Failure> {
        self.ask_with(request, &[])
    }

    /// Asks for something that needs descriptors.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn ask_with(&mut self, request: Request, files: &[BorrowedFd<'_>]) -> Result<Answer, Failure> {
        self.last_id += 1;
        let sent = self.channel.send(&ToSwitch { id: self.last_id, request }, files);
        sent.context("bulkhead-switch went away")?;
        let answer = self.channel.receive().context("bulkhead-switch went away")?;
        let answer = answer.context("bulkhead-switch closed the connection")?;
        answer.message.result.map_err(failure)
    }

    /// All virtual switches.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn switches(&mut self) -> Result<Vec<SwitchStatus>, Failure> {
        match self.ask(Request::Switches)? {
            Answer::Switches(switches) => Ok(switches),
            other => Err(unexpected(&other)),
        }
    }

    /// All ports, or those of a switch.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn ports(&mut self, switch: Option<&str>) -> Result<Vec<PortStatus>, Failure> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            match self.ask(Request::Ports { switch: switch.map(str::to_owned), after })? {
                Answer::Ports { ports, more } => {
                    all.extend(ports);
                    after = all.last().and_then(|port: &PortStatus| port.id);
                    if !more || after.is_none() {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// The port with a name or id.
    ///
    /// # Errors
    /// There is none, or several have the name.
    pub fn port(&mut self, name: &str) -> Result<PortStatus, Failure> {
        let ports = self.ports(None)?;
        let is_named =
            |port: &&PortStatus| port.settings.name == name || port.id.is_some_and(|id| id.to_string() == name);
        let mut named = ports.iter().filter(|port| port.id.is_some()).filter(is_named);
        match (named.next(), named.next()) {
            (Some(port), None) => Ok(port.clone()),
            (Some(_), Some(_)) => Err(Failure::Conflict(format!("several ports are called {name:?}: use their ids"))),
            (None, _) => Err(Failure::NotFound(anyhow!("there is no port {name:?}"))),
        }
    }
}

/// An answer of the wrong kind.
pub fn unexpected(answer: &Answer) -> Failure {
    anyhow!("bulkhead-switch answered something else: {answer:?}").into()
}

fn failure(problem: Problem) -> Failure {
    match problem.kind {
        ProblemKind::Invalid | ProblemKind::Unsupported => Failure::Usage(problem.message),
        ProblemKind::NotFound => Failure::NotFound(anyhow!(problem.message)),
        ProblemKind::Refused => Failure::Refused(anyhow!(problem.message)),
        ProblemKind::WrongState => Failure::Conflict(problem.message),
        ProblemKind::Unavailable | ProblemKind::Failed => Failure::Failed(anyhow!(problem.message)),
    }
}
