//! Disk images: opened from descriptors on the I/O thread, handed to the machine as disks for any thread.

use bulkhead_block_io::{DiskHandle, IoContext, IoMode, IoRemote, IoSeed, OpenOptions};
use bulkhead_disk::{Completion, Disk, DiskError, DiskFacts, Done, ErrorKind, RawImage, Request, Stack, StatusDone};
use bulkhead_vm_description::{ImageFormat, Medium};
use crossbeam_channel::{Sender, bounded};
use std::fs::File;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The I/O thread of a VM.
pub struct IoThread {
    remote: IoRemote,
    thread: Option<JoinHandle<()>>,
    disks: Vec<DiskHandle>,
    synchronous: bool,
}

impl IoThread {
    /// Starts the thread. `synchronous` disks finish every request before `submit` returns, as deterministic mode needs.
    ///
    /// # Errors
    /// The host refuses a thread, or io_uring where it is demanded.
    pub fn start(synchronous: bool) -> Result<IoThread, DiskError> {
        let failed = |error| DiskError::from_io("start the I/O thread", error);
        let seed = IoSeed::new(if synchronous { IoMode::Inline } else { IoMode::Auto })?;
        let remote = seed.remote();
        let (ready, is_ready) = bounded(1);
        let body = move || match seed.build() {
            Ok(io_loop) => {
                let _ = ready.send(Ok(()));
                if let Err(error) = io_loop.run() {
                    tracing::error!(%error, "the I/O loop ended");
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("disks".into()).spawn(body).map_err(failed)?;
        is_ready.recv().map_err(|_| gone())??;
        Ok(IoThread { remote, thread: Some(thread), disks: Vec::new(), synchronous })
    }

    /// Opens an image. `vm` is named to whoever wants the same file.
    ///
    /// # Errors
    /// Those of the image; `Locked` names the holder.
    pub fn open(&mut self, medium: &Medium, read_only: bool, vm: &str, file: File) -> Result<Arc<dyn Disk>, DiskError> {
        let (reply, answer) = bounded(1);
        let label = medium.file.clone();
        let format = medium.format();
        let holder = bulkhead_block_io::Holder::this_process(vm);
        let options = OpenOptions::new().read_only(read_only).holder(holder);
        self.remote.call(move |context| {
            let context = context.clone();
            let spawner = context.clone();
            spawner.spawn(async move {
                let opened = open_image(&context, &options, format, file, label).await;
                let _ = reply.send(opened);
            });
        });
        let disk = answer.recv().map_err(|_| gone())??;
        self.disks.push(disk.clone());
        Ok(if self.synchronous { Arc::new(Synchronous(disk)) } else { Arc::new(disk) })
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// The first failure; the other disks are flushed all the same.
    pub fn flush(&self) -> Result<(), DiskError> {
        let mut result = Ok(());
        for disk in self.disks.iter().filter(|disk| !disk.facts().read_only) {
            let (done, answer) = bounded(1);
            disk.submit(Request::Flush, finish(done));
            result = result.and(answer.recv().map_err(|_| gone()).and_then(|completion: Completion| completion.result));
        }
        result
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.remote.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

async fn open_image(
    context: &IoContext,
    options: &OpenOptions,
    format: ImageFormat,
    file: File,
    label: String,
) -> Result<DiskHandle, DiskError> {
    let file = options.from_fd(context, file.into(), label.clone())?;
    match format {
        ImageFormat::Raw => {
            let image = RawImage::open(Rc::new(file)).await?;
            Ok(context.attach(Rc::new(Stack::new(vec![Rc::new(image)]))))
        }
        other => {
            let reason = format!("{} images are not supported by this build, only raw", other.name());
            Err(DiskError::new(ErrorKind::Unsupported, "open the disk", reason).with_path(label))
        }
    }
}

fn gone() -> DiskError {
    DiskError::new(ErrorKind::Cancelled, "use the disk", "the I/O thread has ended")
}

fn finish(done: Sender<Completion>) -> Done {
    Box::new(move |completion| drop(done.send(completion)))
}

/// A disk whose requests are finished when `submit` returns.
struct Synchronous(DiskHandle);

impl Disk for Synchronous {
    fn facts(&self) -> DiskFacts {
        self.0.facts()
    }

    fn submit(&self, request: Request, done: Done) {
        let (sender, answer) = bounded(1);
        self.0.submit(request, finish(sender));
        // The handle always answers, also when its loop is gone.
        if let Ok(completion) = answer.recv() {
            done(completion);
        }
    }

    fn submit_status(&self, range: Range<u64>, done: StatusDone) {
        self.0.submit_status(range, done);
    }
}
