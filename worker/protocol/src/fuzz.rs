//! Fuzz target: any packet, to either side.

use crate::channel::decode;
use crate::{FromWorker, ToWorker};

/// Reads `data` as a packet; what is understood must survive being sent on.
pub fn fuzz(data: &[u8]) {
    if let Ok(message) = decode::<ToWorker>(data) {
        let bytes = serde_json::to_vec(&message).expect("a message is JSON");
        assert_eq!(decode::<ToWorker>(&bytes).expect("its own JSON"), message);
    }
    if let Ok(message) = decode::<FromWorker>(data) {
        // Numbers may lose digits (1e999 is refused by the reader), so only reading back is asked for.
        let bytes = serde_json::to_vec(&message).expect("a message is JSON");
        decode::<FromWorker>(&bytes).expect("its own JSON");
    }
}
