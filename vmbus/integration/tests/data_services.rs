//! Key/value exchange, volume snapshots and file copy against a guest's side written from the layouts.

mod guest;

use bulkhead_integration::ServiceError;
use bulkhead_integration::file_copy::{Destination, FileCopy, Source};
use bulkhead_integration::key_value::{Answer, Item, KeyValue, Operation, Pool, Value};
use bulkhead_integration::volume_snapshot::{FreezeState, VolumeSnapshot};
use guest::{Talk, u32_at, u64_at, utf16};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;

type Cell<T> = Arc<Mutex<Option<Result<T, ServiceError>>>>;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ask(talk: &mut Talk<KeyValue>, operation: Operation) -> Cell<Answer> {
    let answer = Cell::default();
    let cell = answer.clone();
    talk.run(|host, _, later| {
        host.service.start(operation, Box::new(move |result| *cell.lock() = Some(result)), later)
    });
    answer
}

/// A record as a guest writes it, at `at` of the data.
fn put_record(data: &mut [u8], at: usize, key: &str, value: &str) {
    let (key, value) = (utf16(&format!("{key}\0")), utf16(&format!("{value}\0")));
    data[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
    data[at + 4..at + 8].copy_from_slice(&(key.len() as u32).to_le_bytes());
    data[at + 8..at + 12].copy_from_slice(&(value.len() as u32).to_le_bytes());
    data[at + 12..at + 12 + key.len()].copy_from_slice(&key);
    data[at + 524..at + 524 + value.len()].copy_from_slice(&value);
}

#[test]
fn keys_are_listed_read_written_and_deleted() {
    let mut talk = Talk::new(KeyValue::default());
    let early = ask(&mut talk, Operation::List { pool: Pool::Auto });
    let text = early.lock().clone().unwrap().unwrap_err().to_string();
    assert!(text.contains("hyperv-daemons"), "{text}");
    talk.negotiate((3, 0), (4, 0));

    let list = ask(&mut talk, Operation::List { pool: Pool::Auto });
    let read = ask(&mut talk, Operation::Get { pool: Pool::External, key: "color".into() });
    for (index, (key, value)) in [("FullyQualifiedDomainName", "guest.test"), ("OSName", "Debian")].iter().enumerate() {
        let request = talk.request(2);
        assert_eq!((request[28], request[29], u32_at(&request, 32)), (3, 2, index as u32));
        assert_eq!(request.len(), 28 + 8 + 12 + 512 + 2048);
        talk.reply(request, 0, |data| put_record(data, 8, key, value));
    }
    let request = talk.request(2);
    assert_eq!(u32_at(&request, 32), 2);
    talk.reply(request, 0x8007_0103, |_| {});
    let item = |key: &str, value: &str| Item { key: key.into(), value: Value::Text(value.into()) };
    let items = vec![item("FullyQualifiedDomainName", "guest.test"), item("OSName", "Debian")];
    assert_eq!(*list.lock(), Some(Ok(Answer::Items(items))));

    let request = talk.request(2);
    assert_eq!((request[28], request[29], u32_at(&request, 32)), (3, 0, 0));
    talk.reply(request, 0, |data| put_record(data, 8, "shape", "round"));
    let request = talk.request(2);
    assert_eq!(u32_at(&request, 32), 1);
    talk.reply(request, 0, |data| put_record(data, 8, "color", "blue"));
    assert_eq!(*read.lock(), Some(Ok(Answer::Value(Value::Text("blue".into())))));

    let written = ask(&mut talk, Operation::Set { pool: Pool::External, item: item("size", "7") });
    let request = talk.request(2);
    assert_eq!((request[28], u32_at(&request, 32), u32_at(&request, 36), u32_at(&request, 40)), (1, 1, 10, 4));
    assert_eq!(request[556..560], utf16("7\0"));
    talk.reply(request, 0, |_| {});
    assert_eq!(*written.lock(), Some(Ok(Answer::Done)));

    let deleted = ask(&mut talk, Operation::Delete { pool: Pool::External, key: "size".into() });
    let request = talk.request(2);
    assert_eq!((request[28], u32_at(&request, 32), request.len()), (2, 10, 28 + 4 + 4 + 512));
    talk.reply(request, 0x8000_4005, |_| {});
    assert!(matches!(*deleted.lock(), Some(Err(ServiceError::Refused { status: 0x8000_4005, .. }))));

    let number = Operation::Set { pool: Pool::External, item: Item { key: "n".into(), value: Value::U64(1 << 40) } };
    ask(&mut talk, number);
    let request = talk.request(2);
    assert_eq!((u32_at(&request, 32), u32_at(&request, 40), u64_at(&request, 556)), (8, 8, 1 << 40));
    talk.reply(request, 0, |_| {});
}

#[test]
fn addresses_of_an_adapter_are_read() {
    let mut talk = Talk::new(KeyValue::default());
    talk.negotiate((3, 0), (4, 0));
    let answer = ask(&mut talk, Operation::Addresses { adapter: "00:15:5D:00:00:01".into() });
    let request = talk.request(2);
    assert_eq!((request[28], request.len()), (4, 28 + 2 + 256 + 2 + 2048 + 2048 + 1024 + 2048));
    assert_eq!(request[30..36], utf16("00:"));
    talk.reply(request, 0, |data| {
        data[2 + 256 + 1] = 1;
        let text = utf16("10.0.0.5;fe80::1");
        data[260..260 + text.len()].copy_from_slice(&text);
        let text = utf16("10.0.0.1");
        data[260 + 4096..260 + 4096 + text.len()].copy_from_slice(&text);
    });
    let Some(Ok(Answer::Addresses(found))) = answer.lock().clone() else { panic!("{answer:?}") };
    assert_eq!((found.dhcp, found.addresses.as_str(), found.gateways.as_str()), (true, "10.0.0.5;fe80::1", "10.0.0.1"));
}

#[test]
fn values_that_make_no_sense_are_errors() {
    let mut talk = Talk::new(KeyValue::default());
    talk.negotiate((3, 0), (4, 0));
    let long = ask(&mut talk, Operation::Get { pool: Pool::Guest, key: "k".repeat(256) });
    assert!(matches!(*long.lock(), Some(Err(ServiceError::TooLong { len: 256, most: 255, .. }))));
    for damage in [(4usize, 0xffff_ffffu32), (8, 2049), (0, 99)] {
        let answer = ask(&mut talk, Operation::Get { pool: Pool::Guest, key: "k".into() });
        let request = talk.request(2);
        talk.reply(request, 0, |data| {
            put_record(data, 8, "k", "v");
            data[8 + damage.0..12 + damage.0].copy_from_slice(&damage.1.to_le_bytes());
        });
        assert!(matches!(*answer.lock(), Some(Err(ServiceError::Malformed { .. }))), "{damage:?}");
    }
    let missing = ask(&mut talk, Operation::Get { pool: Pool::Guest, key: "k".into() });
    let request = talk.request(2);
    talk.reply(request, 0x8007_0103, |_| {});
    assert_eq!(*missing.lock(), Some(Err(ServiceError::NoKey { key: "k".into() })));
    // A guest that closes in the middle answers everybody.
    let current = ask(&mut talk, Operation::List { pool: Pool::Guest });
    let waiting = ask(&mut talk, Operation::List { pool: Pool::Guest });
    talk.request(2);
    talk.run(|host, now, later| host.closed(now, later));
    for answer in [current, waiting] {
        assert!(matches!(*answer.lock(), Some(Err(ServiceError::Closed { .. }))));
    }
}

fn freeze(talk: &mut Talk<VolumeSnapshot>, hold: Duration) -> Cell<()> {
    let answer = Cell::default();
    let cell = answer.clone();
    talk.run(|host, _, later| host.service.freeze(hold, Box::new(move |result| *cell.lock() = Some(result)), later));
    answer
}

fn thaw(talk: &mut Talk<VolumeSnapshot>) -> Cell<()> {
    let answer = Cell::default();
    let cell = answer.clone();
    talk.run(|host, _, later| host.service.thaw(Box::new(move |result| *cell.lock() = Some(result)), later));
    answer
}

/// Answers the request with this operation.
fn step(talk: &mut Talk<VolumeSnapshot>, operation: u8, status: u32) {
    let request = talk.request(5);
    assert_eq!((request[28], request.len()), (operation, 28 + 12));
    talk.reply(request, status, |_| {});
}

#[test]
fn file_systems_are_frozen_and_thawed() {
    let mut talk = Talk::new(VolumeSnapshot::default());
    assert!(matches!(*freeze(&mut talk, seconds(10)).lock(), Some(Err(ServiceError::NotReady { .. }))));
    talk.negotiate((3, 0), (5, 0));
    let frozen = freeze(&mut talk, seconds(10));
    step(&mut talk, 2, 0);
    assert!(frozen.lock().is_none());
    step(&mut talk, 5, 0);
    assert_eq!((frozen.lock().clone(), talk.host.service.state()), (Some(Ok(())), FreezeState::Frozen));
    assert!(matches!(*freeze(&mut talk, seconds(10)).lock(), Some(Err(ServiceError::Busy { .. }))));
    talk.pass(seconds(9));
    assert!(talk.packet().is_none());
    let thawed = thaw(&mut talk);
    step(&mut talk, 6, 0);
    assert_eq!(*thawed.lock(), Some(Ok(())));
    step(&mut talk, 4, 0);
    assert_eq!(talk.host.service.state(), FreezeState::Running);
    assert_eq!(*thaw(&mut talk).lock(), Some(Ok(())), "thawing what runs changes nothing");
}

#[test]
fn the_guest_is_always_thawed() {
    let mut talk = Talk::new(VolumeSnapshot::default());
    talk.negotiate((3, 0), (5, 0));
    // Nobody thaws: the watchdog does.
    let frozen = freeze(&mut talk, seconds(10));
    step(&mut talk, 2, 0);
    step(&mut talk, 5, 0);
    assert_eq!(*frozen.lock(), Some(Ok(())));
    talk.pass(seconds(10));
    // The first thaws fail and get no answer; it is tried again.
    step(&mut talk, 6, 0x8000_4005);
    talk.request(5);
    talk.pass(seconds(35));
    step(&mut talk, 6, 0);
    step(&mut talk, 4, 0);
    assert_eq!((talk.host.service.state(), talk.host.service.watchdog_thaws()), (FreezeState::Running, 1));
    // A freeze that fails half way, and one that is not answered: the caller hears of it after the thaw.
    let failed = freeze(&mut talk, seconds(10));
    step(&mut talk, 2, 0);
    step(&mut talk, 5, 0x8000_4005);
    assert!(failed.lock().is_none());
    step(&mut talk, 6, 0);
    assert!(matches!(*failed.lock(), Some(Err(ServiceError::Refused { .. }))));
    step(&mut talk, 4, 0);
    let silent = freeze(&mut talk, seconds(10));
    step(&mut talk, 2, 0);
    talk.request(5);
    talk.pass(seconds(900));
    step(&mut talk, 6, 0);
    assert!(matches!(*silent.lock(), Some(Err(ServiceError::TimedOut { .. }))));
}

struct Bytes(Vec<u8>, Option<u64>);

impl Source for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.1.is_some_and(|broken| offset >= broken) {
            return Err(io::Error::other("broken"));
        }
        buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
        Ok(())
    }
}

fn copy(talk: &mut Talk<FileCopy>, source: Bytes) -> Cell<()> {
    let answer = Cell::default();
    let cell = answer.clone();
    let to = Destination { folder: "/root".into(), name: "a.txt".into(), overwrite: true, create_folders: true };
    talk.run(|host, _, later| {
        host.service.copy(Box::new(source), &to, Box::new(move |result| *cell.lock() = Some(result)), later);
    });
    answer
}

#[test]
fn a_file_arrives_in_pieces() {
    let mut talk = Talk::new(FileCopy::default());
    talk.negotiate((3, 0), (1, 1));
    let content: Vec<u8> = (0..15_000u32).map(|at| (at % 251) as u8).collect();
    let copied = copy(&mut talk, Bytes(content.clone(), None));
    let start = talk.request(7);
    assert_eq!((u32_at(&start, 28), start.len()), (0, 28 + 36 + 520 + 520 + 12));
    assert_eq!((&start[64..74], &start[584..598]), (&utf16("a.txt")[..], &utf16("/root/\0")[..]));
    assert_eq!((u32_at(&start, 1104), u64_at(&start, 1108)), (3, 15_000));
    talk.reply(start, 0, |_| {});
    let mut arrived: Vec<u8> = Vec::new();
    for _ in 0..3 {
        let piece = talk.request(7);
        assert_eq!((u32_at(&piece, 28), u64_at(&piece, 68)), (1, arrived.len() as u64));
        let len = u32_at(&piece, 76) as usize;
        arrived.extend(&piece[80..80 + len]);
        talk.reply(piece, 0, |_| {});
    }
    assert_eq!(arrived, content);
    let complete = talk.request(7);
    assert_eq!(u32_at(&complete, 28), 2);
    talk.reply(complete, 0, |_| {});
    assert_eq!(*copied.lock(), Some(Ok(())));
}

#[test]
fn failed_copies_are_cancelled_in_the_guest() {
    let mut talk = Talk::new(FileCopy::default());
    talk.negotiate((3, 0), (1, 1));
    // The file exists: nothing to cancel.
    let refused = copy(&mut talk, Bytes(vec![1; 10], None));
    let start = talk.request(7);
    talk.reply(start, 0x8007_0050, |_| {});
    assert!(refused.lock().clone().unwrap().unwrap_err().to_string().contains("the file exists"));
    assert!(talk.packet().is_none());
    // The disk is full half way.
    let full = copy(&mut talk, Bytes(vec![1; 10_000], None));
    for status in [0, 0x8007_0070] {
        let request = talk.request(7);
        talk.reply(request, status, |_| {});
    }
    let cancel = talk.request(7);
    assert_eq!(u32_at(&cancel, 28), 3);
    talk.reply(cancel, 0, |_| {});
    assert!(full.lock().clone().unwrap().unwrap_err().to_string().contains("the disk is full"));
    // The host's file breaks.
    let broken = copy(&mut talk, Bytes(vec![1; 10_000], Some(6144)));
    for _ in 0..2 {
        let request = talk.request(7);
        talk.reply(request, 0, |_| {});
    }
    let cancel = talk.request(7);
    assert_eq!(u32_at(&cancel, 28), 3);
    talk.reply(cancel, 0, |_| {});
    assert!(matches!(*broken.lock(), Some(Err(ServiceError::Source { offset: 6144, .. }))));
}
