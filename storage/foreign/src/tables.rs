//! A bounded cache of table pages: no table is ever held whole, whatever size a header claims.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bulkhead_disk::{DiskError, File, Result, read_vec};

/// Bytes of a page.
const PAGE: u64 = 64 << 10;
/// Pages kept: 4 MiB.
const MOST_PAGES: usize = 64;

/// Reads of metadata, cached.
pub struct Tables {
    pub file: Rc<dyn File>,
    /// The most recently used one last.
    pages: RefCell<VecDeque<(u64, Rc<Vec<u8>>)>>,
}

impl Tables {
    pub fn new(file: Rc<dyn File>) -> Self {
        Self { file, pages: RefCell::default() }
    }

    /// `len` bytes of a table at `offset`. The caller bounds `len`.
    pub async fn read(&self, what: &'static str, offset: u64, len: u64) -> Result<Vec<u8>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.file.len());
        let Some(end) = end else {
            let reason = format!("the {what} needs {len} bytes here, the file ends at {}", self.file.len());
            return Err(self.corrupt(reason).at(offset));
        };
        let mut out = Vec::with_capacity(len as usize);
        let mut at = offset;
        while at < end {
            let number = at / PAGE;
            let page = self.page(number).await?;
            let from = (at - number * PAGE) as usize;
            let until = ((end - number * PAGE).min(PAGE)) as usize;
            out.extend_from_slice(&page[from..until.min(page.len())]);
            at = (number + 1) * PAGE;
        }
        if out.len() as u64 == len { Ok(out) } else { Err(self.corrupt("the file became shorter").at(offset)) }
    }

    /// An error of this image.
    pub fn corrupt(&self, reason: impl Into<std::borrow::Cow<'static, str>>) -> DiskError {
        DiskError::corrupt("read the image", reason).with_path(self.file.path())
    }

    async fn page(&self, number: u64) -> Result<Rc<Vec<u8>>> {
        let cached = {
            let mut pages = self.pages.borrow_mut();
            let found = pages.iter().rposition(|(other, _)| *other == number);
            found.and_then(|index| pages.remove(index)).inspect(|entry| pages.push_back(entry.clone()))
        };
        if let Some((_, page)) = cached {
            return Ok(page);
        }
        let start = number * PAGE;
        let len = PAGE.min(self.file.len().saturating_sub(start)) as usize;
        let page = Rc::new(read_vec(&*self.file, start, len).await?);
        let mut pages = self.pages.borrow_mut();
        // Two tasks may have read the same page meanwhile.
        pages.retain(|(other, _)| *other != number);
        pages.push_back((number, page.clone()));
        if pages.len() > MOST_PAGES {
            pages.pop_front();
        }
        Ok(page)
    }
}

/// Little- and big-endian numbers of a header; missing bytes are zeros, so that parsing never panics.
pub fn bytes<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = data.get(at..at + N) {
        out.copy_from_slice(found);
    }
    out
}
