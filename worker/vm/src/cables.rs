//! Cables: each network adapter is attached to its port of a virtual switch, and again when the switch was restarted.
//!
//! One thread for all of them, because attaching waits for the switch. Frames never pass here.

use anyhow::{Context, Result};
use bulkhead_machine::{Machine, NicHandle, Resources, adapter_name};
use bulkhead_port::{AttachError, AttachOptions, Connector, Port, PortControl, RingSize};
use bulkhead_switch_protocol::paths::PORTS_SOCKET;
use bulkhead_vm_description::VmDescription;
use bulkhead_worker_protocol::resource;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

/// How often a switch that is not there is looked for.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A switch that was looked for in vain so often (three seconds) is a cable without a link. A restart is shorter, and guests never
/// notice.
const LINK_LOSS: u32 = 30;

/// One adapter and where it is plugged in.
struct Cable {
    name: String,
    nic: NicHandle,
    connector: Connector,
}

/// The thread. Dropped, it pulls no cable: the switch sees that the worker is gone.
pub struct Cables {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Cables {
    /// Plugs in what can be plugged in now, so that guests find their link up, and watches from then on.
    ///
    /// # Errors
    /// A switch refuses a port, or speaks another version; the host refuses a thread.
    pub fn plug_in(description: &VmDescription, machine: &Machine, resources: &mut Resources) -> Result<Cables> {
        let mut plugs = Vec::new();
        let mut directory: Option<OwnedFd> = None;
        for (index, (adapter, nic)) in description.network.iter().zip(&machine.handles().network).enumerate() {
            let Some(port) = &adapter.port else { continue };
            let directory = match &directory {
                Some(directory) => directory,
                None => {
                    let passed = resources.take_file(resource::SWITCH);
                    directory.insert(passed.context("the directory of the virtual switches was not passed")?.into())
                }
            };
            let directory = directory.try_clone().context("out of descriptors")?;
            let connector = Connector::in_directory(directory, PORTS_SOCKET, port.ticket.clone());
            let cable = Cable { name: adapter_name(index), nic: nic.clone(), connector };
            let mut plug = Plug { cable, state: State::Waiting { tries: 0 } };
            plug.attach().with_context(|| format!("cannot plug in network adapter {index}"))?;
            plugs.push(plug);
        }
        if plugs.is_empty() {
            return Ok(Cables { stop: None, thread: None });
        }
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let thread = std::thread::Builder::new()
            .name("cables".into())
            .spawn(move || watch(&mut plugs, &stopped))
            .context("cannot start the thread that watches virtual switches")?;
        Ok(Cables { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Cables {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

struct Plug {
    cable: Cable,
    state: State,
}

enum State {
    /// The switch runs.
    Attached(PortControl),
    /// It does not.
    Waiting {
        /// How often it was looked for.
        tries: u32,
    },
}

fn watch(plugs: &mut [Plug], stopped: &OwnedFd) {
    loop {
        let mut waited_for: Vec<PollFd<'_>> = vec![PollFd::new(stopped, PollFlags::IN)];
        for plug in plugs.iter() {
            if let State::Attached(control) = &plug.state {
                waited_for.push(PollFd::from_borrowed_fd(control.readable(), PollFlags::IN));
            }
        }
        let retry = waited_for.len() <= plugs.len();
        let ready = poll(&mut waited_for, retry.then_some(&RETRY));
        if ready.is_ok() && !waited_for[0].revents().is_empty() {
            return;
        }
        for plug in plugs.iter_mut() {
            plug.look();
        }
    }
}

impl Plug {
    /// Attaches the port if the switch runs.
    fn attach(&mut self) -> Result<(), AttachError> {
        match Port::attach(&self.cable.connector, RingSize::default(), AttachOptions::default()) {
            Ok(Port { ring, control }) => {
                if control.info().link_up {
                    self.cable.nic.lock().connect(ring)?;
                }
                self.state = State::Attached(control);
                Ok(())
            }
            // It may be starting.
            Err(AttachError::Connect { .. } | AttachError::NoAnswer) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes news of the switch, or looks for it.
    fn look(&mut self) {
        match &mut self.state {
            State::Attached(control) => match control.news() {
                Ok(false) => {}
                Ok(true) if control.info().link_up => {
                    // The rings went with the link.
                    self.state = State::Waiting { tries: LINK_LOSS };
                    self.try_attach();
                }
                Ok(true) => self.cable.nic.lock().disconnect(),
                Err(error) => {
                    tracing::warn!(adapter = self.cable.name, "the virtual switch is gone: {error}");
                    self.state = State::Waiting { tries: 0 };
                    self.try_attach();
                }
            },
            State::Waiting { tries } => {
                *tries = tries.saturating_add(1);
                if *tries == LINK_LOSS {
                    self.cable.nic.lock().disconnect();
                }
                self.try_attach();
            }
        }
    }

    fn try_attach(&mut self) {
        if let Err(error) = self.attach() {
            tracing::warn!(adapter = self.cable.name, "the virtual switch refuses its port: {error}");
        }
    }
}
