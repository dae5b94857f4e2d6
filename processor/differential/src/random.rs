//! A small generator of pseudo-random numbers, and the values that find bugs.

/// xorshift64*, seeded; the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

/// Values around which integer code breaks.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ff80,
    0xffff_ffff_ffff_ffff,
];

/// Doubles, and pairs of floats, with something special about them.
const FLOATS: [u64; 16] = [
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0000,
    0x4000_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    0x0000_0000_0000_0001,
    0x0010_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x3f80_0000_bf80_0000,
    0x7f80_0000_ff80_0000,
    0x7fc0_0000_7f80_0001,
    0x0000_0001_0080_0000,
    0x7f7f_ffff_8000_0000,
];

impl Random {
    /// Any seed will do.
    pub fn new(seed: u64) -> Self {
        // Spread neighbouring seeds (splitmix64), and never start from zero.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ z >> 31) | 1)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in `0..end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // Bias below 2^-32 does not matter here.
        if end == 0 { 0 } else { (self.bits() >> 32) % end }
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// An integer that is often near an edge, small, or random.
    pub fn integer(&mut self) -> u64 {
        match self.below(8) {
            0..=2 => self.pick(&EDGES),
            3 => self.pick(&EDGES).wrapping_add(self.below(5)).wrapping_sub(2),
            4 | 5 => self.below(256),
            6 => self.bits() & 0xffff_ffff,
            _ => self.bits(),
        }
    }

    /// Eight bytes of vector or floating-point data.
    pub fn lane(&mut self) -> u64 {
        match self.below(8) {
            0..=2 => self.pick(&FLOATS),
            // A double near one, so that arithmetic is not always infinite or invalid.
            3 | 4 => 0x3ff0_0000_0000_0000 ^ self.bits() >> 12 ^ self.below(2) << 63,
            5 => self.integer(),
            // Two floats near one.
            6 => 0x3f80_0000_3f80_0000 ^ self.bits() & 0x007f_ffff_807f_ffff,
            _ => self.bits(),
        }
    }
}
