//! An open VHD image: the layer that chains and disks use.

use crate::footer::{DiskType, Footer};
use crate::read_metadata::{Flaw, FooterPlace, Metadata};
use crate::sparse::{Space, Sparse};
use bulkhead_disk::{
    DiskError, DiskFacts, ErrorKind, Extent, File, Layer, LocalFuture, MetadataCounters, ParentLink, RawImage, Result,
    WritePlan, ZeroMode, write_vec,
};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use uuid::Uuid;

/// An open VHD. [`Layer::close`] it before dropping it, or its tail stays larger than needed.
pub struct VhdImage {
    pub(crate) file: Rc<dyn File>,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Fixed(Box<Fixed>),
    Sparse(Rc<Sparse>),
}

/// A fixed image: raw data, then the footer.
pub(crate) struct Fixed {
    pub(crate) raw: RawImage,
    pub(crate) footer: RefCell<Footer>,
    pub(crate) footer_offset: Cell<u64>,
}

impl VhdImage {
    /// Opens an image; a read-only file makes a read-only image.
    ///
    /// # Errors
    /// `Corrupt`: no valid footer, header or table, or structures that overlap or leave the file ([`crate::repair`] may
    /// help). `Unsupported`: block sizes outside 4 KiB … 256 MiB.
    pub async fn open(file: Rc<dyn File>) -> Result<Self> {
        let metadata = Metadata::read(&*file).await?;
        if let Some(flaw) = metadata.flaws(file.len(), 1).into_iter().next() {
            let reason = match flaw {
                Flaw::Block { block, why, .. } => format!("block {block} {why}"),
                Flaw::Structure(why) => why,
            };
            return Err(DiskError::corrupt("open the VHD", reason)
                .with_path(file.path())
                .advise("look at it with `bulkhead disk check`, which can repair some damage"));
        }
        let differencing = metadata.footer.disk_type() == DiskType::Differencing;
        let next = metadata.end_of_use();
        let body = match (metadata.sparse, metadata.place) {
            (Some(sparse), place) => {
                let room = Space::new(next, place, metadata.copy_is_good);
                let sparse = Sparse::new(Rc::clone(&file), metadata.footer, sparse, room);
                if differencing {
                    sparse.load_link().await.map_err(|error| error.with_path(file.path()))?;
                }
                Body::Sparse(Rc::new(sparse))
            }
            (None, FooterPlace::End(offset)) => Body::Fixed(Box::new(Fixed {
                raw: RawImage::with_size(Rc::clone(&file), metadata.footer.size()),
                footer: RefCell::new(metadata.footer),
                footer_offset: Cell::new(offset),
            })),
            // `Metadata::read` refuses fixed disks without an end footer.
            (None, FooterPlace::Copy) => unreachable!("a fixed disk without an end footer was accepted"),
        };
        Ok(Self { file, body })
    }

    /// The footer now.
    pub fn footer(&self) -> Footer {
        match &self.body {
            Body::Fixed(fixed) => fixed.footer.borrow().clone(),
            Body::Sparse(sparse) => sparse.footer.borrow().clone(),
        }
    }

    /// What the file holds.
    pub fn disk_type(&self) -> DiskType {
        self.footer().disk_type()
    }

    /// Changes the identity (children of this image will no longer accept it).
    ///
    /// # Errors
    /// `WrongState`, `ReadOnly`, those of the file.
    pub async fn set_identity(&self, id: Uuid) -> Result<()> {
        self.check_editable("change the identity")?;
        self.edit_footer(|footer| footer.set_id(id)).await
    }

    /// Marks that the machine which holds the disk is (or no longer is) in saved state.
    ///
    /// # Errors
    /// `ReadOnly`, those of the file.
    pub async fn set_saved_state(&self, saved: bool) -> Result<()> {
        self.edit_footer(|footer| footer.set_saved_state(saved)).await
    }

    /// Refuses structural changes while a saved machine depends on the file.
    pub(crate) fn check_editable(&self, action: &'static str) -> Result<()> {
        if self.file.facts().read_only {
            return Err(DiskError::new(ErrorKind::ReadOnly, action, "the file was opened read-only")
                .with_path(self.file.path()));
        }
        if self.footer().saved_state() {
            return Err(DiskError::new(ErrorKind::WrongState, action, "the machine that holds it is in saved state")
                .with_path(self.file.path())
                .advise("start the machine and shut it down, or discard its saved state"));
        }
        Ok(())
    }

    pub(crate) async fn edit_footer(&self, edit: impl FnOnce(&mut Footer)) -> Result<()> {
        match &self.body {
            Body::Fixed(fixed) => {
                edit(&mut fixed.footer.borrow_mut());
                let footer = fixed.footer.borrow().encode();
                write_vec(&*self.file, fixed.footer_offset.get(), &footer).await?;
                self.file.flush().await
            }
            Body::Sparse(sparse) => {
                let _guard = sparse.structure.lock().await;
                sparse.secure_copy().await?;
                edit(&mut sparse.footer.borrow_mut());
                sparse.write_footers().await
            }
        }
    }
}

impl Layer for VhdImage {
    fn facts(&self) -> DiskFacts {
        // Asked for with every request: no copy of the footer.
        let footer = match &self.body {
            Body::Fixed(fixed) => fixed.footer.borrow(),
            Body::Sparse(sparse) => sparse.footer.borrow(),
        };
        DiskFacts {
            physical_sector: 512,
            read_only: self.file.facts().read_only,
            discard_granularity: 4096,
            identity: footer.id(),
            geometry: Some(footer.geometry()),
            ..DiskFacts::plain(footer.size(), "vhd")
        }
    }

    fn file(&self) -> Rc<dyn File> {
        Rc::clone(&self.file)
    }

    fn resolve(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<Extent>>> {
        match &self.body {
            Body::Fixed(fixed) => fixed.raw.resolve(range),
            Body::Sparse(sparse) => Box::pin(sparse.resolve(range)),
        }
    }

    fn map(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<Extent>>> {
        match &self.body {
            Body::Fixed(fixed) => fixed.raw.map(range),
            Body::Sparse(sparse) => Box::pin(sparse.resolve(range)),
        }
    }

    fn plan_write(&self, range: Range<u64>) -> LocalFuture<'_, Result<WritePlan>> {
        match &self.body {
            Body::Fixed(fixed) => fixed.raw.plan_write(range),
            Body::Sparse(sparse) => Box::pin(sparse.plan_write(range)),
        }
    }

    fn zero(&self, range: Range<u64>, mode: ZeroMode) -> LocalFuture<'_, Result<()>> {
        match &self.body {
            Body::Fixed(fixed) => fixed.raw.zero(range, mode),
            Body::Sparse(sparse) => Box::pin(sparse.zero(range, mode)),
        }
    }

    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        match &self.body {
            Body::Fixed(fixed) => fixed.raw.flush(),
            Body::Sparse(sparse) => Box::pin(sparse.flush()),
        }
    }

    fn close(&self) -> LocalFuture<'_, Result<()>> {
        if self.file.facts().read_only {
            return Box::pin(async { Ok(()) });
        }
        match &self.body {
            Body::Fixed(fixed) => fixed.raw.close(),
            Body::Sparse(sparse) => Box::pin(sparse.close()),
        }
    }

    fn metadata_counters(&self) -> MetadataCounters {
        match &self.body {
            Body::Fixed(_) => MetadataCounters::default(),
            Body::Sparse(sparse) => sparse.lookups.get(),
        }
    }

    fn link_id(&self) -> Uuid {
        self.footer().id()
    }

    fn link_timestamp(&self) -> Option<u32> {
        Some(self.footer().timestamp())
    }

    fn parent_link(&self) -> Option<ParentLink> {
        match &self.body {
            Body::Fixed(_) => None,
            Body::Sparse(sparse) => sparse.link.borrow().clone(),
        }
    }

    fn set_parent_link(&self, link: ParentLink) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            self.check_editable("set the parent")?;
            match &self.body {
                Body::Sparse(sparse) if sparse.differencing => sparse.rewrite_link(link).await,
                _ => {
                    let reason = "only a differencing disk has a parent";
                    Err(DiskError::new(ErrorKind::InvalidInput, "set the parent", reason).with_path(self.file.path()))
                }
            }
        })
    }

    fn block_size(&self) -> u64 {
        match &self.body {
            Body::Fixed(_) => 0,
            Body::Sparse(sparse) => sparse.block_size,
        }
    }
}
