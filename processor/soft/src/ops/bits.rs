//! BT, BTS, BTR, BTC, BSF, BSR, POPCNT, LZCNT, TZCNT, CRC32, ADCX, ADOX.

use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::int::Int;
use crate::memory::{Address, Full};
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::Selection;
use crate::ops::form::{Form, by_rare_address, by_size, by_wide_size};
use crate::ops::word::{WideWord, crc32c};
use iced_x86::Mnemonic;

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    match s.instruction.mnemonic() {
        Mnemonic::Bt => select_test(s),
        Mnemonic::Bts => select_change::<Set>(s),
        Mnemonic::Btr => select_change::<Reset>(s),
        Mnemonic::Btc => select_change::<Complement>(s),
        Mnemonic::Bsf => select_search::<Forward>(s),
        Mnemonic::Bsr => select_search::<Backward>(s),
        Mnemonic::Popcnt => select_search::<Ones>(s),
        Mnemonic::Lzcnt => select_search::<Leading>(s),
        Mnemonic::Tzcnt => select_search::<Trailing>(s),
        Mnemonic::Adcx => select_search::<AddCarry>(s),
        Mnemonic::Adox => select_search::<AddOverflow>(s),
        Mnemonic::Crc32 => select_crc32(s),
        _ => None,
    }
}

fn select_test(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_wide_size!(s.size(0), T => match form {
        Form::Register => handler(test_register::<T>),
        Form::RegisterImmediate => handler(test_immediate::<T>),
        Form::Memory => fallible(test_string::<T>),
        Form::MemoryImmediate => by_rare_address!(s.address, A => fallible(test_memory::<T, A>)),
        Form::RegisterMemory => return None,
    }))
}

fn select_change<O: Change>(s: &Selection) -> Option<Handler> {
    let (form, locked) = (s.form()?, s.locked());
    Some(by_wide_size!(s.size(0), T => match (form, locked) {
        (Form::Register, _) => handler(change_register::<O, T>),
        (Form::RegisterImmediate, _) => handler(change_immediate::<O, T>),
        (Form::Memory, false) => fallible(change_string::<O, T>),
        (Form::Memory, true) => fallible(change_string_locked::<O, T>),
        (Form::MemoryImmediate, false) => by_rare_address!(s.address, A => fallible(change_memory::<O, T, A>)),
        (Form::MemoryImmediate, true) => by_rare_address!(s.address, A => fallible(change_locked::<O, T, A>)),
        (Form::RegisterMemory, _) => return None,
    }))
}

fn select_search<O: Search>(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_wide_size!(s.size(0), T => match form {
        Form::Register => handler(search_register::<O, T>),
        Form::RegisterMemory => by_rare_address!(s.address, A => fallible(search_memory::<O, T, A>)),
        _ => return None,
    }))
}

fn select_crc32(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_size!(s.size(1), T => match form {
        Form::Register => handler(crc32_register::<T>),
        Form::RegisterMemory => by_rare_address!(s.address, A => fallible(crc32_memory::<T, A>)),
        _ => return None,
    }))
}

/// What BTS, BTR and BTC do with a bit.
trait Change: 'static {
    fn apply<T: Int>(a: T, bit: T) -> T;
}
struct Set;
struct Reset;
struct Complement;

impl Change for Set {
    #[inline(always)]
    fn apply<T: Int>(a: T, bit: T) -> T {
        a | bit
    }
}

impl Change for Reset {
    #[inline(always)]
    fn apply<T: Int>(a: T, bit: T) -> T {
        a & !bit
    }
}

impl Change for Complement {
    #[inline(always)]
    fn apply<T: Int>(a: T, bit: T) -> T {
        a ^ bit
    }
}

/// The operand with only bit `number` modulo its width set.
#[inline(always)]
fn bit<T: Int>(number: u64) -> T {
    T::from_u64(1 << (number & u64::from(T::BITS - 1)))
}

#[inline(always)]
fn is_set<T: Int>(value: T, bit: T) -> bool {
    (value & bit).to_u64() != 0
}

/// Where bit `number` (signed) of the bit string at the op's memory operand is: the operand's offset, and the bit.
#[inline(always)]
fn in_string<T: Int>(cpu: &Cpu, op: &Op) -> (u64, T) {
    let number = cpu.reg::<T>(op.reg).to_i64();
    let operands = number >> T::BITS.trailing_zeros();
    let offset = Full::offset(cpu, op).wrapping_add((operands as u64).wrapping_mul(T::SIZE));
    let mask = u64::MAX >> (64 - 8 * u32::from(op.address_size & 15));
    (offset & mask, bit(number as u64))
}

#[inline(always)]
fn test_register<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let bit = bit::<T>(cpu.reg::<T>(op.rm).to_u64());
    cpu.flags = cpu.flags.with_carry(is_set(cpu.reg(op.reg), bit));
    Flow::Next
}

#[inline(always)]
fn test_immediate<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.flags = cpu.flags.with_carry(is_set(cpu.reg(op.reg), bit::<T>(op.imm)));
    Flow::Next
}

#[inline(always)]
fn test_memory<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.read::<T, A>(op)?;
    cpu.flags = cpu.flags.with_carry(is_set(value, bit(op.imm)));
    Ok(())
}

#[inline(always)]
fn test_string<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let (offset, bit) = in_string::<T>(cpu, op);
    let value = cpu.read_at::<T, Full>(op.seg, offset)?;
    cpu.flags = cpu.flags.with_carry(is_set(value, bit));
    Ok(())
}

#[inline(always)]
fn change_register<O: Change, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let number = cpu.reg::<T>(op.rm).to_u64();
    change::<O, T>(cpu, op, bit(number))
}

#[inline(always)]
fn change_immediate<O: Change, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    change::<O, T>(cpu, op, bit(op.imm))
}

#[inline(always)]
fn change<O: Change, T: Int>(cpu: &mut Cpu, op: &Op, bit: T) -> Flow {
    let old = cpu.reg::<T>(op.reg);
    cpu.set_reg(op.reg, O::apply(old, bit));
    cpu.flags = cpu.flags.with_carry(is_set(old, bit));
    Flow::Next
}

#[inline(always)]
fn change_memory<O: Change, T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let offset = A::offset(cpu, op);
    change_at::<O, T, A>(cpu, op.seg, offset, bit(op.imm))
}

#[inline(always)]
fn change_string<O: Change, T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let (offset, bit) = in_string::<T>(cpu, op);
    change_at::<O, T, Full>(cpu, op.seg, offset, bit)
}

#[inline(always)]
fn change_at<O: Change, T: Int, A: Address>(cpu: &mut Cpu, seg: u8, offset: u64, bit: T) -> Result<(), Fault> {
    cpu.update_at::<T, A>(seg, offset, |cpu, old| {
        cpu.flags = cpu.flags.with_carry(is_set(old, bit));
        O::apply(old, bit)
    })
}

#[inline(always)]
fn change_locked<O: Change, T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let offset = A::offset(cpu, op);
    change_locked_at::<O, T, A>(cpu, op.seg, offset, bit(op.imm))
}

#[inline(always)]
fn change_string_locked<O: Change, T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let (offset, bit) = in_string::<T>(cpu, op);
    change_locked_at::<O, T, Full>(cpu, op.seg, offset, bit)
}

#[inline(always)]
fn change_locked_at<O: Change, T: Int, A: Address>(cpu: &mut Cpu, seg: u8, offset: u64, bit: T) -> Result<(), Fault> {
    let (old, _) = cpu.update_locked_at::<T, A>(seg, offset, |old| O::apply(old, bit))?;
    cpu.flags = cpu.flags.with_carry(is_set(old, bit));
    Ok(())
}

/// An operation from a source into a register of the same size.
trait Search: 'static {
    /// New value of the destination (`None`: it stays as it is, the upper half included) and flags.
    fn apply<T: WideWord>(destination: T, source: T, flags: Flags) -> (Option<T>, Flags);
}
struct Forward;
struct Backward;
struct Ones;
struct Leading;
struct Trailing;
struct AddCarry;
struct AddOverflow;

impl Search for Forward {
    #[inline(always)]
    fn apply<T: WideWord>(_: T, source: T, _: Flags) -> (Option<T>, Flags) {
        source.bsf()
    }
}

impl Search for Backward {
    #[inline(always)]
    fn apply<T: WideWord>(_: T, source: T, _: Flags) -> (Option<T>, Flags) {
        source.bsr()
    }
}

impl Search for Ones {
    #[inline(always)]
    fn apply<T: WideWord>(_: T, source: T, _: Flags) -> (Option<T>, Flags) {
        let zero = Flags::default().with_zero(source.to_u64() == 0);
        (Some(source.popcnt()), zero)
    }
}

impl Search for Leading {
    #[inline(always)]
    fn apply<T: WideWord>(_: T, source: T, flags: Flags) -> (Option<T>, Flags) {
        (Some(source.lzcnt()), counted(source, source.lzcnt(), flags))
    }
}

impl Search for Trailing {
    #[inline(always)]
    fn apply<T: WideWord>(_: T, source: T, flags: Flags) -> (Option<T>, Flags) {
        (Some(source.tzcnt()), counted(source, source.tzcnt(), flags))
    }
}

/// CF: the source was zero. ZF: the count is zero.
#[inline(always)]
fn counted<T: Int>(source: T, count: T, flags: Flags) -> Flags {
    flags.with_carry(source.to_u64() == 0).with_zero(count.to_u64() == 0)
}

impl Search for AddCarry {
    #[inline(always)]
    fn apply<T: WideWord>(destination: T, source: T, flags: Flags) -> (Option<T>, Flags) {
        let (sum, carry) = add_with(destination, source, flags.carry());
        (Some(sum), flags.with_carry(carry))
    }
}

impl Search for AddOverflow {
    #[inline(always)]
    fn apply<T: WideWord>(destination: T, source: T, flags: Flags) -> (Option<T>, Flags) {
        let (sum, carry) = add_with(destination, source, flags.overflow != 0);
        (Some(sum), Flags { overflow: u8::from(carry), ..flags })
    }
}

#[inline(always)]
fn add_with<T: WideWord>(a: T, b: T, carry: bool) -> (T, bool) {
    let (sum, flags) = a.adc(b, Flags::default().with_carry(carry));
    (sum, flags.carry())
}

#[inline(always)]
fn search_register<O: Search, T: WideWord>(cpu: &mut Cpu, op: &Op) -> Flow {
    search::<O, T>(cpu, op, cpu.reg(op.rm));
    Flow::Next
}

#[inline(always)]
fn search_memory<O: Search, T: WideWord, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let source = cpu.read::<T, A>(op)?;
    search::<O, T>(cpu, op, source);
    Ok(())
}

#[inline(always)]
fn search<O: Search, T: WideWord>(cpu: &mut Cpu, op: &Op, source: T) {
    let (value, flags) = O::apply(cpu.reg::<T>(op.reg), source, cpu.flags);
    if let Some(value) = value {
        cpu.set_reg(op.reg, value);
    }
    cpu.flags = flags;
}

#[inline(always)]
fn crc32_register<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    crc32::<T>(cpu, op, cpu.reg(op.rm));
    Flow::Next
}

#[inline(always)]
fn crc32_memory<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.read::<T, A>(op)?;
    crc32(cpu, op, value);
    Ok(())
}

/// The upper half of a 64-bit destination becomes zero.
#[inline(always)]
fn crc32<T: Int>(cpu: &mut Cpu, op: &Op, value: T) {
    let sum = crc32c(cpu.reg(op.reg), value.to_u64(), T::SIZE as u32);
    cpu.set_reg(op.reg, sum);
}
