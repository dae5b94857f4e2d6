//! The headers of an open image: what must change before the first modification, and at a clean close (MS-VHDX 2.2.2).

use super::{Inner, floor_mib, format_error};
use crate::format::header::Header;
use crate::format::{HEADER_OFFSETS, MIB};
use crate::log_ring::LogRing;
use bulkhead_disk::Result;
use uuid::Uuid;

impl Inner {
    /// Called before every change of the file's structures that a guest cannot see.
    pub(crate) async fn begin_change(&self) -> Result<()> {
        self.begin(false).await
    }

    /// Called before every change that a guest can see: the image's identity towards children changes, once per open.
    pub(crate) async fn begin_data_change(&self) -> Result<()> {
        self.begin(true).await
    }

    /// Whether guest data can be written without anything coming first.
    pub(crate) fn takes_data(&self) -> bool {
        let state = self.state.borrow();
        state.ring.is_some() && state.data_changed && !self.poisoned.get()
    }

    async fn begin(&self, data: bool) -> Result<()> {
        self.check_writable()?;
        let ready = |inner: &Self| {
            let state = inner.state.borrow();
            state.ring.is_some() && (state.data_changed || !data)
        };
        if ready(self) {
            return Ok(());
        }
        let _turn = self.starting.lock().await;
        if ready(self) {
            return Ok(());
        }
        let mut header = self.state.borrow().header.clone();
        let fresh = if self.state.borrow().ring.is_none() { Some(self.start_log(&mut header).await?) } else { None };
        if data {
            header.data_write_guid = self.state.borrow().next_data_write_guid;
        }
        self.write_headers(header).await?;
        let mut state = self.state.borrow_mut();
        if fresh.is_some() {
            state.ring = fresh;
        }
        state.data_changed |= data;
        Ok(())
    }

    /// Writes a first, empty entry, so that the log is valid as soon as a header names it.
    async fn start_log(&self, header: &mut Header) -> Result<LogRing> {
        if !self.file.len().is_multiple_of(MIB) {
            self.file.set_len(self.file.len().next_multiple_of(MIB)).await?;
        }
        header.file_write_guid = (self.new_guid)();
        header.log_guid = (self.new_guid)();
        header.log_version = 0;
        let mut ring = LogRing::new(header.log_guid, header.log_offset, u64::from(header.log_length));
        let flushed = floor_mib(self.state.borrow().flushed_len);
        for (offset, bytes) in ring.append(&[], flushed, self.file.len()) {
            self.write_file(offset, bytes).await?;
        }
        let length = self.file.len();
        self.file.flush().await?;
        self.state.borrow_mut().flushed_len = length;
        ring.set_durable();
        ring.retire(ring.applied());
        Ok(ring)
    }

    /// Writes `header` over both slots, the one that is not current first, each made durable.
    pub(crate) async fn write_headers(&self, mut header: Header) -> Result<()> {
        for _ in 0..2 {
            let slot = 1 - self.state.borrow().current_slot;
            header.sequence = header.sequence.checked_add(1).ok_or_else(|| {
                let problem = "the sequence number is used up".to_owned();
                format_error("write the header")(crate::format::FormatError::Damaged { structure: "header", problem })
            })?;
            let written = self.write_file(HEADER_OFFSETS[slot], header.to_bytes()).await;
            let flushed = match written {
                Ok(()) => self.file.flush().await,
                error => error,
            };
            if flushed.is_err() {
                // The slot's content is unknown now: nothing may build on either version.
                self.poisoned.set(true);
                return flushed;
            }
            let mut state = self.state.borrow_mut();
            state.current_slot = slot;
            state.header = header.clone();
        }
        Ok(())
    }

    /// Declares the log empty. Everything in it must be in its place, durably.
    pub(crate) async fn close_log(&self) -> Result<()> {
        let mut header = self.state.borrow().header.clone();
        if header.log_guid.is_nil() {
            return Ok(());
        }
        header.log_guid = Uuid::nil();
        self.write_headers(header).await?;
        self.state.borrow_mut().ring = None;
        Ok(())
    }

    /// Flushes everything, empties the log, and gives back the space that nobody owns at the end of the file.
    pub(crate) async fn close(&self) -> Result<()> {
        if self.read_only || self.state.borrow().ring.is_none() {
            return Ok(());
        }
        self.flush_now().await?;
        // The first flush wrote the metadata to its place, the second makes that durable.
        self.flush_now().await?;
        self.close_log().await?;
        // Only now: the entries of a log that counts say how long the file must be.
        let end = self.release_anchors();
        if self.state.borrow().space.is_complete() && end < self.file.len() && self.file.facts().resizable {
            self.file.set_len(end).await?;
            self.file.flush().await?;
        }
        Ok(())
    }

    /// Nobody can be using places without a block any more; returns where the used part of the file ends.
    fn release_anchors(&self) -> u64 {
        let state = &mut *self.state.borrow_mut();
        let size = state.metadata.geometry.block_size();
        for (_, anchor) in state.anchors.drain() {
            state.space.disown(&(anchor.offset..anchor.offset + size));
        }
        for range in state.abandoned.drain(..) {
            state.space.disown(&range);
        }
        state.space.used_end()
    }
}
