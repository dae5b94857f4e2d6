//! The partition's memory map: which guest-physical range shows which part of guest memory.

use bulkhead_engine::{Access, EngineError};
use std::ops::Range;

/// One mapped range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    gpa: Range<u64>,
    source: u64,
    access: Access,
}

/// Ranges in ascending order that do not overlap. Immutable: a change makes a new one.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryMap {
    slots: Vec<Slot>,
}

impl MemoryMap {
    /// The address in guest memory behind `gpa`, how many bytes follow in the same range, and how it may be used.
    #[inline]
    pub fn find(&self, gpa: u64) -> Option<(u64, u64, Access)> {
        let at = self.slots.partition_point(|slot| slot.gpa.start <= gpa).checked_sub(1)?;
        let slot = &self.slots[at];
        (gpa < slot.gpa.end).then(|| (slot.source + (gpa - slot.gpa.start), slot.gpa.end - gpa, slot.access))
    }

    /// Maps a range in place of what was there.
    pub fn map(&mut self, gpa: Range<u64>, source: u64, access: Access) {
        self.unmap(gpa.clone());
        let at = self.slots.partition_point(|slot| slot.gpa.start < gpa.start);
        self.slots.insert(at, Slot { gpa, source, access });
    }

    /// Takes a range away.
    pub fn unmap(&mut self, gpa: Range<u64>) {
        let mut slots = Vec::with_capacity(self.slots.len() + 1);
        for slot in self.slots.drain(..) {
            if slot.gpa.end <= gpa.start || slot.gpa.start >= gpa.end {
                slots.push(slot);
                continue;
            }
            if slot.gpa.start < gpa.start {
                slots.push(Slot { gpa: slot.gpa.start..gpa.start, ..slot });
            }
            if slot.gpa.end > gpa.end {
                let source = slot.source + (gpa.end - slot.gpa.start);
                slots.push(Slot { gpa: gpa.end..slot.gpa.end, source, access: slot.access });
            }
        }
        self.slots = slots;
    }
}

/// Checks the contract's rules for a range.
pub(crate) fn check_range(gpa: &Range<u64>, source: u64) -> Result<(), EngineError> {
    let bad = |reason| Err(EngineError::BadMapping { start: gpa.start, end: gpa.end, reason });
    if gpa.start >= gpa.end {
        return bad("the range is empty");
    }
    if (gpa.start | gpa.end | source) & 0xfff != 0 {
        return bad("addresses and lengths must be multiples of 4096");
    }
    if gpa.end > 1 << bulkhead_engine::cpu_model::PHYSICAL_BITS {
        return bad("it ends beyond the guest's physical address width of 40 bits");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_mappings_replace_parts_of_earlier_ones() {
        let mut map = MemoryMap::default();
        map.map(0..0x10_0000, 0, Access::ReadWrite);
        map.map(0xa_0000..0xc_0000, 0x20_0000, Access::ReadOnly);
        map.unmap(0xb_0000..0xb_1000);
        assert_eq!(map.find(0x9_f000), Some((0x9_f000, 0x1000, Access::ReadWrite)));
        assert_eq!(map.find(0xa_0004), Some((0x20_0004, 0xfffc, Access::ReadOnly)));
        assert_eq!(map.find(0xb_0fff), None);
        assert_eq!(map.find(0xb_1000), Some((0x21_1000, 0xf000, Access::ReadOnly)));
        assert_eq!(map.find(0xc_0000), Some((0xc_0000, 0x4_0000, Access::ReadWrite)));
        assert_eq!(map.find(0x10_0000), None);
    }
}
