//! Heartbeat, shutdown and time synchronization against a guest's side written from the layouts.

mod guest;

use bulkhead_integration::ServiceError;
use bulkhead_integration::conversation::{Phase, Service};
use bulkhead_integration::heartbeat::{Heartbeat, HeartbeatState};
use bulkhead_integration::shutdown::{Shutdown, ShutdownKind};
use bulkhead_integration::time_sync::{Moment, TimeSync};
use guest::{Talk, u16_at, u32_at, u64_at};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_heart_beats_is_lost_and_comes_back() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = seen.clone();
    let mut talk = Talk::new(Heartbeat::new(Arc::new(move |state| observer.lock().push(state))));
    assert_eq!(talk.host.service.state(), HeartbeatState::NoContact);
    talk.negotiate((3, 0), (3, 0));
    let beat = talk.request(1);
    assert_eq!((beat.len(), u16_at(&beat, 8), u16_at(&beat, 14)), (28 + 40, 3, 3));
    let sequence = u64_at(&beat, 28);
    talk.reply(beat, 0, |data| data[0] += 1);
    assert!(talk.packet().is_none(), "two seconds have not passed");
    talk.pass(seconds(2));
    let beat = talk.request(1);
    assert_eq!(u64_at(&beat, 28), sequence + 2);
    // The guest hangs: no second question, and the loss is noticed.
    talk.pass(seconds(9));
    assert_eq!(talk.host.service.state(), HeartbeatState::Ok);
    talk.pass(seconds(1));
    assert_eq!(talk.host.service.state(), HeartbeatState::Lost);
    talk.pass(seconds(3600));
    assert!(talk.packet().is_none());
    talk.reply(beat, 0, |data| data[0] += 1);
    assert_eq!(talk.host.service.state(), HeartbeatState::Ok);
    talk.run(|host, now, later| host.closed(now, later));
    let (ok, lost) = (HeartbeatState::Ok, HeartbeatState::Lost);
    assert_eq!(*seen.lock(), [ok, lost, ok, HeartbeatState::NoContact]);
}

#[test]
fn versions_that_do_not_fit_end_the_conversation() {
    let mut talk = Talk::new(Heartbeat::new(Arc::new(|_| {})));
    talk.host.opened();
    let packet = talk.packet().unwrap();
    talk.reply(packet.clone(), 0, |data| data[..4].fill(0));
    assert_eq!(talk.host.phase(), Phase::Refused);
    // A version that was not offered.
    talk.host.opened();
    let packet = talk.packet().unwrap();
    talk.reply(packet, 0, |data| data[..16].copy_from_slice(&[1, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9, 0, 9, 0]));
    assert_eq!(talk.host.phase(), Phase::Refused);
    assert!(talk.packet().is_none());
}

/// Asks for a shutdown; the answer comes into the cell.
fn shut_down(
    talk: &mut Talk<Shutdown>,
    kind: ShutdownKind,
    force: bool,
) -> Arc<Mutex<Option<Result<(), ServiceError>>>> {
    let answer = Arc::new(Mutex::new(None));
    let cell = answer.clone();
    talk.run(|host, _, later| {
        let heard = Box::new(move |result| *cell.lock() = Some(result));
        host.service.request(kind, force, seconds(60), "going down", heard, later);
    });
    answer
}

#[test]
fn a_shutdown_is_accepted_refused_or_not_answered() {
    let mut talk = Talk::new(Shutdown::default());
    let early = shut_down(&mut talk, ShutdownKind::PowerOff, false);
    assert!(matches!(*early.lock(), Some(Err(ServiceError::NotReady { service: "shutdown" }))));
    talk.negotiate((3, 0), (3, 2));
    let accepted = shut_down(&mut talk, ShutdownKind::PowerOff, true);
    let busy = shut_down(&mut talk, ShutdownKind::PowerOff, true);
    assert!(matches!(*busy.lock(), Some(Err(ServiceError::Busy { .. }))));
    let request = talk.request(3);
    assert_eq!(request.len(), 28 + 2060);
    assert_eq!((u32_at(&request, 28), u32_at(&request, 32), u32_at(&request, 36)), (0x8000_0000, 60, 1));
    assert_eq!(request[40..50], guest::utf16("going"));
    assert!(accepted.lock().is_none());
    talk.reply(request, 0, |_| {});
    assert_eq!(*accepted.lock(), Some(Ok(())));

    let refused = shut_down(&mut talk, ShutdownKind::Hibernate, false);
    let request = talk.request(3);
    assert_eq!(u32_at(&request, 36), 4);
    talk.reply(request, 0x8000_4005, |_| {});
    assert!(refused.lock().clone().unwrap().unwrap_err().to_string().contains("0x80004005 (unspecified failure)"));

    let silent = shut_down(&mut talk, ShutdownKind::Restart, false);
    let request = talk.request(3);
    assert_eq!(u32_at(&request, 36), 2);
    talk.pass(seconds(15));
    assert!(matches!(*silent.lock(), Some(Err(ServiceError::TimedOut { .. }))));
    // The late answer belongs to nobody, and does not answer the next request.
    let next = shut_down(&mut talk, ShutdownKind::PowerOff, false);
    let second = talk.request(3);
    talk.reply(request, 0, |_| {});
    assert!(next.lock().is_none());
    talk.reply(second, 0, |_| {});
    assert_eq!(*next.lock(), Some(Ok(())));
}

#[test]
fn time_is_stepped_after_opening_and_after_pauses_and_sampled_in_between() {
    let moment = Arc::new(Mutex::new(Moment { host: seconds(1_700_000_000), reference: 50_000_000 }));
    let clock = moment.clone();
    let mut talk = Talk::new(TimeSync::new(Arc::new(move || *clock.lock())));
    talk.negotiate((3, 0), (4, 0));
    let step = talk.request(4);
    // 1,700,000,000 s after 1970 in 100 ns since 1601, computed by hand: (11,644,473,600 + 1,700,000,000) * 10^7.
    assert_eq!(u64_at(&step, 28), 133_444_736_000_000_000);
    assert_eq!((u64_at(&step, 36), step[44]), (50_000_000, 1));
    talk.reply(step, 0, |_| {});
    talk.pass(seconds(4));
    assert!(talk.packet().is_none());
    talk.pass(seconds(1));
    let sample = talk.request(4);
    assert_eq!(sample[44], 2);
    // A pause while the sample is in the guest: the step follows at once.
    talk.run(|host, now, _| host.service.resumed(now));
    talk.reply(sample, 0, |_| {});
    talk.pass(Duration::ZERO);
    assert_eq!(talk.request(4)[44], 1);
}

#[test]
fn old_guests_get_the_time_without_a_reference() {
    let moment = Moment { host: seconds(0), reference: 7 };
    let mut talk = Talk::new(TimeSync::new(Arc::new(move || moment)));
    talk.negotiate((1, 0), (1, 0));
    let step = talk.request(4);
    assert_eq!((u64_at(&step, 28), u64_at(&step, 36), u64_at(&step, 44), step[52]), (116_444_736_000_000_000, 0, 0, 1));
}
