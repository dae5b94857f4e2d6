//! `bulkhead switch`: virtual switches and their ports, by asking `bulkhead-switch`.

mod arguments;
mod bits;
mod capture;
mod client;
mod print;
mod verbs;

pub use arguments::Command;
pub use verbs::run;
