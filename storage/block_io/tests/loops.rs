//! Disks used from other threads: submit, status, detach, stop, timers, descriptors.
#![allow(clippy::disallowed_methods, reason = "the loop under test runs on a thread of the test")]

use bulkhead_block_io::{DiskHandle, IoLoop, IoMode, IoSeed, OpenOptions};
use bulkhead_disk::{BlockKind, Buffer, Completion, Disk, ErrorKind, RawImage, Request, Stack};
use crossbeam_channel::bounded;
use std::rc::Rc;
use std::time::Duration;

fn wait(disk: &DiskHandle, request: Request) -> Completion {
    let (send, receive) = bounded(1);
    disk.submit(request, Box::new(move |completion| drop(send.send(completion))));
    receive.recv().unwrap()
}

#[test]
fn a_disk_of_another_thread_serves_many_queues() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for mode in [IoMode::Ring, IoMode::Threads, IoMode::Inline] {
        let path = folder.path().join(format!("{mode:?}"));
        std::fs::write(&path, vec![0; 4 << 20]).unwrap();
        let seed = IoSeed::new(mode).unwrap();
        let remote = seed.remote();
        let thread = std::thread::spawn(move || match seed.build() {
            Ok(io) => io.run().unwrap(),
            Err(error) => eprintln!("skipped: {mode:?}: {error}"),
        });
        let (send, receive) = bounded(1);
        let alive = remote.call(move |context| {
            let file = OpenOptions::new().open(context, &path).unwrap();
            let inner = context.clone();
            context.spawn(async move {
                let image = RawImage::open(Rc::new(file)).await.unwrap();
                send.send(inner.attach(Rc::new(Stack::new(vec![Rc::new(image)])))).unwrap();
            });
        });
        let Ok(disk) = receive.recv() else { continue };
        assert!(alive);
        assert_eq!(disk.facts().size, 4 << 20);
        std::thread::scope(|scope| {
            for queue in 0..4u64 {
                let disk = disk.clone();
                scope.spawn(move || {
                    for n in 0..100 {
                        let offset = (queue * 100 + n) * 4096;
                        let write = Request::Write {
                            offset,
                            buffer: Buffer::copy_of(&[queue as u8 + 1; 4096]),
                            fua: n % 32 == 0,
                        };
                        wait(&disk, write).into_result().unwrap();
                        let read = wait(&disk, Request::Read { offset, buffer: Buffer::zeroed(4096) });
                        assert_eq!(read.into_result().unwrap().to_vec(), [queue as u8 + 1; 4096]);
                    }
                });
            }
        });
        wait(&disk, Request::Flush).into_result().unwrap();
        let (send, receive) = bounded(1);
        disk.submit_status(0..4 << 20, Box::new(move |extents| drop(send.send(extents))));
        assert_eq!(receive.recv().unwrap().unwrap()[0].kind, BlockKind::Data);
        let too_far = wait(&disk, Request::Read { offset: 4 << 20, buffer: Buffer::zeroed(512) });
        assert_eq!(too_far.result.unwrap_err().kind(), ErrorKind::OutOfRange);
        remote.stop();
        thread.join().unwrap();
        assert_eq!(wait(&disk, Request::Flush).result.unwrap_err().kind(), ErrorKind::Cancelled);
    }
}

#[test]
fn timers_and_descriptors_wake_tasks_and_the_loop_frees_its_files() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, [0; 512]).unwrap();
    for mode in [IoMode::Ring, IoMode::Threads, IoMode::Inline] {
        let Ok(io) = IoLoop::new(mode) else { continue };
        let context = io.context();
        let file = OpenOptions::new().open(&context, &path).unwrap();
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let task = context.clone();
        // Never ends: dropped with the loop, and its file with it.
        context.spawn(async move {
            let _file = file;
            task.readable(std::os::fd::AsFd::as_fd(&reader)).await;
            let _ = &reader;
            std::future::pending::<()>().await;
        });
        let task = context.clone();
        io.run_until(async move {
            task.sleep(Duration::from_millis(2)).await;
            std::io::Write::write_all(&mut &writer, b"x").unwrap();
            task.writable(std::os::fd::AsFd::as_fd(&writer)).await;
        })
        .unwrap();
        drop(context);
        drop(io);
        OpenOptions::new().open_inline(&path).unwrap();
    }
}
