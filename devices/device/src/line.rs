//! Interrupt lines: a driver side that remembers its level, sinks with numbered inputs, and the wired OR of several drivers.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire};

/// Something with numbered inputs.
pub trait LineSink: Send + Sync {
    /// Input `input` has this level now. Called only for changes; inputs that do not exist are ignored.
    fn set_input(&self, input: u32, level: bool);
}

/// A device with inputs. Its `Arc<Mutex<T>>` is a [`LineSink`].
pub trait LineInput: Send {
    /// Input `input` has this level now. Setting the same level again must change nothing.
    fn set_input(&mut self, input: u32, level: bool);
}

impl<T: LineInput> LineSink for Mutex<T> {
    fn set_input(&self, input: u32, level: bool) {
        self.lock().set_input(input, level);
    }
}

/// The driver of one input, low at first. Only changes reach the sink.
pub struct Line {
    sink: Option<Arc<dyn LineSink>>,
    input: u32,
    level: AtomicBool,
}

impl Line {
    /// A line to `input` of `sink`.
    pub fn new(sink: Arc<dyn LineSink>, input: u32) -> Line {
        Line { sink: Some(sink), input, level: AtomicBool::new(false) }
    }

    /// A line that leads nowhere.
    pub fn unconnected() -> Line {
        Line { sink: None, input: 0, level: AtomicBool::new(false) }
    }

    /// Drives the line high or low.
    pub fn set(&self, level: bool) {
        if self.level.swap(level, AcqRel) != level
            && let Some(sink) = &self.sink
        {
            sink.set_input(self.input, level);
        }
    }

    /// A rising edge, then low: one interrupt of an edge-triggered input.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// What the line is driven to.
    pub fn level(&self) -> bool {
        self.level.load(Acquire)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("input", &self.input).field("level", &self.level()).finish()
    }
}

/// Up to 64 drivers of one line: it is high while any of them is.
pub struct OrGate {
    inputs: Mutex<u64>,
    output: Line,
}

impl OrGate {
    /// A gate in front of `output`.
    pub fn new(output: Line) -> Arc<OrGate> {
        Arc::new(OrGate { inputs: Mutex::new(0), output })
    }

    /// A driver for input `input`, 0 to 63. Each input has one driver; a further one is the same input again.
    pub fn line(self: &Arc<Self>, input: u32) -> Line {
        Line::new(self.clone(), input)
    }
}

impl LineSink for OrGate {
    fn set_input(&self, input: u32, level: bool) {
        let Some(bit) = 1u64.checked_shl(input) else { return };
        // Held while the output is set, so that two drivers cannot leave it at the level of the slower one.
        let mut inputs = self.inputs.lock();
        *inputs = if level { *inputs | bit } else { *inputs & !bit };
        self.output.set(*inputs != 0);
    }
}
