//! What can be chosen about the engine.

/// Who executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tier {
    /// The interpreter alone.
    #[default]
    Interpreter,
    /// The interpreter for rare and unusual code, the translator for the rest.
    Translator,
    /// Both, block by block: the run ends with a report at the first difference. For one VP, and slow.
    Lockstep,
}

/// Options of [`crate::SoftEngine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Who executes guest code.
    pub tier: Tier,
    /// Runs of a block before it is translated; 1 translates everything that can be (for tests).
    pub threshold: u32,
    /// Bytes of translated code per VP at most. When it is full everything is forgotten.
    pub code_cache: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { tier: Tier::default(), threshold: 16, code_cache: 64 << 20 }
    }
}

impl Options {
    /// Everything by the interpreter.
    pub const INTERPRETER: Self = Self { tier: Tier::Interpreter, threshold: 1, code_cache: 0 };

    /// Everything that can be translated is, at once.
    pub const EAGER: Self = Self { tier: Tier::Translator, threshold: 1, code_cache: 64 << 20 };
}
