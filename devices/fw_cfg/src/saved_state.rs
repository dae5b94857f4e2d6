//! The saved form: where the guest is reading. The items are made again by whoever builds the machine.

use minicbor::{Decode, Encode};

pub(crate) const KIND: &str = "fw_cfg";
pub(crate) const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedFwCfg {
    #[n(0)]
    pub selected: u16,
    #[n(1)]
    pub offset: u32,
    #[n(2)]
    pub dma_high: u32,
}
