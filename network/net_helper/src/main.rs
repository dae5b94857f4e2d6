//! `bulkhead-net-helper`: opens interfaces of the host for `bulkhead-switch`, which has no privileges, and passes them on.
//!
//! Needs CAP_NET_ADMIN and CAP_NET_RAW. One request per connection, one at a time; the kernel says who asks: root, or the user
//! given by `--user`. It touches only interfaces that it made itself (their alias says so) or that are named as uplinks.

mod addresses;
mod interfaces;
mod ip;

use anyhow::{Context, Result, anyhow, bail};
use bulkhead_linux::{SeqPacket, SeqPacketListener, Signal, SignalFd};
use bulkhead_switch_protocol::{HelperAnswer, HelperRequest, paths};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: bulkhead-net-helper [--root DIR] [--user UID]";
/// How long a connection may take to say what it wants.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-net-helper: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut root, mut user) = (None, 0);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--root" => root = Some(PathBuf::from(arguments.next().context(USAGE)?)),
            "--user" => user = arguments.next().context(USAGE)?.parse().context("--user takes the number of a user")?,
            "--version" | "-V" => {
                println!("bulkhead-net-helper {}", env!("CARGO_PKG_VERSION"));
                return Ok(());
            }
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => bail!("unknown argument {other}\n{USAGE}"),
        }
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("BULKHEAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    serve(&paths::root(root.as_deref()), user)
}

fn serve(root: &std::path::Path, user: u32) -> Result<()> {
    let signals = SignalFd::new(&[Signal::Terminate, Signal::Interrupt]).context("cannot take signals")?;
    let path = paths::helper_socket(root);
    std::fs::create_dir_all(paths::runtime(root)).context("cannot make the folder of the socket")?;
    let listener =
        SeqPacketListener::bind(&path, 0o600).with_context(|| format!("cannot listen at {}", path.display()))?;
    if user != 0 {
        let owner = rustix::fs::Uid::from_raw(user);
        rustix::fs::chown(&path, Some(owner), None).context("cannot give the socket to its user")?;
    }
    loop {
        let mut ready = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        if let Err(error) = poll(&mut ready, None)
            && error != rustix::io::Errno::INTR
        {
            return Err(error).context("cannot wait for connections");
        }
        if !ready[0].revents().is_empty() {
            return Ok(());
        }
        if !ready[1].revents().is_empty() {
            let socket = listener.accept().context("cannot accept a connection")?;
            if let Err(error) = answer(&socket, user) {
                tracing::warn!("a request was not answered: {error:#}");
            }
        }
    }
}

fn answer(socket: &SeqPacket, user: u32) -> Result<()> {
    let peer = socket.peer()?;
    if peer.uid != 0 && peer.uid != user {
        bail!("user {} may not ask", peer.uid);
    }
    if poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&PATIENCE))? == 0 {
        bail!("nothing was asked");
    }
    let Some(packet) = socket.receive()? else { return Ok(()) };
    let result = serde_json::from_slice::<HelperRequest>(&packet.bytes)
        .map_err(|error| anyhow!("this is no request: {error}"))
        .and_then(|request| {
            request.check().map_err(|message| anyhow!(message))?;
            perform(&request).with_context(|| format!("{request:?}"))
        });
    let (answer, opened): (HelperAnswer, _) = match result {
        Ok(opened) => (Ok(()), opened),
        Err(error) => {
            tracing::warn!("{error:#}");
            (Err(format!("{error:#}")), None)
        }
    };
    let descriptors: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    socket.send(&serde_json::to_vec(&answer)?, &descriptors)?;
    Ok(())
}

fn perform(request: &HelperRequest) -> Result<Option<OwnedFd>> {
    match request {
        HelperRequest::OpenPacket { interface } => interfaces::open_packet(interface).map(Some),
        HelperRequest::OpenTap { interface, mtu, address } => {
            interfaces::open_host_tap(interface, *mtu, address.as_deref()).map(Some)
        }
        HelperRequest::OpenBridgePort { bridge, interface } => {
            interfaces::open_bridge_port(bridge, interface).map(Some)
        }
        HelperRequest::OpenMacvtap { parent, interface } => interfaces::open_macvtap_on(parent, interface).map(Some),
        HelperRequest::Remove { interface } => interfaces::remove(interface).map(|()| None),
        HelperRequest::MoveAddresses { from, to } => addresses::move_all(from, to).map(|()| None),
    }
}
