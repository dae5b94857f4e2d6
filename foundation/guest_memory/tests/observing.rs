//! The dirty log and the write observer, also under concurrency.
#![cfg(not(miri))]
#![allow(clippy::disallowed_methods, reason = "real threads are what is tested")]

use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE, WriteObserver};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const PAGES: u64 = 64;

fn memory() -> GuestMemory {
    GuestMemory::builder().anonymous(0, PAGES * PAGE_SIZE).build().unwrap()
}

#[derive(Default)]
struct Seen(Mutex<Vec<(u64, u64)>>);

impl WriteObserver for Seen {
    fn pages_written(&self, first_gpa_page: u64, count: u64) {
        self.0.lock().push((first_gpa_page, count));
    }
}

#[test]
fn only_writes_to_watched_pages_are_reported() {
    let memory = memory();
    let seen = Arc::new(Seen::default());
    memory.set_write_observer(seen.clone());
    [3, 4, 6].into_iter().for_each(|page| memory.watch(page));
    memory.write(0, &[1; 0x3000]).unwrap(); // pages 0 to 2
    memory.read(0x3000, &mut [0; 64]).unwrap();
    assert_eq!(seen.0.lock().split_off(0), []);
    memory.write_u32(0x3ffc, 7).unwrap();
    memory.write_u32(0x3ffe, 7).unwrap();
    memory.fill(0x2000, 0x8000, 1).unwrap();
    assert_eq!(seen.0.lock().split_off(0), [(3, 1), (3, 2), (3, 2), (6, 1)]);
    assert!(memory.compare_exchange_u32(0x6000, 5, 6).unwrap().is_err());
    assert_eq!(seen.0.lock().split_off(0), [], "nothing was written");
    memory.discard(0x4000, PAGE_SIZE).unwrap();
    memory.unwatch(6);
    memory.write_u8(0x6000, 1).unwrap();
    memory.mark_written(u64::MAX - 1, 2);
    memory.mark_written(0x4fff, 1);
    assert_eq!(seen.0.lock().split_off(0), [(4, 1), (4, 1)]);
    memory.clear_write_observer();
    memory.write_u8(0x4000, 1).unwrap();
    assert_eq!(seen.0.lock().split_off(0), []);
}

/// Copying all, then what the log says, while another thread writes, loses nothing: what migration relies on.
#[test]
fn the_log_misses_no_write() {
    let (memory, copy) = (memory(), memory());
    let done = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let (memory, done) = (memory.clone(), done.clone());
        move || {
            let mut state = 0x9E37_79B9_7F4A_7C15u64;
            for number in 0..400_000u64 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                memory.write_u64(state % PAGES * PAGE_SIZE + state / PAGES % 512 * 8, number).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        }
    });
    let mut page = vec![0; PAGE_SIZE as usize];
    let mut copy_pages = |pages: std::ops::Range<u64>| {
        for number in pages {
            memory.read(number * PAGE_SIZE, &mut page).unwrap();
            copy.write(number * PAGE_SIZE, &page).unwrap();
        }
    };
    memory.dirty().enable();
    copy_pages(0..PAGES);
    loop {
        let last_round = done.load(Ordering::SeqCst);
        memory.dirty().harvest_ranges().into_iter().for_each(&mut copy_pages);
        if last_round {
            break;
        }
    }
    writer.join().unwrap();
    for number in 0..PAGES * 512 {
        assert_eq!(copy.read_u64(number * 8).unwrap(), memory.read_u64(number * 8).unwrap(), "word {number}");
    }
}

/// Whoever watches a page and then reads it either reads the new value or is told of it.
#[test]
fn no_write_slips_between_watching_and_reading() {
    struct Told(AtomicBool);
    impl WriteObserver for Told {
        fn pages_written(&self, _: u64, _: u64) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let memory = memory();
    let told = Arc::new(Told(AtomicBool::new(false)));
    memory.set_write_observer(told.clone());
    // The two threads meet by spinning, so that they start within nanoseconds of each other.
    const ROUNDS: u64 = 20_000;
    let (start, written) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let wait = |counter: &AtomicU64, round| {
        for spins in 0u32.. {
            if counter.load(Ordering::Acquire) >= round {
                return;
            }
            if spins > 2_000 { thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    let writer = thread::spawn({
        let (memory, start, written) = (memory.clone(), start.clone(), written.clone());
        move || {
            for round in 1..=ROUNDS {
                wait(&start, round);
                memory.write_u64(0, round).unwrap();
                written.store(round, Ordering::Release);
            }
        }
    });
    for round in 1..=ROUNDS {
        memory.unwatch(0);
        told.0.store(false, Ordering::SeqCst);
        start.store(round, Ordering::Release);
        (0..round % 64).for_each(|_| std::hint::spin_loop());
        memory.watch(0);
        let read = memory.read_u64(0).unwrap();
        wait(&written, round);
        assert!(read == round || told.0.load(Ordering::SeqCst), "round {round}: read {read}, not told");
    }
    writer.join().unwrap();
}

/// Aligned integers are never seen half written.
#[test]
fn aligned_integers_do_not_tear() {
    let memory = memory();
    let writer = thread::spawn({
        let memory = memory.clone();
        move || (0..300_000u64).for_each(|n| memory.write_u64(8, if n % 2 == 0 { 0 } else { u64::MAX }).unwrap())
    });
    while !writer.is_finished() {
        let seen = memory.read_u64(8).unwrap();
        assert!(seen == 0 || seen == u64::MAX, "{seen:#x}");
    }
    writer.join().unwrap();
}
