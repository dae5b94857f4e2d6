//! Running translated code: slices, what happens when it comes back, and connecting blocks.

use super::routines::{Enter, Exit};
use crate::cpu::Cpu;
use crate::decode::cache::BlockPointer;
use crate::exception::TripleFault;
use crate::op::{Flow, Op};
use crate::options::Tier;

/// Instructions that translated code executes before requests are looked at: some microseconds.
const SLICE: i64 = 16384;

/// Translated code came back.
pub(crate) enum Returned {
    /// To the run loop: look around, go on at RIP.
    Look,
    /// RIP leads to this block.
    Block(BlockPointer),
}

impl Cpu {
    /// Whether the block has code, or gets it now.
    #[inline(always)]
    pub(crate) fn is_translated(&mut self, block: BlockPointer) -> bool {
        let Some(translator) = &self.translator else { return false };
        if self.slow_data {
            return false;
        }
        if block.code_generation() == translator.generation {
            return true;
        }
        block.count_run() >= translator.threshold && block.is_translatable() && self.translate_block(block)
    }

    /// Takes instructions out of the budget for translated code to use up.
    pub(super) fn open_slice(&mut self) {
        // In lockstep translated code runs one block.
        let slice = if self.must_stop() || self.partition.options.tier == Tier::Lockstep {
            0
        } else {
            self.budget.clamp(0, SLICE)
        };
        self.budget -= slice;
        self.slice = slice as i32;
    }

    /// What translated code did not use up goes back.
    pub(super) fn close_slice(&mut self) {
        self.budget += i64::from(self.slice);
        self.slice = 0;
    }

    /// Code of blocks that died must not be entered again.
    fn bury_dead_code(&mut self) {
        if !self.cache.has_dead_code() {
            return;
        }
        let Some(translator) = &mut self.translator else { return };
        for dead in self.cache.take_dead_code() {
            translator.bury(&dead);
        }
    }

    /// Runs translated code from a block on that has some.
    pub(crate) fn run_translated(&mut self, block: BlockPointer) -> Result<Returned, TripleFault> {
        self.bury_dead_code();
        if self.partition.options.tier == Tier::Lockstep {
            return self.run_lockstep(block);
        }
        let Some((enter, code)) = self.code_of(block) else { return Ok(Returned::Look) };
        let before = self.instructions();
        let rip = self.rip();
        self.open_slice();
        // SAFETY: `code` is the far entry of a live block of this VP's arena, `rip` is its address. Translated code
        // reaches guest memory only through TLB hits, and the `Cpu` only through this pointer.
        let code = unsafe { enter(self, code, rip) };
        self.close_slice();
        let exit = Exit::from_code(code);
        let result = match exit {
            Exit::Retry => Ok(Returned::Look),
            Exit::Dispatch => self.dispatch(),
            Exit::Flow(Flow::Taken | Flow::NotTaken | Flow::Indirect) => {
                // Most often a computed jump whose target the table does not know yet.
                self.exit_site = 0;
                self.dispatch()
            }
            Exit::Flow(flow) => self.finish_handler(flow).map(|()| Returned::Look),
        };
        let executed = self.instructions() - before;
        if let Some(translator) = &mut self.translator {
            translator.counters.entries += 1;
            translator.counters.executed += executed;
        }
        result
    }

    /// How to enter the translation of a block.
    pub(super) fn code_of(&self, block: BlockPointer) -> Option<(Enter, *const u8)> {
        let translator = self.translator.as_ref()?;
        let far = block.far_entry(translator.generation)?;
        Some((translator.enter(), translator.address(far)))
    }

    /// Finds the block at RIP for a jump that found no code.
    pub(super) fn dispatch(&mut self) -> Result<Returned, TripleFault> {
        let (site, generation) = (self.exit_site, self.translator.as_ref().map(|translator| translator.generation));
        if self.must_stop() || self.budget < crate::vp::LONGEST_BLOCK {
            return Ok(Returned::Look);
        }
        let rip = self.rip();
        let next = match self.cache.jump(rip, self.mode) {
            Some(next) => next,
            None => match self.block(self.mode) {
                Ok(next) => next,
                Err(_) => return self.deliver_exception(self.fault).map(|()| Returned::Look),
            },
        };
        // Decoding may have killed the block that the site is in: its code stays until the next flush, so connecting
        // it does no harm.
        self.bury_dead_code();
        if self.is_translated(next)
            && let Some(translator) = &mut self.translator
            && let Some(far) = next.far_entry(translator.generation)
        {
            if site != 0 && generation == Some(translator.generation) && translator.connect(site, next) {
                next.add_incoming(site);
            }
            let address = translator.address(far) as u64;
            self.targets.insert(rip, address);
        }
        Ok(Returned::Block(next))
    }

    /// A handler called by translated code ended in something else than the next instruction.
    pub(super) fn finish_handler(&mut self, flow: Flow) -> Result<(), TripleFault> {
        if matches!(flow, Flow::Taken | Flow::NotTaken | Flow::Indirect) {
            return Ok(());
        }
        let Some(op) = self.last_op else { return Ok(()) };
        // SAFETY: handlers called by translated code get ops with an end op behind them, which live until the next
        // flush of the code cache; that happens between blocks.
        let (op, end) = unsafe { (op.0.as_ref(), op.0.add(1).as_ref()) };
        let (Op { offset, len, .. }, index, count) = (*op, i64::from(end.offset), end.imm as i64);
        let executed = index + i64::from(!matches!(flow, Flow::Stale | Flow::Fault));
        self.budget += count - executed;
        self.finish_at(flow, offset, len)
    }
}
