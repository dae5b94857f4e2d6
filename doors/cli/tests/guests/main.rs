//! Stock guests and bare-metal programs, run by `bulkhead boot`. Each is booted once. What takes long runs only with
//! `cargo xtask test --long guests`.

mod bare;
mod debian;
mod firmware;
mod linux;
#[path = "../support/mod.rs"]
mod support;
