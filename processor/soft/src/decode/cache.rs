//! The block cache of a VP: decoded blocks by address and mode, the jump cache, links, and forgetting.
//!
//! Each VP has its own cache: nothing here is locked, and a block dies between two instructions of its own VP. What
//! is shared is only which granules of guest memory hold code (`shared.rs`).
//!
//! A `Block` never moves and its memory is never given back while the cache lives. It is recycled instead: each use
//! gets a new serial number, and whoever remembers a block (a link, the jump cache) remembers the serial too.

use crate::cpu::Mode;
use crate::op::{Handler, Op, OpPointer};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ptr::NonNull;

/// A block's way to the block that followed it last time.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    block: NonNull<Block>,
    serial: u64,
}

/// A run of decoded instructions that is entered at its first one.
#[repr(C)]
pub(crate) struct Block {
    /// Changes whenever the block becomes another one; 0 = dead.
    pub serial: u64,
    /// Guest instructions in it.
    pub count: u32,
    /// Length in bytes.
    pub len: u32,
    /// Mode that it was decoded for.
    pub mode: Mode,
    /// May be linked to: lies in one page.
    pub linkable: bool,
    /// Where control went: 0 the taken branch, 1 behind the block.
    links: [Option<Link>; 2],
    ops: Box<[Op]>,
    /// Address in guest memory of the first byte.
    pub address: u64,
    /// The page of guest memory that the last instruction continues in.
    pub second_page: Option<u64>,
    /// The guest's bytes.
    pub bytes: Box<[u8]>,
    /// How often the interpreter ran it.
    runs: u32,
    /// The translator has no use for it.
    refused: bool,
    /// Its translation; of generation 0 if there is none.
    code: BlockCode,
}

/// Where the translation of a block is.
#[derive(Debug, Default)]
pub(crate) struct BlockCode {
    /// Of the code cache; code of another generation is gone.
    pub generation: u32,
    /// Lockstep can undo and compare it.
    pub verifiable: bool,
    /// Entry with the address in a register.
    pub far: u32,
    /// Entry from within the page.
    pub near: u32,
    /// What leads out again.
    pub leave: u32,
    /// Jumps of other blocks that are connected with `near`.
    pub incoming: Vec<u32>,
}

/// A pointer to a block of the cache; valid as long as the cache, possibly dead.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPointer(NonNull<Block>);

impl BlockPointer {
    /// The block.
    #[inline(always)]
    pub fn get(&self) -> &Block {
        // SAFETY: blocks are owned by the cache of this VP and live as long as it; only this VP's thread touches
        // them, and never through two references at once.
        unsafe { self.0.as_ref() }
    }

    /// The first op.
    #[inline(always)]
    pub fn ops(&self) -> OpPointer {
        // SAFETY: a block always has ops.
        OpPointer(unsafe { NonNull::new_unchecked(self.get().ops.as_ptr().cast_mut()) })
    }

    /// The block that followed through `slot`, if it still is the same.
    #[inline(always)]
    pub fn follow(&self, slot: usize) -> Option<BlockPointer> {
        let link = self.get().links[slot]?;
        // SAFETY: as in `get`: linked blocks belong to the same cache.
        (unsafe { link.block.as_ref() }.serial == link.serial).then_some(BlockPointer(link.block))
    }

    /// Number of the code cache's generation that the block's translation belongs to; 0 = none.
    #[inline(always)]
    pub fn code_generation(&self) -> u32 {
        self.get().code.generation
    }

    /// Where to enter the translation from the run loop.
    pub fn far_entry(&self, generation: u32) -> Option<u32> {
        let code = &self.get().code;
        (code.generation == generation).then_some(code.far)
    }

    /// Whether the translation does what can be undone.
    pub fn is_verifiable(&self) -> bool {
        self.get().code.verifiable
    }

    /// Where blocks of the same page enter it.
    pub fn near_entry(&self) -> u32 {
        self.get().code.near
    }

    /// Sets the translation.
    pub fn set_code(mut self, code: BlockCode) {
        // SAFETY: as in `link`.
        unsafe { self.0.as_mut() }.code = code;
    }

    /// Remembers a jump that leads to the translation.
    pub fn add_incoming(mut self, site: u32) {
        // SAFETY: as in `link`.
        unsafe { self.0.as_mut() }.code.incoming.push(site);
    }

    /// Not to be translated.
    pub fn refuse(mut self) {
        // SAFETY: as in `link`.
        unsafe { self.0.as_mut() }.refused = true;
    }

    /// Counts a run of the interpreter; how many there were.
    #[inline(always)]
    pub fn count_run(mut self) -> u32 {
        // SAFETY: as in `link`.
        let block = unsafe { self.0.as_mut() };
        block.runs = block.runs.saturating_add(1);
        block.runs
    }

    /// Whether the translator may try: whole blocks of 64-bit code.
    pub fn is_translatable(&self) -> bool {
        let block = self.get();
        block.serial != 0 && !block.refused && block.mode.has(Mode::LONG64) && !block.mode.has(Mode::SINGLE)
    }

    /// A copy of an op.
    pub fn op(&self, index: usize) -> Op {
        self.get().ops[index]
    }

    /// Remembers what followed through `slot`.
    pub fn link(mut self, slot: usize, next: BlockPointer) {
        let link = Link { block: next.0, serial: next.get().serial };
        // SAFETY: as in `get`; no other reference is alive here.
        unsafe { self.0.as_mut() }.links[slot] = Some(link);
    }
}

#[derive(Clone, Copy)]
struct JumpEntry {
    rip: u64,
    serial: u64,
    block: Option<NonNull<Block>>,
    mode: Mode,
    generation: u32,
}

const JUMP_ENTRIES: usize = 4096;
/// Ops (32 bytes each) before everything is forgotten.
const OP_LIMIT: usize = 1 << 20;

/// A multiplicative hash: keys are addresses, nobody attacks them but the guest, who only slows itself down.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }
}

type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// See the module.
pub(crate) struct BlockCache {
    jumps: Box<[JumpEntry; JUMP_ENTRIES]>,
    blocks: AddressMap<(u64, u32), NonNull<Block>>,
    pages: AddressMap<u64, Vec<NonNull<Block>>>,
    #[allow(clippy::vec_box, reason = "links and the jump cache point to blocks: they must not move")]
    pool: Vec<Box<Block>>,
    free: Vec<NonNull<Block>>,
    /// Dead, but perhaps still being run.
    dying: Vec<NonNull<Block>>,
    /// Translations of blocks that died.
    dead_code: Vec<BlockCode>,
    ops: usize,
    next_serial: u64,
    generation: u32,
    /// The handler that leaves a block before its op.
    stale: Handler,
}

// SAFETY: the pointers lead into boxes that the cache owns; it moves between threads as a whole.
unsafe impl Send for BlockCache {}

/// What becomes a block.
pub(crate) struct NewBlock {
    /// Address in guest memory of the first byte.
    pub address: u64,
    /// Mode decoded for.
    pub mode: Mode,
    /// Ops, the last of which never goes on to the next.
    pub ops: Vec<Op>,
    /// The guest's bytes.
    pub bytes: Box<[u8]>,
    /// Guest instructions.
    pub count: u32,
    /// Bytes.
    pub len: u32,
    /// Page that the last instruction continues in.
    pub second_page: Option<u64>,
}

impl BlockCache {
    /// An empty cache. `stale` is the handler put in place of the ops of dead blocks.
    pub fn new(stale: Handler) -> Self {
        let empty = JumpEntry { rip: 0, serial: 0, block: None, mode: Mode(u32::MAX), generation: 0 };
        Self {
            jumps: Box::new([empty; JUMP_ENTRIES]),
            blocks: HashMap::default(),
            pages: HashMap::default(),
            pool: Vec::new(),
            free: Vec::new(),
            dying: Vec::new(),
            dead_code: Vec::new(),
            ops: 0,
            next_serial: 1,
            generation: 1,
            stale,
        }
    }

    #[inline(always)]
    fn jump_index(rip: u64) -> usize {
        (rip ^ rip >> 12) as usize & (JUMP_ENTRIES - 1)
    }

    /// The block at a virtual address, if the jump cache knows it.
    #[inline(always)]
    pub fn jump(&self, rip: u64, mode: Mode) -> Option<BlockPointer> {
        let entry = &self.jumps[Self::jump_index(rip)];
        let block = BlockPointer(entry.block?);
        let hit = entry.rip == rip
            && entry.mode == mode
            && entry.generation == self.generation
            && block.get().serial == entry.serial;
        hit.then_some(block)
    }

    /// Puts a block into the jump cache.
    pub fn remember(&mut self, rip: u64, block: BlockPointer) {
        let Block { serial, mode, .. } = *block.get();
        self.jumps[Self::jump_index(rip)] =
            JumpEntry { rip, serial, block: Some(block.0), mode, generation: self.generation };
    }

    /// Translations changed: virtual addresses must be looked up again.
    pub fn new_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.jumps.iter_mut().for_each(|entry| entry.block = None);
        }
    }

    /// The block decoded from an address of guest memory.
    pub fn find(&self, address: u64, mode: Mode) -> Option<BlockPointer> {
        self.blocks.get(&(address, mode.0)).copied().map(BlockPointer)
    }

    /// Adds a block; only between blocks. Replaces one with the same address and mode.
    pub fn insert(&mut self, new: NewBlock) -> BlockPointer {
        if self.ops + new.ops.len() > OP_LIMIT {
            self.clear();
        }
        self.reclaim();
        if let Some(old) = self.blocks.get(&(new.address, new.mode.0)).copied() {
            self.kill(old);
            self.reclaim();
        }
        self.ops += new.ops.len();
        let block = Block {
            serial: self.next_serial,
            count: new.count,
            len: new.len,
            mode: new.mode,
            linkable: new.second_page.is_none(),
            links: [None; 2],
            ops: new.ops.into_boxed_slice(),
            address: new.address,
            second_page: new.second_page,
            bytes: new.bytes,
            runs: 0,
            refused: false,
            code: BlockCode::default(),
        };
        self.next_serial += 1;
        let pointer = match self.free.pop() {
            Some(mut pointer) => {
                // SAFETY: a block of our pool that nobody runs or references.
                *unsafe { pointer.as_mut() } = block;
                pointer
            }
            None => {
                self.pool.push(Box::new(block));
                self.pool.last_mut().map(|block| NonNull::from(&mut **block)).unwrap_or(NonNull::dangling())
            }
        };
        self.blocks.insert((new.address, new.mode.0), pointer);
        self.pages.entry(new.address >> 12).or_default().push(pointer);
        if let Some(second) = new.second_page {
            self.pages.entry(second).or_default().push(pointer);
        }
        BlockPointer(pointer)
    }

    /// Forgets the blocks decoded from granules of a page. May be called from inside a running block, which then ends
    /// before its next op.
    pub fn forget(&mut self, ram_page: u64, granules: u64) {
        let Some(blocks) = self.pages.get(&ram_page) else { return };
        let hit: Vec<_> = blocks
            .iter()
            .copied()
            .filter(|&block| BlockPointer(block).get().granules_in(ram_page) & granules != 0)
            .collect();
        for block in hit {
            self.kill(block);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let all: Vec<_> = self.blocks.values().copied().collect();
        self.blocks.clear();
        self.pages.clear();
        for block in all {
            self.make_stale(block);
        }
    }

    /// Whether blocks with translations died since [`Self::take_dead_code`].
    pub fn has_dead_code(&self) -> bool {
        !self.dead_code.is_empty()
    }

    /// The translations of blocks that died.
    pub fn take_dead_code(&mut self) -> Vec<BlockCode> {
        std::mem::take(&mut self.dead_code)
    }

    fn kill(&mut self, block: NonNull<Block>) {
        let Block { address, mode, second_page, .. } = *BlockPointer(block).get();
        self.blocks.remove(&(address, mode.0));
        for page in [Some(address >> 12), second_page].into_iter().flatten() {
            if let Some(blocks) = self.pages.get_mut(&page) {
                blocks.retain(|&other| other != block);
                if blocks.is_empty() {
                    self.pages.remove(&page);
                }
            }
        }
        self.make_stale(block);
    }

    fn make_stale(&mut self, mut block: NonNull<Block>) {
        // SAFETY: a block of our pool; handlers hold references to at most one op, through which they do not look at
        // the handler any more.
        let block_mut = unsafe { block.as_mut() };
        block_mut.serial = 0;
        if block_mut.code.generation != 0 {
            self.dead_code.push(std::mem::take(&mut block_mut.code));
        }
        let ops = block_mut.ops.as_mut_ptr();
        for index in 0..block_mut.ops.len() {
            // SAFETY: inside the ops; written through the raw pointer, as the running handler may hold `&Op`.
            unsafe { (&raw mut (*ops.add(index)).handler).write(self.stale) };
        }
        self.dying.push(block);
    }

    /// Recycles dead blocks; only between blocks.
    fn reclaim(&mut self) {
        for mut block in self.dying.drain(..) {
            // SAFETY: dead blocks of our pool, none of them running (the caller is between blocks).
            let ops = std::mem::take(&mut unsafe { block.as_mut() }.ops);
            self.ops -= ops.len();
            self.free.push(block);
        }
    }
}

impl Block {
    /// 64-byte granules of a page of guest memory that the block was decoded from.
    fn granules_in(&self, ram_page: u64) -> u64 {
        let (offset, len) = (self.address & 0xfff, u64::from(self.len));
        if self.address >> 12 == ram_page {
            crate::mmu::granules(offset, len.min(4096 - offset))
        } else if self.second_page == Some(ram_page) {
            crate::mmu::granules(0, offset + len - 4096)
        } else {
            0
        }
    }
}
