//! Sparse bytes in memory: pages that were never written take no room and read as zeros.

use crate::Buffer;
use std::collections::BTreeMap;
use std::ops::Range;

const PAGE: u64 = 4096;

/// A sparse array of bytes without a length.
#[derive(Clone, Default)]
pub struct SparseBytes {
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl SparseBytes {
    /// Copies bytes from `offset` on into `out`.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        for (page, inside, piece) in cut(offset, out.len()) {
            let out = &mut out[piece];
            match self.pages.get(&page) {
                Some(data) => out.copy_from_slice(&data[inside..inside + out.len()]),
                None => out.fill(0),
            }
        }
    }

    /// Stores `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, inside, piece) in cut(offset, data.len()) {
            let data = &data[piece];
            let target = self.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize].into_boxed_slice());
            target[inside..inside + data.len()].copy_from_slice(data);
        }
    }

    /// Fills `buffer` from `offset` on.
    pub fn read_into(&self, offset: u64, buffer: &mut Buffer) {
        if let Some(out) = buffer.as_mut_slice() {
            return self.read(offset, out);
        }
        let mut copy = vec![0; buffer.len()];
        self.read(offset, &mut copy);
        buffer.copy_from(0, &copy);
    }

    /// Stores `buffer` at `offset`.
    pub fn write_from(&mut self, offset: u64, buffer: &Buffer) {
        match buffer.as_slice() {
            Some(data) => self.write(offset, data),
            None => self.write(offset, &buffer.to_vec()),
        }
    }

    /// Makes `range` zero and frees whole pages.
    pub fn clear(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start / PAGE, (range.end - 1) / PAGE);
        let touched: Vec<u64> = self.pages.range(first..=last).map(|(page, _)| *page).collect();
        for page in touched {
            let start = range.start.max(page * PAGE) - page * PAGE;
            let end = range.end.min((page + 1) * PAGE) - page * PAGE;
            if end - start == PAGE {
                self.pages.remove(&page);
            } else if let Some(data) = self.pages.get_mut(&page) {
                data[start as usize..end as usize].fill(0);
            }
        }
    }

    /// The next run of stored pages at or after `offset`.
    pub fn data_after(&self, offset: u64) -> Option<Range<u64>> {
        let mut pages = self.pages.range(offset / PAGE..).map(|(page, _)| *page);
        let first = pages.next()?;
        let mut end = first + 1;
        for page in pages {
            if page != end {
                break;
            }
            end += 1;
        }
        Some(offset.max(first * PAGE)..end * PAGE)
    }
}

/// (page, offset inside it, piece of the caller's slice) for `len` bytes at `offset`.
fn cut(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let inside = (at % PAGE) as usize;
        let count = (len - done).min(PAGE as usize - inside);
        let piece = done..done + count;
        done += count;
        Some((at / PAGE, inside, piece))
    })
}
