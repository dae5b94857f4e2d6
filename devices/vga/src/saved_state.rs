//! The saved form: registers, and the pages of video memory that are not zero.

use crate::dispi::{Dispi, MAX_HEIGHT, MAX_WIDTH};
use crate::memory::{PAGE, SIZE, VideoMemory};
use crate::registers::Registers;
use bulkhead_device::SavedConfigSpace;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

pub(crate) const KIND: &str = "vga";
pub(crate) const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedVga {
    #[n(0)]
    pub config: SavedConfigSpace,
    #[n(1)]
    pub registers: SavedRegisters,
    #[n(2)]
    pub dispi: SavedDispi,
    #[n(3)]
    pub latch: u32,
    /// Number and contents of pages of 4096 bytes.
    #[n(4)]
    pub pages: Vec<(u32, ByteVec)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedRegisters {
    #[n(0)]
    misc: u8,
    #[n(1)]
    feature: u8,
    #[n(2)]
    seq_index: u8,
    #[cbor(n(3), with = "minicbor::bytes")]
    seq: [u8; 8],
    #[n(4)]
    gc_index: u8,
    #[cbor(n(5), with = "minicbor::bytes")]
    gc: [u8; 16],
    #[n(6)]
    crtc_index: u8,
    #[cbor(n(7), with = "minicbor::bytes")]
    crtc: [u8; 32],
    #[n(8)]
    attribute_index: u8,
    #[n(9)]
    attribute_data: bool,
    #[cbor(n(10), with = "minicbor::bytes")]
    attribute: [u8; 32],
    #[n(11)]
    pel_mask: u8,
    #[cbor(n(12), with = "minicbor::bytes")]
    palette: [u8; 768],
    #[n(13)]
    dac_write: u8,
    #[n(14)]
    dac_read: u8,
    #[n(15)]
    dac_component: u8,
    #[n(16)]
    dac_reading: bool,
    #[n(17)]
    dac_pending: [u8; 3],
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedDispi {
    #[n(0)]
    index: u16,
    #[n(1)]
    id: u16,
    #[n(2)]
    width: u16,
    #[n(3)]
    height: u16,
    #[n(4)]
    depth: u16,
    #[n(5)]
    enable: u16,
    #[n(6)]
    bank: u16,
    #[n(7)]
    virtual_width: u16,
    #[n(8)]
    x_offset: u16,
    #[n(9)]
    y_offset: u16,
}

impl SavedRegisters {
    pub fn of(registers: &Registers) -> SavedRegisters {
        let Registers { misc, feature, seq_index, seq, gc_index, gc, crtc_index, crtc, .. } = registers.clone();
        let Registers { attribute_index, attribute_data, attribute, pel_mask, palette, .. } = registers.clone();
        let Registers { dac_write, dac_read, dac_component, dac_reading, dac_pending, .. } = *registers;
        SavedRegisters {
            misc,
            feature,
            seq_index,
            seq,
            gc_index,
            gc,
            crtc_index,
            crtc,
            attribute_index,
            attribute_data,
            attribute,
            pel_mask,
            palette,
            dac_write,
            dac_read,
            dac_component,
            dac_reading,
            dac_pending,
        }
    }

    pub fn restored(self) -> Registers {
        Registers {
            misc: self.misc,
            feature: self.feature,
            seq_index: self.seq_index,
            seq: self.seq,
            gc_index: self.gc_index,
            gc: self.gc,
            crtc_index: self.crtc_index,
            crtc: self.crtc,
            attribute_index: self.attribute_index,
            attribute_data: self.attribute_data,
            attribute: self.attribute,
            pel_mask: self.pel_mask,
            palette: self.palette,
            dac_write: self.dac_write,
            dac_read: self.dac_read,
            dac_component: self.dac_component % 3,
            dac_reading: self.dac_reading,
            dac_pending: self.dac_pending,
        }
    }
}

impl SavedDispi {
    pub fn of(dispi: &Dispi) -> SavedDispi {
        let Dispi { index, id, width, height, depth, enable, bank, virtual_width, x_offset, y_offset, .. } = *dispi;
        SavedDispi { index, id, width, height, depth, enable, bank, virtual_width, x_offset, y_offset }
    }

    /// `None` when no guest could have set this.
    pub fn restored(self) -> Option<Dispi> {
        let depth_known = matches!(self.depth, 4 | 8 | 15 | 16 | 24 | 32);
        (depth_known && self.width <= MAX_WIDTH && self.height <= MAX_HEIGHT).then(|| Dispi {
            index: self.index,
            id: self.id,
            width: self.width,
            height: self.height,
            depth: self.depth,
            enable: self.enable,
            bank: self.bank,
            virtual_width: self.virtual_width,
            x_offset: self.x_offset,
            y_offset: self.y_offset,
            ..Dispi::new(SIZE as u32)
        })
    }
}

pub(crate) fn saved_pages(memory: &VideoMemory) -> Vec<(u32, ByteVec)> {
    let full = memory.pages().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    full.map(|(number, page)| (number as u32, page.to_vec().into())).collect()
}

/// `None` when a page is outside, or none.
pub(crate) fn restored_memory(pages: &[(u32, ByteVec)], latch: u32) -> Option<VideoMemory> {
    let mut memory = VideoMemory::new();
    memory.latch = latch;
    for (number, page) in pages {
        let place = (*number as usize).checked_mul(PAGE).filter(|at| *at < SIZE && page.len() == PAGE)?;
        memory.write_linear(place as u64, page);
    }
    Some(memory)
}
