//! Bursts, refill and the report of suppressed lines, on virtual time.

use bulkhead_guest_log::{GuestLog, Rate, guest_debug, guest_warn};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use parking_lot::Mutex;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn take(&self) -> Vec<String> {
        String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap().lines().map(String::from).collect()
    }
}

/// Runs `test` with a reactor and everything that is logged at INFO and above.
fn logged(test: impl FnOnce(VirtualReactor, Reactor, Lines)) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .finish();
    let (driver, reactor) = VirtualReactor::new(Time::from_nanos(123), 1).unwrap();
    tracing::subscriber::with_default(subscriber, || test(driver, reactor, lines));
}

const RATE: Rate = Rate { burst: 3, interval: Duration::from_millis(10) };

#[test]
fn a_burst_passes_and_the_rest_is_counted() {
    logged(|mut driver, reactor, lines| {
        let log = GuestLog::with_rate(&reactor, "com1", RATE);
        for number in 0..100 {
            guest_warn!(log, "write {number}");
        }
        assert_eq!(
            lines.take(),
            [r#" WARN write 0 device="com1""#, r#" WARN write 1 device="com1""#, r#" WARN write 2 device="com1""#]
        );
        let open = reactor.now() + RATE.interval;
        driver.advance_to(open - Duration::from_nanos(1));
        assert!(lines.take().is_empty());
        driver.advance_to(open);
        assert_eq!(lines.take(), [r#" WARN 97 lines about the guest were suppressed device="com1" suppressed=97"#]);
        guest_warn!(log, "one more");
        guest_warn!(log, "too many");
        assert_eq!(lines.take(), [r#" WARN one more device="com1""#]);
    });
}

#[test]
fn the_bucket_fills_up_to_the_burst_and_not_beyond() {
    logged(|mut driver, reactor, lines| {
        let log = GuestLog::with_rate(&reactor, "com1", RATE);
        for (pause, expected) in [(1000, 3), (2, 2), (1, 1), (0, 0), (3, 3)] {
            driver.advance_to(reactor.now() + RATE.interval * pause);
            lines.take();
            (0..5).for_each(|_| guest_warn!(log, "line"));
            assert_eq!(lines.take().len(), expected, "after {pause} intervals");
        }
    });
}

/// Whatever a guest does for a minute: the host writes at most the burst, and a line and a report per interval.
#[test]
fn a_flood_is_bounded() {
    logged(|mut driver, reactor, lines| {
        let log = GuestLog::new(&reactor, "scsi0");
        let end = reactor.now() + Duration::from_secs(60);
        let mut tried = 0u64;
        while reactor.now() < end {
            guest_warn!(log, "flood");
            tried += 1;
            driver.advance_to(reactor.now() + Duration::from_millis(1));
        }
        drop(log);
        let lines = lines.take();
        let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        assert!(count("flood") <= 10 + 60 && count("flood") >= 60, "{}", count("flood"));
        assert!(count("suppressed") <= 61, "{}", count("suppressed"));
        let suppressed: u64 =
            lines.iter().filter_map(|line| line.split("suppressed=").nth(1)?.parse::<u64>().ok()).sum();
        assert_eq!(suppressed + count("flood") as u64, tried, "every line is written or counted");
    });
}

#[test]
fn devices_do_not_share_and_disabled_levels_cost_nothing() {
    logged(|_driver, reactor, lines| {
        let noisy = GuestLog::with_rate(&reactor, "noisy", RATE);
        let quiet = GuestLog::with_rate(&reactor, "quiet", Rate { burst: 0, interval: RATE.interval });
        (0..50).for_each(|_| guest_warn!(noisy, "noise"));
        (0..50).for_each(|_| guest_debug!(quiet, "not enabled"));
        guest_warn!(quiet, "heard");
        assert_eq!(lines.take().len(), 4);
    });
}

#[test]
fn the_end_reports_what_is_open() {
    logged(|_driver, reactor, lines| {
        let log = GuestLog::with_rate(&reactor, "com1", RATE);
        (0..5).for_each(|_| guest_warn!(log, "line"));
        lines.take();
        drop(log);
        assert_eq!(lines.take(), [r#" WARN 2 lines about the guest were suppressed device="com1" suppressed=2"#]);
    });
}
