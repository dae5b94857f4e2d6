//! The target table: from guest addresses to translated code, for computed jumps and jumps out of the page.
//!
//! Part of the `Cpu`, so that translated code reaches it by an offset. Entries are good as long as translations of
//! addresses are: a TLB flush empties the table. Code checks the mode itself where it is entered.

/// An entry.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Target {
    /// Guest address.
    pub rip: u64,
    /// Host address of the code's far entry.
    pub code: u64,
}

const ENTRIES: usize = 4096;
/// Of the hash.
pub(super) const MASK: usize = ENTRIES - 1;

/// See the module.
#[repr(C)]
pub(crate) struct TargetTable {
    entries: [Target; ENTRIES],
    filled: Vec<u16>,
    /// What empty entries hold.
    empty: Target,
}

impl TargetTable {
    /// An empty table. Until [`Self::reset`] nothing may look anything up.
    pub fn new() -> Self {
        let empty = Target { rip: 0, code: 0 };
        Self { entries: [empty; ENTRIES], filled: Vec::new(), empty }
    }

    /// Forgets everything; `dispatch` is the host address that leads out of translated code.
    pub fn reset(&mut self, dispatch: u64) {
        self.empty = Target { rip: 0, code: dispatch };
        self.entries = [self.empty; ENTRIES];
        self.filled.clear();
    }

    fn index(rip: u64) -> usize {
        (rip ^ rip >> 12) as usize & MASK
    }

    /// Adds a target.
    pub fn insert(&mut self, rip: u64, code: u64) {
        let index = Self::index(rip);
        if self.entries[index].rip == self.empty.rip {
            self.filled.push(index as u16);
        }
        self.entries[index] = Target { rip, code };
    }

    /// Forgets all targets.
    pub fn clear(&mut self) {
        for index in self.filled.drain(..) {
            self.entries[usize::from(index)] = self.empty;
        }
    }
}
