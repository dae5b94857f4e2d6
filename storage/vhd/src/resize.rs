//! Grows a disk, or shrinks it over a tail that holds nothing.

use crate::create::check_size;
use crate::footer::FOOTER;
use crate::image::{Body, Fixed, VhdImage};
use crate::read_metadata::ABSENT;
use crate::sparse::Sparse;
use bulkhead_disk::{DiskError, ErrorKind, Layer, Place, Result, SECTOR, read_vec, write_vec};

/// Unit in which a tail is looked at.
const CHUNK: u64 = 1 << 20;

impl VhdImage {
    /// Changes the size. Growing adds zeros; shrinking is refused where the tail holds data.
    ///
    /// # Errors
    /// `InvalidInput` (size), `WrongState` (saved state, differencing disk, data in the tail), those of the file.
    pub async fn resize(&self, size: u64) -> Result<()> {
        let wrap = |error: DiskError| error.with_path(self.file.path());
        check_size("resize the VHD", size).map_err(wrap)?;
        self.check_editable("resize the VHD")?;
        let old = self.footer().size();
        if size < old {
            self.check_tail_is_empty(size, old).await.map_err(wrap)?;
        }
        if size == old {
            return Ok(());
        }
        match &self.body {
            Body::Fixed(fixed) => fixed.resize(self, size).await,
            Body::Sparse(sparse) if sparse.differencing => {
                let reason = "it is a differencing disk and must keep the size of its parent";
                Err(wrap(
                    DiskError::new(ErrorKind::WrongState, "resize the VHD", reason)
                        .advise("merge it into its parent first"),
                ))
            }
            Body::Sparse(sparse) => sparse.resize(old, size).await,
        }
    }

    async fn check_tail_is_empty(&self, from: u64, to: u64) -> Result<()> {
        let mut at = from;
        for extent in self.map(from..to).await? {
            if let Place::File(offset) = extent.place {
                let mut done = 0;
                while done < extent.len {
                    let len = (extent.len - done).min(CHUNK);
                    let data = read_vec(&*self.file, offset + done, len as usize).await?;
                    if data.iter().any(|byte| *byte != 0) {
                        let reason =
                            format!("there is data between bytes {} and {} of the disk", at + done, at + done + len);
                        return Err(DiskError::new(ErrorKind::WrongState, "shrink the VHD", reason)
                            .advise("shrink partitions first, or choose a larger size"));
                    }
                    done += len;
                }
            }
            at += extent.len;
        }
        Ok(())
    }
}

impl Fixed {
    async fn resize(&self, image: &VhdImage, size: u64) -> Result<()> {
        let (file, old_footer) = (&*image.file, self.footer_offset.get());
        let grown = size > old_footer;
        if grown {
            file.allocate(old_footer + FOOTER..size + FOOTER).await?;
        }
        self.footer.borrow_mut().set_size(size);
        let footer = self.footer.borrow().encode();
        write_vec(file, size, &footer).await?;
        file.flush().await?;
        if grown {
            // The old footer is in the data now. Only after the new one is stable may it go.
            file.zero_range(old_footer..(old_footer + FOOTER).min(size)).await?;
        } else {
            file.set_len(size + FOOTER).await?;
        }
        file.flush().await?;
        self.footer_offset.set(size);
        self.raw.set_size(size);
        Ok(())
    }
}

impl Sparse {
    async fn resize(&self, old: u64, size: u64) -> Result<()> {
        self.flush().await?;
        let _guard = self.structure.lock().await;
        self.secure_copy().await?;
        let blocks = size.div_ceil(self.block_size) as u32;
        if size > old {
            self.clear_last_block(old).await?;
            self.extend_table(blocks).await?;
        } else {
            self.cut_table(blocks).await?;
        }
        self.footer.borrow_mut().set_size(size);
        self.write_footers().await
    }

    /// What is behind the old end in the last block becomes part of the disk and must read as zeros.
    async fn clear_last_block(&self, old: u64) -> Result<()> {
        let inside = old % self.block_size;
        if inside == 0 {
            return Ok(());
        }
        let Some(offset) = self.block_offset((old / self.block_size) as u32) else { return Ok(()) };
        let data = offset + self.bitmap_size;
        self.file.zero_range(data + inside..data + self.block_size).await
    }

    /// Makes room for `blocks` entries: in place, or by a new table at the end of the file.
    async fn extend_table(&self, blocks: u32) -> Result<()> {
        let mut entries = self.table.borrow().entries.clone();
        let old_blocks = entries.len() as u32;
        entries.resize(blocks as usize, ABSENT);
        let mut bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        bytes.resize((bytes.len() as u64).next_multiple_of(SECTOR) as usize, 0xFF);
        let in_place = blocks <= self.header.borrow().entries() && bytes.len() as u64 <= self.table_room();
        if in_place {
            let first = u64::from(old_blocks) / 128 * SECTOR;
            let offset = self.header.borrow().table_offset() + first;
            write_vec(&*self.file, offset, &bytes[(first as usize).min(bytes.len())..]).await?;
            self.file.flush().await?;
        } else {
            let offset = self.space.borrow().next.next_multiple_of(SECTOR);
            write_vec(&*self.file, offset, &bytes).await?;
            self.move_footer(offset + bytes.len() as u64).await?;
            self.header.borrow_mut().set_table(offset, blocks);
            let header = self.header.borrow().encode();
            // All that changed is in the first sector, which is written atomically.
            write_vec(&*self.file, self.header_offset.get(), &header[..SECTOR as usize]).await?;
            self.file.flush().await?;
        }
        self.table.borrow_mut().entries = entries;
        self.bitmaps.borrow_mut().resize(blocks as usize);
        Ok(())
    }

    /// Bytes from the table's start to whatever follows it.
    fn table_room(&self) -> u64 {
        let header = self.header.borrow();
        let start = header.table_offset();
        let blocks = self.table.borrow();
        let present =
            blocks.entries.iter().filter(|sector| **sector != ABSENT).map(|sector| u64::from(*sector) * SECTOR);
        let others = header.locators().into_iter().map(|locator| locator.offset);
        let last = [self.header_offset.get(), self.space.borrow().next];
        present.chain(others).chain(last).filter(|offset| *offset > start).min().map_or(0, |next| next - start)
    }

    /// Drops entries behind the new end (their blocks hold zeros only: the caller has looked).
    async fn cut_table(&self, blocks: u32) -> Result<()> {
        let old_blocks = self.table.borrow().entries.len() as u32;
        for block in blocks..old_blocks {
            if self.block_offset(block).is_some() {
                self.table.borrow_mut().set(block, ABSENT);
                self.bitmaps.borrow_mut().forget(block);
            }
        }
        self.flush().await?;
        self.table.borrow_mut().entries.truncate(blocks as usize);
        Ok(())
    }
}
