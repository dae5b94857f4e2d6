//! The DNS server: answers for the guests' names itself, and passes everything else on (RFC 1035, 6891).
//!
//! Pure: [`Dns::ask`] says what to do with a question, [`Dns::answered`] what to do with what a server of the host said.

use crate::dhcp::Dhcp;
use bulkhead_reactor::Time;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Questions that wait for an answer at most.
const MOST: usize = 512;
/// How long a server of the host may take before the next one is asked, and how often any is asked.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 4;
/// Lifetime of our own records.
const TTL: u32 = 60;
/// What a client without EDNS takes by UDP, and what we say that we take.
const PLAIN: usize = 512;
const OURS: u16 = 1232;

/// Who asked, and gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Udp(SocketAddrV4),
    /// Over TCP: the connection, by its number.
    Stream(u64),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tell the asker.
    Answer(Asker, Vec<u8>),
    /// Ask a server of the host.
    Forward(SocketAddrV4, Vec<u8>),
}

struct Waiting {
    asker: Asker,
    /// The asker's identifier and question; the answer must be to it.
    id: u16,
    query: Query,
    /// What was sent, to be sent again.
    message: Vec<u8>,
    /// Longest answer that the asker takes.
    room: usize,
    attempts: u32,
    deadline: Time,
}

/// The server.
pub(crate) struct Dns {
    gateway: Ipv4Addr,
    domain: Name,
    servers: Vec<SocketAddrV4>,
    waiting: HashMap<u16, Waiting>,
    pub forwarded: u64,
    pub failed: u64,
}

impl Dns {
    pub fn new(gateway: Ipv4Addr, domain: &str, servers: Vec<SocketAddrV4>) -> Dns {
        let domain = Name::from_ascii(format!("{}.", domain.to_ascii_lowercase())).unwrap_or_else(|_| Name::root());
        Dns { gateway, domain, servers, waiting: HashMap::new(), forwarded: 0, failed: 0 }
    }

    /// A question; `random` becomes the identifier towards the host's server.
    pub fn ask(&mut self, now: Time, asker: Asker, bytes: &[u8], dhcp: &Dhcp, random: u16) -> Option<Step> {
        let message = Message::from_vec(bytes).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let room = match asker {
            Asker::Udp(_) => message.edns.as_ref().map_or(PLAIN, |edns| usize::from(edns.max_payload())).max(PLAIN),
            Asker::Stream(_) => usize::from(u16::MAX),
        };
        let ([query], OpCode::Query) = (message.queries.as_slice(), message.metadata.op_code) else {
            return Some(Step::Answer(asker, refusal(&message, ResponseCode::NotImp)?));
        };
        if let Some(answer) = self.own_answer(&message, query, dhcp) {
            return Some(Step::Answer(asker, answer.to_vec().ok()?));
        }
        let free = (0..MOST as u16).map(|step| random.wrapping_add(step)).find(|id| !self.waiting.contains_key(id));
        let Some((id, server)) = free.filter(|_| self.waiting.len() < MOST).zip(self.servers.first().copied()) else {
            return Some(Step::Answer(asker, refusal(&message, ResponseCode::ServFail)?));
        };
        let mut forwarded = bytes.to_vec();
        forwarded[..2].copy_from_slice(&id.to_be_bytes());
        let waiting = Waiting {
            asker,
            id: message.metadata.id,
            query: query.clone(),
            message: forwarded.clone(),
            room,
            attempts: 1,
            deadline: now + TIMEOUT,
        };
        self.waiting.insert(id, waiting);
        self.forwarded += 1;
        Some(Step::Forward(server, forwarded))
    }

    /// Something came from a server of the host.
    pub fn answered(&mut self, from: SocketAddrV4, bytes: &[u8]) -> Option<Step> {
        let id = u16::from_be_bytes(*bytes.first_chunk()?);
        let waiting = self.waiting.get(&id)?;
        // A spoofed answer must know the identifier, the port and the question.
        let message = Message::from_vec(bytes).ok()?;
        let fits = message.metadata.message_type == MessageType::Response && message.queries == [waiting.query.clone()];
        if !self.servers.contains(&from) || !fits {
            return None;
        }
        let waiting = self.waiting.remove(&id)?;
        let mut answer = bytes.to_vec();
        answer[..2].copy_from_slice(&waiting.id.to_be_bytes());
        if answer.len() > waiting.room {
            let mut short = message.truncate();
            short.metadata.id = waiting.id;
            answer = short.to_vec().ok()?;
        }
        Some(Step::Answer(waiting.asker, answer))
    }

    /// When somebody has waited long enough.
    pub fn deadline(&self) -> Option<Time> {
        self.waiting.values().map(|waiting| waiting.deadline).min()
    }

    /// Asks the next server, or gives up.
    pub fn tick(&mut self, now: Time) -> Vec<Step> {
        let due: Vec<u16> =
            self.waiting.iter().filter(|(_, waiting)| waiting.deadline <= now).map(|(id, _)| *id).collect();
        let mut steps = Vec::new();
        for id in due {
            let Some(waiting) = self.waiting.get_mut(&id) else { continue };
            if waiting.attempts < ATTEMPTS {
                let server = self.servers[waiting.attempts as usize % self.servers.len()];
                waiting.attempts += 1;
                waiting.deadline = now + TIMEOUT;
                steps.push(Step::Forward(server, waiting.message.clone()));
            } else if let Some(waiting) = self.waiting.remove(&id) {
                self.failed += 1;
                let mut answer = Message::error_msg(waiting.id, OpCode::Query, ResponseCode::ServFail);
                answer.add_query(waiting.query);
                if let Ok(answer) = answer.to_vec() {
                    steps.push(Step::Answer(waiting.asker, answer));
                }
            }
        }
        steps
    }

    /// The answer to a question about the guests' names or addresses; `None` when it is about something else.
    fn own_answer(&self, message: &Message, query: &Query, dhcp: &Dhcp) -> Option<Message> {
        let name = query.name().to_lowercase();
        let mut answer = Message::response(message.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = message.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.authoritative = true;
        answer.add_query(query.clone());
        if message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(OURS);
            answer.set_edns(edns);
        }
        let data = if self.domain.zone_of(&name) || name.num_labels() == 1 {
            let label = std::str::from_utf8(name.iter().next().unwrap_or_default()).unwrap_or_default().to_owned();
            let below = name.num_labels() == self.domain.num_labels() + 1 || name.num_labels() == 1;
            let address = match label.as_str() {
                "gateway" if below => Some(self.gateway),
                label if below => dhcp.address_of(label),
                _ => None,
            };
            let apex = name == self.domain;
            if address.is_none() && !apex {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            address.filter(|_| query.query_type() == RecordType::A).map(|address| RData::A(A(address)))
        } else {
            let IpAddr::V4(address) = name.parse_arpa_name().ok().filter(|net| net.prefix_len() == 32)?.addr() else {
                return None;
            };
            let known = if address == self.gateway { Some("gateway") } else { dhcp.name_of(address) };
            let full = Name::from_ascii(known?).ok()?.append_domain(&self.domain).ok()?;
            (query.query_type() == RecordType::PTR).then_some(RData::PTR(PTR(full)))
        };
        if let Some(data) = data {
            answer.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
        }
        Some(answer)
    }
}

fn refusal(message: &Message, code: ResponseCode) -> Option<Vec<u8>> {
    let mut answer = Message::error_msg(message.metadata.id, message.metadata.op_code, code);
    answer.add_queries(message.queries.iter().cloned());
    answer.to_vec().ok()
}
