//! Starting a kernel without firmware: Linux bzImage, PVH ELF, multiboot 1.
//!
//! Each loader is a function of the image's bytes that gives a [`Plan`]: what goes where, and the boot processor's registers.
//! The plan is carried out by [`Plan::write`]; nothing here trusts a length or address of the image.

mod bzimage;
mod devices;
mod elf;
mod firmware_tables;
mod multiboot;
mod plan;
mod pvh;

pub use devices::set_up_devices;
pub use firmware_tables::FirmwareTables;
pub use plan::{Plan, PlanError};

use crate::layout::RamLayout;
use bulkhead_engine::VpState;

/// What is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initial RAM disk, or multiboot's first module.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub command_line: &'a str,
}

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// None of the forms that can be started.
    #[error(
        "the kernel of {len} bytes is neither a Linux bzImage, nor an ELF with a PVH entry, nor a multiboot image; \
         a compressed vmlinux has to be unpacked first"
    )]
    UnknownFormat {
        /// Length of the file.
        len: usize,
    },
    /// Recognised, but damaged or cut off.
    #[error("the {format} kernel is damaged: {reason}")]
    Damaged {
        /// Which form.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Recognised, but of a kind that this build does not start.
    #[error("the {format} kernel cannot be started: {reason}")]
    Unsupported {
        /// Which form.
        format: &'static str,
        /// Why.
        reason: String,
    },
    /// It does not fit into the VM's RAM, or two parts want the same place.
    #[error("the {format} kernel does not fit: {source}")]
    DoesNotFit {
        /// Which form.
        format: &'static str,
        /// What and where.
        #[source]
        source: PlanError,
    },
}

/// Plans the start of a kernel. `tables` are placed in the BIOS area; `state` is VP 0 after power-on.
///
/// # Errors
/// [`LoadError`].
pub fn plan(images: Images<'_>, ram: RamLayout, tables: &FirmwareTables, state: VpState) -> Result<Plan, LoadError> {
    let mut plan = Plan::new(ram, state);
    let fits = |format: &'static str| move |source| LoadError::DoesNotFit { format, source };
    tables.add_to(&mut plan).map_err(fits("given"))?;
    if bzimage::is_one(images.kernel) {
        bzimage::load(images, tables.rsdp_address(), &mut plan)?;
    } else if multiboot::is_one(images.kernel) {
        multiboot::load(images, &mut plan)?;
    } else if elf::is_one(images.kernel) {
        pvh::load(images, tables.rsdp_address(), &mut plan)?;
    } else {
        return Err(LoadError::UnknownFormat { len: images.kernel.len() });
    }
    Ok(plan)
}
