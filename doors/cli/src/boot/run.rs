//! The life of a VM in the foreground: start it, wait for its end, say how it ended.

use super::arguments::Arguments;
use super::terminal::RawTerminal;
use super::{describe, files, merges, network};
use crate::exit::{self, Failure};
use crate::worker::{News, Worker};
use anyhow::{Context, Result, anyhow};
use bulkhead_linux::{Signal, SignalFd};
use bulkhead_worker_protocol::{EndedBy, Event, Problem, ProblemKind, Request, Stats};
use rustix::event::{PollFd, PollFlags, poll};
use std::process::ExitCode;

/// How a VM ended.
struct End {
    by: EndedBy,
    detail: Option<String>,
    stats: Box<Stats>,
}

/// Runs the VM that the arguments ask for.
///
/// # Errors
/// [`Failure`].
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut vm = describe::describe(arguments)?;
    let mut resources = files::open(arguments, &vm)?;
    let _network = network::prepare(&arguments.nic, &mut vm, &mut resources)?;
    vm.check().map_err(|limit| Failure::Usage(limit.to_string()))?;
    let stats_file = match &arguments.stats {
        Some(path) => Some(std::fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?),
        None => None,
    };
    let signals = SignalFd::new(&[Signal::Terminate, Signal::Interrupt, Signal::Hangup]);
    let signals = signals.context("cannot take signals")?;
    let mut worker = Worker::start()?;
    worker.pass(&resources)?;
    drop(resources);
    let description = Box::new(vm);
    let start = match arguments.resume {
        None => Request::Start { description, paused: false },
        Some(_) => Request::Restore { description, paused: false },
    };
    // Raw before the guest can print, so that nothing is typed into a cooked terminal meanwhile.
    let terminal = RawTerminal::enter()?;
    let started = worker.ask(start)?;
    let end = started.map_err(refusal).and_then(|_| {
        for disk in arguments.merges() {
            merges::begin(&mut worker, disk)?;
        }
        Ok(wait(&mut worker, &signals, arguments)?)
    });
    drop(terminal);
    let end = end?;
    if let Some(file) = stats_file {
        write_stats(file, &end)?;
    }
    finish(end, arguments)
}

fn refusal(problem: Problem) -> Failure {
    match problem.kind {
        ProblemKind::Unsupported | ProblemKind::Invalid => Failure::Usage(problem.message),
        _ => Failure::Failed(anyhow!(problem.message)),
    }
}

/// Until the VM ends. The first signal asks for that; a second Ctrl-C does not wait.
fn wait(worker: &mut Worker, signals: &SignalFd, arguments: &Arguments) -> Result<End> {
    let mut asked = false;
    loop {
        let mut fds = [PollFd::new(&*worker, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if !worker.has_news() {
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for the worker"),
            }
        }
        let [news, signalled] = fds.map(|fd| !fd.revents().is_empty());
        if signalled && let Some(signal) = signals.take()? {
            // Some tools send their signal to the process and to its group.
            match (std::mem::replace(&mut asked, true), signal) {
                (false, _) => ask_to_end(worker, arguments)?,
                (true, Signal::Interrupt) => return Err(anyhow!("interrupted while waiting for the worker to end")),
                (true, _) => {}
            }
        }
        if !news && !worker.has_news() {
            continue;
        }
        match worker.next()? {
            News::Event(Event::Ended { by, detail, stats }) => return Ok(End { by, detail, stats }),
            News::Event(Event::GuestCrashed { parameters, text }) => report_crash(&parameters, text.as_deref()),
            News::Event(Event::Merge { disk, news }) => merges::hear(worker, disk, news)?,
            News::Event(_) | News::LateReply => {}
            News::Gone => return Err(worker.gone()),
        }
    }
}

/// Tells people what a crashing guest said; its terminal may be raw.
fn report_crash(parameters: &[u64], text: Option<&str>) {
    let parameters: Vec<String> = parameters.iter().map(|value| format!("{value:#x}")).collect();
    eprint!("\r\nbulkhead: the guest reports that it has crashed (parameters {})", parameters.join(" "));
    match text {
        Some(text) => eprint!("; the end of its log:\r\n{}\r\n", text.trim_end().replace('\n', "\r\n")),
        None => eprint!("\r\n"),
    }
}

fn ask_to_end(worker: &mut Worker, arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.screenshot {
        let png = worker.document(Request::Screenshot)?;
        std::fs::write(path, png).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match &arguments.save_to {
        Some(folder) => {
            worker.pass(&files::create_saved(folder)?)?;
            worker.tell(Request::Save)
        }
        None => worker.tell(Request::Stop),
    }
}

fn write_stats(file: std::fs::File, end: &End) -> Result<()> {
    let mut value = serde_json::to_value(&end.stats).context("cannot write the stats")?;
    value["ended_by"] = end.by.to_string().into();
    if let EndedBy::DebugExit(code) = end.by {
        value["debug_exit"] = code.into();
    }
    serde_json::to_writer_pretty(file, &value).context("cannot write the stats")
}

fn finish(end: End, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let failed = |what: String| Err(Failure::Failed(anyhow!(what)));
    match end.by {
        EndedBy::PowerOff | EndedBy::Stop | EndedBy::Saved => Ok(ExitCode::SUCCESS),
        EndedBy::Reset => Ok(exit::GUEST_RESET.into()),
        EndedBy::TripleFault => Ok(exit::GUEST_TRIPLE_FAULT.into()),
        // What these programs expect of the device: never 0.
        EndedBy::DebugExit(value) => Ok(((value << 1 | 1) as u8).into()),
        EndedBy::Disconnected => failed("the worker lost its connection".into()),
        EndedBy::Failed => {
            let detail = end.detail.unwrap_or_else(|| "the worker gave no reason".into());
            failed(format!("the VM {} failed: {detail}", arguments.name))
        }
    }
}
