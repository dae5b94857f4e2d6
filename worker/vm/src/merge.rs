//! Merging the top of a disk's chain into its parent while the guest uses it.
//!
//! The copying runs on the I/O thread beside the guest's requests. At the end writes wait until the starter has noted which
//! file is the disk from then on; its answer comes to [`Answers`], past the control loop, which may be waiting for writes.

use bulkhead_block_io::IoRemote;
use bulkhead_chain::{Merge, MergeControl, merge};
use bulkhead_disk::{DiskError, ErrorKind, LocalFuture, Notify, Result, Stack};
use bulkhead_worker_protocol::{MergeNews, Problem, ProblemKind};
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Where news of a merge go.
pub type Listener = Box<dyn Fn(MergeNews) + Send>;

thread_local! {
    /// The merges of the I/O thread, by disk.
    static MERGES: RefCell<BTreeMap<String, Rc<State>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The way to merges that wait for the starter's word; any thread may answer.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<Option<IoRemote>>>);

impl Answers {
    /// Merges run on this loop.
    pub fn go_to(&self, remote: IoRemote) {
        *self.0.lock() = Some(remote);
    }

    /// There will be no more answers.
    pub fn starter_is_gone(&self) {
        if let Some(remote) = &*self.0.lock() {
            remote.call(|_| nobody_answers());
        }
    }

    /// Passes on whether the parent is known as the disk now.
    pub fn switched(&self, disk: String, switched: bool) {
        if let Some(remote) = &*self.0.lock() {
            remote.call(move |_| {
                let state = MERGES.with_borrow(|merges| merges.get(&disk).cloned());
                if let Some(state) = state {
                    state.answer(switched);
                }
            });
        }
    }
}

/// Tells every merge that waits for an answer that there will be none: both files hold the same then.
fn nobody_answers() {
    MERGES.with_borrow(|merges| merges.values().for_each(|state| state.answer(false)));
}

/// What one merge waits for.
#[derive(Default)]
struct State {
    answer: Cell<Option<bool>>,
    cancelled: Cell<bool>,
    changed: Notify,
}

impl State {
    fn answer(&self, switched: bool) {
        self.answer.set(Some(switched));
        self.changed.notify_all();
    }
}

/// Begins a merge; called on the I/O thread.
///
/// # Errors
/// `InvalidInput`: no parent, one that is not open for writing, or a merge that runs already.
pub fn begin(disk: String, stack: Rc<Stack>, listener: Listener) -> Result<impl Future<Output = ()>> {
    let wrong = |reason: &'static str| Err(DiskError::new(ErrorKind::InvalidInput, "merge", reason).with_path(&disk));
    let layers = stack.layers();
    let Some(parent) = layers.get(1).cloned() else { return wrong("the disk has no parent") };
    if parent.facts().read_only {
        return wrong("its parent is not open for writing");
    }
    let state = Rc::new(State::default());
    let free = MERGES.with_borrow_mut(|merges| {
        let free = !merges.contains_key(&disk);
        if free {
            merges.insert(disk.clone(), state.clone());
        }
        free
    });
    if !free {
        return wrong("it is being merged already");
    }
    Ok(async move {
        let what = Merge { index: 0, parent, child: None, above: None, paths: Vec::new() };
        let control = Control { state, listener, told: Cell::new(None) };
        let result = merge(&stack, what, &control).await;
        MERGES.with_borrow_mut(|merges| merges.remove(&disk));
        (control.listener)(match result {
            Ok(()) => MergeNews::Merged,
            Err(error) => MergeNews::Failed(problem(&error)),
        });
    })
}

/// Stops all merges that have not come to their end; called on the I/O thread. One that waits for the starter's answer goes
/// by that: the starter may have given up the merged file already.
pub fn cancel_all() {
    MERGES.with_borrow(|merges| merges.values().for_each(|state| state.cancelled.set(true)));
}

struct Control {
    state: Rc<State>,
    listener: Listener,
    /// The hundredth that was told last.
    told: Cell<Option<u64>>,
}

impl Control {
    fn check(&self) -> Result<()> {
        if self.state.cancelled.get() {
            return Err(DiskError::new(ErrorKind::Cancelled, "merge", "the VM ends"));
        }
        Ok(())
    }
}

impl MergeControl for Control {
    fn progress(&self, done: u64, total: u64) -> LocalFuture<'_, Result<()>> {
        let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100) as u64;
        if self.told.replace(Some(percent)) != Some(percent) {
            (self.listener)(MergeNews::Progress { done, total });
        }
        Box::pin(std::future::ready(self.check()))
    }

    fn switch(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(async {
            self.check()?;
            (self.listener)(MergeNews::Switching);
            loop {
                match self.state.answer.get() {
                    Some(true) => return Ok(()),
                    Some(false) => {
                        let reason = "the parent could not be noted as the disk";
                        return Err(DiskError::new(ErrorKind::WrongState, "merge", reason));
                    }
                    None => self.state.changed.wait().await,
                }
            }
        })
    }
}

fn problem(error: &DiskError) -> Problem {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Problem { kind: ProblemKind::Failed, message }
}
