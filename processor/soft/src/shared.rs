//! What threads share: the partition, each VP's mailbox, and the section in which the world stands still.

use crate::apic::LocalApic;
use crate::ops::NativeTable;
use crate::options::Options;
use bulkhead_engine::MemoryMap;
use bulkhead_engine::{CpuidTable, PartitionConfig};
use bulkhead_guest_memory::{GuestMemory, PAGE_SHIFT, WriteObserver};
use bulkhead_reactor::{Reactor, Timer};
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bits of [`VpShared::requests`].
pub(crate) mod request {
    /// `Partition::kick`.
    pub const KICK: u32 = 1;
    /// Something about interrupts changed: local APIC, NMI, INIT, SIPI, ExtINT.
    pub const INTERRUPT: u32 = 1 << 1;
    /// The mailbox holds page events.
    pub const PAGES: u32 = 1 << 2;
    /// Leave guest code until this goes away.
    pub const STOP: u32 = 1 << 3;
    /// The memory map changed.
    pub const MAP: u32 = 1 << 4;
    /// All writes must take the slow path once more: the dirty log was harvested.
    pub const FORBID_WRITES: u32 = 1 << 5;
}

/// News about a page of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageEvent {
    /// It holds decoded code now: writes must be noticed.
    Protect(u64),
    /// These 64-byte granules of it were written: forget the code decoded from them.
    Written(u64, u64),
}

/// In [`VpShared::start`].
pub(crate) const INIT: u32 = 1 << 16;

/// The mailbox of a VP.
pub(crate) struct VpShared {
    /// [`request`] bits; looked at between blocks.
    pub requests: AtomicU32,
    /// Executing guest code (else: in an exit, halted, or not running at all).
    in_guest: AtomicBool,
    sleeping: AtomicBool,
    wake: (Mutex<()>, Condvar),
    page_events: Mutex<Vec<PageEvent>>,
    /// Local APIC, also for those who send interrupts.
    pub apic: Mutex<LocalApic>,
    /// An NMI waits.
    pub nmi: AtomicBool,
    /// [`INIT`] if INIT was received, plus the vector + 1 of a start-up IPI after it. One word, so that their order
    /// is kept.
    pub start: AtomicU32,
    /// The timer of the local APIC.
    pub timer: OnceLock<Timer>,
    /// Instructions, for reading from other threads.
    pub instructions: AtomicU64,
}

/// The partition, as its VPs and its handle see it.
pub(crate) struct PartitionShared {
    /// Guest memory.
    pub memory: GuestMemory,
    /// CPUID leaves.
    pub cpuid: CpuidTable,
    /// Time.
    pub reactor: Reactor,
    /// TSC rate in Hz.
    pub tsc_hz: u64,
    /// Counted instructions are the clock.
    pub deterministic: bool,
    /// Of the engine.
    pub options: Options,
    /// Native stubs for SIMD, x87 and the like.
    pub natives: NativeTable,
    /// Memory map.
    pub map: RwLock<Arc<MemoryMap>>,
    /// By page of guest memory: 64-byte granules that some VP decoded code from.
    code: Box<[AtomicU64]>,
    /// By index.
    pub vps: Vec<VpShared>,
    /// Level of the PIC's output.
    pub ext_int: AtomicBool,
    world: Mutex<()>,
    quiet: (Mutex<()>, Condvar),
}

impl VpShared {
    fn new(index: u32) -> Self {
        Self {
            requests: AtomicU32::new(0),
            in_guest: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            wake: (Mutex::new(()), Condvar::new()),
            page_events: Mutex::new(Vec::new()),
            apic: Mutex::new(LocalApic::new(index)),
            nmi: AtomicBool::new(false),
            start: AtomicU32::new(0),
            timer: OnceLock::new(),
            instructions: AtomicU64::new(0),
        }
    }

    /// Sets request bits and wakes a halted VP.
    pub fn request(&self, bits: u32) {
        self.requests.fetch_or(bits, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            // Taking the lock orders us after the sleeper's last look.
            let _guard = self.wake.0.lock();
            self.wake.1.notify_all();
        }
    }

    /// Waits until some request bit is set.
    pub fn sleep(&self) {
        let mut guard = self.wake.0.lock();
        self.sleeping.store(true, Ordering::SeqCst);
        while self.requests.load(Ordering::SeqCst) == 0 {
            self.wake.1.wait(&mut guard);
        }
        self.sleeping.store(false, Ordering::SeqCst);
    }

    fn post(&self, event: PageEvent) {
        self.page_events.lock().push(event);
        self.request(request::PAGES);
    }

    /// Takes the page events.
    pub fn take_page_events(&self) -> Vec<PageEvent> {
        std::mem::take(&mut self.page_events.lock())
    }
}

impl PartitionShared {
    /// An empty partition.
    pub fn new(config: PartitionConfig, stubs: bulkhead_native::Stubs, options: Options) -> Self {
        let pages = config.memory.end() >> PAGE_SHIFT;
        Self {
            code: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            memory: config.memory,
            cpuid: config.cpuid,
            reactor: config.reactor,
            tsc_hz: config.tsc_hz,
            deterministic: config.deterministic,
            options,
            natives: stubs,
            map: RwLock::default(),
            vps: (0..config.vp_count).map(VpShared::new).collect(),
            ext_int: AtomicBool::new(false),
            world: Mutex::new(()),
            quiet: (Mutex::new(()), Condvar::new()),
        }
    }

    /// VM time as TSC ticks, without any guest's offset.
    pub fn ticks(&self) -> u64 {
        let nanos = self.reactor.now().as_nanos();
        let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let part = match rest.checked_mul(self.tsc_hz) {
            Some(product) => product / 1_000_000_000,
            None => (u128::from(rest) * u128::from(self.tsc_hz) / 1_000_000_000) as u64,
        };
        seconds.wrapping_mul(self.tsc_hz).wrapping_add(part)
    }

    /// VP `index` begins to execute guest code; waits while the world stands still.
    pub fn enter_guest(&self, index: usize) {
        let vp = &self.vps[index];
        loop {
            vp.in_guest.store(true, Ordering::SeqCst);
            if vp.requests.load(Ordering::SeqCst) & request::STOP == 0 {
                return;
            }
            self.leave_guest(index);
            let mut guard = self.quiet.0.lock();
            while vp.requests.load(Ordering::SeqCst) & request::STOP != 0 {
                self.quiet.1.wait(&mut guard);
            }
        }
    }

    /// VP `index` stops executing guest code.
    pub fn leave_guest(&self, index: usize) {
        let vp = &self.vps[index];
        vp.in_guest.store(false, Ordering::SeqCst);
        if vp.requests.load(Ordering::SeqCst) & request::STOP != 0 {
            let _guard = self.quiet.0.lock();
            self.quiet.1.notify_all();
        }
    }

    /// Runs `action` while no VP executes guest code. The caller is not executing guest code itself.
    pub fn stop_world<R>(&self, action: impl FnOnce() -> R) -> R {
        let _world = self.world.lock();
        for vp in &self.vps {
            vp.request(request::STOP);
        }
        let mut guard = self.quiet.0.lock();
        while self.vps.iter().any(|vp| vp.in_guest.load(Ordering::SeqCst)) {
            self.quiet.1.wait(&mut guard);
        }
        drop(guard);
        let result = action();
        let _guard = self.quiet.0.lock();
        for vp in &self.vps {
            vp.requests.fetch_and(!request::STOP, Ordering::SeqCst);
        }
        self.quiet.1.notify_all();
        result
    }

    /// Granules of a page of guest memory that hold decoded code.
    #[inline]
    pub fn code_granules(&self, ram_page: u64) -> u64 {
        self.code.get(ram_page as usize).map_or(0, |granules| granules.load(Ordering::SeqCst))
    }

    /// VP `index` is about to decode code from granules of a page. Afterwards every write to them is noticed; read the
    /// bytes after this call.
    pub fn mark_code(&self, index: usize, ram_page: u64, granules: u64) {
        let Some(known) = self.code.get(ram_page as usize) else { return };
        if known.load(Ordering::SeqCst) & granules == granules {
            return;
        }
        if known.fetch_or(granules, Ordering::SeqCst) == 0 {
            self.memory.watch(ram_page);
            // Others may write with a tag they have, until they read this: then they report the page as written.
            for (other, vp) in self.vps.iter().enumerate() {
                if other != index {
                    vp.post(PageEvent::Protect(ram_page));
                }
            }
        }
    }

    /// Granules of a page were written by VP `index` (`None`: by somebody else). Returns those that held code: the VP
    /// itself forgets them now, all others are told.
    pub fn code_written(&self, index: Option<usize>, ram_page: u64, granules: u64) -> u64 {
        let Some(known) = self.code.get(ram_page as usize) else { return 0 };
        let hit = known.fetch_and(!granules, Ordering::SeqCst) & granules;
        if hit != 0 {
            for (other, vp) in self.vps.iter().enumerate() {
                if Some(other) != index {
                    vp.post(PageEvent::Written(ram_page, hit));
                }
            }
        }
        hit
    }
}

/// Device DMA and hypercalls that write to pages with code. Holds the partition weakly: guest memory holds the observer.
pub(crate) struct CodeObserver(pub std::sync::Weak<PartitionShared>);

impl WriteObserver for CodeObserver {
    fn pages_written(&self, first: u64, count: u64) {
        let Some(partition) = self.0.upgrade() else { return };
        for page in first..first + count {
            partition.code_written(None, page, u64::MAX);
        }
    }
}
