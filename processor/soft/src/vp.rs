//! `SoftVp`: the loop that runs blocks.

use crate::cpu::{Cpu, Exception, Mode, rflags};
use crate::decode::cache::BlockPointer;
use crate::exception::TripleFault;
use crate::op::{Flow, Op};
use crate::shared::request;
use crate::translate::run::Returned;
use bulkhead_engine::{Activity, EngineError, InterruptShadow, RunLimit, Stop, Vp, VpExits, VpState, VpStats};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

/// More instructions than any run executes.
const UNLIMITED: i64 = i64::MAX / 2;
/// A block has at most this many instructions.
pub(crate) const LONGEST_BLOCK: i64 = 32;

/// A VP of the software engine.
pub(crate) struct SoftVp {
    pub(crate) cpu: Box<Cpu>,
}

impl Vp for SoftVp {
    fn run(&mut self, exits: &mut dyn VpExits, limit: RunLimit) -> Result<Stop, EngineError> {
        let cpu = &mut *self.cpu;
        let exits: NonNull<dyn VpExits + '_> = NonNull::from(exits);
        // SAFETY: only the lifetime changes; the pointer is taken away again before `run` returns.
        cpu.exits = Some(unsafe { std::mem::transmute::<NonNull<dyn VpExits + '_>, NonNull<dyn VpExits>>(exits) });
        let waits = limit == RunLimit::Unlimited;
        cpu.budget_start = match limit {
            RunLimit::Unlimited => UNLIMITED,
            RunLimit::Instructions(count) => i64::try_from(count).map_or(UNLIMITED, |count| count.min(UNLIMITED)),
        };
        cpu.budget = cpu.budget_start;
        cpu.native.enter();
        cpu.partition.enter_guest(cpu.index);
        let result = cpu.run(waits);
        cpu.partition.leave_guest(cpu.index);
        cpu.native.leave();
        cpu.instructions_before = cpu.instructions();
        cpu.budget_start = 0;
        cpu.budget = 0;
        cpu.shared().instructions.store(cpu.instructions_before, Ordering::Relaxed);
        cpu.exits = None;
        if let Some(reason) = cpu.lockstep_report.take() {
            return Err(EngineError::Stuck { index: cpu.index as u32, rip: cpu.rip(), reason });
        }
        Ok(match result {
            Ok(stop) => stop,
            Err(TripleFault) => {
                cpu.activity = Activity::Shutdown;
                Stop::TripleFault
            }
        })
    }

    fn state(&mut self) -> Result<VpState, EngineError> {
        Ok(self.cpu.save())
    }

    fn set_state(&mut self, state: &VpState) -> Result<(), EngineError> {
        crate::state::check(self.cpu.index as u32, state, &self.cpu.features)?;
        self.cpu.restore(state);
        self.cpu.partition.arm_apic_timer(self.cpu.index);
        Ok(())
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        self.cpu.map = self.cpu.partition.map.read().clone();
        self.cpu.shared().request(request::MAP);
        self.cpu.translate_quietly(linear)
    }

    fn stats(&self) -> VpStats {
        let events = &self.cpu.events;
        let translated = self.cpu.translator.as_ref().map(|translator| translator.counters).unwrap_or_default();
        VpStats {
            instructions: Some(self.cpu.instructions()),
            events: vec![
                ("translated_blocks", translated.blocks),
                ("translated_instructions", translated.instructions),
                ("translated_natively", translated.native),
                ("translation_flushes", translated.flushes),
                ("instructions_in_translations", translated.executed),
                ("entries_of_translations", translated.entries),
                ("handler_calls", translated.handler_calls),
                ("exceptions", events.exceptions),
                ("interrupts", events.interrupts),
                ("halts", events.halts),
                ("mmio", events.mmio),
                ("ports", events.ports),
                ("hypercalls", events.hypercalls),
                ("msrs", events.msrs),
                ("ipis", events.ipis),
                ("cr3_loads", events.cr3_loads),
                ("page_walks", events.page_walks),
                ("blocks_decoded", events.blocks_decoded),
                ("code_writes", events.code_writes),
                ("split_locks", events.split_locks),
            ],
        }
    }
}

impl Cpu {
    fn run(&mut self, waits: bool) -> Result<Stop, TripleFault> {
        loop {
            if let Some(stop) = self.between_blocks(waits)? {
                return Ok(stop);
            }
            if self.activity != Activity::Running {
                continue;
            }
            if let Some(exception) = self.pending_exception.take() {
                self.deliver_exception(exception)?;
                continue;
            }
            if self.is_traced() {
                self.run_traced()?;
                continue;
            }
            let cautious =
                self.budget < LONGEST_BLOCK || self.shadow != InterruptShadow::None && self.interrupt_waiting;
            let mode = if cautious { Mode(self.mode.0 | Mode::SINGLE) } else { self.mode };
            let block = match self.cache.jump(self.rip(), mode) {
                Some(block) => block,
                None => match self.block(mode) {
                    Ok(block) => block,
                    Err(_) => {
                        self.deliver_exception(self.fault)?;
                        continue;
                    }
                },
            };
            self.shadow = InterruptShadow::None;
            // RF holds for one instruction.
            self.system_flags &= !rflags::RF;
            if cautious {
                let flow = self.run_block(block);
                self.finish(block, flow)?;
            } else {
                self.run_blocks(block)?;
            }
        }
    }

    /// Everything that must be looked at before the next instruction.
    fn between_blocks(&mut self, waits: bool) -> Result<Option<Stop>, TripleFault> {
        let may_take = self.accepts_interrupts()
            || self.activity != Activity::Running
            || !self.nmi_blocked && self.shared().nmi.load(Ordering::Relaxed);
        if self.interrupt_waiting && may_take {
            self.look_for_interrupts()?;
        }
        if self.must_stop() && self.serve_requests()? {
            return Ok(Some(Stop::Kicked));
        }
        if self.lockstep_report.is_some() {
            return Ok(Some(Stop::Kicked));
        }
        if self.budget <= 0 {
            return Ok(Some(Stop::LimitReached));
        }
        match self.activity {
            Activity::Running => Ok(None),
            Activity::Shutdown => Ok(Some(Stop::TripleFault)),
            Activity::Halted | Activity::WaitForSipi if !waits => Ok(Some(Stop::Halted)),
            Activity::Halted | Activity::WaitForSipi => {
                self.native.pause();
                self.partition.leave_guest(self.index);
                self.shared().sleep();
                self.partition.enter_guest(self.index);
                self.native.resume();
                Ok(None)
            }
        }
    }

    /// Runs one block. The budget is charged for what was executed.
    #[inline(always)]
    pub(crate) fn run_block(&mut self, block: BlockPointer) -> Flow {
        self.budget -= i64::from(block.get().count);
        block.ops().run(self)
    }

    /// Runs blocks as long as nothing but jumping happens.
    fn run_blocks(&mut self, mut block: BlockPointer) -> Result<(), TripleFault> {
        loop {
            if self.is_translated(block) {
                match self.run_translated(block)? {
                    Returned::Look => return Ok(()),
                    Returned::Block(next) => {
                        block = next;
                        continue;
                    }
                }
            }
            let serial = block.get().serial;
            let flow = self.run_block(block);
            let slot = match flow {
                Flow::Taken => 0,
                Flow::NotTaken => 1,
                Flow::Indirect => 2,
                _ => return self.finish(block, flow),
            };
            if self.must_stop() || self.budget < LONGEST_BLOCK {
                return Ok(());
            }
            if slot < 2
                && let Some(next) = block.follow(slot)
            {
                block = next;
                continue;
            }
            let rip = self.rip();
            let next = match self.cache.jump(rip, self.mode) {
                Some(next) => next,
                None => match self.block(self.mode) {
                    Ok(next) => next,
                    Err(_) => return self.deliver_exception(self.fault),
                },
            };
            // The block may have died meanwhile, by its own stores or by decoding the next one.
            if slot < 2 && block.get().serial == serial && serial != 0 && may_link(block, next) {
                block.link(slot, next);
            }
            block = next;
        }
    }

    /// After a block that ended in something else than a near branch: RIP, budget, exceptions.
    pub(crate) fn finish(&mut self, block: BlockPointer, flow: Flow) -> Result<(), TripleFault> {
        if matches!(flow, Flow::Taken | Flow::NotTaken | Flow::Indirect) {
            return Ok(());
        }
        let Some(op) = self.last_op else { return Ok(()) };
        // SAFETY: the block that ran is still there, dead or alive: nothing was decoded since.
        let Op { offset, len, .. } = *unsafe { op.0.as_ref() };
        // SAFETY: both point into the ops of this block.
        let index = unsafe { op.0.offset_from(block.ops().0) } as i64;
        let executed = index + i64::from(!matches!(flow, Flow::Stale | Flow::Fault));
        self.budget += i64::from(block.get().count) - executed;
        self.finish_at(flow, offset, len)
    }

    /// After an instruction at `offset` of the block that ended its run.
    pub(crate) fn finish_at(&mut self, flow: Flow, offset: u16, len: u8) -> Result<(), TripleFault> {
        let start = self.rip().wrapping_add(u64::from(offset));
        match flow {
            Flow::Sync => self.set_rip(self.cut_ip(start.wrapping_add(u64::from(len)))),
            Flow::Again | Flow::Stale => self.set_rip(self.cut_ip(start)),
            Flow::Fault => {
                self.set_rip(self.cut_ip(start));
                self.breakpoints_met = 0;
                return self.deliver_exception(self.fault);
            }
            _ => {}
        }
        Ok(())
    }

    /// One instruction with single step or breakpoints on.
    fn run_traced(&mut self) -> Result<(), TripleFault> {
        if let Some(exception) = self.instruction_breakpoint() {
            return self.deliver_exception(exception);
        }
        let block = match self.block(Mode(self.mode.0 | Mode::SINGLE)) {
            Ok(block) => block,
            Err(_) => return self.deliver_exception(self.fault),
        };
        let single_step = self.system_flags & rflags::TF != 0;
        let exceptions = self.events.exceptions;
        self.shadow = InterruptShadow::None;
        self.system_flags &= !rflags::RF;
        let flow = self.run_block(block);
        self.finish(block, flow)?;
        let delivered = self.events.exceptions != exceptions;
        // A repeated instruction stops (`Again`) after each element: that is a step as well.
        if delivered || self.shadow == InterruptShadow::MovSs {
            return Ok(());
        }
        match self.trap_after(single_step) {
            Some(trap) => self.deliver_exception(Exception { ..trap }),
            None => Ok(()),
        }
    }

    /// A timer was armed: in deterministic mode the run ends when it is due.
    pub(crate) fn timer_armed(&mut self) {
        if !self.partition.deterministic {
            return;
        }
        let deadline = self.shared().apic.lock().timer_deadline(self.partition.tsc_hz);
        if let Some(deadline) = deadline {
            // One instruction is one nanosecond.
            let now = self.partition.reactor.now().as_nanos() + (self.budget_start - self.budget) as u64;
            let left = i64::try_from(deadline.saturating_sub(now)).unwrap_or(i64::MAX);
            let cut = (self.budget - left).max(0);
            self.budget -= cut;
            self.budget_start -= cut;
        }
    }
}

/// Links stay valid whatever happens to translations, because both blocks lie in the same page.
fn may_link(from: BlockPointer, to: BlockPointer) -> bool {
    let (from, to) = (from.get(), to.get());
    from.linkable && to.linkable && from.mode == to.mode && from.address >> 12 == to.address >> 12
}
