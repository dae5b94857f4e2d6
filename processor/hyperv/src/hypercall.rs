//! Hypercalls: the control word, where input comes from, and the calls there are (TLFS 3 and appendix A).

use crate::{HypercallPorts, SynicMessage};
use bulkhead_engine::HypercallRegisters;
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};

/// Result of a hypercall (TLFS appendix B.3), in the low 16 bits of RAX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum HypercallStatus {
    /// Done.
    Success = 0,
    /// No such call.
    InvalidHypercallCode = 2,
    /// The control word does not fit the call.
    InvalidHypercallInput = 3,
    /// Input address not a multiple of 8, or input beyond the end of its page.
    InvalidAlignment = 4,
    /// A parameter is wrong.
    InvalidParameter = 5,
    /// The VM may not make this call.
    AccessDenied = 6,
    /// Not now.
    OperationDenied = 8,
    /// The host has no memory for it.
    InsufficientMemory = 11,
    /// No such port.
    InvalidPortId = 17,
    /// No such connection.
    InvalidConnectionId = 18,
    /// Too many messages wait.
    InsufficientBuffers = 19,
}

// Call codes.
const NOTIFY_LONG_SPIN_WAIT: u16 = 0x0008;
const POST_MESSAGE: u16 = 0x005c;
const SIGNAL_EVENT: u16 = 0x005d;

/// Bytes in front of a posted message's payload.
const POST_HEADER: usize = 16;
/// Bytes of a posted message's input.
const POST_INPUT: usize = POST_HEADER + SynicMessage::MAX_PAYLOAD;

/// The control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Control(u64);

impl Control {
    const FAST: u64 = 1 << 16;
    /// Bits that no call here has: variable header, nested, reps, and the reserved ones.
    const OTHERS: u64 = !0x1_ffff;

    fn code(self) -> u16 {
        self.0 as u16
    }

    fn is_fast(self) -> bool {
        self.0 & Self::FAST != 0
    }
}

/// Control word, input and output operand, whatever the caller's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operands {
    control: Control,
    input: u64,
}

impl Operands {
    fn of(registers: &HypercallRegisters) -> Self {
        let pair = |high: u64, low: u64| high << 32 | low & 0xffff_ffff;
        if registers.long_mode {
            Self { control: Control(registers.rcx), input: registers.rdx }
        } else {
            let control = Control(pair(registers.rdx, registers.rax));
            Self { control, input: pair(registers.rbx, registers.rcx) }
        }
    }
}

/// Carries out the call in `registers` and leaves its result there.
pub(crate) fn call(registers: &mut HypercallRegisters, memory: &GuestMemory, ports: Option<&dyn HypercallPorts>) {
    let status = dispatch(Operands::of(registers), memory, ports) as u64;
    registers.rax = status;
    if !registers.long_mode {
        registers.rdx = 0;
    }
}

fn dispatch(operands: Operands, memory: &GuestMemory, ports: Option<&dyn HypercallPorts>) -> HypercallStatus {
    let control = operands.control;
    let result = match control.code() {
        POST_MESSAGE | SIGNAL_EVENT | NOTIFY_LONG_SPIN_WAIT if control.0 & Control::OTHERS != 0 => {
            return HypercallStatus::InvalidHypercallInput;
        }
        POST_MESSAGE => post_message(operands, memory, ports),
        SIGNAL_EVENT => signal_event(operands, memory, ports),
        NOTIFY_LONG_SPIN_WAIT => {
            // Whoever holds the lock may wait for this host processor.
            std::thread::yield_now();
            Ok(HypercallStatus::Success)
        }
        _ => return HypercallStatus::InvalidHypercallCode,
    };
    result.unwrap_or_else(|refused| refused)
}

type Answer = Result<HypercallStatus, HypercallStatus>;

fn post_message(operands: Operands, memory: &GuestMemory, ports: Option<&dyn HypercallPorts>) -> Answer {
    if operands.control.is_fast() {
        return Err(HypercallStatus::InvalidHypercallInput);
    }
    let input: [u8; POST_INPUT] = read_input(operands.input, memory)?;
    let word = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
    let (connection, message_type, len) = (word(0), word(8), word(12) as usize);
    // The top bit marks the hypervisor's own messages (TLFS 11.8.2).
    if len > SynicMessage::MAX_PAYLOAD || message_type == 0 || message_type & 1 << 31 != 0 {
        return Err(HypercallStatus::InvalidParameter);
    }
    let ports = ports.ok_or(HypercallStatus::InvalidConnectionId)?;
    Ok(ports.post_message(connection, message_type, &input[POST_HEADER..POST_HEADER + len]))
}

fn signal_event(operands: Operands, memory: &GuestMemory, ports: Option<&dyn HypercallPorts>) -> Answer {
    let input = if operands.control.is_fast() {
        operands.input
    } else {
        u64::from_le_bytes(read_input(operands.input, memory)?)
    };
    let ports = ports.ok_or(HypercallStatus::InvalidConnectionId)?;
    Ok(ports.signal_event(input as u32, (input >> 32) as u16))
}

/// Input in memory: 8-byte aligned, within one page (TLFS 3.4).
fn read_input<const N: usize>(gpa: u64, memory: &GuestMemory) -> Result<[u8; N], HypercallStatus> {
    if gpa & 7 != 0 || gpa % PAGE_SIZE + N as u64 > PAGE_SIZE {
        return Err(HypercallStatus::InvalidAlignment);
    }
    memory.read_array(gpa).map_err(|_| HypercallStatus::InvalidParameter)
}
