//! [`Schedule`]: whose turn it is to send. Deficit round robin, so that ports that compete for the same way out share it by their
//! weights; a port whose next frame cannot go yet is parked at the gate that it waits for.

use crate::PortId;
use std::collections::VecDeque;

/// Bytes that the port with the largest weight may send in a turn.
const QUANTUM: u64 = 128 * 1024;

/// Turns of ports.
#[derive(Debug, Default)]
pub struct Schedule {
    turns: Vec<Turn>,
    active: VecDeque<PortId>,
    max_weight: u64,
}

#[derive(Clone, Debug, Default)]
struct Turn {
    weight: u64,
    quantum: u64,
    deficit: u64,
    state: State,
    /// Those parked at this port.
    parked: VecDeque<PortId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Active,
    ParkedAt(PortId),
    Held,
}

impl Schedule {
    /// Sets the weight of a port, at least 1; 0 removes the port.
    pub fn set_weight(&mut self, port: PortId, weight: u16) {
        let index = usize::from(port.0);
        if self.turns.len() <= index {
            self.turns.resize(index + 1, Turn::default());
        }
        self.turns[index].weight = weight.into();
        if weight == 0 {
            self.leave(port);
            self.open(port);
            self.turns[index] = Turn::default();
        }
        self.max_weight = self.turns.iter().map(|turn| turn.weight).max().unwrap_or(0).max(1);
        for turn in &mut self.turns {
            turn.quantum = (QUANTUM * turn.weight / self.max_weight).max(64);
        }
    }

    /// The port may have something to send.
    #[inline]
    pub fn activate(&mut self, port: PortId) {
        let Some(turn) = self.turns.get_mut(usize::from(port.0)) else { return };
        if turn.state == State::Idle && turn.weight > 0 {
            turn.state = State::Active;
            turn.deficit = turn.quantum;
            self.active.push_back(port);
        }
    }

    /// Whose turn it is.
    #[inline]
    pub fn current(&self) -> Option<PortId> {
        self.active.front().copied()
    }

    /// Lets the port of this turn send `bytes`, if it has not used its turn up.
    #[inline]
    pub fn spend(&mut self, port: PortId, bytes: usize) -> bool {
        let Some(turn) = self.turns.get_mut(usize::from(port.0)) else { return false };
        match turn.deficit.checked_sub(bytes as u64) {
            Some(left) => {
                turn.deficit = left;
                true
            }
            None => false,
        }
    }

    /// What [`spend`](Self::spend) took was not sent after all.
    #[inline]
    pub fn refund(&mut self, port: PortId, bytes: usize) {
        if let Some(turn) = self.turns.get_mut(usize::from(port.0)) {
            turn.deficit += bytes as u64;
        }
    }

    /// The port has nothing left to send.
    #[inline]
    pub fn finish(&mut self, port: PortId) {
        self.leave(port);
        if let Some(turn) = self.turns.get_mut(usize::from(port.0)) {
            turn.state = State::Idle;
        }
    }

    /// The port has used its turn up: the next one's turn.
    #[inline]
    pub fn rotate(&mut self, port: PortId) {
        if self.active.front() == Some(&port) {
            self.active.rotate_left(1);
        }
        if let Some(turn) = self.turns.get_mut(usize::from(port.0)) {
            turn.deficit = (turn.deficit + turn.quantum).min(QUANTUM * 2);
        }
    }

    /// The port's next frame waits for room at `gate`. Whoever comes later waits behind it, even if a shorter frame would fit:
    /// see [`is_waited_for`](Self::is_waited_for).
    pub fn park(&mut self, port: PortId, gate: PortId) {
        let most = usize::from(port.0.max(gate.0));
        if self.turns.len() <= most {
            self.turns.resize(most + 1, Turn::default());
        }
        self.leave(port);
        self.turns[usize::from(port.0)].state = State::ParkedAt(gate);
        self.turns[usize::from(gate.0)].parked.push_back(port);
    }

    /// The port may not send for a while, by its own limit; nobody else is concerned.
    pub fn hold(&mut self, port: PortId) {
        self.leave(port);
        if let Some(turn) = self.turns.get_mut(usize::from(port.0)) {
            turn.state = State::Held;
        }
    }

    /// The port may send again after [`hold`](Self::hold).
    pub fn release(&mut self, port: PortId) {
        if let Some(turn) = self.turns.get_mut(usize::from(port.0)).filter(|turn| turn.state == State::Held) {
            turn.state = State::Active;
            self.active.push_back(port);
        }
    }

    /// There is room at `gate`: those who wait go on where they were, in their order.
    pub fn open(&mut self, gate: PortId) {
        let Some(turn) = self.turns.get_mut(usize::from(gate.0)) else { return };
        for port in std::mem::take(&mut turn.parked).into_iter().rev() {
            self.turns[usize::from(port.0)].state = State::Active;
            self.active.push_front(port);
        }
    }

    /// Whether somebody waits at `gate`. Ask before [`spend`](Self::spend): whoever is parked there is still having its turn, and
    /// nobody may earn another one meanwhile.
    #[inline]
    pub fn is_waited_for(&self, gate: PortId) -> bool {
        self.turns.get(usize::from(gate.0)).is_some_and(|turn| !turn.parked.is_empty())
    }

    fn leave(&mut self, port: PortId) {
        match self.turns.get(usize::from(port.0)).map(|turn| turn.state) {
            Some(State::Active) if self.active.front() == Some(&port) => drop(self.active.pop_front()),
            Some(State::Active) => self.active.retain(|&other| other != port),
            Some(State::ParkedAt(gate)) => self.turns[usize::from(gate.0)].parked.retain(|&other| other != port),
            _ => {}
        }
    }
}
