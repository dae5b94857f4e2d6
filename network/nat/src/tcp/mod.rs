//! TCP: every connection of a guest ends here and goes on as a stream of the host (a splice, not a translation).
//!
//! A guest's SYN is answered only after the host's side is connected, and a refusal is a RST, so a guest sees what is true.
//! Bytes to a guest stay in the host's receive buffer until the guest has acknowledged them; bytes from a guest that the host
//! does not take at once wait in a bounded buffer, whose free room is the window that the guest sees.
//!
//! | module | holds |
//! |---|---|
//! | `flow` | one connection: sequence numbers, windows, timers |
//! | `table` | all connections: by addresses, by number, by deadline |

mod flow;
mod table;

pub(crate) use flow::{Flow, Guest};
pub(crate) use table::{FlowKey, Table};
