//! The engine of bulk operations: reads data in large pieces, several at once, and skips holes and zeros.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;

use bulkhead_disk::{BlockKind, Buffer, LocalFuture, Node, Request, Result, join_all};

use crate::{Control, report};

/// Bytes of one transfer: a block of the usual dynamic image.
const PIECE: u64 = 2 << 20;
/// Transfers at once.
const LANES: usize = 8;
/// Block status is asked for this much at a time.
const WINDOW: u64 = 1 << 30;
/// Zeros are skipped in units of this.
const ZERO_UNIT: usize = 64 << 10;

/// What to do with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// The target is new and reads as zeros: leave them out.
    Skip,
    /// The target may hold other data: clear it there.
    Clear,
}

/// Copies all of `source` to `target`, which is at least as large, and makes it durable.
///
/// # Errors
/// Those of the disks, and `Cancelled`.
pub async fn copy(source: &dyn Node, target: &dyn Node, zeros: Zeros, control: &dyn Control) -> Result<()> {
    let total = source.facts().size;
    let copied = Cell::new(0);
    let mut at = 0;
    while at < total {
        let window = at..total.min(at + WINDOW);
        let mut pieces = VecDeque::new();
        for extent in source.status(window.clone()).await? {
            let is_data = extent.kind == BlockKind::Data;
            // What is skipped or cleared needs no buffer and may be long.
            let step = if is_data { PIECE } else { WINDOW };
            pieces.extend(aligned_pieces(extent.range, step).map(|range| (range, is_data)));
        }
        let queue = RefCell::new(pieces);
        let lane = |_| -> LocalFuture<'_, Result<()>> {
            Box::pin(async {
                let mut memory = Buffer::empty();
                loop {
                    let Some((range, is_data)) = queue.borrow_mut().pop_front() else { return Ok(()) };
                    let len = range.end - range.start;
                    if is_data {
                        move_piece(source, target, range, zeros, &mut memory).await?;
                    } else if zeros == Zeros::Clear {
                        clear(target, range).await?;
                    }
                    copied.set(copied.get() + len);
                    report(control, "copy the disk", copied.get(), total)?;
                }
            })
        };
        let results = join_all((0..LANES).map(lane).collect()).await;
        results.into_iter().collect::<Result<()>>()?;
        at = window.end;
    }
    target.run(Request::Flush).await.result
}

/// Cuts a range at multiples of `step`.
pub(crate) fn aligned_pieces(range: Range<u64>, step: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = range.end.min((at / step + 1) * step);
        let piece = at..end;
        at = end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Copies a piece through `memory`, which is used again for the next one.
async fn move_piece(
    source: &dyn Node,
    target: &dyn Node,
    range: Range<u64>,
    zeros: Zeros,
    memory: &mut Buffer,
) -> Result<()> {
    let buffer = std::mem::take(memory).reuse((range.end - range.start) as usize);
    let mut left = source.run(Request::Read { offset: range.start, buffer }).await.into_result()?;
    let mut offset = range.start;
    while !left.is_empty() {
        let (is_zero, len) = leading_run(&left);
        let rest = left.split_off(len);
        let end = offset + len as u64;
        let done = match (is_zero, zeros) {
            (false, _) => {
                let write = Request::Write { offset, buffer: left, fua: false };
                target.run(write).await.into_result()?
            }
            (true, Zeros::Clear) => {
                clear(target, offset..end).await?;
                left
            }
            (true, Zeros::Skip) => left,
        };
        memory.append(done);
        left = rest;
        offset = end;
    }
    Ok(())
}

async fn clear(target: &dyn Node, range: Range<u64>) -> Result<()> {
    target.run(Request::WriteZeroes { range, may_unmap: true, fua: false }).await.result
}

/// Whether the buffer begins with zeros, and how many bytes are like its beginning, in [`ZERO_UNIT`]s.
fn leading_run(buffer: &Buffer) -> (bool, usize) {
    let Some(bytes) = buffer.as_slice() else { return (buffer.is_zero(), buffer.len()) };
    let is_zero = |unit: &[u8]| unit.iter().all(|&byte| byte == 0);
    let mut units = bytes.chunks(ZERO_UNIT);
    let Some(first) = units.next() else { return (true, 0) };
    let kind = is_zero(first);
    let more: usize = units.take_while(|unit| is_zero(unit) == kind).map(<[u8]>::len).sum();
    (kind, first.len() + more)
}
