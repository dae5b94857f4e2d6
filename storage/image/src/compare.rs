//! Whether two disks hold the same bytes.

use std::ops::Range;

use bulkhead_disk::{BlockKind, Buffer, LocalFuture, Node, Request, Result, StatusExtent, join_all};

use crate::copy::aligned_pieces;
use crate::{Control, report};

const PIECE: u64 = 1 << 20;
const LANES: usize = 8;
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
    let pieces: Vec<Range<u64>> = merged.into_iter().flat_map(|range| aligned_pieces(range, PIECE)).collect();
    for batch in pieces.chunks(LANES) {
        let lane = |range: &Range<u64>| -> LocalFuture<'_, _> { Box::pin(compare_piece(a, b, range.clone())) };
        let found = join_all(batch.iter().map(lane).collect()).await;
        for difference in found {
            if let Some(offset) = difference? {
                return Ok(Some(offset));
            }
        }
    }
    Ok(None)
}

fn data_ranges(extents: Vec<StatusExtent>) -> Vec<Range<u64>> {
    extents.into_iter().filter(|extent| extent.kind == BlockKind::Data).map(|extent| extent.range).collect()
}

async fn compare_piece(a: &dyn Node, b: Option<&dyn Node>, range: Range<u64>) -> Result<Option<u64>> {
    let left = read(a, range.clone()).await?;
    let right = match b {
        Some(b) => read(b, range.clone()).await?,
        None if left.is_zero() => return Ok(None),
        None => Buffer::zeroed(left.len()),
    };
    let equal = match (left.as_slice(), right.as_slice()) {
        (Some(left), Some(right)) => left == right,
        _ => left.to_vec() == right.to_vec(),
    };
    if equal {
        return Ok(None);
    }
    let first = left.to_vec().iter().zip(right.to_vec()).position(|(left, right)| *left != right);
    Ok(first.map(|at| range.start + at as u64))
}

async fn read(node: &dyn Node, range: Range<u64>) -> Result<Buffer> {
    let buffer = Buffer::zeroed((range.end - range.start) as usize);
    node.run(Request::Read { offset: range.start, buffer }).await.into_result()
}
