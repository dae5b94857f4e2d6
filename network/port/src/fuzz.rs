//! Fuzz target: a hostile other side.
#![doc(hidden)]

use crate::layout::RingSize;
use crate::{attach, nic_side, switch_side, wake_pair};
use bulkhead_linux::{Message, SharedMapping, sealed_memfd};
use bulkhead_packets::FrameMeta;
use std::sync::Arc;

/// Scribbles over the memory of a port as `data` says, between the steps of an honest switch: nothing may panic, run forever or
/// read outside. The bytes are also read as messages of the handshake.
pub fn fuzz(data: &[u8]) {
    let _ = attach::parse_reply(data);
    let _ = attach::accept(Message { bytes: data.to_vec(), descriptors: Vec::new() });
    let Ok(size) = RingSize::new(256 << 10) else { return };
    let Ok(memory) = sealed_memfd("fuzz", size.memory()).and_then(SharedMapping::new) else { return };
    let memory = Arc::new(memory);
    let (Ok((to_switch, at_switch)), Ok((to_nic, at_nic))) = (wake_pair(), wake_pair()) else { return };
    let mut switch = switch_side(memory.clone(), size, to_nic, at_switch);
    let mut nic = nic_side(memory.clone(), size, to_switch, at_nic);
    for chunk in data.chunks(8) {
        let [step, place, value @ ..] = chunk else { return };
        // The interesting places: control words, and the headers of the first records.
        let offset = match place >> 6 {
            0 => u64::from(place & 0x3F) * 4,
            1 => 0x1000 + u64::from(place & 0x3F) * 4,
            2 => 0x2000 + u64::from(place & 0x3F) * 4,
            _ => 0x2000 + u64::from(size.bytes()) - 64 + u64::from(place & 0xF) * 4,
        };
        let mut bytes = Vec::new();
        let broken = match step % 6 {
            0 | 1 => memory.write(offset & !3, &value[..value.len() & 4]).is_err(),
            2 => nic.tx.send(&FrameMeta::default(), &[&[0; 60 + 1000]]).and_then(|_| nic.tx.publish()).is_err(),
            3 => switch.tx.send(&FrameMeta::default(), &[&vec![0; 60_000]]).and_then(|_| switch.tx.publish()).is_err(),
            4 => switch.tx.wait_for_room().is_err(),
            _ => (0..10_000).any(|_| {
                let done = switch.rx.peek().and_then(|frame| frame.map(|frame| frame.read_all(&mut bytes)).transpose());
                switch.rx.advance();
                !matches!(done, Ok(Some(())))
            }),
        };
        if broken && switch.rx.sleep().is_err() {
            return;
        }
    }
}
