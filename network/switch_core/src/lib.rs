//! A virtual switch without I/O: where each frame goes, and why not.
//!
//! [`Switch`] holds the ports with their [`Policy`], the [`address table`](AddressTable) and the counters. Whoever moves the bytes asks
//! [`Switch::forward`] for each frame, and [`Schedule`] for whose turn it is. Time is nanoseconds of any clock that never goes back.

mod acl;
mod address_table;
mod bucket;
mod counters;
pub mod fuzz;
mod guard;
mod policy;
mod schedule;
mod switch;
mod vlan;

pub use acl::{AclAction, AclDirection, AclRule, IpPrefix};
pub use address_table::AddressTable;
pub use bucket::TokenBucket;
pub use counters::{Counters, DropReason};
pub use policy::{Mirror, Policy, PolicyError, PortKind};
pub use schedule::Schedule;
pub use switch::{Egress, PortId, Switch, Verdict};
pub use vlan::{VlanMode, VlanSet};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
