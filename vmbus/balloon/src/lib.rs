//! Dynamic memory: a VM starts with some memory, gets more by hot add, and gives memory back by a balloon in the guest.
//!
//! | module | what |
//! |---|---|
//! | `message` | the messages of the guest's driver (`hv_balloon`), read and written |
//! | [`policy`] | how much memory each VM should have: pure arithmetic over demands and limits |
//! | `device` | [`DynamicMemory`], which moves the VM towards its target |
//! | `pages` | which pages the balloon holds |

mod device;
#[doc(hidden)]
pub mod fuzz;
mod message;
mod pages;
pub mod policy;
mod saved_state;

pub use device::{DynamicMemory, MemoryConfig, MemoryStatus, RamSupply, Target};
pub use saved_state::SavedMemory;
