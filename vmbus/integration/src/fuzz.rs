//! Fuzz target: a guest that answers at random, while the host uses every service.

use crate::conversation::{Conversation, Later, Service};
use crate::file_copy::{Destination, FileCopy, Source};
use crate::heartbeat::Heartbeat;
use crate::key_value::{Item, KeyValue, Operation, Pool, Value};
use crate::saved_state::{self, SavedConversation};
use crate::shutdown::{Shutdown, ShutdownKind};
use crate::time_sync::{Moment, TimeSync};
use crate::volume_snapshot::VolumeSnapshot;
use bulkhead_device::fuzz::{Step, Steps};
use bulkhead_reactor::Time;
use std::io;
use std::sync::Arc;
use std::time::Duration;

struct Zeros(u64);

impl Source for Zeros {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, _offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }
}

/// Runs `data` as a guest of each service.
pub fn fuzz(data: &[u8]) {
    run::<Heartbeat>(data, || Arc::new(|_| {}), |_, _, _| {});
    let clocks = || -> crate::time_sync::Clocks { Arc::new(|| Moment { host: Duration::MAX, reference: u64::MAX }) };
    run::<TimeSync>(data, clocks, |_, _, _| {});
    run::<Shutdown>(
        data,
        || (),
        |service, choice, later| {
            let kind = [ShutdownKind::PowerOff, ShutdownKind::Restart, ShutdownKind::Hibernate][choice as usize % 3];
            service.request(kind, choice & 64 != 0, Duration::MAX, "text", Box::new(|_| {}), later);
        },
    );
    run::<KeyValue>(data, || (), |service, choice, later| service.start(operation(choice), Box::new(|_| {}), later));
    run::<VolumeSnapshot>(
        data,
        || (),
        |service, choice, later| match choice & 1 {
            0 => service.freeze(Duration::from_secs((choice >> 1).into()), Box::new(|_| {}), later),
            _ => service.thaw(Box::new(|_| {}), later),
        },
    );
    run::<FileCopy>(
        data,
        || (),
        |service, choice, later| {
            let to =
                Destination { folder: "/".into(), name: "n".into(), overwrite: choice & 1 != 0, create_folders: true };
            service.copy(Box::new(Zeros(u64::from(choice) << 8)), &to, Box::new(|_| {}), later);
        },
    );
}

fn operation(choice: u16) -> Operation {
    let pool = Pool::ALL[choice as usize % 5];
    let key = "k".repeat(choice as usize >> 8);
    match choice >> 5 & 3 {
        0 => Operation::Get { pool, key },
        1 => Operation::Set { pool, item: Item { key, value: Value::U32(1) } },
        2 => Operation::Delete { pool, key },
        _ => Operation::List { pool },
    }
}

fn run<S: Service>(data: &[u8], config: fn() -> S::Config, use_it: fn(&mut S, u16, &mut Later)) {
    let mut talk = Conversation::new(S::new(config()));
    let mut now = Time::ZERO;
    let mut last: Option<Vec<u8>> = None;
    for step in Steps::new(data) {
        let mut later = Later::new();
        match step {
            Step::Advance(nanos) => {
                now += Duration::from_nanos(nanos);
                talk.tick(now, &mut later);
            }
            Step::Event(event) => use_it(&mut talk.service, event as u16, &mut later),
            Step::PortRead(0..=0x0fff, _) => talk.closed(now, &mut later),
            Step::PortRead(..) => talk.opened(),
            Step::MmioRead(..) => talk = again(&talk, config, now),
            Step::PortWrite(at, _, value) => {
                // The last packet comes back as an answer, with something changed.
                if let Some(mut packet) = last.clone() {
                    packet[25] = 5;
                    packet[20] = value as u8 & 1;
                    let at = usize::from(at) % packet.len();
                    packet[at] = (value >> 8) as u8;
                    negotiate::<S>(&mut packet);
                    let _ = talk.receive(now, &packet, &mut later);
                }
            }
            Step::MmioWrite(at, _, value) => {
                let packet: Vec<u8> = (0..at % 64).map(|shift| (value >> (shift % 57)) as u8).collect();
                let _ = talk.receive(now, &packet, &mut later);
            }
        }
        for _ in 0..100 {
            match talk.poll(now, &mut later) {
                Some(packet) => last = Some(packet),
                None => break,
            }
        }
        later.into_iter().for_each(|done| done());
    }
}

/// Makes an answered negotiation a good one, so that the rest is reached.
fn negotiate<S: Service>(packet: &mut [u8]) {
    if packet[12..14] == [0, 0] && packet.len() >= 44 && packet[28] > 0 {
        packet[28..32].copy_from_slice(&[1, 0, 1, 0]);
        let (framework, message) = (S::IDENTITY.frameworks[0], S::IDENTITY.messages[0]);
        for (at, value) in [framework.major, framework.minor, message.major, message.minor].into_iter().enumerate() {
            packet[36 + 2 * at..38 + 2 * at].copy_from_slice(&value.to_le_bytes());
        }
        packet[18..20].copy_from_slice(&16u16.to_le_bytes());
    }
}

/// Saved and restored.
fn again<S: Service>(talk: &Conversation<S>, config: fn() -> S::Config, now: Time) -> Conversation<S> {
    let saved = saved_state::save(talk, None);
    let bytes = minicbor::to_vec(&saved).expect("plain values");
    let read: SavedConversation = minicbor::decode(&bytes).expect("just written");
    assert_eq!(read, saved);
    saved_state::restore(config(), &read, now)
}
