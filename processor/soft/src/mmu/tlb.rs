//! The TLB of a VP: a table per privilege level, and how entries die.
//!
//! Hits compare one tag and nothing else, so an entry must be wiped when it dies. That costs what was filled since the
//! last time and not the size of the table: the TLB keeps a list of filled entries. A load of CR3 wipes those that
//! are not global.

use crate::memory::{TLB_ENTRIES, TlbEntry};
use std::ptr::NonNull;

/// Which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// CPL 0–2, and implicit accesses to descriptor tables.
    Supervisor = 0,
    /// CPL 3.
    User = 1,
}

impl Privilege {
    /// From "CPL is 3".
    pub const fn of(user: bool) -> Self {
        if user { Self::User } else { Self::Supervisor }
    }
}

/// What stands behind a TLB entry: enough to serve the slow paths without another walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageInfo {
    /// Linear address of the page, or [`TlbEntry::NEVER`].
    pub linear: u64,
    /// Guest-physical address of the page.
    pub gpa: u64,
    /// Page number in guest memory; meaningless for devices.
    pub ram_page: u64,
    /// Host address of the page; null for devices.
    pub host: *mut u8,
    /// Page tables allow writes and the dirty bit is set.
    pub writable: bool,
    /// Page tables allow execution.
    pub executable: bool,
    /// The memory map allows writes.
    pub ram: bool,
    /// Survives a load of CR3.
    pub global: bool,
}

impl PageInfo {
    const EMPTY: Self = Self {
        linear: TlbEntry::NEVER,
        gpa: 0,
        ram_page: 0,
        host: std::ptr::null_mut(),
        writable: false,
        executable: false,
        ram: false,
        global: false,
    };
}

type Table = [TlbEntry; TLB_ENTRIES];

/// See the module.
pub(crate) struct Tlb {
    tables: [Table; 2],
    /// Never filled: makes every access take the slow path (alignment checks, data breakpoints).
    none: Box<Table>,
    infos: [Box<[PageInfo; TLB_ENTRIES]>; 2],
    filled: Vec<(Privilege, u16)>,
    /// Whether a slot is in `filled` (it stays there when INVLPG empties it).
    listed: [Box<[bool; TLB_ENTRIES]>; 2],
    /// Large pages that entries were filled from: INVLPG inside one kills all of them.
    large: Vec<(u64, u64)>,
}

/// More large pages than this are forgotten by forgetting everything.
const LARGE_LIMIT: usize = 64;

impl Default for Tlb {
    fn default() -> Self {
        Self::new()
    }
}

impl Tlb {
    /// An empty TLB.
    pub fn new() -> Self {
        let infos = || boxed([PageInfo::EMPTY; TLB_ENTRIES]);
        Self {
            tables: [[TlbEntry::EMPTY; TLB_ENTRIES]; 2],
            none: boxed([TlbEntry::EMPTY; TLB_ENTRIES]),
            infos: [infos(), infos()],
            filled: Vec::new(),
            listed: [boxed([false; TLB_ENTRIES]), boxed([false; TLB_ENTRIES])],
            large: Vec::new(),
        }
    }

    /// Where the table of a privilege level lies in this structure, for translated code.
    pub const fn table_offset(privilege: Privilege) -> usize {
        std::mem::offset_of!(Self, tables) + privilege as usize * size_of::<Table>()
    }

    /// The table for generated and inlined code. It moves with this structure.
    pub fn pointer(&mut self, privilege: Privilege) -> NonNull<TlbEntry> {
        NonNull::from(&mut self.tables[privilege as usize][0])
    }

    /// The table that never hits.
    pub fn none(&mut self) -> NonNull<TlbEntry> {
        NonNull::from(&mut self.none[0])
    }

    /// What is known about the page of `linear`.
    #[inline]
    pub fn info(&self, privilege: Privilege, linear: u64) -> Option<PageInfo> {
        let info = self.infos[privilege as usize][TlbEntry::index(linear)];
        (info.linear == linear & !0xfff).then_some(info)
    }

    /// Adds a page; `size` is log2 of the page in the tables. `writable_now` installs the write tag.
    pub fn fill(&mut self, privilege: Privilege, info: PageInfo, size: u32, writable_now: bool) {
        let index = TlbEntry::index(info.linear);
        self.list(privilege, index);
        self.infos[privilege as usize][index] = info;
        let tag = |allowed: bool| if allowed { info.linear } else { TlbEntry::NEVER };
        let memory = !info.host.is_null();
        self.tables[privilege as usize][index] = TlbEntry {
            read: tag(memory),
            write: tag(writable_now),
            execute: tag(memory && info.executable),
            addend: (info.host as u64).wrapping_sub(info.linear),
        };
        if size > 12 {
            let start = info.linear >> size << size;
            if !self.large.contains(&(start, 1 << size)) {
                if self.large.len() == LARGE_LIMIT {
                    // Everything else goes, this entry stays.
                    let entry = self.tables[privilege as usize][index];
                    self.flush_all();
                    self.tables[privilege as usize][index] = entry;
                    self.infos[privilege as usize][index] = info;
                    self.list(privilege, index);
                }
                self.large.push((start, 1 << size));
            }
        }
    }

    /// Lets writes of a known page hit from now on.
    pub fn allow_writes(&mut self, privilege: Privilege, linear: u64) {
        self.tables[privilege as usize][TlbEntry::index(linear)].write = linear & !0xfff;
    }

    /// Makes writes to a page of guest memory take the slow path; whether some had been free to hit.
    pub fn forbid_writes(&mut self, ram_page: u64) -> bool {
        let mut found = false;
        for &(privilege, index) in &self.filled {
            let entry = &mut self.tables[privilege as usize][usize::from(index)];
            if entry.write != TlbEntry::NEVER && self.infos[privilege as usize][usize::from(index)].ram_page == ram_page
            {
                entry.write = TlbEntry::NEVER;
                found = true;
            }
        }
        found
    }

    /// Makes all writes take the slow path once.
    pub fn forbid_all_writes(&mut self) {
        for &(privilege, index) in &self.filled {
            self.tables[privilege as usize][usize::from(index)].write = TlbEntry::NEVER;
        }
    }

    /// Forgets everything.
    pub fn flush_all(&mut self) {
        self.flush_if(|_| true);
        self.large.clear();
    }

    /// Forgets what is not global.
    pub fn flush_non_global(&mut self) {
        self.flush_if(|info| !info.global);
    }

    /// INVLPG.
    pub fn flush_page(&mut self, linear: u64) {
        let index = TlbEntry::index(linear);
        for privilege in [Privilege::Supervisor, Privilege::User] {
            if self.infos[privilege as usize][index].linear == linear & !0xfff {
                self.wipe(privilege, index);
            }
        }
        if let Some(at) = self.large.iter().position(|&(start, len)| linear.wrapping_sub(start) < len) {
            let (start, len) = self.large.swap_remove(at);
            self.flush_if(|info| info.linear.wrapping_sub(start) < len);
        }
    }

    fn flush_if(&mut self, dies: impl Fn(&PageInfo) -> bool) {
        let mut filled = std::mem::take(&mut self.filled);
        filled.retain(|&(privilege, index)| {
            let info = &self.infos[privilege as usize][usize::from(index)];
            let stays = info.linear != TlbEntry::NEVER && !dies(info);
            if !stays {
                self.wipe(privilege, usize::from(index));
                self.listed[privilege as usize][usize::from(index)] = false;
            }
            stays
        });
        self.filled = filled;
    }

    fn list(&mut self, privilege: Privilege, index: usize) {
        if !std::mem::replace(&mut self.listed[privilege as usize][index], true) {
            self.filled.push((privilege, index as u16));
        }
    }

    fn wipe(&mut self, privilege: Privilege, index: usize) {
        self.tables[privilege as usize][index] = TlbEntry::EMPTY;
        self.infos[privilege as usize][index] = PageInfo::EMPTY;
    }
}

fn boxed<T: Clone, const N: usize>(array: [T; N]) -> Box<[T; N]> {
    Box::new(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(linear: u64, ram_page: u64, global: bool) -> PageInfo {
        let host = std::ptr::without_provenance_mut(0x10_0000 + (ram_page << 12) as usize);
        PageInfo { linear, gpa: ram_page << 12, ram_page, host, writable: true, executable: true, ram: true, global }
    }

    fn is_known(tlb: &Tlb, linear: u64) -> bool {
        tlb.info(Privilege::User, linear).is_some()
    }

    #[test]
    fn a_load_of_cr3_leaves_global_pages() {
        let mut tlb = Tlb::new();
        tlb.fill(Privilege::User, page(0x1000, 1, false), 12, true);
        tlb.fill(Privilege::User, page(0x2000, 2, true), 12, true);
        assert!(tlb.info(Privilege::Supervisor, 0x1000).is_none());
        tlb.flush_non_global();
        assert!(!is_known(&tlb, 0x1000) && is_known(&tlb, 0x2fff));
        tlb.flush_all();
        assert!(!is_known(&tlb, 0x2000));
    }

    #[test]
    fn invlpg_kills_all_of_a_large_page_and_nothing_else() {
        let mut tlb = Tlb::new();
        for index in 0..4 {
            tlb.fill(Privilege::User, page(0x20_0000 + index * 0x1000, index, true), 21, true);
        }
        tlb.fill(Privilege::User, page(0x40_0000, 9, true), 12, true);
        tlb.flush_page(0x3f_f000);
        assert!((0..4).all(|index| !is_known(&tlb, 0x20_0000 + index * 0x1000)));
        assert!(is_known(&tlb, 0x40_0000));
        tlb.flush_page(0x40_0123);
        assert!(!is_known(&tlb, 0x40_0000));
    }

    #[test]
    fn the_list_of_filled_entries_does_not_grow_by_refilling() {
        let mut tlb = Tlb::new();
        for _ in 0..10_000 {
            tlb.fill(Privilege::User, page(0x5000, 1, false), 12, true);
            tlb.flush_page(0x5000);
        }
        assert_eq!(tlb.filled.len(), 1);
        for index in 0..1000 {
            tlb.fill(Privilege::User, page(index << 21, index, false), 21, true);
        }
        assert!(tlb.large.len() <= LARGE_LIMIT);
    }

    #[test]
    fn writes_are_forbidden_by_page_of_memory() {
        let mut tlb = Tlb::new();
        tlb.fill(Privilege::User, page(0x1000, 7, false), 12, true);
        tlb.fill(Privilege::Supervisor, page(0x8000, 7, false), 12, true);
        tlb.fill(Privilege::User, page(0x2000, 8, false), 12, true);
        assert!(tlb.forbid_writes(7) && !tlb.forbid_writes(7));
        let write_tag = |tlb: &Tlb, linear| tlb.tables[1][TlbEntry::index(linear)].write;
        assert_eq!(write_tag(&tlb, 0x1000), TlbEntry::NEVER);
        assert_eq!(write_tag(&tlb, 0x2000), 0x2000);
        tlb.allow_writes(Privilege::User, 0x1234);
        assert_eq!(write_tag(&tlb, 0x1000), 0x1000);
    }
}
