//! Memory images (FXSAVE, XSAVE, FNSAVE, FNSTENV) against those that the host processor itself writes.

use std::arch::asm;

use bulkhead_native::{EnvFormat, NativeState, X87Pointers};

#[repr(C, align(64))]
#[derive(Clone)]
struct Area([u8; 832]);

/// xorshift64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// An XSAVE area with random contents; x87 pointers zero, because the host's point into this test.
    fn area(&mut self) -> Area {
        let mut area = Area([0; 832]);
        let mut put =
            |at: usize, value: u64, len: usize| area.0[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        put(0, self.bits() & 0xf3f | 0x40, 2);
        put(4, self.bits(), 1);
        // Sticky flags only where the exception is masked: nothing pends while the test itself runs.
        put(2, self.bits() & 0x7f00, 2);
        put(24, self.bits() & 0xe07f | 0x1f80, 4);
        for register in 0..8 {
            put(32 + 16 * register, self.bits() << (self.bits() & 63), 8);
            let exponent = [0, 0x7fff, 0x3fff, self.bits() & 0x7fff][self.bits() as usize & 3];
            put(40 + 16 * register, exponent | self.bits() << 15, 2);
        }
        for lane in 0..32 {
            put(160 + 8 * lane, self.bits(), 8);
            put(576 + 8 * lane, self.bits(), 8);
        }
        put(512, self.bits() & 7, 1);
        area
    }
}

/// Loads an area into the host, executes instructions that write to `[{out}]`, and cleans up.
macro_rules! on_host {
    ($area:expr, $out:expr, $($instruction:literal),+) => {{
        let (area, out): (&Area, *mut u8) = (&$area, $out);
        let normal = 0x1f80_u32;
        // SAFETY: aligned areas of sufficient size; every register that XRSTOR changes is declared or put back.
        unsafe {
            asm!(
                "xrstor64 [{area}]",
                $($instruction,)+
                "fninit",
                "ldmxcsr [{normal}]",
                "vzeroupper",
                area = in(reg) area.0.as_ptr(),
                out = in(reg) out,
                normal = in(reg) &raw const normal,
                inout("eax") 7 => _,
                inout("edx") 0 => _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            );
        }
    }};
}

fn loaded(area: &Area) -> NativeState {
    let mut state = NativeState::new();
    state.load_xsave(&area.0);
    state
}

fn cases() -> impl Iterator<Item = Area> {
    let mut random = Random(0x1234_5678_9abc_def1);
    (0..2000).map(move |_| random.area())
}

fn host_has_xsave() -> bool {
    let has = is_x86_feature_detected!("xsave") && is_x86_feature_detected!("avx");
    if !has {
        eprintln!("skipped: the host has no XSAVE with AVX state");
    }
    has
}

#[test]
fn xsave_and_xrstor() {
    if !host_has_xsave() {
        return;
    }
    for area in cases() {
        let mut expected = Area([0xa5; 832]);
        expected.0[512..576].fill(0);
        let mut found = expected.clone();
        on_host!(area, expected.0.as_mut_ptr(), "xsave64 [{out}]");
        loaded(&area).xsave(&mut found.0, 7, true, 16);
        // Whether a component in its initial state counts as in use is the processor's choice.
        let (there, here) = (expected.0[512], found.0[512]);
        assert_eq!(here & !there, 0, "header {here:#x}, host {there:#x}");
        expected.0[512] = here;
        assert_eq!(expected.0[..], found.0[..]);
    }
}

#[test]
fn fxsave_in_both_sizes() {
    if !host_has_xsave() {
        return;
    }
    for area in cases() {
        let mut expected = Area([0xa5; 832]);
        let mut found = [0xa5; 512];
        on_host!(area, expected.0.as_mut_ptr(), "fxsave64 [{out}]");
        let mut state = loaded(&area);
        state.fxsave(&mut found, true, 16);
        assert_eq!(expected.0[..512], found);
        let mut again = NativeState::new();
        again.fxrstor(&found, true, 16).unwrap();
        let mut narrow = [0; 512];
        let mut other = [0; 512];
        state.fxsave(&mut narrow, false, 8);
        again.fxsave(&mut other, false, 8);
        assert_eq!(narrow, other);
        assert_eq!(narrow[288..416], [0; 128]);
    }
}

#[test]
fn environments() {
    if !host_has_xsave() {
        return;
    }
    for area in cases() {
        for (wide, len) in [(true, 28), (false, 14)] {
            let mut expected = Area([0; 832]);
            let out = expected.0.as_mut_ptr();
            if wide {
                on_host!(area, out, "fnstenv [{out}]", "fnstcw [{out} + 100]", "fnstsw [{out} + 102]");
            } else {
                on_host!(area, out, ".byte 0x66", "fnstenv [{out}]", "fnstcw [{out} + 100]", "fnstsw [{out} + 102]");
            }
            let mut state = loaded(&area);
            let (found, size) = state.fnstenv(EnvFormat { protected: true, wide });
            assert_eq!(size, len);
            // FIP, FCS, FOP, FDP, FDS of the host are those of this test; the reserved half of FDS stays.
            let pointers = if wide { 12..26 } else { 6..14 };
            expected.0[pointers].fill(0);
            assert_eq!(expected.0[..len], found[..len]);
            // FNSTENV masks all exceptions.
            let mut image = [0; 512];
            state.fxsave(&mut image, true, 16);
            assert_eq!(image[..4], expected.0[100..104]);
        }
    }
}

#[test]
fn whole_x87_images() {
    if !host_has_xsave() {
        return;
    }
    for area in cases() {
        let mut expected = Area([0; 832]);
        let out = expected.0.as_mut_ptr();
        on_host!(area, out, "fnsave [{out}]", "frstor [{out}]", "fxsave64 [{out} + 128]");
        let format = EnvFormat { protected: true, wide: true };
        let mut state = loaded(&area);
        let (found, size) = state.fnsave(format);
        assert_eq!(size, 108);
        expected.0[12..26].fill(0);
        assert_eq!(expected.0[..108], found);
        let mut image = [0; 512];
        state.frstor(&found, format);
        state.fxsave(&mut image, true, 16);
        // x87 registers after the round trip; the environment has no tags that FXSAVE could not have.
        assert_eq!(image[32..160], expected.0[160..288]);
        assert_eq!(image[..5], expected.0[128..133]);
    }
}

#[test]
fn pointers_in_all_four_formats() {
    let pointers = X87Pointers { fip: 0x1234, fdp: 0x5678, fcs: 0x2345, fds: 0x4567, fop: 0x2c3 };
    let save = |protected, wide| {
        let mut state = NativeState::new();
        state.pointers = pointers;
        let (bytes, _) = state.fnstenv(EnvFormat { protected, wide });
        let mut back = NativeState::new();
        back.fldenv(&bytes, EnvFormat { protected, wide });
        (bytes, back.pointers)
    };
    let (bytes, back) = save(true, true);
    assert_eq!(bytes[12..28], [0x34, 0x12, 0, 0, 0x45, 0x23, 0xc3, 2, 0x78, 0x56, 0, 0, 0x67, 0x45, 0xff, 0xff]);
    assert_eq!(back, pointers);
    let (bytes, back) = save(true, false);
    assert_eq!(bytes[6..14], [0x34, 0x12, 0x45, 0x23, 0x78, 0x56, 0x67, 0x45]);
    assert_eq!(back, X87Pointers { fop: 0, ..pointers });
    // Linear addresses: 0x23450 + 0x1234 = 0x24684, 0x45670 + 0x5678 = 0x4ace8.
    let linear = X87Pointers { fip: 0x2_4684, fdp: 0x4_ace8, fcs: 0, fds: 0, fop: 0x2c3 };
    let (bytes, back) = save(false, true);
    assert_eq!(bytes[12..28], [0x84, 0x46, 0xff, 0xff, 0xc3, 0x22, 0, 0, 0xe8, 0xac, 0xff, 0xff, 0, 0x40, 0, 0]);
    assert_eq!(back, linear);
    let (bytes, back) = save(false, false);
    assert_eq!(bytes[6..14], [0x84, 0x46, 0xc3, 0x22, 0xe8, 0xac, 0, 0x40]);
    assert_eq!(back, linear);
}

#[test]
fn reserved_bits_are_refused() {
    let mut image = [0; 832];
    image[24..28].copy_from_slice(&0x1_0000_u32.to_le_bytes());
    let mut state = NativeState::new();
    let legacy: [u8; 512] = image[..512].try_into().unwrap();
    assert!(state.fxrstor(&legacy, true, 16).is_err());
    assert!(state.xrstor(&image, 7, 7, true, 16).is_err());
    assert!(state.xrstor(&image, 1, 7, true, 16).is_ok(), "MXCSR is not looked at for x87 alone");
    image = [0; 832];
    image[512] = 4;
    assert!(state.xrstor(&image, 7, 3, true, 16).is_err(), "a component that XCR0 lacks");
    image[512] = 0;
    image[520] = 1;
    assert!(state.xrstor(&image, 7, 7, true, 16).is_err(), "the compacted format");
    assert!(state.set_mxcsr(0x1_0000).is_err());
}
