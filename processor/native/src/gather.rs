//! AVX2 gathers: each element has its own address, so the interpreter loads them one by one.

use iced_x86::{Instruction, Register};

use crate::{NativeState, NotNative};

/// A gather instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gather {
    /// Bytes per element: 4 or 8.
    pub element: u8,
    count: u8,
    index_size: u8,
    scale: u8,
    destination: u8,
    index: u8,
    mask: u8,
}

impl Gather {
    pub(crate) fn new(instruction: &Instruction) -> Result<Self, NotNative> {
        let destination = instruction.op0_register();
        let mask = instruction.op2_register();
        let index = instruction.memory_index();
        let numbers = [destination, index, mask].map(Register::number);
        if numbers[0] == numbers[1] || numbers[1] == numbers[2] || numbers[0] == numbers[2] {
            return Err(NotNative::Undefined(instruction.code()));
        }
        let element = instruction.memory_size().element_size().max(instruction.memory_size().size().min(8)) as u8;
        let index_size: u8 = if instruction.is_vsib64() { 8 } else { 4 };
        let count = (destination.size() as u8 / element).min(index.size() as u8 / index_size);
        Ok(Self {
            element,
            count,
            index_size,
            scale: instruction.memory_index_scale() as u8,
            destination: numbers[0] as u8,
            index: numbers[1] as u8,
            mask: numbers[2] as u8,
        })
    }

    /// All of it in 20 bits.
    pub const fn to_bits(self) -> u32 {
        let registers = self.destination as u32 | (self.index as u32) << 4 | (self.mask as u32) << 8;
        let sizes = self.element.trailing_zeros()
            | self.index_size.trailing_zeros() << 2
            | self.scale.trailing_zeros() << 4
            | self.count.trailing_zeros() << 6;
        registers | sizes << 12
    }

    /// The reverse of [`Self::to_bits`]; other bits are ignored.
    pub const fn from_bits(bits: u32) -> Self {
        Self {
            destination: (bits & 15) as u8,
            index: (bits >> 4 & 15) as u8,
            mask: (bits >> 8 & 15) as u8,
            element: 1 << (bits >> 12 & 3),
            index_size: 1 << (bits >> 14 & 3),
            scale: 1 << (bits >> 16 & 3),
            count: 1 << (bits >> 18 & 3),
        }
    }

    /// Executes it. `load` reads [`Self::element`] bytes at base + displacement + its argument.
    ///
    /// When `load` fails, the elements before are in place and their mask is cleared (SDM vol. 2, VGATHERDPS), so
    /// that the instruction goes on from there.
    pub fn run<E>(&self, state: &mut NativeState, mut load: impl FnMut(i64) -> Result<u64, E>) -> Result<(), E> {
        let size = usize::from(self.element);
        let index = state.vector[usize::from(self.index)].0;
        let (destination, mask) = (usize::from(self.destination), usize::from(self.mask));
        self.widen_mask(&mut state.vector[mask].0);
        for at in (0..usize::from(self.count)).map(|i| i * size) {
            if state.vector[mask].0[at] != 0 {
                let value = load(self.offset(&index, at / size))?;
                state.vector[destination].0[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                state.vector[mask].0[at..at + size].fill(0);
            }
        }
        state.vector[mask].0 = [0; 32];
        state.vector[destination].0[usize::from(self.count) * size..].fill(0);
        Ok(())
    }

    /// The sign bit of each element decides; it is spread before anything is loaded.
    fn widen_mask(&self, mask: &mut [u8; 32]) {
        let size = usize::from(self.element);
        let (used, above) = mask.split_at_mut(usize::from(self.count) * size);
        above.fill(0);
        for element in used.chunks_exact_mut(size) {
            let on = element[size - 1] >= 0x80;
            element.fill(if on { 0xff } else { 0 });
        }
    }

    fn offset(&self, index: &[u8; 32], element: usize) -> i64 {
        let at = element * usize::from(self.index_size);
        let mut bytes = [0; 8];
        bytes[..usize::from(self.index_size)].copy_from_slice(&index[at..at + usize::from(self.index_size)]);
        let value = i64::from_le_bytes(bytes);
        let value = if self.index_size == 4 { i64::from(value as i32) } else { value };
        value.wrapping_mul(i64::from(self.scale))
    }
}
