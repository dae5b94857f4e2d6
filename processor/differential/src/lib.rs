//! The host processor as oracle: random unprivileged instruction sequences run natively and on another executor, and
//! must leave equal registers, flags and memory, or raise the same exception at the same place.
//!
//! ```text
//! generator (seed) ──► Case ──► Host      a child process runs it on the real processor ──► Outcome ─┐
//!                        └────► Executor  the software engine, or single native stubs   ──► Outcome ─┴► compare
//!                                                                                 different: minimise, print
//! ```
//!
//! | to find | look in |
//! |---|---|
//! | addresses of code and data, registers, outcome | `case.rs` |
//! | random operands for an instruction form; memory operands; whole sequences | `operands.rs`, `addresses.rs`, `generator.rs` |
//! | which forms are generated, and why others are not | `forms.rs` |
//! | running cases on the host | `host.rs`, `host_child.rs` |
//! | what must be equal | `compare.rs` |
//! | a failing case made small | `minimise.rs` |

mod addresses;
mod case;
mod compare;
mod engine_executor;
mod forms;
mod generator;
mod host;
mod host_child;
mod minimise;
mod operands;
mod random;
mod round;
mod stub_executor;
mod table;
mod undefined;

pub use case::{Case, Exception, Mode, Outcome, Registers, layout};
pub use compare::differences;
pub use engine_executor::{EngineExecutor, EngineExecutorError};
pub use forms::{Form, Refusal, forms, refusal};
pub use generator::Generator;
pub use host::{Host, HostError};
pub use minimise::minimise;
pub use random::Random;
pub use round::{Executor, Round, run_round};
pub use stub_executor::StubExecutor;
pub use table::instruction_table;
