//! What happens when an access misses the TLB: walk, fill, devices, ROM, decoded code, the dirty log, page crossings.

pub(crate) mod tlb;
pub(crate) mod walk;
#[cfg(test)]
mod walk_tests;

use crate::cpu::{Cpu, Exception, Mode, rflags, vector};
use crate::memory::Span;
use crate::op::Fault;
use bulkhead_engine::MemoryMap;
use bulkhead_guest_memory::{GuestMemory, PAGE_SHIFT};
use tlb::{PageInfo, Privilege};
use walk::{Access, Paging, Tables, Translation, walk};

/// Page tables as the partition's memory map shows them.
struct GuestTables<'a> {
    memory: &'a GuestMemory,
    map: &'a MemoryMap,
}

impl GuestTables<'_> {
    fn ram(&self, gpa: u64) -> Option<u64> {
        let (source, _, access) = self.map.find(gpa)?;
        (access == bulkhead_engine::Access::ReadWrite).then_some(source)
    }
}

impl Tables for GuestTables<'_> {
    fn read_u64(&self, gpa: u64) -> u64 {
        self.map.find(gpa).and_then(|(source, ..)| self.memory.read_u64(source).ok()).unwrap_or(u64::MAX)
    }
    fn read_u32(&self, gpa: u64) -> u32 {
        self.map.find(gpa).and_then(|(source, ..)| self.memory.read_u32(source).ok()).unwrap_or(u32::MAX)
    }
    fn set_bits_u64(&self, gpa: u64, old: u64, bits: u64) -> bool {
        let Some(source) = self.ram(gpa) else { return true };
        self.memory.compare_exchange_u64(source, old, old | bits).is_ok_and(|result| result.is_ok())
    }
    fn set_bits_u32(&self, gpa: u64, old: u32, bits: u32) -> bool {
        let Some(source) = self.ram(gpa) else { return true };
        self.memory.compare_exchange_u32(source, old, old | bits).is_ok_and(|result| result.is_ok())
    }
}

/// Whether an address is canonical for 48-bit linear addresses.
pub(crate) const fn is_canonical(linear: u64) -> bool {
    (linear as i64) << 16 >> 16 == linear as i64
}

/// Granules of 64 bytes that `size` bytes at `offset` of a page touch (all inside the page).
pub(crate) const fn granules(offset: u64, size: u64) -> u64 {
    let (first, last) = ((offset & 0xfff) >> 6, ((offset & 0xfff) + size - 1) >> 6);
    (u64::MAX >> (63 - (last & 63))) & (u64::MAX << first)
}

impl Cpu {
    /// The privilege of explicit accesses.
    #[inline]
    pub(crate) fn privilege(&self) -> Privilege {
        Privilege::of(self.cpl == 3)
    }

    /// The registers that steer page walks.
    pub(crate) fn paging(&self) -> Paging {
        Paging {
            cr3: self.cr3,
            enabled: self.cr0 & 1 << 31 != 0,
            write_protect: self.cr0 & 1 << 16 != 0,
            pse: self.cr4 & 1 << 4 != 0,
            pae: self.cr4 & 1 << 5 != 0,
            long: self.efer & 1 << 10 != 0,
            nx: self.efer & 1 << 11 != 0,
            smep: self.cr4 & 1 << 20 != 0,
            global: self.cr4 & 1 << 7 != 0,
            pages_1g: self.features.pages_1g,
        }
    }

    /// A walk without side effects, as a supervisor read.
    pub(crate) fn translate_quietly(&self, linear: u64) -> Option<u64> {
        if !is_canonical(linear) {
            return None;
        }
        let tables = GuestTables { memory: &self.partition.memory, map: &self.map };
        let found = walk(&tables, self.paging(), linear, Access::Read, false, false).ok()?;
        Some(found.page | linear & 0xfff)
    }

    /// Finds the page of `linear` for an access; fills the TLB.
    pub(crate) fn translate(
        &mut self,
        linear: u64,
        access: Access,
        privilege: Privilege,
        seg: u8,
    ) -> Result<PageInfo, Fault> {
        if let Some(info) = self.mmu.info(privilege, linear) {
            let allowed = match access {
                Access::Read => true,
                Access::Write => info.writable,
                Access::Execute => info.executable,
            };
            if allowed {
                return Ok(info);
            }
        }
        if self.efer & 1 << 10 != 0 && !is_canonical(linear) {
            return Err(self.segment_violation(seg));
        }
        let tables = GuestTables { memory: &self.partition.memory, map: &self.map };
        let user = privilege == Privilege::User;
        self.events.page_walks += 1;
        match walk(&tables, self.paging(), linear, access, user, true) {
            Ok(found) => Ok(self.fill(linear, found, access, privilege)),
            Err(code) => {
                self.fault = Exception { vector: vector::PF, error_code: Some(code), payload: linear };
                Err(Fault)
            }
        }
    }

    fn fill(&mut self, linear: u64, found: Translation, access: Access, privilege: Privilege) -> PageInfo {
        let mapped = self.map.find(found.page).and_then(|(source, _, access)| {
            let host = self.partition.memory.host_pointer(source, 4096)?;
            Some((source >> PAGE_SHIFT, host.as_ptr(), access == bulkhead_engine::Access::ReadWrite))
        });
        let (ram_page, host, ram) = mapped.unwrap_or((u64::MAX, std::ptr::null_mut(), false));
        let info = PageInfo {
            linear: linear & !0xfff,
            gpa: found.page,
            ram_page,
            host,
            writable: found.writable,
            executable: found.executable,
            ram,
            global: found.global,
        };
        // With the dirty log on, the write tag comes with the first write.
        let quiet = access != Access::Write && !self.partition.memory.dirty().is_enabled();
        let writable_now = quiet && info.writable && ram && self.partition.code_granules(ram_page) == 0;
        self.mmu.fill(privilege, info, found.size, writable_now);
        info
    }

    /// Alignment checks and data breakpoints, when they are on.
    #[inline]
    fn check_access(&mut self, linear: u64, size: u32, write: bool) -> Result<(), Fault> {
        if self.slow_data {
            self.check_access_slow(linear, size, write)?;
        }
        Ok(())
    }

    #[cold]
    fn check_access_slow(&mut self, linear: u64, size: u32, write: bool) -> Result<(), Fault> {
        let alignment_checked = self.cpl == 3 && self.cr0 & 1 << 18 != 0 && self.system_flags & rflags::AC != 0;
        if alignment_checked && linear & u64::from(size - 1) != 0 {
            return Err(self.raise_code(vector::AC, 0));
        }
        self.match_data_breakpoints(linear, u64::from(size), write);
        Ok(())
    }

    /// A load of `size` bytes (1, 2, 4, 8) that missed.
    #[cold]
    #[inline(never)]
    pub(crate) fn load_slow(&mut self, linear: u64, size: u32, seg: u8) -> Result<u64, Fault> {
        self.check_access(linear, size, false)?;
        let mut bytes = [0; 8];
        self.load_bytes_as(linear, &mut bytes[..size as usize], self.privilege(), seg)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A store that missed.
    #[cold]
    #[inline(never)]
    pub(crate) fn store_slow(&mut self, linear: u64, size: u32, seg: u8, value: u64) -> Result<(), Fault> {
        self.check_access(linear, size, true)?;
        self.store_bytes_as(linear, &value.to_le_bytes()[..size as usize], self.privilege(), seg)
    }

    /// Raises what a store of `size` bytes would raise.
    #[cold]
    #[inline(never)]
    pub(crate) fn probe_write(&mut self, linear: u64, size: u32, seg: u8) -> Result<(), Fault> {
        self.check_access(linear, size, true)?;
        self.probe_write_as(linear, u64::from(size), self.privilege(), seg)
    }

    fn probe_write_as(&mut self, linear: u64, size: u64, privilege: Privilege, seg: u8) -> Result<(), Fault> {
        self.translate(linear, Access::Write, privilege, seg)?;
        let last = self.wrap(linear.wrapping_add(size - 1));
        if (linear ^ last) & !0xfff != 0 {
            self.translate(last & !0xfff, Access::Write, privilege, seg)?;
        }
        Ok(())
    }

    /// Linear addresses outside long mode wrap at 4 GiB.
    #[inline]
    fn wrap(&self, linear: u64) -> u64 {
        if self.efer & 1 << 10 != 0 { linear } else { linear & 0xffff_ffff }
    }

    /// Reads up to a page of bytes at explicit privilege of the current CPL.
    pub(crate) fn load_bytes(&mut self, linear: u64, bytes: &mut [u8], seg: u8) -> Result<(), Fault> {
        self.check_access(linear, 1, false)?;
        self.load_bytes_as(linear, bytes, self.privilege(), seg)
    }

    /// Writes up to a page of bytes at the current CPL; nothing is written on a fault.
    pub(crate) fn store_bytes(&mut self, linear: u64, bytes: &[u8], seg: u8) -> Result<(), Fault> {
        self.check_access(linear, 1, true)?;
        self.store_bytes_as(linear, bytes, self.privilege(), seg)
    }

    /// As [`Self::load_bytes`], with a privilege.
    pub(crate) fn load_bytes_as(
        &mut self,
        linear: u64,
        bytes: &mut [u8],
        privilege: Privilege,
        seg: u8,
    ) -> Result<(), Fault> {
        let here = bytes.len().min(4096 - (linear & 0xfff) as usize);
        let first = self.translate(linear, Access::Read, privilege, seg)?;
        if here < bytes.len() {
            let next = self.wrap((linear & !0xfff).wrapping_add(4096));
            let second = self.translate(next, Access::Read, privilege, seg)?;
            let (low, high) = bytes.split_at_mut(here);
            self.read_page(first, linear & 0xfff, low);
            self.read_page(second, 0, high);
        } else {
            self.read_page(first, linear & 0xfff, bytes);
        }
        Ok(())
    }

    /// As [`Self::store_bytes`], with a privilege.
    pub(crate) fn store_bytes_as(
        &mut self,
        linear: u64,
        bytes: &[u8],
        privilege: Privilege,
        seg: u8,
    ) -> Result<(), Fault> {
        let here = bytes.len().min(4096 - (linear & 0xfff) as usize);
        let first = self.translate(linear, Access::Write, privilege, seg)?;
        if here < bytes.len() {
            let next = self.wrap((linear & !0xfff).wrapping_add(4096));
            let second = self.translate(next, Access::Write, privilege, seg)?;
            let (low, high) = bytes.split_at(here);
            self.write_page(first, linear & 0xfff, low, privilege);
            self.write_page(second, 0, high, privilege);
        } else {
            self.write_page(first, linear & 0xfff, bytes, privilege);
        }
        Ok(())
    }

    fn read_page(&mut self, info: PageInfo, offset: u64, bytes: &mut [u8]) {
        if info.host.is_null() {
            return self.device_read(info.gpa | offset, bytes);
        }
        let span = Span::new(info.host.wrapping_add(offset as usize), bytes.len());
        span.read(bytes);
    }

    fn write_page(&mut self, info: PageInfo, offset: u64, bytes: &[u8], privilege: Privilege) {
        if !info.ram {
            return self.device_write(info.gpa | offset, bytes);
        }
        let span = Span::new(info.host.wrapping_add(offset as usize), bytes.len());
        self.remember_old(info.host.wrapping_add(offset as usize), bytes.len());
        span.write(bytes);
        self.page_written(info, offset, bytes.len() as u64, privilege);
    }

    /// After `size` bytes of RAM were written the slow way: the dirty log, decoded code, and the next write.
    pub(crate) fn page_written(&mut self, info: PageInfo, offset: u64, size: u64, privilege: Privilege) {
        let page = info.ram_page;
        self.partition.memory.dirty().log(page << PAGE_SHIFT, 1);
        let code = self.partition.code_granules(page);
        if code == 0 {
            // Unless the entry was dropped meanwhile (by the code cache or by an exit).
            if self.mmu.info(privilege, info.linear) == Some(info) {
                self.mmu.allow_writes(privilege, info.linear);
            }
        } else {
            let written = granules(offset, size);
            if code & written != 0 {
                self.events.code_writes += 1;
                let hit = self.partition.code_written(Some(self.index), page, written);
                self.cache.forget(page, hit);
            }
        }
    }

    /// A LOCKed read-modify-write that missed: (old, new). `change` works on `size` bytes.
    #[cold]
    #[inline(never)]
    pub(crate) fn update_locked_slow(
        &mut self,
        linear: u64,
        size: u32,
        seg: u8,
        change: &dyn Fn(u64) -> u64,
    ) -> Result<(u64, u64), Fault> {
        self.probe_write(linear, size, seg)?;
        let privilege = self.privilege();
        let info = self.translate(linear, Access::Write, privilege, seg)?;
        let offset = linear & 0xfff;
        let splits_line = (linear & 63) + u64::from(size) > 64;
        if !splits_line && info.ram {
            let span = Span::new(info.host.wrapping_add(offset as usize), size as usize);
            self.remember_old(info.host.wrapping_add(offset as usize), size as usize);
            let result = span.update_locked(change);
            self.page_written(info, offset, u64::from(size), privilege);
            return Ok(result);
        }
        let last = self.wrap(linear.wrapping_add(u64::from(size) - 1));
        // Devices are not called while the world stands still.
        if info.ram && self.translate(last, Access::Write, privilege, seg)?.ram {
            self.events.split_locks += 1;
            return self.update_in_stopped_world(linear, size, seg, change);
        }
        self.update_plainly(linear, size, seg, change)
    }

    /// LOCK CMPXCHG16B at an aligned address. On a device or ROM it is a plain read and write.
    pub(crate) fn compare_exchange_16_at(
        &mut self,
        linear: u64,
        seg: u8,
        current: u128,
        new: u128,
    ) -> Result<(u128, bool), Fault> {
        self.check_access(linear, 16, true)?;
        let privilege = self.privilege();
        let info = self.translate(linear, Access::Write, privilege, seg)?;
        let offset = linear & 0xfff;
        if info.ram {
            let span = Span::new(info.host.wrapping_add(offset as usize), 16);
            self.remember_old(info.host.wrapping_add(offset as usize), 16);
            let result = span.compare_exchange_16(current, new);
            self.page_written(info, offset, 16, privilege);
            return Ok(result);
        }
        let mut bytes = [0; 16];
        self.read_page(info, offset, &mut bytes);
        let found = u128::from_le_bytes(bytes);
        let next = if found == current { new } else { found };
        self.write_page(info, offset, &next.to_le_bytes(), privilege);
        Ok((found, found == current))
    }

    fn update_plainly(
        &mut self,
        linear: u64,
        size: u32,
        seg: u8,
        change: &dyn Fn(u64) -> u64,
    ) -> Result<(u64, u64), Fault> {
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..size as usize];
        self.load_bytes_as(linear, bytes, self.privilege(), seg)?;
        let mut old = [0; 8];
        old[..size as usize].copy_from_slice(bytes);
        let old = u64::from_le_bytes(old);
        let new = change(old);
        self.store_bytes_as(linear, &new.to_le_bytes()[..size as usize], self.privilege(), seg)?;
        Ok((old, new))
    }

    /// A locked operation over two cache lines. Over two pages no host instruction can do it, and within one it would
    /// stop every processor of the host.
    fn update_in_stopped_world(
        &mut self,
        linear: u64,
        size: u32,
        seg: u8,
        change: &dyn Fn(u64) -> u64,
    ) -> Result<(u64, u64), Fault> {
        let partition = self.partition.clone();
        partition.leave_guest(self.index);
        let result = partition.stop_world(|| self.update_plainly(linear, size, seg, change));
        partition.enter_guest(self.index);
        self.serve_memory_requests();
        result
    }

    /// Host bytes from `linear` to the end of its page for reading; `None` where that is not plain memory, or an access
    /// would fault: then access a single element, which does the right thing.
    #[inline]
    pub(crate) fn read_span(&mut self, linear: u64, seg: u8) -> Option<Span> {
        if let Some(pointer) = self.read_hit::<u8>(linear) {
            return Some(Span::new(pointer.cast_mut(), 4096 - (linear & 0xfff) as usize));
        }
        self.span(linear, seg, Access::Read)
    }

    /// As [`Self::read_span`], for writing.
    #[inline]
    pub(crate) fn write_span(&mut self, linear: u64, seg: u8) -> Option<Span> {
        if let Some(pointer) = self.write_hit::<u8>(linear) {
            return Some(Span::new(pointer, 4096 - (linear & 0xfff) as usize));
        }
        self.span(linear, seg, Access::Write)
    }

    fn span(&mut self, linear: u64, seg: u8, access: Access) -> Option<Span> {
        if self.slow_data {
            return None;
        }
        let linear = self.wrap(linear);
        let privilege = self.privilege();
        let info = self.translate(linear, access, privilege, seg).ok()?;
        if access == Access::Write {
            if !info.ram || self.partition.code_granules(info.ram_page) != 0 {
                return None;
            }
            self.partition.memory.dirty().log(info.ram_page << PAGE_SHIFT, 1);
            self.mmu.allow_writes(privilege, info.linear);
        }
        let offset = (linear & 0xfff) as usize;
        (!info.host.is_null()).then(|| Span::new(info.host.wrapping_add(offset), 4096 - offset))
    }

    fn device_read(&mut self, gpa: u64, bytes: &mut [u8]) {
        self.events.mmio += 1;
        if self.is_local_apic(gpa) {
            return self.local_apic_read(gpa, bytes);
        }
        self.exit(|exits| exits.mmio_read(gpa, bytes));
    }

    fn device_write(&mut self, gpa: u64, bytes: &[u8]) {
        self.events.mmio += 1;
        if self.is_local_apic(gpa) {
            return self.local_apic_write(gpa, bytes);
        }
        self.exit(|exits| exits.mmio_write(gpa, bytes));
    }

    /// Reads a descriptor, a TSS field and the like: supervisor privilege, whatever the CPL.
    pub(crate) fn load_system(&mut self, linear: u64, size: u32) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        let linear = self.wrap(linear);
        self.load_bytes_as(linear, &mut bytes[..size as usize], Privilege::Supervisor, 3)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a TSS field, an accessed bit and the like.
    pub(crate) fn store_system(&mut self, linear: u64, size: u32, value: u64) -> Result<(), Fault> {
        let linear = self.wrap(linear);
        self.store_bytes_as(linear, &value.to_le_bytes()[..size as usize], Privilege::Supervisor, 3)
    }

    /// Pushes onto a stack that is not the current one yet, with the privilege of its level.
    pub(crate) fn store_stack(&mut self, linear: u64, size: u32, value: u64, cpl: u8) -> Result<(), Fault> {
        let linear = self.wrap(linear);
        let privilege = Privilege::of(cpl == 3);
        self.store_bytes_as(linear, &value.to_le_bytes()[..size as usize], privilege, 2)
    }

    /// Chooses the TLB for the current privilege, and whether data accesses need checks.
    pub(crate) fn select_tlb(&mut self) {
        let alignment = self.cpl == 3 && self.cr0 & 1 << 18 != 0 && self.system_flags & rflags::AC != 0;
        self.slow_data = alignment || self.has_data_breakpoints();
        self.tlb = if self.slow_data { self.mmu.none() } else { self.mmu.pointer(self.privilege()) };
    }

    /// Blocks must be looked up by physical address again.
    pub(crate) fn forget_addresses(&mut self) {
        self.cache.new_generation();
        self.targets.clear();
    }

    /// Forgets all translations.
    pub(crate) fn flush_tlb(&mut self) {
        self.mmu.flush_all();
        self.forget_addresses();
    }

    /// Forgets translations that are not global.
    pub(crate) fn flush_tlb_non_global(&mut self) {
        self.mmu.flush_non_global();
        self.forget_addresses();
    }

    /// INVLPG.
    pub(crate) fn flush_tlb_page(&mut self, linear: u64) {
        self.mmu.flush_page(linear);
        self.forget_addresses();
    }

    /// Whether linear addresses are 64 bits wide now.
    pub(crate) fn is_long64(&self) -> bool {
        self.mode.has(Mode::LONG64)
    }
}
