//! Telling others about writes: the dirty log, and the observer of pages that hold decoded code.

use crate::bitmap::fence_all_threads;
use crate::memory::GuestMemory;
use crate::{PAGE_SHIFT, PageBitmap};
use std::sync::Arc;

/// Hears of host-side writes (devices, loaders, hypercalls) to watched pages: the software engine drops what it
/// decoded from them.
///
/// The memory holds the observer; an observer that in turn holds the [`GuestMemory`] keeps both alive until
/// [`GuestMemory::clear_write_observer`].
pub trait WriteObserver: Send + Sync {
    /// `count` pages from page number `first_gpa_page` on, all watched, have just been written. Called on the writing
    /// thread, after the bytes are in place, with no lock of the memory held.
    fn pages_written(&self, first_gpa_page: u64, count: u64);
}

impl GuestMemory {
    /// Sets who hears of writes to watched pages, in place of the previous one.
    pub fn set_write_observer(&self, observer: Arc<dyn WriteObserver>) {
        *self.inner.observer.write() = Some(observer);
    }

    /// Ends the observation.
    pub fn clear_write_observer(&self) {
        *self.inner.observer.write() = None;
    }

    /// Starts watching a page. Watch first, then read what the page holds: a write by another thread is then either
    /// seen in the bytes or reported.
    pub fn watch(&self, page: u64) {
        if !self.inner.watched.test(page) {
            self.inner.watched.set(page);
            fence_all_threads();
        }
    }

    /// Stops watching a page.
    pub fn unwatch(&self, page: u64) {
        self.inner.watched.clear(page);
    }

    /// The pages being watched.
    pub fn watched(&self) -> &PageBitmap {
        &self.inner.watched
    }

    /// Reports that `len` bytes at `gpa` were written through a host pointer or by a system call: they go into the
    /// dirty log if it is on, and to the observer where pages are watched. All writes of this crate's own API have
    /// done so already. Call it after the bytes are in place. Addresses that are not RAM are ignored.
    #[inline]
    pub fn mark_written(&self, gpa: u64, len: u64) {
        if len == 0 {
            return;
        }
        self.inner.dirty.log(gpa, len);
        let first = gpa >> PAGE_SHIFT;
        let count = (gpa.saturating_add(len - 1) >> PAGE_SHIFT) - first + 1;
        if self.inner.watched.any(first, count) {
            self.notify(first, count);
        }
    }

    #[cold]
    fn notify(&self, first: u64, count: u64) {
        let Some(observer) = self.inner.observer.read().clone() else { return };
        let end = first.saturating_add(count).min(self.inner.watched.pages());
        let mut page = first;
        while page < end {
            let run = (page..end).take_while(|&page| self.inner.watched.test(page)).count() as u64;
            if run > 0 {
                observer.pages_written(page, run);
            }
            page += run + 1;
        }
    }
}
