//! The raw format: byte `n` of the disk is byte `n` of the file.

use crate::{
    DiskError, DiskFacts, ErrorKind, Extent, File, FileExtent, Layer, LocalFuture, Place, Result, SECTOR, WritePlan,
    ZeroMode,
};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

/// A raw image; also the bottom of a chain, a whole block device, an ISO.
pub struct RawImage {
    file: Rc<dyn File>,
    size: Cell<u64>,
}

impl RawImage {
    /// Opens a file of any length; a length that is no multiple of 512 is extended with zeros.
    ///
    /// # Errors
    /// `Misaligned` for a read-only file of such a length; those of the file.
    pub async fn open(file: Rc<dyn File>) -> Result<Self> {
        let size = file.len().next_multiple_of(SECTOR);
        if size != file.len() {
            let facts = file.facts();
            if facts.read_only || !facts.resizable {
                let reason = format!("its length {} is no multiple of 512 and it is read-only", file.len());
                return Err(DiskError::new(ErrorKind::Misaligned, "open the raw disk", reason)
                    .with_path(file.path())
                    .advise(format!("extend it: truncate -s {size}")));
            }
            file.set_len(size).await?;
        }
        Ok(Self { file, size: Cell::new(size) })
    }

    /// The first `size` bytes of a file as a disk (the data of fixed images).
    pub fn with_size(file: Rc<dyn File>, size: u64) -> Self {
        Self { file, size: Cell::new(size) }
    }

    /// Changes the size that [`RawImage::with_size`] set; the file is the caller's.
    pub fn set_size(&self, size: u64) {
        self.size.set(size);
    }

    /// Grows or cuts the disk.
    ///
    /// # Errors
    /// `InvalidInput` for a size that is no multiple of 512; those of the file.
    pub async fn resize(&self, size: u64) -> Result<()> {
        if !size.is_multiple_of(SECTOR) {
            return Err(DiskError::new(
                ErrorKind::InvalidInput,
                "resize the disk",
                "the size must be a multiple of 512",
            ));
        }
        self.file.set_len(size).await?;
        self.file.flush().await?;
        self.size.set(size);
        Ok(())
    }

    async fn map_file(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let data = self.file.data_after(at).await?.unwrap_or(range.end..range.end);
            let (start, end) = (data.start.clamp(at, range.end), data.end.clamp(at, range.end));
            if start > at {
                extents.push(Extent { len: start - at, place: Place::Absent });
            }
            if end > start {
                extents.push(Extent { len: end - start, place: Place::File(start) });
            }
            at = end.max(start);
        }
        Ok(extents)
    }
}

impl Layer for RawImage {
    fn facts(&self) -> DiskFacts {
        DiskFacts {
            read_only: self.file.facts().read_only,
            discard_granularity: 4096,
            ..DiskFacts::plain(self.size.get(), "raw")
        }
    }

    fn file(&self) -> Rc<dyn File> {
        Rc::clone(&self.file)
    }

    fn resolve(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(vec![Extent { len: range.end - range.start, place: Place::File(range.start) }]) })
    }

    fn map(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<Extent>>> {
        Box::pin(self.map_file(range))
    }

    fn plan_write(&self, range: Range<u64>) -> LocalFuture<'_, Result<WritePlan>> {
        let extents = vec![FileExtent { len: range.end - range.start, offset: range.start }];
        Box::pin(async { Ok(WritePlan { extents, guard: None, stable_in_place: true }) })
    }

    fn zero(&self, range: Range<u64>, mode: ZeroMode) -> LocalFuture<'_, Result<()>> {
        match mode {
            ZeroMode::KeepSpace => self.file.zero_range(range),
            ZeroMode::MayFree | ZeroMode::Discard => self.file.punch(range),
        }
    }

    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        self.file.flush()
    }

    fn close(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(async {
            if self.file.facts().read_only {
                return Ok(());
            }
            self.file.flush().await
        })
    }
}
