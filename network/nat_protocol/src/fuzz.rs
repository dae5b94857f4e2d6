//! The fuzz target: configurations and requests that come as JSON.

use crate::{NatConfig, ToNat};

/// Reads a request; a configuration that passes its check has a sound network.
pub fn fuzz(data: &[u8]) {
    let _ = serde_json::from_slice::<ToNat>(data);
    if let Ok(config) = serde_json::from_slice::<NatConfig>(data)
        && let Ok(network) = config.network()
    {
        assert!(network.contains(network.first) && network.first <= network.last);
    }
}
