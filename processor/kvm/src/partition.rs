//! A KVM virtual machine: memory slots, split interrupt controller, dirty log.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_engine::{
    Access, EngineError, MemoryMap, Msi, Partition, PartitionConfig, Slot, Vp, VpState, check_range,
};
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X86_USER_SPACE_MSR, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY,
    KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};
use parking_lot::Mutex;

use crate::host_error;
use crate::kick::Kicker;
use crate::routes::{LevelRoutes, PINS};
use crate::vp::KvmVp;

/// Pages that the kernel uses itself for real mode on some processors; below the firmware, never RAM.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSS: usize = 0xfffb_d000;

/// The Hyper-V MSRs, which are ours on every host.
const HYPERV_MSRS: (u32, u32) = (0x4000_0000, 0x200);

/// One of the kernel's memory slots.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KernelSlot {
    number: u32,
    len: u64,
    source: u64,
    access: Access,
    logged: bool,
}

struct Memory {
    map: MemoryMap,
    /// By guest-physical address.
    slots: BTreeMap<u64, KernelSlot>,
    free: Vec<u32>,
    logging: bool,
}

/// What the partition shares with its VPs.
pub struct Shared {
    pub vm: VmFd,
    pub kvm: Arc<Kvm>,
    pub config: PartitionConfig,
    pub kickers: Vec<Kicker>,
    pub ext_int: AtomicBool,
}

/// The partition.
pub struct KvmPartition {
    shared: Arc<Shared>,
    memory: Mutex<Memory>,
    routes: Mutex<LevelRoutes>,
    made: Mutex<Vec<bool>>,
}

impl KvmPartition {
    pub fn new(kvm: Arc<Kvm>, config: PartitionConfig) -> Result<Self, EngineError> {
        let vm = kvm.create_vm().map_err(host_error("KVM_CREATE_VM"))?;
        vm.set_identity_map_address(IDENTITY_MAP).map_err(host_error("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(TSS).map_err(host_error("KVM_SET_TSS_ADDR"))?;
        enable(&vm, KVM_CAP_SPLIT_IRQCHIP, PINS as u64)?;
        let reasons = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER;
        enable(&vm, KVM_CAP_X86_USER_SPACE_MSR, u64::from(reasons))?;
        let (base, msr_count) = HYPERV_MSRS;
        let denied = vec![0; (msr_count / 8) as usize];
        let flags = MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE;
        let range = MsrFilterRange { flags, base, msr_count, bitmap: &denied };
        vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[range]).map_err(host_error("KVM_X86_SET_MSR_FILTER"))?;
        let vps = config.vp_count as usize;
        let slots = u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX).min(512);
        Ok(Self {
            memory: Mutex::new(Memory {
                map: MemoryMap::default(),
                slots: BTreeMap::new(),
                free: (0..slots).rev().collect(),
                logging: false,
            }),
            routes: Mutex::default(),
            made: Mutex::new(vec![false; vps]),
            shared: Arc::new(Shared {
                vm,
                kvm,
                config,
                kickers: (0..vps).map(|_| Kicker::default()).collect(),
                ext_int: AtomicBool::new(false),
            }),
        })
    }

    /// Makes the kernel's slots equal to the map. A slot that changes is taken away and made anew, so a VP that
    /// touches it meanwhile sees MMIO: firmware changes mappings only while it runs alone.
    fn apply(&self, memory: &mut Memory) -> Result<(), EngineError> {
        let guest = &self.shared.config.memory;
        let wanted = contiguous_slots(&memory.map, guest)?;
        let same = |slot: &KernelSlot, want: &Slot| {
            (slot.len, slot.source, slot.access) == (want.gpa.end - want.gpa.start, want.source, want.access)
        };
        let stale: Vec<(u64, KernelSlot)> = memory
            .slots
            .iter()
            .filter(|(gpa, slot)| !wanted.iter().any(|want| want.gpa.start == **gpa && same(slot, want)))
            .map(|(&gpa, &slot)| (gpa, slot))
            .collect();
        for (gpa, slot) in stale {
            self.collect_dirty(slot)?;
            self.set_slot(gpa, KernelSlot { len: 0, ..slot })?;
            memory.slots.remove(&gpa);
            memory.free.push(slot.number);
        }
        for want in wanted {
            if memory.slots.contains_key(&want.gpa.start) {
                continue;
            }
            let (start, end) = (want.gpa.start, want.gpa.end);
            let reason = "the host kernel has no memory slot left";
            let number = memory.free.pop().ok_or(EngineError::BadMapping { start, end, reason })?;
            let logged = memory.logging && want.access == Access::ReadWrite;
            let slot = KernelSlot { number, len: end - start, source: want.source, access: want.access, logged };
            self.set_slot(start, slot)?;
            memory.slots.insert(start, slot);
        }
        Ok(())
    }

    fn set_slot(&self, gpa: u64, slot: KernelSlot) -> Result<(), EngineError> {
        let guest = &self.shared.config.memory;
        let host = if slot.len == 0 { 0 } else { host_address(guest, gpa, slot.source, slot.len)? };
        let readonly = if slot.access == Access::ReadOnly { KVM_MEM_READONLY } else { 0 };
        let region = kvm_userspace_memory_region {
            slot: slot.number,
            flags: readonly | if slot.logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: gpa,
            memory_size: slot.len,
            userspace_addr: host,
        };
        // SAFETY: the host range is mapped for as long as `config.memory` lives, and the VM holds a clone of it.
        // Guest memory is accessed only by volatile and atomic means, so the guest may change it at any time.
        unsafe { self.shared.vm.set_user_memory_region(region) }
            .map_err(host_error(format!("KVM_SET_USER_MEMORY_REGION of {gpa:#x}, {} bytes", slot.len)))
    }

    /// Brings one slot's dirty pages into the guest memory's log.
    fn collect_dirty(&self, slot: KernelSlot) -> Result<(), EngineError> {
        if !slot.logged {
            return Ok(());
        }
        let words =
            self.shared.vm.get_dirty_log(slot.number, slot.len as usize).map_err(host_error("KVM_GET_DIRTY_LOG"))?;
        let dirty = self.shared.config.memory.dirty();
        let first = slot.source / PAGE_SIZE;
        for (index, word) in words.into_iter().enumerate() {
            let mut bits = word;
            while bits != 0 {
                dirty.set(first + index as u64 * 64 + u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        Ok(())
    }
}

impl Partition for KvmPartition {
    fn map(&self, gpa: Range<u64>, source: u64, access: Access) -> Result<(), EngineError> {
        check_range(&gpa, source)?;
        host_address(&self.shared.config.memory, gpa.start, source, 1)?;
        let mut memory = self.memory.lock();
        memory.map.map(gpa, source, access);
        self.apply(&mut memory)
    }

    fn unmap(&self, gpa: Range<u64>) -> Result<(), EngineError> {
        check_range(&gpa, 0)?;
        let mut memory = self.memory.lock();
        memory.map.unmap(gpa);
        self.apply(&mut memory)
    }

    fn create_vp(&self, index: u32, state: &VpState) -> Result<Box<dyn Vp>, EngineError> {
        let mut made = self.made.lock();
        let reason = "there is no such index";
        let slot = made.get_mut(index as usize).ok_or(EngineError::BadVp { index, reason })?;
        if *slot {
            return Err(EngineError::BadVp { index, reason: "it has been made already" });
        }
        let vp = KvmVp::new(self.shared.clone(), index, state)?;
        *slot = true;
        Ok(Box::new(vp))
    }

    fn kick(&self, index: u32) {
        if let Some(kicker) = self.shared.kickers.get(index as usize) {
            kicker.kick();
        }
    }

    fn send_msi(&self, msi: Msi) {
        if let Err(error) = self.routes.lock().add(&self.shared.vm, msi) {
            tracing::warn!(%error, "the end of a level-triggered interrupt will not be seen");
        }
        let message = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        // An error means that no local APIC accepts it, which is what happens on hardware too.
        let _ = self.shared.vm.signal_msi(message);
    }

    fn set_ext_int(&self, asserted: bool) {
        self.shared.ext_int.store(asserted, Ordering::SeqCst);
        if let Some(kicker) = self.shared.kickers.first().filter(|_| asserted) {
            kicker.interrupt();
        }
    }

    fn inject_nmi(&self, index: u32) {
        // Physical destination, delivery mode NMI.
        self.send_msi(Msi { address: 0xfee0_0000 | u64::from(index) << 12, data: 0x400 });
    }

    fn sync_dirty_log(&self) -> Result<(), EngineError> {
        let memory = self.memory.lock();
        memory.slots.values().try_for_each(|&slot| self.collect_dirty(slot))
    }

    fn set_dirty_logging(&self, on: bool) -> Result<(), EngineError> {
        let mut memory = self.memory.lock();
        memory.logging = on;
        let slots: Vec<(u64, KernelSlot)> = memory.slots.iter().map(|(&gpa, &slot)| (gpa, slot)).collect();
        for (gpa, slot) in slots {
            let slot = KernelSlot { logged: on && slot.access == Access::ReadWrite, ..slot };
            self.set_slot(gpa, slot)?;
            memory.slots.insert(gpa, slot);
        }
        Ok(())
    }
}

/// The map's ranges, cut where guest memory is not contiguous in our address space.
fn contiguous_slots(map: &MemoryMap, guest: &GuestMemory) -> Result<Vec<Slot>, EngineError> {
    let mut slots = Vec::new();
    for slot in map.slots() {
        let mut gpa = slot.gpa.start;
        while gpa < slot.gpa.end {
            let source = slot.source + (gpa - slot.gpa.start);
            let region = guest.regions().iter().find(|region| (region.gpa()..region.end()).contains(&source));
            let reason = "there is no guest memory behind it";
            let region = region.ok_or(EngineError::BadMapping { start: gpa, end: slot.gpa.end, reason })?;
            let end = slot.gpa.end.min(gpa + (region.end() - source));
            slots.push(Slot { gpa: gpa..end, source, access: slot.access });
            gpa = end;
        }
    }
    Ok(slots)
}

fn host_address(guest: &GuestMemory, gpa: u64, source: u64, len: u64) -> Result<u64, EngineError> {
    let reason = "there is no guest memory behind it";
    let pointer = guest.host_pointer(source, len);
    let pointer = pointer.ok_or(EngineError::BadMapping { start: gpa, end: gpa.saturating_add(len), reason })?;
    Ok(pointer.as_ptr() as u64)
}

fn enable(vm: &VmFd, cap: u32, argument: u64) -> Result<(), EngineError> {
    let mut request = kvm_enable_cap { cap, ..Default::default() };
    request.args[0] = argument;
    vm.enable_cap(&request).map_err(host_error(format!("KVM_ENABLE_CAP {cap}")))
}
