//! Makes writes durable in the order that survives a power cut.
//!
//! A block's table entry may become durable at any time: its room durably reads as zeros (dynamic) or its bitmap says "ask the
//! parent" (differencing). A bit may become durable only after its data: hence one flush before, where bits follow data.

use crate::footer::FOOTER;
use crate::read_metadata::ABSENT;
use crate::sparse::Sparse;
use bulkhead_disk::{Buffer, Completion, Durability, LocalFuture, Result, SECTOR, join_all, write_vec};

/// Bytes to write at an offset.
type Write = (u64, Vec<u8>);

impl Sparse {
    /// Everything committed before is durable afterwards.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.gate.run(|| self.flush_now()).await
    }

    async fn flush_now(&self) -> Result<()> {
        let (bitmaps, barrier) = self.bitmaps.borrow_mut().begin_flush();
        let table = std::mem::take(&mut self.table.borrow_mut().dirty);
        let mut writes: Vec<Write> = Vec::with_capacity(bitmaps.len() + table.len());
        for (block, bits) in bitmaps {
            if let Some(offset) = self.block_offset(block) {
                writes.push((offset, bits));
            }
        }
        for sector in &table {
            self.add_table_sector(&mut writes, *sector);
        }
        let result = self.write_out(writes, barrier).await;
        self.bitmaps.borrow_mut().end_flush(result.is_ok());
        if result.is_err() {
            self.table.borrow_mut().dirty.extend(table);
        }
        result
    }

    async fn write_out(&self, writes: Vec<Write>, barrier: bool) -> Result<()> {
        if barrier {
            self.file.flush().await?;
        }
        let writes: Vec<LocalFuture<'_, Completion>> = writes
            .into_iter()
            .map(|(offset, data)| self.file.write(offset, Buffer::copy_of(&data), Durability::Cached))
            .collect();
        for completion in join_all(writes).await {
            completion.result?;
        }
        self.file.flush().await
    }

    /// Adds a sector of the table; neighbours become one write.
    fn add_table_sector(&self, writes: &mut Vec<Write>, sector: u32) {
        let table = self.table.borrow();
        let entries = table.entries.iter().skip(sector as usize * 128).take(128);
        let mut bytes: Vec<u8> = entries.flat_map(|entry| entry.to_be_bytes()).collect();
        while bytes.len() < SECTOR as usize {
            bytes.extend(ABSENT.to_be_bytes());
        }
        let offset = self.header.borrow().table_offset() + u64::from(sector) * SECTOR;
        match writes.last_mut() {
            Some((start, data)) if *start + data.len() as u64 == offset => data.extend(bytes),
            _ => writes.push((offset, bytes)),
        }
    }

    /// Flushes, gives the unused tail back, puts the footer behind the last block.
    pub(crate) async fn close(&self) -> Result<()> {
        self.flush().await?;
        let _guard = self.structure.lock().await;
        self.secure_copy().await?;
        let (end, open) = {
            let space = self.space.borrow();
            (space.next, space.tail_is_open)
        };
        if !open {
            return Ok(());
        }
        let footer = self.footer.borrow().encode();
        write_vec(&*self.file, end, &footer).await?;
        self.file.flush().await?;
        if self.file.len() > end + FOOTER {
            self.file.set_len(end + FOOTER).await?;
            self.file.flush().await?;
        }
        let mut space = self.space.borrow_mut();
        space.limit = end;
        space.tail_is_open = false;
        Ok(())
    }

    /// Writes both footers anew, the end one first; each is atomic.
    pub(crate) async fn write_footers(&self) -> Result<()> {
        let footer = self.footer.borrow().encode();
        let limit = self.space.borrow().limit;
        write_vec(&*self.file, limit, &footer).await?;
        if self.file.len() > limit + FOOTER {
            self.file.set_len(limit + FOOTER).await?;
        }
        self.file.flush().await?;
        write_vec(&*self.file, 0, &footer).await?;
        self.file.flush().await?;
        let mut space = self.space.borrow_mut();
        space.copy_is_bad = false;
        Ok(())
    }
}
