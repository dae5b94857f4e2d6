//! One connection: the guest's end of it in TCP (RFC 9293), the host's end as a stream.

use crate::host::{Link, Stream};
use crate::wire::{Outgoing, Route, TCP_HEADERS, Tcp, flag};
use bulkhead_reactor::Time;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

/// Bytes from a guest that wait for the host at most, and so the largest window that it is shown.
const PENDING: usize = 256 << 10;
/// The scale of our window.
const SCALE: u8 = 3;
/// Largest payload of a frame that somebody else cuts.
pub(crate) const LARGEST: usize = 60 << 10;
/// First and longest time before a segment is sent again. The link loses next to nothing, so the first is short.
const RETRANSMIT: Duration = Duration::from_millis(200);
const RETRANSMIT_MOST: Duration = Duration::from_secs(10);
/// Times that a segment is sent again before the connection is given up.
const RETRIES: u32 = 12;
/// How long a guest may take to finish a connection whose other side is closed.
const HALF_CLOSED: Duration = Duration::from_secs(300);
/// How long a silent connection lives (RFC 5382: at least 2 hours and 4 minutes).
const IDLE: Duration = Duration::from_secs(3 * 3600);
/// How long the host may take to connect.
const CONNECTING: Duration = Duration::from_secs(130);
/// Acknowledgements that say the same before a segment is sent again.
const DUPLICATES: u32 = 3;

/// How frames to a guest are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest {
    pub route: Route,
    /// Source (the outside) and destination port of frames to the guest.
    pub ports: (u16, u16),
    /// Frames with partial checksums and several segments may be sent.
    pub offload: bool,
    /// Longest IP packet.
    pub mtu: u16,
}

/// What a step of a connection works with.
pub(crate) struct Tools<'a, L> {
    pub now: Time,
    pub link: &'a mut L,
    /// For payloads on their way to a guest; as long as [`LARGEST`].
    pub scratch: &'a mut [u8],
    /// Bytes from guests that may be kept, over all connections.
    pub room: usize,
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The guest asked; the host connects.
    Connecting,
    /// Connected; SYN and ACK are on their way to the guest.
    Answered,
    /// Somebody outside asked; our SYN is on its way to the guest.
    Asked,
    Established,
}

/// What is to become of a connection after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Stays,
    /// It has ended and can be forgotten.
    Gone,
}
use Verdict::{Gone, Stays};

pub(crate) struct Flow<S> {
    pub guest: Guest,
    stream: S,
    state: State,
    /// Guest to host: what is expected next, and what was taken but not written yet.
    receive_next: u32,
    pending: VecDeque<u8>,
    /// The guest has sent its FIN; the host has been told.
    guest_finished: bool,
    finish_told: bool,
    /// The window that the guest was shown last.
    shown: usize,
    /// Host to guest: not acknowledged, next, and the highest sent.
    una: u32,
    next: u32,
    sent: u32,
    window: u32,
    /// Scale of the guest's window; `None` when it scales nothing.
    scale: Option<u8>,
    largest: u16,
    /// The host's stream has ended: where our FIN is.
    fin_at: Option<u32>,
    /// An acknowledgement is due at the end of the batch.
    pub ack_due: bool,
    /// Waits for room on the link.
    pub blocked: bool,
    /// The guest's MAC address is not known yet.
    pub unresolved: bool,
    duplicates: u32,
    retries: u32,
    timeout: Duration,
    /// Of the segment that is sent again, or of silence.
    pub deadline: Time,
    last: Time,
}

impl<S: Stream> Flow<S> {
    /// A connection that a guest asks for with `syn`.
    pub fn asked_by_guest(guest: Guest, stream: S, syn: &Tcp<'_>, isn: u32, now: Time) -> Flow<S> {
        let mut flow = Flow::new(guest, stream, State::Connecting, isn, now);
        flow.take_syn(syn);
        flow.deadline = now + CONNECTING;
        flow
    }

    /// A connection to a guest; the SYN goes with [`Flow::expired`], which the deadline calls at once.
    pub fn asked_from_outside(guest: Guest, stream: S, isn: u32, now: Time) -> Flow<S> {
        let mut flow = Flow::new(guest, stream, State::Asked, isn, now);
        flow.unresolved = true;
        flow
    }

    fn new(guest: Guest, stream: S, state: State, isn: u32, now: Time) -> Flow<S> {
        Flow {
            guest,
            stream,
            state,
            receive_next: 0,
            pending: VecDeque::new(),
            guest_finished: false,
            finish_told: false,
            shown: 0,
            una: isn,
            next: isn,
            sent: isn,
            window: 0,
            scale: None,
            largest: 536,
            fin_at: None,
            ack_due: false,
            blocked: false,
            unresolved: false,
            duplicates: 0,
            retries: 0,
            timeout: RETRANSMIT,
            deadline: now,
            last: now,
        }
    }

    fn take_syn(&mut self, syn: &Tcp<'_>) {
        let (largest, scale) = syn.syn_options();
        let most = self.guest.mtu.saturating_sub(40);
        self.largest = largest.unwrap_or(536).clamp(64, most.max(64));
        self.scale = scale;
        self.receive_next = syn.sequence.wrapping_add(1);
        self.window = syn.window.into();
    }

    /// The host's stream is ready: connected or failed at first, then for reading, writing, or at its end.
    pub fn stream_ready(&mut self, tools: &mut Tools<'_, impl Link>) -> Verdict {
        match self.state {
            State::Connecting => match self.stream.connected() {
                Ok(()) => {
                    self.state = State::Answered;
                    self.send_syn(tools);
                    Stays
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Stays,
                Err(_) => self.reset_guest(tools.link),
            },
            State::Answered | State::Asked => Stays,
            State::Established => {
                if self.drain() == Gone {
                    return self.reset_guest(tools.link);
                }
                self.update_window();
                self.push(tools)
            }
        }
    }

    /// The host's end.
    pub fn far_end(&mut self) -> &mut S {
        &mut self.stream
    }

    /// A segment from the guest.
    pub fn segment(&mut self, segment: &Tcp<'_>, tools: &mut Tools<'_, impl Link>) -> Verdict {
        if segment.has(flag::RST) {
            return self.guest_reset(segment);
        }
        match self.state {
            State::Connecting => return Stays,
            State::Answered if segment.has(flag::SYN) => {
                self.send_syn(tools);
                return Stays;
            }
            State::Asked => {
                if !segment.has(flag::SYN | flag::ACK) || segment.acknowledged != self.next {
                    return Stays;
                }
                self.take_syn(segment);
                self.una = self.next;
                self.established(tools.now);
                self.ack_due = true;
                return self.push(tools);
            }
            State::Answered => {
                if !segment.has(flag::ACK) || segment.acknowledged != self.next {
                    return Stays;
                }
                self.una = self.next;
                self.established(tools.now);
            }
            State::Established => {}
        }
        if segment.has(flag::SYN) || !segment.has(flag::ACK) {
            self.ack_due = true;
            return Stays;
        }
        self.last = tools.now;
        if self.acknowledged(segment, tools.now) == Gone || self.take(segment, tools) == Gone {
            return self.reset_guest(tools.link);
        }
        self.push(tools)
    }

    fn guest_reset(&mut self, segment: &Tcp<'_>) -> Verdict {
        // RFC 5961: only the very next position resets; before the handshake is done there is no better knowledge.
        let asked = self.state == State::Asked && segment.acknowledged == self.next;
        if segment.sequence != self.receive_next && !asked {
            self.ack_due = self.state == State::Established;
            return Stays;
        }
        self.stream.abort();
        Gone
    }

    fn established(&mut self, now: Time) {
        self.state = State::Established;
        self.progress(now);
    }

    /// Something moved: the next silence is timed anew.
    fn progress(&mut self, now: Time) {
        (self.retries, self.duplicates, self.timeout) = (0, 0, RETRANSMIT);
        self.last = now;
        self.deadline = now + self.patience();
    }

    /// How long to wait for the guest now.
    fn patience(&self) -> Duration {
        if self.una != self.next {
            self.timeout
        } else if self.window == 0 {
            // Its window may have opened, and that news been lost.
            self.timeout.max(Duration::from_secs(1))
        } else if self.fin_at.is_some() || self.finish_told {
            HALF_CLOSED
        } else {
            IDLE
        }
    }

    fn acknowledged(&mut self, segment: &Tcp<'_>, now: Time) -> Verdict {
        let window = u32::from(segment.window) << self.scale.unwrap_or(0);
        let newly = segment.acknowledged.wrapping_sub(self.una);
        if newly > self.sent.wrapping_sub(self.una) {
            // Of bytes never sent, or old.
            return Stays;
        }
        if newly == 0 {
            let same = segment.payload.is_empty() && window == self.window && self.una != self.next;
            self.duplicates = if same { self.duplicates + 1 } else { 0 };
            if self.duplicates == DUPLICATES {
                self.rewind();
            }
            self.window = window;
            if self.una == self.next {
                self.progress(now);
            }
            return Stays;
        }
        let fin_covered = self.fin_at.is_some_and(|at| segment.acknowledged == at.wrapping_add(1));
        let bytes = newly - u32::from(fin_covered);
        if bytes > 0 && self.stream.consume(bytes as usize).is_err() {
            return Gone;
        }
        self.una = segment.acknowledged;
        if self.next.wrapping_sub(self.una) > self.sent.wrapping_sub(self.una) {
            // It had what we were about to send again.
            self.next = self.una;
        }
        self.window = window;
        self.progress(now);
        Stays
    }

    /// From the first byte that is not acknowledged again.
    fn rewind(&mut self) {
        self.next = self.una;
    }

    /// Takes the payload and the FIN, as far as there is room. `Gone`: the host's stream has failed.
    fn take(&mut self, segment: &Tcp<'_>, tools: &mut Tools<'_, impl Link>) -> Verdict {
        if segment.length() == 0 {
            // A keep-alive, whose answer says that we are here.
            self.ack_due |= segment.sequence != self.receive_next;
            return Stays;
        }
        self.ack_due = true;
        let old = self.receive_next.wrapping_sub(segment.sequence);
        if self.guest_finished || old > segment.payload.len() as u32 {
            // Old, or of the future: the acknowledgement says what is expected. At once, because the sender counts them.
            self.acknowledge(tools.link);
            return Stays;
        }
        let payload = &segment.payload[old as usize..];
        let mut taken = 0;
        if self.pending.is_empty() {
            match self.stream.write(payload) {
                Ok(written) => taken = written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Gone,
            }
        }
        let room = PENDING.saturating_sub(self.pending.len()).min(tools.room).min(payload.len() - taken);
        self.pending.extend(&payload[taken..taken + room]);
        taken += room;
        self.receive_next = self.receive_next.wrapping_add(taken as u32);
        if taken == payload.len() && segment.has(flag::FIN) {
            self.receive_next = self.receive_next.wrapping_add(1);
            self.guest_finished = true;
            self.tell_finish();
        }
        Stays
    }

    fn tell_finish(&mut self) {
        if self.guest_finished && !self.finish_told && self.pending.is_empty() {
            self.finish_told = true;
            self.stream.finish();
        }
    }

    /// Writes what waits. `Gone`: the host's stream has failed.
    fn drain(&mut self) -> Verdict {
        while !self.pending.is_empty() {
            match self.stream.write(self.pending.as_slices().0) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Stays,
                Err(_) => return Gone,
            }
        }
        if self.pending.capacity() > 0 {
            self.pending = VecDeque::new();
        }
        self.tell_finish();
        Stays
    }

    /// Tells a guest whose window was small that there is room again.
    fn update_window(&mut self) {
        let room = PENDING - self.pending.len();
        if self.shown < PENDING / 4 && room >= PENDING / 2 {
            self.ack_due = true;
        }
    }

    /// Sends to the guest what the host's stream has, as far as its window and the link allow.
    pub fn push(&mut self, tools: &mut Tools<'_, impl Link>) -> Verdict {
        self.blocked = false;
        if self.state != State::Established {
            return Stays;
        }
        while !self.fin_is_sent() {
            let flying = self.next.wrapping_sub(self.una);
            let usable = self.window.saturating_sub(flying) as usize;
            if usable == 0 {
                break;
            }
            let largest = usize::from(self.largest);
            // Whole segments, so that those who cut frames need not end with a short one.
            let most = if self.guest.offload { LARGEST / largest * largest } else { largest };
            if !tools.link.room(most + TCP_HEADERS) {
                self.blocked = true;
                break;
            }
            let most = most.min(usable);
            match self.stream.peek(flying as usize, &mut tools.scratch[..most]) {
                Ok(0) => {
                    self.fin_at = Some(self.next);
                    self.send(self.next, flag::FIN | flag::ACK, &[], tools.link);
                    self.advance(1, tools.now);
                }
                Ok(len) => {
                    let flags = if len < most { flag::ACK | flag::PSH } else { flag::ACK };
                    self.send(self.next, flags, &tools.scratch[..len], tools.link);
                    self.advance(len as u32, tools.now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.reset_guest(tools.link),
            }
        }
        let finished = self.fin_is_sent() && self.una == self.next && self.finish_told;
        if finished {
            if self.ack_due {
                self.acknowledge(tools.link);
            }
            return Gone;
        }
        Stays
    }

    fn advance(&mut self, len: u32, now: Time) {
        if self.una == self.next {
            // The first in flight: its time begins.
            self.deadline = now + self.timeout;
        }
        self.next = self.next.wrapping_add(len);
        if self.next.wrapping_sub(self.una) > self.sent.wrapping_sub(self.una) {
            self.sent = self.next;
        }
    }

    /// The deadline has come.
    pub fn expired(&mut self, tools: &mut Tools<'_, impl Link>) -> Verdict {
        let waits_for_ack = self.una != self.next || matches!(self.state, State::Asked | State::Answered);
        let probes = self.state == State::Established && self.window == 0 && !waits_for_ack;
        if !waits_for_ack && !probes {
            return match self.state {
                State::Established if tools.now < self.last + self.patience() => {
                    self.deadline = self.last + self.patience();
                    Stays
                }
                _ => self.reset_guest(tools.link),
            };
        }
        if self.retries == RETRIES {
            return self.reset_guest(tools.link);
        }
        if self.state != State::Established {
            // While its address is asked for, nothing can be sent.
            if !self.unresolved {
                self.send_syn(tools);
            }
        } else if probes {
            // An old position makes the guest say where it is (a keep-alive, RFC 9293, 3.8.4).
            self.send(self.una.wrapping_sub(1), flag::ACK, &[], tools.link);
        } else {
            self.rewind();
            if self.push(tools) == Gone {
                return Gone;
            }
        }
        self.retries += 1;
        self.timeout = (self.timeout * 2).min(RETRANSMIT_MOST);
        self.deadline = tools.now + self.timeout;
        Stays
    }

    fn fin_is_sent(&self) -> bool {
        self.fin_at.is_some_and(|at| self.next == at.wrapping_add(1))
    }

    fn send_syn(&mut self, tools: &mut Tools<'_, impl Link>) {
        let largest = self.guest.mtu.saturating_sub(40).to_be_bytes();
        let answers = self.state == State::Answered;
        let mut options = vec![2, 4, largest[0], largest[1]];
        if !answers || self.scale.is_some() {
            options.extend([1, 3, 3, SCALE]);
        }
        let flags = if answers { flag::SYN | flag::ACK } else { flag::SYN };
        self.shown = PENDING;
        let segment = Outgoing {
            // The window of a SYN is not scaled.
            window: 0xffff,
            acknowledged: if answers { self.receive_next } else { 0 },
            ..self.outgoing(self.una, flags)
        };
        let (frame, meta) = self.guest.route.tcp(&segment, &options, &[], None);
        tools.link.send(&meta, &[&frame]);
        self.next = self.una.wrapping_add(1);
        self.sent = self.next;
        self.deadline = tools.now + self.timeout;
    }

    fn outgoing(&self, sequence: u32, flags: u8) -> Outgoing {
        let (from_port, to_port) = self.guest.ports;
        let shift = if self.scale.is_some() { SCALE } else { 0 };
        let window = (self.shown >> shift).min(0xffff) as u16;
        Outgoing { from_port, to_port, sequence, acknowledged: self.receive_next, flags, window }
    }

    fn send(&mut self, sequence: u32, flags: u8, payload: &[u8], link: &mut impl Link) {
        self.shown = PENDING - self.pending.len();
        let segment = self.outgoing(sequence, flags);
        let cut = self.guest.offload.then_some(self.largest);
        let (headers, meta) = self.guest.route.tcp(&segment, &[], payload, cut);
        link.send(&meta, &[&headers, payload]);
        self.ack_due = false;
    }

    /// Sends an acknowledgement and nothing else.
    pub fn acknowledge(&mut self, link: &mut impl Link) {
        self.send(self.next, flag::ACK, &[], link);
    }

    /// Ends the connection towards the guest, and the host's with it.
    fn reset_guest(&mut self, link: &mut impl Link) -> Verdict {
        self.stream.abort();
        if self.unresolved {
            return Gone;
        }
        let flags = flag::RST | flag::ACK;
        let sequence = if self.state == State::Connecting { 0 } else { self.next };
        self.send(sequence, flags, &[], link);
        Gone
    }

    /// Bytes from the guest that wait.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// For people: the state's name and the bytes that wait each way.
    pub fn describe(&self) -> (&'static str, usize, u32) {
        let state = match self.state {
            State::Connecting => "connecting",
            State::Answered | State::Asked => "handshake",
            State::Established if self.fin_at.is_some() || self.guest_finished => "closing",
            State::Established => "established",
        };
        (state, self.pending.len(), self.next.wrapping_sub(self.una))
    }
}
