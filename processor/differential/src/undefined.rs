//! Which flags the architecture leaves undefined at each point of a sequence.

use iced_x86::{FlowControl, Instruction, Mnemonic, RflagsBits};

/// The undefined flags after the instructions seen so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct UndefinedFlags {
    bits: u32,
    branched: bool,
}

impl UndefinedFlags {
    /// Goes past an instruction; gives the undefined flags before it, or `None` if it would read one.
    pub fn step(&mut self, instruction: &Instruction) -> Option<u64> {
        (instruction.rflags_read() & self.bits == 0).then_some(())?;
        let before = self.flags();
        let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
        // A count of zero leaves flags alone, and a branch may have skipped this instruction.
        if !self.branched && !is_counted(instruction) {
            self.bits &= !defined;
        }
        self.bits |= instruction.rflags_undefined();
        self.branched |= instruction.flow_control() != FlowControl::Next;
        Some(before)
    }

    /// The undefined flags at their places in RFLAGS.
    pub fn flags(&self) -> u64 {
        rflags(self.bits)
    }
}

/// Shifts and repeated string instructions may execute zero times.
fn is_counted(instruction: &Instruction) -> bool {
    use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    repeated || matches!(instruction.mnemonic(), Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd)
}

/// iced's flag bits at their places in RFLAGS.
fn rflags(bits: u32) -> u64 {
    let places = [
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::AF, 4),
        (RflagsBits::ZF, 6),
        (RflagsBits::SF, 7),
        (RflagsBits::OF, 11),
    ];
    places.into_iter().filter(|(bit, _)| bits & bit != 0).fold(0, |flags, (_, place)| flags | 1 << place)
}
