//! Disk images: opened from descriptors on the I/O thread, handed to the machine as disks for any thread.

use crate::merge::{self, Answers};
use anyhow::{Context, Result};
use bulkhead_block_io::{Cache, DiskHandle, Holder, IoContext, IoMode, IoRemote, IoSeed, OpenOptions};
use bulkhead_chain::{ChainBuilder, Strictness};
use bulkhead_disk::{Completion, Disk, DiskError, DiskFacts, Done, ErrorKind, Request, StatusDone};
use bulkhead_image::format::Format;
use bulkhead_image::in_use::DiskInUse;
use bulkhead_image::open::{open_disk, open_layer};
use bulkhead_machine::Resources;
use bulkhead_qos::{Balance, Limits, Qos};
use bulkhead_vhdx::NewGuid;
use bulkhead_vm_description::Medium;
use bulkhead_worker_protocol::{DiskStats, resource};
use crossbeam_channel::{Sender, bounded};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use uuid::Uuid;

thread_local! {
    /// The disks of the I/O thread, with their names.
    static DISKS: RefCell<Vec<(String, Rc<DiskInUse>)>> = const { RefCell::new(Vec::new()) };
    /// What the machine holds of them, in the same order.
    static HANDLES: RefCell<Vec<DiskHandle>> = const { RefCell::new(Vec::new()) };
}

/// The I/O thread of a VM.
pub struct IoThread {
    remote: IoRemote,
    thread: Option<JoinHandle<()>>,
    synchronous: bool,
}

/// The files of one disk.
pub struct DiskFiles {
    image: File,
    /// Of its chain, nearest first.
    parents: Vec<File>,
    /// The first of them is open for writing: the disk is going to be merged into it.
    merges: bool,
    tracking: Option<File>,
}

impl DiskFiles {
    /// Takes what was passed for a medium.
    ///
    /// # Errors
    /// Something was not passed.
    pub fn take(medium: &Medium, resources: &mut Resources) -> Result<DiskFiles> {
        let mut take =
            |name: &str| resources.take_file(name).with_context(|| format!("the file {name} was not passed"));
        let image = take(&medium.file)?;
        let tracking = medium.tracking.as_ref().map(|tracking| take(&tracking.file)).transpose()?;
        let target = resources.take_file(&resource::merge_target(&medium.file));
        let merges = target.is_some();
        let first = 1 + usize::from(merges);
        let others = (first..).map_while(|depth| resources.take_file(&resource::parent(&medium.file, depth)));
        Ok(DiskFiles { image, parents: target.into_iter().chain(others).collect(), merges, tracking })
    }
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
                // Their files belong to the loop.
                DISKS.take();
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("disks".into()).spawn(body).map_err(failed)?;
        is_ready.recv().map_err(|_| gone())??;
        Ok(IoThread { remote, thread: Some(thread), synchronous })
    }

    /// Opens a disk. `vm` is named to whoever wants the same files.
    ///
    /// # Errors
    /// Those of the images; `Locked` names the holder.
    pub fn open(
        &self,
        medium: &Medium,
        read_only: bool,
        vm: &str,
        files: DiskFiles,
    ) -> Result<Arc<dyn Disk>, DiskError> {
        let opening = Opening { medium: medium.clone(), read_only, holder: Holder::this_process(vm) };
        let disk = self.run(move |context| {
            Box::pin(async move {
                let disk = Rc::new(opening.open(&context, files).await?);
                let handle = context.attach(disk.node().clone());
                DISKS.with_borrow_mut(|disks| disks.push((opening.medium.file.clone(), disk)));
                HANDLES.with_borrow_mut(|handles| handles.push(handle.clone()));
                Ok(handle)
            })
        })??;
        Ok(if self.synchronous { Arc::new(Synchronous(disk)) } else { Arc::new(disk) })
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// The first failure; the other disks are flushed all the same.
    pub fn flush(&self) -> Result<(), DiskError> {
        self.each(|disk| Box::pin(async move { disk.node().run(Request::Flush).await.result }))
    }

    /// Merges the top of a disk into its parent. It has begun when this returns.
    ///
    /// # Errors
    /// No such disk, or those of [`merge::begin`].
    pub fn merge(&self, disk: &str, listener: merge::Listener) -> Result<(), DiskError> {
        let disk = disk.to_owned();
        self.run(move |context| {
            Box::pin(async move {
                let found = DISKS.with_borrow(|disks| disks.iter().find(|(name, _)| *name == disk).cloned());
                let Some(stack) = found.and_then(|(_, found)| found.stack().cloned()) else {
                    let reason = "the VM has no such disk";
                    return Err(DiskError::new(ErrorKind::NotFound, "merge", reason).with_path(disk));
                };
                context.spawn(merge::begin(disk, stack, listener)?);
                Ok(())
            })
        })?
    }

    /// Ends merges; their disks stay as they were.
    pub fn cancel_merges(&self) {
        self.remote.call(|_| merge::cancel_all());
    }

    /// Where answers to merges go.
    pub fn answer_merges(&self, answers: &Answers) {
        answers.go_to(self.remote.clone());
    }

    /// Makes everything durable and leaves cleanly closed images; nothing may run afterwards.
    ///
    /// # Errors
    /// The first failure; the other disks are closed all the same.
    pub fn close(&self) -> Result<(), DiskError> {
        self.each(|disk| Box::pin(async move { disk.close().await }))
    }

    /// Closes one disk, which nobody uses any more.
    ///
    /// # Errors
    /// It cannot be left cleanly closed.
    pub fn close_one(&self, file: &str) -> Result<(), DiskError> {
        let file = file.to_owned();
        self.run(move |context| {
            Box::pin(async move {
                let found = DISKS.with_borrow_mut(|disks| {
                    let position = disks.iter().rposition(|(name, _)| *name == file)?;
                    Some((position, disks.remove(position).1))
                });
                let Some((position, disk)) = found else { return Ok(()) };
                context.detach(&HANDLES.with_borrow_mut(|handles| handles.remove(position)));
                disk.close().await
            })
        })?
    }

    /// Counters of every disk so far.
    pub fn stats(&self) -> BTreeMap<String, DiskStats> {
        let counted = self.run(|_| {
            let count = |(name, disk): &(String, Rc<DiskInUse>)| {
                let counters = disk.counters()?;
                let stats = DiskStats {
                    depth: counters.depth as u64,
                    reads: counters.reads,
                    writes: counters.writes,
                    metadata_reads: counters.metadata.reads,
                    metadata_hits: counters.metadata.hits,
                };
                Some((name.clone(), stats))
            };
            Box::pin(async move { DISKS.with_borrow(|disks| disks.iter().filter_map(count).collect()) })
        });
        // A thread that has ended has told why.
        counted.unwrap_or_default()
    }

    /// Does something with every disk.
    fn each(
        &self,
        work: impl Fn(Rc<DiskInUse>) -> Pin<Box<dyn Future<Output = Result<(), DiskError>>>> + Send + 'static,
    ) -> Result<(), DiskError> {
        self.run(move |_| {
            Box::pin(async move {
                let mut result = Ok(());
                for (_, disk) in DISKS.with_borrow(Vec::clone) {
                    let done = work(disk).await;
                    result = result.and(done);
                }
                result
            })
        })?
    }

    /// Runs a task on the thread and waits for its result.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(IoContext) -> Pin<Box<dyn Future<Output = T>>> + Send + 'static,
    ) -> Result<T, DiskError> {
        let (reply, answer) = bounded(1);
        self.remote.call(move |context| {
            let task = work(context.clone());
            context.spawn(async move { drop(reply.send(task.await)) });
        });
        answer.recv().map_err(|_| gone())
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

/// How to open a disk.
struct Opening {
    medium: Medium,
    read_only: bool,
    holder: Holder,
}

impl Opening {
    async fn open(&self, context: &IoContext, files: DiskFiles) -> Result<DiskInUse, DiskError> {
        let Medium { file: name, tracking, limits, .. } = &self.medium;
        let host_file = |file: File, label: String, read_only: bool| {
            let options = OpenOptions::new().read_only(read_only).cache(Cache::Writeback).holder(self.holder.clone());
            options.from_fd(context, file.into(), label).map(Rc::new)
        };
        let format = format(&self.medium)?;
        let image = host_file(files.image, name.clone(), self.read_only)?;
        let mut disk = if format.foreign().is_some() {
            if !self.read_only {
                let reason = format!("{} images can only be read", format.name());
                return Err(DiskError::new(ErrorKind::Unsupported, "open the disk", reason)
                    .with_path(name)
                    .advise("attach it read-only, or convert it to vhdx first"));
            }
            DiskInUse::read_only(open_disk(image, format, new_guid()).await?)
        } else {
            let mut chain = ChainBuilder::new(Strictness::default());
            chain.push(open_layer(image, format, new_guid()).await?)?;
            for (depth, parent) in (1..).zip(files.parents) {
                let read_only = depth > 1 || !files.merges;
                let file = host_file(parent, resource::parent(name, depth), read_only)?;
                chain.push(open_layer(file, format, new_guid()).await?)?;
            }
            DiskInUse::chain(chain.finish()?)
        };
        if let (Some(tracking), Some(file)) = (tracking, files.tracking) {
            disk.track(host_file(file, tracking.file.clone(), false)?, &tracking.bitmaps).await?;
        }
        if !limits.is_none() {
            let (max_iops, max_bandwidth) = (limits.max_iops, limits.max_bandwidth.map(|size| size.bytes()));
            // Other VMs have other processes, so there is nothing to balance here: only the limits count.
            let qos = Qos::new(Balance { enabled: false, ..Balance::default() }, context.clone());
            disk.limit(&qos, Limits { max_iops, max_bandwidth, ..Limits::default() });
        }
        Ok(disk)
    }
}

fn format(medium: &Medium) -> Result<Format, DiskError> {
    let name = medium.format().name();
    Format::from_name(name).ok_or_else(|| {
        DiskError::new(ErrorKind::Unsupported, "open the disk", format!("{name} images are unknown here"))
            .with_path(&medium.file)
    })
}

/// New identities.
fn new_guid() -> NewGuid {
    Rc::new(Uuid::now_v7)
}

fn gone() -> DiskError {
    DiskError::new(ErrorKind::Cancelled, "use the disk", "the I/O thread has ended")
}

/// A disk whose requests are finished when `submit` returns.
struct Synchronous(DiskHandle);

impl Disk for Synchronous {
    fn facts(&self) -> DiskFacts {
        self.0.facts()
    }

    fn submit(&self, request: Request, done: Done) {
        let (sender, answer): (Sender<Completion>, _) = bounded(1);
        self.0.submit(request, Box::new(move |completion| drop(sender.send(completion))));
        // The handle always answers, also when its loop is gone.
        if let Ok(completion) = answer.recv() {
            done(completion);
        }
    }

    fn submit_status(&self, range: Range<u64>, done: StatusDone) {
        self.0.submit_status(range, done);
    }
}
