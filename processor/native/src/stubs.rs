//! The stubs of a partition: made on demand, kept as long as it lives.

use std::collections::HashMap;

use iced_x86::{Instruction, InstructionInfoFactory};
use parking_lot::Mutex;

use crate::emit::emit;
use crate::lower::{Recipe, lower};
use crate::{CodeMemory, CodeSpan, Gather, Lowered, NativeError, NotNative, Stub, StubEntry, catalog};

/// The cache of stubs; shared by all VPs of a partition.
pub struct Stubs {
    inner: Mutex<Inner>,
    base: *const u8,
}

// SAFETY: `base` is an address inside `Inner::code`, which may move between threads and is never written through it.
unsafe impl Send for Stubs {}
// SAFETY: as above; everything else is behind the lock.
unsafe impl Sync for Stubs {}

struct Inner {
    code: CodeMemory,
    /// By rewritten instruction: guest register numbers are not in it, so there are at most some ten thousand.
    known: HashMap<Instruction, CodeSpan>,
    factory: InstructionInfoFactory,
}

/// Room for every stub there can be: about 1,400 forms, a few dozen with 256 immediates each, 64 to 128 bytes.
const CAPACITY: usize = 16 << 20;

impl Stubs {
    /// An empty cache.
    pub fn new() -> Result<Self, NativeError> {
        let code = CodeMemory::new(CAPACITY)?;
        let base = code.base();
        let inner = Inner { code, known: HashMap::new(), factory: InstructionInfoFactory::new() };
        Ok(Self { inner: Mutex::new(inner), base })
    }

    /// Lowers an instruction of any mode.
    pub fn get(&self, instruction: &Instruction) -> Result<Lowered, NotNative> {
        catalog::check(instruction)?;
        if instruction.is_vsib() {
            return Gather::new(instruction).map(Lowered::Gather);
        }
        let mut inner = self.inner.lock();
        let recipe = lower(instruction, &mut inner.factory)?;
        let span = inner.span(&recipe)?;
        drop(inner);
        let code = instruction.code();
        Ok(Lowered::Stub(Stub {
            entry: self.entry(span.offset),
            offset: span.offset,
            registers: recipe.registers,
            memory: recipe.memory,
            reads_flags: recipe.reads_flags || recipe.keeps_flags,
            writes_flags: recipe.writes_flags,
            uses_x87: catalog::uses_x87(code),
            waits: catalog::waits(instruction),
            x87_pointers: recipe.x87_pointers(),
        }))
    }

    /// Address that [`Stub::offset`] counts from.
    pub fn base(&self) -> *const u8 {
        self.base
    }

    fn entry(&self, offset: u32) -> StubEntry {
        // SAFETY: offsets come from `CodeMemory::push` of code that follows the `StubEntry` convention.
        unsafe { std::mem::transmute::<*const u8, StubEntry>(self.base.add(offset as usize)) }
    }
}

impl Inner {
    fn span(&mut self, recipe: &Recipe) -> Result<CodeSpan, NotNative> {
        if let Some(&span) = self.known.get(&recipe.canonical) {
            return Ok(span);
        }
        let failed = || NotNative::Unencodable(recipe.canonical.code());
        let bytes = emit(recipe).ok().ok_or_else(failed)?;
        let span = self.code.push(&bytes).ok().ok_or_else(failed)?;
        self.known.insert(recipe.canonical, span);
        Ok(span)
    }
}
