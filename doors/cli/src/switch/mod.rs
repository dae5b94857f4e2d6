//! `bulkhead switch`: virtual switches and their ports, by asking `bulkhead-switch`.

mod arguments;
mod bits;
mod capture;
mod client;
mod print;
mod verbs;

pub use arguments::Command;
#[allow(unused_imports, reason = "boot plugs its adapters in with it")]
pub use client::Client;
pub use verbs::run;
