//! Two writers on real files and one loop: the limited one keeps to its limit, the other one is not held up by it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bulkhead_block_io::{IoContext, IoLoop, IoMode, OpenOptions};
use bulkhead_disk::{Node, RawImage, Stack, run_now, write_bytes, yield_now};
use bulkhead_qos::{Balance, Limits, Qos, QosDisk};

const SIZE: u64 = 16 << 20;

fn disk(qos: &Qos, context: &IoContext, folder: &std::path::Path, name: &str, limits: Limits) -> Rc<QosDisk> {
    let path = folder.join(name);
    std::fs::File::create(&path).and_then(|file| file.set_len(SIZE)).expect("a file");
    let file = OpenOptions::new().open(context, &path).expect("it opens");
    let image = run_now(RawImage::open(Rc::new(file))).expect("any file is a raw image");
    Rc::new(qos.disk(Rc::new(Stack::new(vec![Rc::new(image)])), limits))
}

/// Four writes under way until told to stop; returns how many were done.
async fn write_until(disk: Rc<QosDisk>, stop: Rc<Cell<bool>>) {
    let mut at = 0;
    while !stop.get() {
        write_bytes(&*disk, at, &[7; 4096]).await.expect("writes");
        at = (at + 4096) % SIZE;
        // A cached write is done at once: others need their turn.
        yield_now().await;
    }
}

#[test]
fn the_limited_writer_keeps_to_its_limit_and_the_other_one_does_not_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let io = IoLoop::new(IoMode::Auto).expect("a loop");
    let context = io.context();
    let (limited, free, seconds) = io
        .run_until(async move {
            let qos = Qos::new(Balance::default(), context.clone());
            let limits = Limits { max_iops: Some(400), ..Limits::default() };
            let limited = disk(&qos, &context, &path, "limited", limits);
            let free = disk(&qos, &context, &path, "free", Limits::default());
            let stop = Rc::new(Cell::new(false));
            for disk in [&limited, &free] {
                for _ in 0..4 {
                    context.spawn(write_until(disk.clone(), stop.clone()));
                }
            }
            let start = context.now();
            context.sleep(Duration::from_millis(1500)).await;
            let seconds = (context.now() - start).as_secs_f64();
            let done = (limited.stats().units, free.stats().units, seconds);
            // The limit goes away at once, also for those who wait.
            limited.set_limits(Limits::default());
            context.sleep(Duration::from_millis(100)).await;
            assert!(limited.stats().units > done.0 + 100, "{:?}", limited.stats());
            stop.set(true);
            done
        })
        .expect("it runs");
    let rate = limited as f64 / seconds;
    assert!((400.0 * 0.9..=400.0 * 1.05 + 20.0).contains(&rate), "{rate} per second");
    assert!(free > 4 * limited, "{free} and {limited}");
}

/// A dropped request gives its place up: others are not blocked by it.
#[test]
fn a_dropped_request_blocks_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let io = IoLoop::new(IoMode::Auto).expect("a loop");
    let context = io.context();
    io.run_until(async move {
        let qos = Qos::new(Balance::default(), context.clone());
        let disk = disk(&qos, &context, &path, "a", Limits { max_iops: Some(1), ..Limits::default() });
        write_bytes(&*disk, 0, &[1; 4096]).await.expect("writes");
        drop(disk.run(bulkhead_disk::Request::Flush));
        let waiting = disk.clone();
        context.spawn(async move { drop(waiting.run(bulkhead_disk::Request::Flush).await) });
        context.sleep(Duration::from_millis(1)).await;
        assert_eq!(disk.stats().waiting, 1);
        disk.set_limits(Limits::default());
        write_bytes(&*disk, 0, &[1; 4096]).await.expect("writes");
        assert_eq!(disk.stats().waiting, 0);
    })
    .expect("it runs");
}
