//! `bulkhead-nat`: the process of one NAT network. Whoever starts it passes a SEQPACKET socket as standard input and speaks
//! `bulkhead_nat_protocol` over it.
//!
//! One thread waits for everything: frames from the switch, sockets of guests' connections, forwarded ports, the starter.
//!
//! | module | holds |
//! |---|---|
//! | `serve` | the loop |
//! | `control` | requests of the starter |
//! | `plug` | the port: of a switch, or for one adapter |
//! | `sockets` | sockets of the host |
//! | `forwards` | ports of the host that lead to guests |
//! | `boot_files` | the folder that guests boot from |
//! | `sandbox` | what the process gives up before the first frame |

mod boot_files;
mod control;
mod forwards;
mod plug;
mod sandbox;
mod serve;
mod sockets;

pub use serve::run;
