//! Signals taken by polling.

use bulkhead_linux::{Signal, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};

#[test]
fn a_signal_to_the_process_is_taken_and_does_not_end_it() {
    let signals = SignalFd::new(&[Signal::Terminate, Signal::WindowChange]).unwrap();
    assert_eq!(signals.take().unwrap(), None);
    // To this thread: the other threads of the test program do not block it.
    let me = rustix::thread::gettid().as_raw_nonzero().get().to_string();
    for (name, signal) in [("WINCH", Signal::WindowChange), ("TERM", Signal::Terminate)] {
        let python = format!("import ctypes,signal; ctypes.CDLL(None).syscall(200, {me}, signal.SIG{name})");
        let status = std::process::Command::new("python3").args(["-c", &python]).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("skipped: python3 is not there to send a signal to one thread");
            return;
        }
        poll(&mut [PollFd::new(&signals, PollFlags::IN)], None).unwrap();
        assert_eq!(signals.take().unwrap(), Some(signal));
    }
    assert_eq!(signals.take().unwrap(), None);
}
