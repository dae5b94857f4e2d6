//! Sector bitmaps: bit n (least significant first) = sector n of the chunk is in this file, not in the parent.

use std::ops::Range;

/// Whether bit `index` is set.
pub fn get(bitmap: &[u8], index: usize) -> bool {
    bitmap[index / 8] & (1 << (index % 8)) != 0
}

/// Sets (or clears) the bits of `range`.
pub fn fill(bitmap: &mut [u8], range: Range<usize>, value: bool) {
    let mut at = range.start;
    while at < range.end {
        let (byte, first) = (at / 8, at % 8);
        let count = (8 - first).min(range.end - at);
        let mask = (((1u16 << count) - 1) << first) as u8;
        if value {
            bitmap[byte] |= mask;
        } else {
            bitmap[byte] &= !mask;
        }
        at += count;
    }
}

/// How many bits from `range.start` on (not beyond the range) equal `value`.
pub fn run_length(bitmap: &[u8], range: Range<usize>, value: bool) -> usize {
    let uniform = if value { 0xFF } else { 0 };
    let mut at = range.start;
    while at < range.end {
        if at.is_multiple_of(8) && range.end - at >= 8 && bitmap[at / 8] == uniform {
            at += 8;
        } else if get(bitmap, at) == value {
            at += 1;
        } else {
            break;
        }
    }
    at - range.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_least_significant_first() {
        let mut bitmap = [0; 4];
        fill(&mut bitmap, 1..11, true);
        assert_eq!(bitmap, [0xFE, 0x07, 0, 0]);
        assert_eq!(run_length(&bitmap, 11..32, false), 21);
        assert_eq!(run_length(&bitmap, 1..32, true), 10);
        fill(&mut bitmap, 3..9, false);
        assert_eq!(bitmap, [0x06, 0x06, 0, 0]);
    }
}
