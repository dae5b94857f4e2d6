//! Counters of a run: also the content of `bulkhead boot --stats`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a run took.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// `soft` or `kvm`.
    pub engine: String,
    /// What executes guest code in more words: the CPU model, deterministic mode.
    pub cpu_model: String,
    /// Host time from the start of the VM, in seconds.
    pub wall_seconds: f64,
    /// CPU time of the worker, user and system, in seconds.
    pub cpu_seconds: f64,
    /// VM time, in seconds: it stands still while the VM is paused.
    pub vm_seconds: f64,
    /// Guest instructions of all processors; `null` where the engine does not count them.
    pub guest_instructions: Option<u64>,
    /// Largest resident set of the worker, in bytes.
    pub peak_rss_bytes: u64,
    /// How often the guest was reset.
    pub resets: u64,
    /// Exits of all processors, by kind.
    pub exits: BTreeMap<String, u64>,
    /// Internal events of the engine, by its own names.
    pub engine_events: BTreeMap<String, u64>,
    /// Disks, by the name of their file.
    pub disks: BTreeMap<String, DiskStats>,
}

/// What one disk was asked for, and what looking up its bytes has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStats {
    /// Images in its chain.
    pub depth: u64,
    /// Read requests.
    pub reads: u64,
    /// Writes, discards and zeroings.
    pub writes: u64,
    /// Lookups of block tables and bitmaps that had to read the file.
    pub metadata_reads: u64,
    /// Lookups that found what they needed in memory.
    pub metadata_hits: u64,
}
