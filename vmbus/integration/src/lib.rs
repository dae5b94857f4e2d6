//! Integration services: what the host and the drivers and daemons inside the guest do for each other.
//!
//! | service | module | needs in a Linux guest |
//! |---|---|---|
//! | shutdown | [`shutdown`] | `hv_utils` |
//! | heartbeat | [`heartbeat`] | `hv_utils` |
//! | time synchronization | [`time_sync`] | `hv_utils` |
//! | key/value exchange | [`key_value`] | `hv_kvp_daemon` |
//! | volume snapshot (VSS) | [`volume_snapshot`] | `hv_vss_daemon` |
//! | file copy | [`file_copy`] | `hv_fcopy_daemon` |
//!
//! Each service is a pure state machine ([`conversation::Service`]) inside a [`conversation::Conversation`], which negotiates
//! versions and keeps one request in flight. [`IntegrationDevice`] puts it on a channel.

pub mod conversation;
mod device;
mod error;
pub mod file_copy;
#[doc(hidden)]
pub mod fuzz;
pub mod heartbeat;
pub mod key_value;
pub mod message;
mod saved_state;
pub mod shutdown;
mod text;
pub mod time_sync;
pub mod volume_snapshot;

pub use conversation::{Phase, Service};
pub use device::IntegrationDevice;
pub use error::ServiceError;
pub use saved_state::{SavedConversation, SavedService};
