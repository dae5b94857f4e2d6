//! Rates and shares, in simulated time.

use bulkhead_switch_core::{Policy, PortId, SECOND, Schedule, Switch, TokenBucket};
use proptest::prelude::*;

/// Ports that always have a frame to send share a gate that passes `rate` bytes a second; the bytes of each after ten seconds.
fn share(weights: &[u16], frames: &[usize], rate: u64) -> Vec<u64> {
    let mut schedule = Schedule::default();
    for (index, &weight) in weights.iter().enumerate() {
        schedule.set_weight(PortId(index as u16), weight);
        schedule.activate(PortId(index as u16));
    }
    let gate = PortId(99);
    let mut bucket = TokenBucket::new(rate, 65_553, 0);
    let mut sent = vec![0; weights.len()];
    let mut now = 0;
    while now < 10 * SECOND {
        let Some(port) = schedule.current() else {
            now = bucket.ready_at(65_553);
            schedule.open(gate);
            continue;
        };
        let len = frames[usize::from(port.0)];
        if schedule.is_waited_for(gate) {
            schedule.park(port, gate);
        } else if !schedule.spend(port, len) {
            schedule.rotate(port);
        } else if bucket.take(len as u64, now) {
            sent[usize::from(port.0)] += len as u64;
        } else {
            schedule.refund(port, len);
            schedule.park(port, gate);
        }
    }
    sent
}

#[test]
fn a_busy_way_out_is_shared_by_weight_whatever_the_frames() {
    for frames in [[1500, 1500], [64, 64_000], [64_000, 64]] {
        let sent = share(&[1, 3], &frames, 12_500_000);
        let ratio = sent[1] as f64 / sent[0] as f64;
        assert!((2.9..3.1).contains(&ratio), "{frames:?}: {sent:?}");
        let total: u64 = sent.iter().sum();
        assert!((124_000_000..126_000_000).contains(&total), "{total}");
    }
    let sent = share(&[10_000, 1, 1], &[1500; 3], 12_500_000);
    assert!(sent[1] > 0 && sent[2] > 0, "the smallest weight is not starved: {sent:?}");
}

#[test]
fn whoever_leaves_a_gate_holds_up_nobody() {
    let mut schedule = Schedule::default();
    let (a, b, gate) = (PortId(0), PortId(1), PortId(2));
    for port in [a, b] {
        schedule.set_weight(port, 1);
        schedule.activate(port);
    }
    assert_eq!(schedule.current(), Some(a));
    schedule.park(a, gate);
    assert_eq!(schedule.current(), Some(b));
    schedule.park(b, gate);
    assert!(schedule.current().is_none() && schedule.is_waited_for(gate));
    schedule.set_weight(a, 0);
    schedule.open(gate);
    assert_eq!(schedule.current(), Some(b));
    schedule.finish(b);
    assert_eq!(schedule.current(), None);
    schedule.activate(a);
    assert_eq!(schedule.current(), None, "a port that was removed gets no turn");
}

#[test]
fn a_limited_port_sends_at_its_rate() {
    let mut switch = Switch::new(1500, 1);
    let mac = bulkhead_packets::MacAddress([2, 0, 0, 0, 0, 1]);
    let port = switch.add(Policy { send_limit: Some(500_000_000), ..Policy::guest(mac) }, 0).unwrap();
    let (mut now, mut sent) = (0, 0u64);
    while now < SECOND {
        match switch.may_send(port, 1514, now) {
            Ok(()) => sent += 1514,
            Err(later) => {
                assert!(later > now);
                now = later;
            }
        }
    }
    assert!((61_000_000..64_000_000).contains(&sent), "{sent} bytes in a second of 62.5 million");
}

proptest! {
    #[test]
    fn a_bucket_grants_its_rate_and_never_more_than_a_burst_above(
        rate in 1u64..2_000_000_000, burst in 1u64..200_000, steps in proptest::collection::vec((0u64..50_000_000, 1u64..100_000), 1..200),
    ) {
        let mut bucket = TokenBucket::new(rate, burst, 0);
        let (mut now, mut granted) = (0u64, 0u128);
        for (pause, amount) in steps {
            now += pause;
            if bucket.take(amount, now) {
                granted += u128::from(amount.min(burst));
            } else {
                let ready = bucket.ready_at(amount);
                prop_assert!(ready > now);
                prop_assert!(bucket.take(amount, ready), "what ready_at promises is there");
                granted += u128::from(amount.min(burst));
                now = ready;
            }
            let most = u128::from(now) * u128::from(rate) / u128::from(SECOND) + u128::from(burst) + 1;
            prop_assert!(granted <= most, "{granted} of {most}");
        }
    }
}
