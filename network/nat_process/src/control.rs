//! Requests of the starter.

use crate::boot_files::BootFolder;
use crate::plug::Plug;
use crate::serve::Server;
use anyhow::{Context, Result, bail};
use bulkhead_linux::{Message, SeqPacket};
use bulkhead_nat_protocol::{ConnectionInfo, LeaseInfo, NatAnswer, NatConfig, NatPort, NatReply, NatRequest, ToNat};
use bulkhead_port::Connector;
use std::os::fd::OwnedFd;

/// Entries of a list that fit into a packet.
const MOST_LISTED: usize = 256;

/// What a start asks for.
pub struct Start {
    pub id: u64,
    pub config: NatConfig,
    pub plug: Plug,
    pub folder: Option<BootFolder>,
}

/// Waits for the first request. `None`: the starter is gone.
///
/// # Errors
/// It is none, or refused; the starter was told.
pub fn first(starter: &SeqPacket) -> Result<Option<Start>> {
    let Some(Message { bytes, descriptors }) = starter.receive()? else { return Ok(None) };
    let ToNat { id, request } = serde_json::from_slice(&bytes).context("the first request is none")?;
    match start(id, request, descriptors) {
        Ok(start) => Ok(Some(start)),
        Err(error) => {
            answer(starter, id, Err(format!("{error:#}")))?;
            Err(error)
        }
    }
}

fn start(id: u64, request: NatRequest, descriptors: Vec<OwnedFd>) -> Result<Start> {
    let NatRequest::Start { config, port } = request else { bail!("the first request must be `start`") };
    config.check()?;
    let mut descriptors = descriptors.into_iter();
    let of_port = descriptors.next().context("the descriptor of the port is missing")?;
    let plug = match port {
        NatPort::Switch { socket, ticket } => Plug::Switch(Connector::in_directory(of_port, socket, ticket)),
        NatPort::Adapter { ticket, mac } => Plug::adapter(of_port, ticket, mac, config.mtu)?,
    };
    Ok(Start { id, config: *config, plug, folder: descriptors.next().map(BootFolder::new) })
}

/// Answers the requests that have come. False when the starter is gone.
pub fn answer_all(server: &mut Server, starter: &SeqPacket) -> bool {
    loop {
        let message = match starter.receive() {
            Ok(Some(message)) => message,
            Ok(None) => return false,
            Err(error) => return error.is_would_block(),
        };
        let (id, result) = match serde_json::from_slice::<ToNat>(&message.bytes) {
            Ok(ToNat { id, request }) => (id, perform(server, request).map_err(|error| format!("{error:#}"))),
            Err(error) => (0, Err(format!("a request that this build does not understand: {error}"))),
        };
        if answer(starter, id, result).is_err() {
            return false;
        }
    }
}

/// Sends an answer.
///
/// # Errors
/// The starter is gone.
pub fn answer(starter: &SeqPacket, id: u64, result: Result<NatAnswer, String>) -> Result<()> {
    Ok(starter.send(&serde_json::to_vec(&NatReply { id, result })?, &[])?)
}

fn perform(server: &mut Server, request: NatRequest) -> Result<NatAnswer> {
    match request {
        NatRequest::Start { .. } => bail!("it was started already"),
        NatRequest::SetReservations(reservations) => {
            let config = NatConfig { reservations, ..server.config.clone() };
            config.check()?;
            server.nat.set_reservations(&config.reservations);
            server.config = config;
        }
        NatRequest::AddForward(forward) => {
            let config = NatConfig { forwards: vec![forward], ..server.config.clone() };
            config.check()?;
            server.forwards.add(forward, &mut server.nat, &server.sockets)?;
        }
        NatRequest::RemoveForward(forward) => server.forwards.remove(forward, &mut server.nat)?,
        NatRequest::Leases => {
            let now = server.now();
            let leases = server.nat.leases().take(MOST_LISTED).map(|lease| LeaseInfo {
                mac: lease.mac.to_string(),
                address: lease.address,
                name: lease.name.clone(),
                seconds_left: (lease.expires - now).as_secs(),
            });
            return Ok(NatAnswer::Leases(leases.collect()));
        }
        NatRequest::Connections => {
            let all = server.nat.connections().take(MOST_LISTED);
            let infos = all.map(|(guest, outside, state, pending, unacknowledged)| ConnectionInfo {
                guest,
                outside,
                state: state.into(),
                pending,
                unacknowledged,
            });
            return Ok(NatAnswer::Connections(infos.collect()));
        }
        NatRequest::Stats => return Ok(NatAnswer::Stats(server.nat.stats())),
    }
    Ok(NatAnswer::Done)
}
