//! Fuzz target: guest bytes to stubs, and guest images to state.

use iced_x86::{Decoder, DecoderOptions};

use crate::{EnvFormat, Gather, Lowered, Masked, NativeState, Slot, Stubs};

/// Lowers whatever the bytes decode to in each mode, and loads them as state images. Nothing is executed.
pub fn fuzz(data: &[u8]) {
    let Ok(stubs) = Stubs::new() else { return };
    for bits in [16, 32, 64] {
        for instruction in &mut Decoder::new(bits, data, DecoderOptions::NONE) {
            let lowered = stubs.get(&instruction);
            if let Ok(Lowered::Gather(gather)) = lowered {
                assert_eq!(Gather::from_bits(gather.to_bits()), gather, "{instruction:?}");
            }
            if let Ok(Lowered::Stub(stub)) = lowered {
                let masked = stub.memory.and_then(|memory| memory.masked);
                assert!(masked.is_none_or(|masked| Masked::from_bits(masked.to_bits()) == masked), "{instruction:?}");
                assert!(stub.memory.is_none_or(|memory| (1..=64).contains(&memory.size)), "{instruction:?}");
                let number = |slot: &Slot| match *slot {
                    Slot::Gpr { register, byte } => register + byte,
                    Slot::Vector(number) => number,
                    Slot::None => 0,
                };
                assert!(stub.registers.iter().all(|slot| number(slot) < 16), "{instruction:?}");
            }
        }
    }
    let mut area = [0; 832];
    let len = data.len().min(area.len());
    area[..len].copy_from_slice(&data[..len]);
    let mut state = NativeState::new();
    let _ = state.xrstor(&area, 7, 7, true, 16);
    state.load_xsave(&area);
    for (protected, wide) in [(false, false), (false, true), (true, false), (true, true)] {
        let format = EnvFormat { protected, wide };
        state.frstor(&area[..format.size() + 80], format);
        let _ = state.fnstenv(format);
    }
    // Any state must be acceptable to the host.
    state.enter();
    state.use_x87();
    state.leave();
}
