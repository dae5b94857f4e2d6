//! Chains of differencing disks.
//!
//! | to … | see |
//! |---|---|
//! | open a chain where paths may be opened | [`open_chain`] |
//! | open it from descriptors, step by step | [`ChainBuilder`] |
//! | find a parent's possible paths | [`PathRules::candidates`] |
//! | check that a layer is the parent of another | [`check_link`] |
//! | fold a layer into its parent, also under writes | [`merge`] |
//! | say what is wrong with a chain, and mend it | [`diagnose`], [`reconnect`] |
//!
//! Formats come from outside, through [`Opener`]: this crate knows layers only. Reading through a chain is
//! [`bulkhead_disk::Stack`].

mod doctor;
#[doc(hidden)]
pub mod fuzz;
mod link;
mod merge;
mod open;
mod paths;

pub use doctor::{ChainReport, Finding, LinkReport, diagnose, reconnect};
pub use link::{Strictness, check_link};
pub use merge::{Merge, MergeControl, merge, merge_layers};
pub use open::{ChainBuilder, FoundParent, MAX_DEPTH, Opener, WARN_DEPTH, find_parent, open_chain};
pub use paths::PathRules;
