//! Runs requests over the layers of a chain: ask the planners, move the payload, commit.

use crate::owners::{GRANULE, Owner, Owners, granules};
use crate::{
    BlockKind, Buffer, Completion, DiskFacts, Durability, Extent, File, FileExtent, Layer, LocalFuture, Node, Notify,
    Place, Request, Result, StatusExtent, ZeroMode, check_range, join_all,
};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// One or more layers as a disk. The first is the top: it takes the writes; below it its parent, and so on.
///
/// The stack trusts that the layers belong together (checking that is the chain's job). The layers can be exchanged while
/// requests run: see [`Stack::pause_writes`] and [`Stack::set_layers`].
pub struct Stack {
    layers: RefCell<Rc<[Rc<dyn Layer>]>>,
    owners: Owners,
    writes: Cell<u64>,
    /// Requests so far: (reads, writes).
    requests: Cell<(u64, u64)>,
    paused: Cell<u32>,
    changed: Notify,
    /// What was written since [`Stack::track_writes`].
    written: RefCell<Option<Vec<Range<u64>>>>,
}

/// Holds new writes back until dropped.
pub struct WritePause<'a> {
    stack: &'a Stack,
}

impl Drop for WritePause<'_> {
    fn drop(&mut self) {
        self.stack.paused.set(self.stack.paused.get() - 1);
        self.stack.changed.notify_all();
    }
}

/// Ranges after which tracked writes are merged.
const TRACKED: usize = 64 << 10;

/// Notes a range as written when the write ends, also by being dropped.
struct Noted<'a> {
    stack: &'a Stack,
    range: Range<u64>,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.stack.note_written(&self.range);
    }
}

fn merge_ranges(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
}

/// Counts a write in flight.
struct WriteInFlight<'a> {
    stack: &'a Stack,
}

impl Drop for WriteInFlight<'_> {
    fn drop(&mut self) {
        let left = self.stack.writes.get() - 1;
        self.stack.writes.set(left);
        if left == 0 && self.stack.paused.get() > 0 {
            self.stack.changed.notify_all();
        }
    }
}

/// A run of a request in one file (None = zeros).
struct Transfer {
    len: u64,
    source: Option<(Rc<dyn File>, u64)>,
}

impl Stack {
    /// A disk of these layers, the top first.
    ///
    /// # Panics
    /// Without layers.
    pub fn new(layers: Vec<Rc<dyn Layer>>) -> Self {
        assert!(!layers.is_empty(), "a stack has at least one layer");
        Self {
            layers: RefCell::new(layers.into()),
            owners: Owners::default(),
            writes: Cell::new(0),
            requests: Cell::default(),
            paused: Cell::new(0),
            changed: Notify::default(),
            written: RefCell::new(None),
        }
    }

    /// Starts to remember which ranges are written, or stops.
    pub fn track_writes(&self, on: bool) {
        *self.written.borrow_mut() = on.then(Vec::new);
    }

    /// The ranges written (or cleared, or tried to) since the last call or since tracking began: merged, in order. Writes in
    /// flight come with the next call.
    pub fn take_written(&self) -> Vec<Range<u64>> {
        let mut ranges = self.written.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default();
        merge_ranges(&mut ranges);
        ranges
    }

    fn note_written(&self, range: &Range<u64>) {
        if let Some(written) = &mut *self.written.borrow_mut() {
            written.push(range.clone());
            // Many writes to few places must not fill the memory.
            if written.len().is_multiple_of(TRACKED) {
                merge_ranges(written);
            }
        }
    }

    /// Reads, and writes with discards and zeroings, that were run so far.
    pub fn requests(&self) -> (u64, u64) {
        self.requests.get()
    }

    /// The layers now, the top first.
    pub fn layers(&self) -> Rc<[Rc<dyn Layer>]> {
        Rc::clone(&self.layers.borrow())
    }

    /// The layer that takes the writes.
    pub fn top(&self) -> Rc<dyn Layer> {
        Rc::clone(&self.layers.borrow()[0])
    }

    /// Exchanges the layers; the contents must be the same. Change the top only under [`Stack::pause_writes`].
    pub fn set_layers(&self, layers: Vec<Rc<dyn Layer>>) {
        assert!(!layers.is_empty(), "a stack has at least one layer");
        *self.layers.borrow_mut() = layers.into();
        self.owners.clear();
    }

    /// Waits until no write, discard or zeroing is in flight; new ones wait until the result is dropped.
    pub async fn pause_writes(&self) -> WritePause<'_> {
        self.paused.set(self.paused.get() + 1);
        let pause = WritePause { stack: self };
        while self.writes.get() > 0 {
            self.changed.wait().await;
        }
        pause
    }

    /// Flushes and closes every layer; nothing may run afterwards.
    ///
    /// # Errors
    /// The first error of a layer; the others are closed all the same.
    pub async fn close(&self) -> Result<()> {
        let pause = self.pause_writes().await;
        let mut result = Ok(());
        for layer in self.layers().iter() {
            let closed = layer.close().await;
            result = result.and(closed);
        }
        drop(pause);
        result
    }

    async fn begin_write(&self) -> WriteInFlight<'_> {
        while self.paused.get() > 0 {
            self.changed.wait().await;
        }
        self.writes.set(self.writes.get() + 1);
        WriteInFlight { stack: self }
    }

    async fn read(&self, offset: u64, buffer: Buffer) -> Completion {
        let layers = self.layers();
        let range = offset..offset + buffer.len() as u64;
        if range.is_empty() {
            return Completion::ok(buffer);
        }
        // The common case: one place has all of it.
        let transfers = match if layers.len() == 1 { Some(Owner::Top) } else { self.owners.single(&range) } {
            Some(Owner::Below { layer, offset }) => {
                return layers[usize::from(layer)].file().read(offset, buffer).await;
            }
            Some(Owner::Zeros) => return zeros(buffer),
            Some(Owner::Top) => {
                let top = &*layers[0];
                top.resolve(range).await.map(|extents| extents.iter().map(|extent| transfer(top, extent)).collect())
            }
            None => self.resolve_chain(range).await,
        };
        match transfers {
            Ok(transfers) => read_transfers(transfers, buffer).await,
            Err(error) => Completion::failed(error, buffer),
        }
    }

    async fn resolve_chain(&self, range: Range<u64>) -> Result<Vec<Transfer>> {
        let mut transfers = Vec::with_capacity(1);
        for part in granules(&range) {
            // What is cached is true of the layers of this moment: a merge may exchange them while a part is waited for.
            let layers = self.layers();
            let owners = match self.owners.get(&part) {
                Some(owners) => owners,
                None => self.find_owners(&layers, &part).await?,
            };
            let mut at = part.start;
            for (len, owner) in owners {
                match owner {
                    Owner::Top => {
                        let extents = layers[0].resolve(at..at + len).await?;
                        transfers.extend(extents.iter().map(|extent| transfer(&*layers[0], extent)));
                    }
                    Owner::Below { layer, offset } => {
                        transfers.push(Transfer { len, source: Some((layers[usize::from(layer)].file(), offset)) });
                    }
                    Owner::Zeros => transfers.push(Transfer { len, source: None }),
                }
                at += len;
            }
        }
        Ok(transfers)
    }

    /// Asks all layers who owns the granule of `part`, caches that, and returns the owners of `part`.
    async fn find_owners(&self, layers: &[Rc<dyn Layer>], part: &Range<u64>) -> Result<Vec<(u64, Owner)>> {
        let granule = part.start / GRANULE;
        let whole = granule * GRANULE..((granule + 1) * GRANULE).min(layers[0].facts().size);
        let generation = self.owners.generation();
        let found = place_all(layers, whole.clone(), false).await?;
        let owners: Vec<(u64, Owner)> =
            found.iter().map(|run| (run.range.end - run.range.start, run.source())).collect();
        self.owners.store(granule, &owners, generation);
        let inside = found.iter().filter_map(|run| {
            let start = run.range.start.max(part.start);
            let len = run.range.end.min(part.end).checked_sub(start)?;
            (len > 0).then(|| (len, run.source().skip(start - run.range.start)))
        });
        Ok(inside.collect())
    }

    async fn write(&self, offset: u64, buffer: Buffer, fua: bool) -> Completion {
        let _in_flight = self.begin_write().await;
        let range = offset..offset + buffer.len() as u64;
        let top = self.top();
        let plan = match top.plan_write(range.clone()).await {
            Ok(plan) => plan,
            Err(error) => return Completion::failed(error, buffer),
        };
        let in_place = plan.guard.is_none() && plan.stable_in_place;
        let durability = if fua && in_place { Durability::Stable } else { Durability::Cached };
        let _written = Noted { stack: self, range: range.clone() };
        let mut completion = write_extents(&top.file(), &plan.extents, buffer, durability).await;
        if completion.result.is_ok() {
            completion.result = async {
                if let Some(guard) = plan.guard {
                    guard.commit().await?;
                    if self.is_chain() {
                        self.owners.set_top(&range);
                    }
                }
                if fua && !in_place { top.flush().await } else { Ok(()) }
            }
            .await;
        }
        completion
    }

    fn is_chain(&self) -> bool {
        self.layers.borrow().len() > 1
    }

    async fn zero(&self, range: Range<u64>, mode: ZeroMode, fua: bool) -> Result<()> {
        let _in_flight = self.begin_write().await;
        let top = self.top();
        let _written = Noted { stack: self, range: range.clone() };
        let result = top.zero(range.clone(), mode).await;
        if self.is_chain() {
            self.owners.forget(&range);
        }
        result?;
        if fua { top.flush().await } else { Ok(()) }
    }
}

impl Node for Stack {
    fn facts(&self) -> DiskFacts {
        self.layers.borrow()[0].facts()
    }

    fn run(&self, request: Request) -> LocalFuture<'_, Completion> {
        let write = request.is_write();
        if let Err(error) = check_range(&self.facts(), &request.range(), write) {
            return Box::pin(std::future::ready(Completion::failed(error, request.into_buffer())));
        }
        let (reads, writes) = self.requests.get();
        self.requests.set((reads + u64::from(matches!(request, Request::Read { .. })), writes + u64::from(write)));
        match request {
            Request::Read { offset, buffer } => Box::pin(self.read(offset, buffer)),
            Request::Write { offset, buffer, fua } => Box::pin(self.write(offset, buffer, fua)),
            Request::Flush => Box::pin(async {
                let top = self.top();
                Completion::from_result(if top.facts().read_only { Ok(()) } else { top.flush().await })
            }),
            Request::Discard { range } => {
                Box::pin(async { Completion::from_result(self.zero(range, ZeroMode::Discard, false).await) })
            }
            Request::WriteZeroes { range, may_unmap, fua } => Box::pin(async move {
                let mode = if may_unmap { ZeroMode::MayFree } else { ZeroMode::KeepSpace };
                Completion::from_result(self.zero(range, mode, fua).await)
            }),
        }
    }

    fn status(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        Box::pin(async move {
            check_range(&self.facts(), &range, false)?;
            let layers = self.layers();
            let bottom = (layers.len() - 1) as u16;
            let found = place_all(&layers, range, true).await?;
            let mut out: Vec<StatusExtent> = Vec::with_capacity(found.len());
            for run in found {
                let (kind, file_offset) = match run.place {
                    Place::File(offset) => (BlockKind::Data, Some(offset)),
                    Place::Zero => (BlockKind::Zero, None),
                    Place::Absent => (BlockKind::Hole, None),
                };
                let layer = run.layer.unwrap_or(bottom);
                push_joined(&mut out, StatusExtent { range: run.range, kind, layer, file_offset });
            }
            Ok(out)
        })
    }
}

/// A run with its layer (None = no layer has it) and its place there.
struct Placed {
    range: Range<u64>,
    layer: Option<u16>,
    place: Place,
}

impl Placed {
    /// What a reader needs to know.
    fn source(&self) -> Owner {
        match (self.layer, self.place) {
            (Some(0), _) => Owner::Top,
            (Some(layer), Place::File(offset)) => Owner::Below { layer, offset },
            (Some(_), Place::Zero | Place::Absent) | (None, _) => Owner::Zeros,
        }
    }
}

/// Asks the layers from the top down where `range` is; `map` asks for the finer block-status answer.
async fn place_all(layers: &[Rc<dyn Layer>], range: Range<u64>, map: bool) -> Result<Vec<Placed>> {
    let mut found: Vec<Placed> = Vec::new();
    let mut open = vec![range];
    for (number, layer) in layers.iter().enumerate() {
        let size = layer.facts().size;
        let mut next: Vec<Range<u64>> = Vec::new();
        for range in open {
            // A child may be larger than its parent: nobody owns what lies behind the parent's end.
            let inside = range.start.min(size)..range.end.min(size);
            if range.end > size {
                found.push(Placed { range: range.start.max(size)..range.end, layer: None, place: Place::Absent });
            }
            if inside.is_empty() {
                continue;
            }
            let mut at = inside.start;
            let extents = if map { layer.map(inside).await? } else { layer.resolve(inside).await? };
            for extent in extents {
                let run = at..at + extent.len;
                at = run.end;
                match (extent.place, next.last_mut()) {
                    (Place::Absent, Some(last)) if last.end == run.start => last.end = run.end,
                    (Place::Absent, _) => next.push(run),
                    (place, _) => found.push(Placed { range: run, layer: Some(number as u16), place }),
                }
            }
        }
        open = next;
        if open.is_empty() {
            break;
        }
    }
    found.extend(open.into_iter().map(|range| Placed { range, layer: None, place: Place::Absent }));
    found.sort_unstable_by_key(|run| run.range.start);
    Ok(found)
}

fn push_joined(out: &mut Vec<StatusExtent>, next: StatusExtent) {
    if let Some(last) = out.last_mut()
        && last.kind == next.kind
        && last.layer == next.layer
        && last.file_offset.map(|offset| offset + (last.range.end - last.range.start)) == next.file_offset
    {
        last.range.end = next.range.end;
        return;
    }
    out.push(next);
}

fn transfer(layer: &dyn Layer, extent: &Extent) -> Transfer {
    let source = match extent.place {
        Place::File(offset) => Some((layer.file(), offset)),
        Place::Zero | Place::Absent => None,
    };
    Transfer { len: extent.len, source }
}

fn zeros(mut buffer: Buffer) -> Completion {
    buffer.fill(0);
    Completion::ok(buffer)
}

async fn read_transfers(transfers: Vec<Transfer>, mut buffer: Buffer) -> Completion {
    if let [Transfer { source, .. }] = &transfers[..] {
        return match source {
            Some((file, offset)) => file.read(*offset, buffer).await,
            None => zeros(buffer),
        };
    }
    let mut parts: Vec<LocalFuture<'_, Completion>> = Vec::with_capacity(transfers.len());
    for transfer in &transfers {
        let rest = buffer.split_off(transfer.len as usize);
        let piece = std::mem::replace(&mut buffer, rest);
        parts.push(match &transfer.source {
            Some((file, offset)) => file.read(*offset, piece),
            None => Box::pin(async move { zeros(piece) }),
        });
    }
    gather(join_all(parts).await)
}

async fn write_extents(file: &Rc<dyn File>, extents: &[FileExtent], mut buffer: Buffer, how: Durability) -> Completion {
    if let [extent] = extents {
        return file.write(extent.offset, buffer, how).await;
    }
    let mut parts: Vec<LocalFuture<'_, Completion>> = Vec::with_capacity(extents.len());
    for extent in extents {
        let rest = buffer.split_off(extent.len as usize);
        let piece = std::mem::replace(&mut buffer, rest);
        parts.push(file.write(extent.offset, piece, how));
    }
    gather(join_all(parts).await)
}

/// One completion of many: the buffer in one piece again, the first error.
fn gather(parts: Vec<Completion>) -> Completion {
    let mut whole = Completion::ok(Buffer::empty());
    for part in parts {
        whole.buffer.append(part.buffer);
        whole.result = whole.result.and(part.result);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Executor, MemoryFile, RawImage, TaskWake, read_bytes, run_now, write_bytes};
    use std::sync::Arc;

    fn raw(size: u64) -> Rc<dyn Layer> {
        let file = MemoryFile::new("raw");
        run_now(file.set_len(size)).unwrap();
        Rc::new(run_now(RawImage::open(Rc::new(file))).unwrap())
    }

    #[test]
    fn one_raw_layer_reads_writes_clears_and_maps() {
        let stack = Stack::new(vec![raw(1 << 20)]);
        run_now(write_bytes(&stack, 4096, &[1; 8192])).unwrap();
        let extents = run_now(stack.status(0..1 << 20)).unwrap();
        assert_eq!(extents.len(), 3);
        assert_eq!(
            (extents[1].range.clone(), extents[1].kind, extents[1].file_offset),
            (4096..12288, BlockKind::Data, Some(4096))
        );
        let clear = Request::WriteZeroes { range: 4096..8192, may_unmap: true, fua: true };
        run_now(stack.run(clear)).into_result().unwrap();
        let data = run_now(read_bytes(&stack, 4096, 8192)).unwrap();
        assert!(data[..4096].iter().all(|byte| *byte == 0) && data[4096..].iter().all(|byte| *byte == 1));
    }

    #[test]
    fn paused_writes_wait() {
        let stack = Rc::new(Stack::new(vec![raw(1 << 20)]));
        let executor = Executor::new(Arc::new(TaskWake::default()));
        let pause = run_now(stack.pause_writes());
        let done = Rc::new(Cell::new(false));
        let (task_stack, task_done) = (Rc::clone(&stack), Rc::clone(&done));
        executor.spawn(async move {
            write_bytes(&*task_stack, 0, &[1; 512]).await.unwrap();
            task_done.set(true);
        });
        executor.run_ready();
        assert!(!done.get());
        drop(pause);
        executor.run_ready();
        assert!(done.get());
    }
}
