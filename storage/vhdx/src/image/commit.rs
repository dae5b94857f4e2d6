//! Making changes durable: payload, then one log entry, then the metadata in its place.
//!
//! One flush of the file serves three ends: it makes the payload and the log entry of this commit durable, and the metadata
//! that the commit before wrote to its place, whose log entry can go. Only when metadata points to payload that replaces
//! something visible (parent data, an older block) a flush of its own comes before the entry.

use super::{Inner, floor_mib};
use crate::log_ring::{LogRing, Parts};
use crate::sector_cache::Batch;
use bulkhead_disk::Result;
use std::ops::Range;

impl Inner {
    /// Makes everything durable that was committed before this call. Concurrent calls share runs.
    pub(crate) async fn flush_now(&self) -> Result<()> {
        self.check_alive()?;
        if self.read_only {
            return Ok(());
        }
        self.named(self.gate.run(|| self.commit()).await)
    }

    async fn commit(&self) -> Result<()> {
        self.check_alive()?;
        self.apply_logged().await?;
        let (batch, freed) = {
            let mut state = self.state.borrow_mut();
            (state.cache.take_dirty(), std::mem::take(&mut state.freed))
        };
        if batch.sectors.is_empty() {
            self.flush_file().await?;
            return self.punch_freed(freed).await;
        }
        self.state.borrow_mut().committing = true;
        let logged = self.log(&batch).await;
        self.settle(batch, logged.is_ok());
        if logged.is_err() {
            self.state.borrow_mut().freed.extend(freed);
            return logged;
        }
        self.apply_logged().await?;
        self.punch_freed(freed).await
    }

    /// What a commit took is durable in the log, or dirty again.
    fn settle(&self, batch: Batch, durable: bool) {
        let mut state = self.state.borrow_mut();
        state.committing = false;
        if durable {
            state.logged.push_back(batch);
        } else {
            state.cache.give_back(&batch);
        }
    }

    /// Writes the entry for `batch` and makes it durable.
    async fn log(&self, batch: &Batch) -> Result<()> {
        if batch.barrier || !self.log_fits(batch.sectors.len()) {
            self.flush_file().await?;
        }
        if !self.log_fits(batch.sectors.len()) {
            // What the log holds is in its place, but its newest entry still refers to it: move the tail first.
            self.append(&Batch::default()).await?;
        }
        self.append(batch).await
    }

    fn log_fits(&self, count: usize) -> bool {
        self.state.borrow().ring.as_ref().is_some_and(|ring| ring.fits(count))
    }

    async fn append(&self, batch: &Batch) -> Result<()> {
        let parts: Parts = {
            let state = &mut *self.state.borrow_mut();
            let (flushed, last) = (floor_mib(state.flushed_len), self.file.len());
            state.ring.as_mut().map_or_else(Vec::new, |ring| ring.append(&batch.sectors, flushed, last))
        };
        for (offset, bytes) in parts {
            if let Err(error) = self.write_file(offset, bytes).await {
                // Nothing points to the entry yet; the next one is written over it.
                self.with_ring(LogRing::withdraw);
                return Err(error);
            }
        }
        if let Err(error) = self.flush_file().await {
            self.poisoned.set(true);
            return Err(error);
        }
        self.with_ring(LogRing::set_durable);
        Ok(())
    }

    fn with_ring(&self, change: impl FnOnce(&mut LogRing)) {
        if let Some(ring) = self.state.borrow_mut().ring.as_mut() {
            change(ring);
        }
    }

    /// Writes durably logged batches to their places, oldest first. The next flush makes them durable there. After an
    /// error (a full store) they stay queued: the log has them, so nothing is lost, and nothing may overtake them.
    async fn apply_logged(&self) -> Result<()> {
        while let Some(batch) = self.take_logged() {
            for run in consecutive(&batch) {
                let offset = batch.sectors[run.start].0;
                let bytes: Vec<u8> = batch.sectors[run].iter().flat_map(|(_, data)| data.iter().copied()).collect();
                if let Err(error) = self.write_file(offset, bytes).await {
                    self.state.borrow_mut().logged.push_front(batch);
                    return Err(error);
                }
            }
            for (offset, _) in &batch.sectors {
                self.state.borrow_mut().cache.unpin(*offset);
            }
            self.with_ring(LogRing::set_applied);
        }
        Ok(())
    }

    fn take_logged(&self) -> Option<Batch> {
        self.state.borrow_mut().logged.pop_front()
    }

    /// Flushes the file; what lay in its place before is durable there afterwards.
    async fn flush_file(&self) -> Result<()> {
        let applied = self.state.borrow().ring.as_ref().map_or(0, LogRing::applied);
        let length = self.file.len();
        self.file.flush().await?;
        let mut state = self.state.borrow_mut();
        state.flushed_len = length;
        if let Some(ring) = state.ring.as_mut() {
            ring.retire(applied);
        }
        Ok(())
    }

    /// Gives back the space of trimmed blocks, now that no durable BAT points to it.
    async fn punch_freed(&self, freed: Vec<u64>) -> Result<()> {
        if freed.is_empty() {
            return Ok(());
        }
        let Some(_turn) = self.allocation.try_lock() else {
            // Whoever allocates may be waiting for this very flush: punch after the next one.
            self.state.borrow_mut().freed.extend(freed);
            return Ok(());
        };
        let size = self.geometry().block_size();
        for block in freed {
            // Planned or committed again meanwhile: then it is no longer ours to clear.
            let idle = self.state.borrow().anchors.get(&block).copied().filter(|anchor| anchor.users == 0);
            if let Some(anchor) = idle {
                self.file.punch(anchor.offset..(anchor.offset + size).min(self.file.len())).await?;
            }
        }
        Ok(())
    }
}

/// Index ranges of sectors that lie behind each other in the file.
fn consecutive(batch: &Batch) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, (offset, _)) in batch.sectors.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if batch.sectors[index - 1].0 + crate::format::SECTOR == *offset => run.end = index + 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}
