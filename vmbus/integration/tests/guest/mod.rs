//! A guest's side of the conversation, written from the layouts of the messages and not from our encoder.
#![allow(dead_code, reason = "each test program uses a part")]

use bulkhead_integration::conversation::{Conversation, Later, Service};
use bulkhead_reactor::Time;
use std::time::Duration;

/// One service and the guest that it talks to.
pub struct Talk<S> {
    pub host: Conversation<S>,
    pub now: Time,
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

impl<S: Service> Talk<S> {
    pub fn new(service: S) -> Talk<S> {
        Talk { host: Conversation::new(service), now: Time::from_nanos(1_000_000_000) }
    }

    /// Runs what the service left for after its lock.
    pub fn run(&mut self, work: impl FnOnce(&mut Conversation<S>, Time, &mut Later)) {
        let mut later = Later::new();
        work(&mut self.host, self.now, &mut later);
        later.into_iter().for_each(|done| done());
    }

    /// The next packet of the host, after checking its headers.
    pub fn packet(&mut self) -> Option<Vec<u8>> {
        let mut later = Later::new();
        let packet = self.host.poll(self.now, &mut later);
        later.into_iter().for_each(|done| done());
        let packet = packet?;
        assert_eq!(u32_at(&packet, 0), 1, "pipe data");
        assert_eq!(u32_at(&packet, 4) as usize, packet.len() - 8, "pipe size");
        assert_eq!(u16_at(&packet, 18) as usize, packet.len() - 28, "data size");
        assert_eq!(packet[25], 3, "a request with a transaction");
        Some(packet)
    }

    /// Sends a packet back as the guest does: the same buffer with the response flags, a status, and changed data.
    pub fn reply(&mut self, mut packet: Vec<u8>, status: u32, change: impl FnOnce(&mut [u8])) {
        packet[20..24].copy_from_slice(&status.to_le_bytes());
        packet[25] = 5;
        change(&mut packet[28..]);
        self.run(|host, now, later| host.receive(now, &packet, later).unwrap());
    }

    /// Opens the channel and answers the negotiation as Linux does: the versions chosen from those offered.
    pub fn negotiate(&mut self, framework: (u16, u16), message: (u16, u16)) {
        self.host.opened();
        let packet = self.packet().expect("a negotiation");
        assert_eq!(u16_at(&packet, 12), 0, "message type");
        let (frameworks, messages) = (u16_at(&packet, 28) as usize, u16_at(&packet, 30) as usize);
        let pair = |at: usize| (u16_at(&packet, 36 + 4 * at), u16_at(&packet, 38 + 4 * at));
        assert!((0..frameworks).any(|at| pair(at) == framework), "framework {framework:?} is not offered");
        assert!((frameworks..frameworks + messages).any(|at| pair(at) == message), "{message:?} is not offered");
        // Linux says 16 bytes of data and leaves the rest of the buffer.
        let mut answer = packet.clone();
        answer[18..20].copy_from_slice(&16u16.to_le_bytes());
        self.reply(answer, 0, |data| {
            data[..4].copy_from_slice(&[1, 0, 1, 0]);
            for (at, value) in [framework.0, framework.1, message.0, message.1].into_iter().enumerate() {
                data[8 + 2 * at..10 + 2 * at].copy_from_slice(&value.to_le_bytes());
            }
        });
    }

    /// A request that must come now, with its message type.
    pub fn request(&mut self, message_type: u16) -> Vec<u8> {
        let packet = self.packet().expect("a request");
        assert_eq!(u16_at(&packet, 12), message_type);
        packet
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.run(|host, now, later| host.tick(now, later));
    }
}
