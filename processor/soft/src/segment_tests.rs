//! Descriptors and what segment registers make of them.

use crate::cpu::SegmentRegister;
use crate::segment::Descriptor;
use bulkhead_engine::Segment;

fn descriptor(raw: u64) -> Descriptor {
    Descriptor { raw, high: 0, address: 0 }
}

#[test]
fn fields_are_where_the_manual_says() {
    let code = descriptor(0x12cf_9a34_5678_ffff);
    assert!(code.is_code() && code.is_present() && code.is_big() && !code.is_long() && !code.is_conforming());
    assert_eq!((code.base(), code.limit(), code.dpl()), (0x1234_5678, u32::MAX, 0));
    assert!(code.is_readable() && !code.is_writable());
    let gate = descriptor(0xdead_ee00_0008_beef);
    assert!(!gate.is_segment() && gate.dpl() == 3);
    assert_eq!((gate.kind(), gate.gate_selector(), gate.gate_offset()), (14, 8, 0xdead_beef));
    let tss = Descriptor { raw: 0x0000_8900_1000_0067, high: 0xffff_8000, address: 0 };
    assert_eq!(tss.base(), 0xffff_8000_0000_1000);
}

#[test]
fn valid_offsets_follow_limit_direction_and_rights() {
    let offsets = |limit, attributes| {
        let register = SegmentRegister::from(Segment { base: 0, limit, selector: 8, attributes });
        (register.low, register.high, register.readable, register.writable)
    };
    assert_eq!(offsets(0xfff, 0x93), (0, 0xfff, true, true));
    assert_eq!(offsets(0xfff, 0x91), (0, 0xfff, true, false), "read-only data");
    assert_eq!(offsets(0xfff, 0x99), (0, 0xfff, false, false), "execute-only code");
    assert_eq!(offsets(0xfff, 0x9b), (0, 0xfff, true, false), "readable code");
    assert_eq!(offsets(0xfff, 0x13), (0, 0xfff, false, false), "not present");
    assert_eq!(offsets(0xfff, 0x97), (0x1000, 0xffff, true, true), "expand down, 16 bits");
    assert_eq!(offsets(0xfff, 0x4097), (0x1000, u32::MAX, true, true), "expand down, 32 bits");
    assert!(!offsets(u32::MAX, 0x4097).2, "expand down with the largest limit: nothing");
    assert!(!offsets(0xfff, 0x82).2, "system descriptors");
}
