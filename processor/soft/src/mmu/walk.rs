//! The page-table walk, pure: 32-bit, PAE and 4-level paging (SDM vol. 3, chapter 4).

/// Where page tables are read. Addresses are guest-physical.
pub(crate) trait Tables {
    /// An aligned 8-byte entry; all ones where there is no memory.
    fn read_u64(&self, gpa: u64) -> u64;
    /// An aligned 4-byte entry; all ones where there is no memory.
    fn read_u32(&self, gpa: u64) -> u32;
    /// Sets bits of an entry if it still is `old`; false if it changed meanwhile. Ignored where there is no RAM.
    fn set_bits_u64(&self, gpa: u64, old: u64, bits: u64) -> bool;
    /// As `set_bits_u64` for a 4-byte entry.
    fn set_bits_u32(&self, gpa: u64, old: u32, bits: u32) -> bool;
}

/// The registers that steer a walk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Paging {
    /// CR3.
    pub cr3: u64,
    /// CR0.PG.
    pub enabled: bool,
    /// CR0.WP.
    pub write_protect: bool,
    /// CR4.PSE.
    pub pse: bool,
    /// CR4.PAE.
    pub pae: bool,
    /// EFER.LMA.
    pub long: bool,
    /// EFER.NXE.
    pub nx: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.PGE.
    pub global: bool,
    /// CPUID offers 1 GiB pages.
    pub pages_1g: bool,
}

/// What an access wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// A translation, with the rights of the privilege that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Translation {
    /// Guest-physical address of the 4 KiB page.
    pub page: u64,
    /// Log2 of the size of the page in the tables: 12, 21, 22, 30.
    pub size: u32,
    /// Writes are allowed, and the entry's dirty bit is set.
    pub writable: bool,
    /// Execution is allowed.
    pub executable: bool,
    /// Survives a load of CR3.
    pub global: bool,
}

/// Error-code bits of #PF.
pub(crate) mod code {
    pub const PRESENT: u32 = 1;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NX: u64 = 1 << 63;
const ADDRESS_LIMIT: u64 = 1 << bulkhead_engine::cpu_model::PHYSICAL_BITS;
/// Address bits that a processor with 40 physical bits reserves.
const RESERVED_ADDRESS: u64 = (1 << 52) - ADDRESS_LIMIT;

/// Translates `linear` (canonical, or below 4 GiB outside long mode); the error is the #PF error code. With
/// `update` accessed and dirty bits are set.
pub(crate) fn walk(
    tables: &impl Tables,
    paging: Paging,
    linear: u64,
    access: Access,
    user: bool,
    update: bool,
) -> Result<Translation, u32> {
    if !paging.enabled {
        let page = linear & 0xffff_f000;
        return Ok(Translation { page, size: 12, writable: true, executable: true, global: true });
    }
    for attempt in 0.. {
        // Somebody who keeps changing entries under us gets a translation without accessed bits in the end.
        let update = update && attempt < MAX_ATTEMPTS;
        let leaf = if paging.pae || paging.long {
            find_leaf_64(tables, paging, linear, update)
        } else {
            find_leaf_32(tables, paging, linear, update)
        };
        let leaf = leaf.map_err(|miss| match miss {
            Miss::Retry => None,
            Miss::Fault(bits) => Some(bits | access_code(paging, access, user)),
        });
        match leaf {
            Err(None) => continue,
            Err(Some(code)) => return Err(code),
            Ok(leaf) => match leaf.finish(tables, paging, access, user, update) {
                Err(Miss::Retry) => continue,
                Err(Miss::Fault(bits)) => return Err(bits | access_code(paging, access, user)),
                Ok(translation) => return Ok(translation),
            },
        }
    }
    Err(access_code(paging, access, user))
}

/// Walks that start over because an entry changed.
const MAX_ATTEMPTS: u32 = 64;

enum Miss {
    /// An entry changed between reading and marking it: walk again.
    Retry,
    Fault(u32),
}

/// The last entry of a walk and what the entries above it allow.
struct Leaf {
    entry: u64,
    entry_gpa: u64,
    wide: bool,
    page: u64,
    size: u32,
    rights: u64,
    no_execute: bool,
}

fn access_code(paging: Paging, access: Access, user: bool) -> u32 {
    let fetch_is_reported = paging.smep || paging.nx && (paging.pae || paging.long);
    let kind = match access {
        Access::Read => 0,
        Access::Write => code::WRITE,
        Access::Execute => u32::from(fetch_is_reported) * code::FETCH,
    };
    kind | if user { code::USER } else { 0 }
}

fn find_leaf_64(tables: &impl Tables, paging: Paging, linear: u64, update: bool) -> Result<Leaf, Miss> {
    let mut rights = WRITABLE | USER;
    let mut no_execute = false;
    let (mut table, mut level) =
        if paging.long { (paging.cr3 & !0xfff & (ADDRESS_LIMIT - 1), 4) } else { (paging.cr3 & 0xffff_ffe0, 3) };
    loop {
        let shift = 3 + 9 * level;
        // The four PAE pointers are indexed by bits 31:30 alone.
        let index_mask = if level == 3 && !paging.long { 3 } else { 0x1ff };
        let gpa = table + (linear >> shift & index_mask) * 8;
        let entry = tables.read_u64(gpa);
        if entry & PRESENT == 0 {
            return Err(Miss::Fault(0));
        }
        let pointer_only = level == 3 && !paging.long;
        let large = entry & LARGE != 0 && level > 1 && !pointer_only;
        let mut reserved = RESERVED_ADDRESS;
        if !paging.nx || pointer_only {
            reserved |= NX;
        }
        if pointer_only {
            reserved |= 0x1e6;
        }
        if large {
            match level {
                2 => reserved |= 0x1f_e000,
                3 if paging.pages_1g => reserved |= 0x3fff_e000,
                _ => reserved |= LARGE,
            }
        }
        if entry & reserved != 0 {
            return Err(Miss::Fault(code::PRESENT | code::RESERVED));
        }
        if !pointer_only {
            rights &= entry;
            no_execute |= entry & NX != 0;
        }
        if level == 1 || large {
            let span = (1 << shift) - 1;
            let page = (entry & (ADDRESS_LIMIT - 1) & !0xfff & !span) | linear & span & !0xfff;
            return Ok(Leaf { entry, entry_gpa: gpa, wide: true, page, size: shift, rights, no_execute });
        }
        if update && entry & ACCESSED == 0 && !pointer_only && !tables.set_bits_u64(gpa, entry, ACCESSED) {
            return Err(Miss::Retry);
        }
        table = entry & (ADDRESS_LIMIT - 1) & !0xfff;
        level -= 1;
    }
}

fn find_leaf_32(tables: &impl Tables, paging: Paging, linear: u64, update: bool) -> Result<Leaf, Miss> {
    let gpa = (paging.cr3 & 0xffff_f000) + (linear >> 22 & 0x3ff) * 4;
    let directory = tables.read_u32(gpa);
    let wide_directory = u64::from(directory);
    if wide_directory & PRESENT == 0 {
        return Err(Miss::Fault(0));
    }
    if wide_directory & LARGE != 0 && paging.pse {
        // PSE-36: bits 20:13 are address bits 39:32; bit 21 is reserved.
        if directory & 1 << 21 != 0 {
            return Err(Miss::Fault(code::PRESENT | code::RESERVED));
        }
        let page = wide_directory & 0xffc0_0000 | (wide_directory >> 13 & 0xff) << 32 | linear & 0x3f_f000;
        let leaf = Leaf {
            entry: wide_directory,
            entry_gpa: gpa,
            wide: false,
            page,
            size: 22,
            rights: wide_directory,
            no_execute: false,
        };
        return Ok(leaf);
    }
    if update && wide_directory & ACCESSED == 0 && !tables.set_bits_u32(gpa, directory, ACCESSED as u32) {
        return Err(Miss::Retry);
    }
    let gpa = (wide_directory & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4;
    let entry = u64::from(tables.read_u32(gpa));
    if entry & PRESENT == 0 {
        return Err(Miss::Fault(0));
    }
    let rights = wide_directory & entry;
    let page = entry & 0xffff_f000;
    Ok(Leaf { entry, entry_gpa: gpa, wide: false, page, size: 12, rights, no_execute: false })
}

impl Leaf {
    fn finish(
        self,
        tables: &impl Tables,
        paging: Paging,
        access: Access,
        user: bool,
        update: bool,
    ) -> Result<Translation, Miss> {
        let user_page = self.rights & USER != 0;
        let may_write = self.rights & WRITABLE != 0 || !user && !paging.write_protect;
        let may_execute = !(self.no_execute || paging.smep && !user && user_page);
        let allowed = (!user || user_page)
            && match access {
                Access::Read => true,
                Access::Write => may_write,
                Access::Execute => may_execute,
            };
        if !allowed {
            return Err(Miss::Fault(code::PRESENT));
        }
        let mut wanted = ACCESSED;
        if access == Access::Write {
            wanted |= DIRTY;
        }
        let mut entry = self.entry;
        if update && entry & wanted != wanted {
            let set = if self.wide {
                tables.set_bits_u64(self.entry_gpa, entry, wanted)
            } else {
                tables.set_bits_u32(self.entry_gpa, entry as u32, wanted as u32)
            };
            if !set {
                return Err(Miss::Retry);
            }
            entry |= wanted;
        }
        Ok(Translation {
            page: self.page,
            size: self.size,
            writable: may_write && entry & DIRTY != 0,
            executable: may_execute,
            global: paging.global && entry & GLOBAL != 0,
        })
    }
}
