//! Whether two disks hold the same bytes.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use bulkhead_disk::{BlockKind, Buffer, LocalFuture, Node, Request, Result, StatusExtent, join_all};

use crate::copy::aligned_pieces;
use crate::{Control, report};

/// Bytes of one read: two of them stay in the processor's cache.
const PIECE: u64 = 256 << 10;
/// Pieces at once, so that devices have reads of both disks to do at any time.
const LANES: usize = 16;
const WINDOW: u64 = 1 << 30;

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal, and of equal size.
    Identical,
    /// Equal up to the end of the smaller one; the rest of the larger one is zeros.
    OnlySizesDiffer {
        /// Size of the smaller one.
        common: u64,
    },
    /// Different.
    Different {
        /// The first byte that differs.
        offset: u64,
    },
}

/// Compares. What both sides know to be zeros is not read.
///
/// # Errors
/// Those of the disks, and `Cancelled`.
pub async fn compare(a: &dyn Node, b: &dyn Node, control: &dyn Control) -> Result<Comparison> {
    let (len_a, len_b) = (a.facts().size, b.facts().size);
    let (common, total) = (len_a.min(len_b), len_a.max(len_b));
    let longer = if len_a > len_b { a } else { b };
    let mut at = 0;
    while at < total {
        // No window reaches over the end of the smaller disk.
        let limit = if at < common { common } else { total };
        let window = at..limit.min(at + WINDOW);
        let pair = if at < common { (a, Some(b)) } else { (longer, None) };
        if let Some(offset) = compare_window(pair, window.clone()).await? {
            return Ok(Comparison::Different { offset });
        }
        at = window.end;
        report(control, "compare the disks", at, total)?;
    }
    Ok(if len_a == len_b { Comparison::Identical } else { Comparison::OnlySizesDiffer { common } })
}

/// The first difference in a window; a missing second disk is zeros.
async fn compare_window((a, b): (&dyn Node, Option<&dyn Node>), window: Range<u64>) -> Result<Option<u64>> {
    let mut data = data_ranges(a.status(window.clone()).await?);
    if let Some(b) = b {
        data.extend(data_ranges(b.status(window).await?));
    }
    data.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in data {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    let pieces = RefCell::new(merged.into_iter().flat_map(|range| aligned_pieces(range, PIECE)));
    let first = Cell::new(None);
    let lane = |_| -> LocalFuture<'_, Result<()>> {
        Box::pin(async {
            let mut lane = Lane { a, b, left: Buffer::empty(), right: Buffer::empty() };
            loop {
                let next = pieces.borrow_mut().next();
                // What lies behind a difference is not looked at any more.
                let Some(range) = next.filter(|range| first.get().is_none_or(|at| range.start < at)) else {
                    return Ok(());
                };
                if let Some(offset) = lane.compare(range).await? {
                    first.set(Some(first.get().map_or(offset, |at: u64| at.min(offset))));
                }
            }
        })
    };
    let results = join_all((0..LANES).map(lane).collect()).await;
    results.into_iter().collect::<Result<()>>()?;
    Ok(first.get())
}

fn data_ranges(extents: Vec<StatusExtent>) -> Vec<Range<u64>> {
    extents.into_iter().filter(|extent| extent.kind == BlockKind::Data).map(|extent| extent.range).collect()
}

/// Compares piece after piece with the same memory, which stays in the processor's cache that way.
struct Lane<'a> {
    a: &'a dyn Node,
    b: Option<&'a dyn Node>,
    left: Buffer,
    right: Buffer,
}

impl Lane<'_> {
    async fn compare(&mut self, range: Range<u64>) -> Result<Option<u64>> {
        read(self.a, &range, &mut self.left).await?;
        match self.b {
            Some(b) => read(b, &range, &mut self.right).await?,
            None if self.left.is_zero() => return Ok(None),
            None => self.right = Buffer::zeroed(self.left.len()),
        }
        let first = match (self.left.as_slice(), self.right.as_slice()) {
            (Some(left), Some(right)) => first_difference(left, right),
            _ => first_difference(&self.left.to_vec(), &self.right.to_vec()),
        };
        Ok(first.map(|at| range.start + at as u64))
    }
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    left.iter().zip(right).position(|(left, right)| left != right)
}

/// Reads into the memory of the last read.
async fn read(node: &dyn Node, range: &Range<u64>, buffer: &mut Buffer) -> Result<()> {
    let memory = std::mem::take(buffer).reuse((range.end - range.start) as usize);
    *buffer = node.run(Request::Read { offset: range.start, buffer: memory }).await.into_result()?;
    Ok(())
}
