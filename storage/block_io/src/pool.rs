//! A small thread pool that performs file operations where io_uring is refused.

use crate::transfer::{Operation, perform};
use bulkhead_disk::Buffer;
use crossbeam_channel::{Sender, unbounded};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Poll, Waker};

const THREADS: usize = 4;

/// Threads that end when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Pool {
    work: Sender<Work>,
}

struct Work {
    file: Arc<OwnedFd>,
    operation: Operation,
    buffer: Buffer,
    reply: Arc<Mutex<Reply>>,
}

#[derive(Default)]
struct Reply {
    result: Option<(io::Result<()>, Buffer)>,
    waker: Option<Waker>,
}

impl Pool {
    pub(crate) fn new() -> io::Result<Self> {
        let (work, queue) = unbounded::<Work>();
        for number in 0..THREADS {
            let queue = queue.clone();
            // These threads are the fallback's substance, not background work: they hold no state and see no clock.
            std::thread::Builder::new().name(format!("disk-io-{number}")).spawn(move || {
                for Work { file, operation, mut buffer, reply } in queue {
                    let result = perform(&file, operation, &mut buffer);
                    drop(file);
                    let mut reply = reply.lock();
                    reply.result = Some((result, buffer));
                    if let Some(waker) = reply.waker.take() {
                        waker.wake();
                    }
                }
            })?;
        }
        Ok(Self { work })
    }

    pub(crate) async fn run(
        &self,
        file: &Arc<OwnedFd>,
        operation: Operation,
        buffer: Buffer,
    ) -> (io::Result<()>, Buffer) {
        let reply = Arc::new(Mutex::new(Reply::default()));
        let work = Work { file: Arc::clone(file), operation, buffer, reply: Arc::clone(&reply) };
        if let Err(refused) = self.work.send(work) {
            return (Err(io::ErrorKind::BrokenPipe.into()), refused.into_inner().buffer);
        }
        poll_fn(|context| {
            let mut reply = reply.lock();
            match reply.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    reply.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}
