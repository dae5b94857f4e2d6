//! The host's instructions against the definitions in the manuals, written out in 128-bit arithmetic.

use super::*;

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ALL: u64 = CF | PF | AF | ZF | SF | OF;

/// Edge values and pseudo-random ones of a width.
fn samples<T: Int>() -> Vec<T> {
    let sign = 1 << (T::BITS - 1);
    let mut values = vec![0, 1, 2, 7, 8, 9, 15, 16, 0x7f, 0x80, 0x81, 0xff, sign, sign - 1, sign + 1, T::MASK];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..48 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values.push(state);
    }
    if T::BITS == 8 {
        values = (0..=255).collect();
    }
    values.into_iter().map(T::from_u64).collect()
}

fn result_flags<T: Int>(result: T) -> u64 {
    let zero = if result.to_u64() == 0 { ZF } else { 0 };
    let sign = if result.to_i64() < 0 { SF } else { 0 };
    let parity = if (result.to_u64() as u8).count_ones().is_multiple_of(2) { PF } else { 0 };
    zero | sign | parity
}

fn bit(condition: bool, flag: u64) -> u64 {
    if condition { flag } else { 0 }
}

fn fits<T: Int>(value: i128) -> bool {
    i128::from(T::from_u64(value as u64).to_i64()) == value
}

fn add_model<T: Int>(a: T, b: T, carry: bool) -> (T, u64) {
    let (x, y, c) = (a.to_u64(), b.to_u64(), u64::from(carry));
    let wide = u128::from(x) + u128::from(y) + u128::from(c);
    let result = T::from_u64(wide as u64);
    let signed = i128::from(a.to_i64()) + i128::from(b.to_i64()) + i128::from(c);
    let flags = bit(wide > u128::from(T::MASK), CF)
        | bit((x & 15) + (y & 15) + c > 15, AF)
        | bit(!fits::<T>(signed), OF)
        | result_flags(result);
    (result, flags)
}

fn sub_model<T: Int>(a: T, b: T, borrow: bool) -> (T, u64) {
    let (x, y, c) = (a.to_u64(), b.to_u64(), u64::from(borrow));
    let result = T::from_u64(x.wrapping_sub(y).wrapping_sub(c));
    let signed = i128::from(a.to_i64()) - i128::from(b.to_i64()) - i128::from(c);
    let flags = bit(u128::from(x) < u128::from(y) + u128::from(c), CF)
        | bit((x & 15) < (y & 15) + c, AF)
        | bit(!fits::<T>(signed), OF)
        | result_flags(result);
    (result, flags)
}

#[track_caller]
fn check<T: Int>(got: (T, Flags), expected: (T, u64), defined: u64, what: std::fmt::Arguments) {
    let flags = (got.1.get() & defined, expected.1 & defined);
    assert!(
        got.0 == expected.0 && flags.0 == flags.1,
        "{what}: {:x?} {:x}, expected {:x?} {:x}",
        got.0,
        flags.0,
        expected.0,
        flags.1
    );
}

fn additions<T: Word>() {
    for a in samples::<T>() {
        for b in samples::<T>() {
            let what = format_args!("{a:x?} {b:x?}").to_string();
            for carry in [false, true] {
                let flags = Flags::default().with_carry(carry);
                check(a.adc(b, flags), add_model(a, b, carry), ALL, format_args!("adc {what} {carry}"));
                check(a.sbb(b, flags), sub_model(a, b, carry), ALL, format_args!("sbb {what} {carry}"));
            }
            check(a.add(b), add_model(a, b, false), ALL, format_args!("add {what}"));
            check(a.sub(b), sub_model(a, b, false), ALL, format_args!("sub {what}"));
            check((a, a.compare(b)), (a, sub_model(a, b, false).1), ALL, format_args!("cmp {what}"));
            let logic = |result: T| (result, result_flags(result));
            check(a.and(b), logic(a & b), ALL & !AF, format_args!("and {what}"));
            check(a.or(b), logic(a | b), ALL & !AF, format_args!("or {what}"));
            check(a.xor(b), logic(a ^ b), ALL & !AF, format_args!("xor {what}"));
            check((a, a.test(b)), (a, result_flags(a & b)), ALL & !AF, format_args!("test {what}"));
        }
        check(a.neg(), sub_model(T::from_u64(0), a, false), ALL, format_args!("neg {a:x?}"));
        for carry in [false, true] {
            let flags = Flags::default().with_carry(carry);
            let with = |(result, flags): (T, u64)| (result, flags & !CF | bit(carry, CF));
            let one = T::from_u64(1);
            check(a.inc(flags), with(add_model(a, one, false)), ALL, format_args!("inc {a:x?}"));
            check(a.dec(flags), with(sub_model(a, one, false)), ALL, format_args!("dec {a:x?}"));
        }
    }
}

#[test]
fn additions_match_their_definition() {
    additions::<u8>();
    additions::<u16>();
    additions::<u32>();
    additions::<u64>();
}

fn shifts<T: Word>() {
    let bits = u32::from(T::BITS == 64) * 32 + 31;
    for a in samples::<T>() {
        for count in (0..=70).chain([127, 128, 255]) {
            for old in [0, ALL] {
                let flags = Flags::from_rflags(old);
                let n = u32::from(count) & bits;
                let what = format_args!("{a:x?} by {count}").to_string();
                if n == 0 {
                    for (result, after) in [
                        a.shl(count, flags),
                        a.shr(count, flags),
                        a.sar(count, flags),
                        a.rol(count, flags),
                        a.ror(count, flags),
                        a.rcl(count, flags),
                        a.rcr(count, flags),
                    ] {
                        assert!(result == a && after.get() == old, "{what}: nothing changes");
                    }
                    continue;
                }
                let once = bit(n == 1, OF);
                let left = u128::from(a.to_u64()) << n;
                let shl = T::from_u64(left as u64);
                let shl_flags = bit(left >> T::BITS & 1 != 0, CF);
                let shl_of = bit((shl.to_i64() < 0) != (shl_flags & CF != 0), OF);
                let carry_known = bit(n <= T::BITS, CF);
                check(
                    a.shl(count, flags),
                    (shl, shl_flags | shl_of | result_flags(shl)),
                    SF | ZF | PF | once | carry_known,
                    format_args!("shl {what}"),
                );
                let shr = T::from_u64(a.to_u64().checked_shr(n).unwrap_or(0));
                let out = a.to_u64().checked_shr(n - 1).unwrap_or(0) & 1 != 0;
                check(
                    a.shr(count, flags),
                    (shr, bit(out, CF) | bit(a.to_i64() < 0, OF) | result_flags(shr)),
                    SF | ZF | PF | once | carry_known,
                    format_args!("shr {what}"),
                );
                let sar = T::from_u64((a.to_i64() >> n.min(63)) as u64);
                let out = a.to_i64() >> (n - 1).min(63) & 1 != 0;
                check(
                    a.sar(count, flags),
                    (sar, bit(out, CF) | result_flags(sar)),
                    SF | ZF | PF | once | CF,
                    format_args!("sar {what}"),
                );
                rotates(a, count, n, old);
            }
        }
    }
}

fn rotates<T: Word>(a: T, count: u8, n: u32, old: u64) {
    let flags = Flags::from_rflags(old);
    let (what, once) = (format_args!("{a:x?} by {count}").to_string(), bit(n == 1, OF));
    let kept = old & (SF | ZF | PF | AF);
    let r = n % T::BITS;
    let double = u128::from(a.to_u64()) << T::BITS | u128::from(a.to_u64());
    let rol = T::from_u64((double << r >> T::BITS) as u64);
    let top = |value: T| value.to_i64() < 0;
    let low = |value: T| value.to_u64() & 1 != 0;
    let second = |value: T| value.to_u64() >> (T::BITS - 2) & 1 != 0;
    let defined = SF | ZF | PF | AF | CF | once;
    let rol_flags = kept | bit(low(rol), CF) | bit(top(rol) != low(rol), OF);
    check(a.rol(count, flags), (rol, rol_flags), defined, format_args!("rol {what}"));
    let ror = T::from_u64((double >> r) as u64);
    let ror_flags = kept | bit(top(ror), CF) | bit(top(ror) != second(ror), OF);
    check(a.ror(count, flags), (ror, ror_flags), defined, format_args!("ror {what}"));
    // Through the carry, one bit after the other.
    let (mut left, mut right, mut left_carry, mut right_carry) = (a, a, old & CF, old & CF);
    for _ in 0..n {
        let out = u64::from(top(left));
        left = T::from_u64(left.to_u64() << 1 | left_carry);
        left_carry = out;
        let out = u64::from(low(right));
        right = T::from_u64(right.to_u64() >> 1 | right_carry << (T::BITS - 1));
        right_carry = out;
    }
    let left_flags = kept | left_carry | bit(top(left) != (left_carry != 0), OF);
    check(a.rcl(count, flags), (left, left_flags), defined, format_args!("rcl {what}"));
    let right_flags = kept | right_carry | bit(top(right) != second(right), OF);
    check(a.rcr(count, flags), (right, right_flags), defined, format_args!("rcr {what}"));
}

#[test]
fn shifts_and_rotates_match_their_definition() {
    shifts::<u8>();
    shifts::<u16>();
    shifts::<u32>();
    shifts::<u64>();
}

fn products<T: Word>() {
    let half = |value: u128, n: u32| T::from_u64((value >> (n * T::BITS)) as u64);
    for a in samples::<T>() {
        for b in samples::<T>() {
            let (low, high, flags) = a.mul_wide(b);
            let product = u128::from(a.to_u64()) * u128::from(b.to_u64());
            assert!(low == half(product, 0) && high == half(product, 1), "mul {a:x?} {b:x?}");
            let over = bit(high.to_u64() != 0, CF | OF);
            assert_eq!(flags.get() & (CF | OF), over, "mul {a:x?} {b:x?}");
            let (low, high, flags) = a.imul_wide(b);
            let product = i128::from(a.to_i64()) * i128::from(b.to_i64());
            assert!(low == half(product as u128, 0) && high == half(product as u128, 1), "imul {a:x?} {b:x?}");
            assert_eq!(flags.get() & (CF | OF), bit(!fits::<T>(product), CF | OF), "imul {a:x?} {b:x?}");
        }
    }
}

fn quotients<T: Word>() {
    let values = samples::<T>();
    for &high in values.iter().step_by(3) {
        for &low in values.iter().step_by(5) {
            for &divisor in &values {
                let dividend = u128::from(high.to_u64()) << T::BITS | u128::from(low.to_u64());
                let d = u128::from(divisor.to_u64());
                let expected = dividend.checked_div(d).filter(|&q| q <= u128::from(T::MASK));
                let expected = expected.map(|q| (T::from_u64(q as u64), T::from_u64((dividend % d) as u64)));
                assert_eq!(low.div_wide(high, divisor), expected, "div {high:x?}:{low:x?} by {divisor:x?}");
                let dividend = (i128::from(high.to_i64()) << T::BITS) + i128::from(low.to_u64());
                let d = i128::from(divisor.to_i64());
                let expected = dividend.checked_div(d).filter(|&q| fits::<T>(q));
                let expected = expected.map(|q| (T::from_u64(q as u64), T::from_u64((dividend % d) as u64)));
                assert_eq!(low.idiv_wide(high, divisor), expected, "idiv {high:x?}:{low:x?} by {divisor:x?}");
            }
        }
    }
}

#[test]
fn products_and_quotients_match_their_definition() {
    products::<u8>();
    products::<u16>();
    products::<u32>();
    products::<u64>();
    quotients::<u8>();
    quotients::<u16>();
    quotients::<u32>();
    quotients::<u64>();
}

#[test]
fn every_condition_reads_its_flags() {
    for bits in 0..64_u64 {
        let spread = bits & 1 | bits << 1 & PF | bits << 2 & AF | bits << 3 & (ZF | SF) | bits << 6 & OF;
        let flags = Flags::from_rflags(spread);
        assert_eq!(flags.get(), spread);
        let [c, p, z, s, o] = [CF, PF, ZF, SF, OF].map(|flag| spread & flag != 0);
        let expected = [o, c, z, c || z, s, p, s != o, z || s != o];
        for (even, expected) in conditions(flags).chunks_exact(2).zip(expected) {
            assert_eq!(even, [expected, !expected], "conditions of {spread:x}");
        }
    }
}

fn conditions(flags: Flags) -> [bool; 16] {
    macro_rules! all {
        ($($cc:literal)*) => { [$(flags.condition::<$cc>()),*] };
    }
    all!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

#[test]
fn crc32c_of_the_check_string() {
    let sum = b"123456789".iter().fold(!0, |sum, &byte| crc32c(sum, u64::from(byte), 1));
    assert_eq!(!sum, 0xe306_9283);
}
