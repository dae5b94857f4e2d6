//! The saved form of a VP: round trips, and refusal of what no VP can be.

use bulkhead_engine::saved_state::SavedVp;
use bulkhead_engine::{Activity, InterruptShadow, PendingException, VpState, msr};
use proptest::prelude::*;

fn decode(bytes: &[u8]) -> Option<VpState> {
    minicbor::decode::<SavedVp>(bytes).ok()?.restore(0).ok()
}

fn encode(state: &VpState) -> Vec<u8> {
    minicbor::to_vec(SavedVp::from(state)).expect("encoding into memory cannot fail")
}

#[test]
fn power_on_state_comes_back_equal() {
    for index in [0, 1, 7] {
        let state = VpState::power_on(index, 0x00a1_0f11);
        assert_eq!(decode(&encode(&state)), Some(state));
    }
}

#[test]
fn every_saved_msr_has_a_value_and_the_list_is_sorted() {
    let state = VpState::power_on(0, 0);
    assert!(state.msrs.is_sorted_by(|a, b| a.0 < b.0));
    assert!(msr::SAVED.iter().all(|&number| state.msr(number).is_some()));
}

proptest! {
    #[test]
    fn changed_states_come_back_equal(
        registers in any::<[u64; 16]>(),
        rip in any::<u64>(),
        efer in any::<u64>(),
        activity in 0..4,
        shadow in 0..3,
        exception in any::<Option<(u8, Option<u32>, u64)>>(),
    ) {
        let mut state = VpState::power_on(0, 0);
        state.gpr = registers;
        state.rip = rip;
        state.efer = efer;
        state.set_msr(msr::LSTAR, rip);
        state.activity =
            [Activity::Running, Activity::Halted, Activity::WaitForSipi, Activity::Shutdown][activity as usize];
        state.shadow = [InterruptShadow::None, InterruptShadow::Sti, InterruptShadow::MovSs][shadow as usize];
        state.pending_exception =
            exception.map(|(vector, error_code, payload)| PendingException { vector, error_code, payload });
        prop_assert_eq!(decode(&encode(&state)), Some(state));
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_state_never_a_panic(at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = encode(&VpState::power_on(0, 0));
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let _ = decode(&bytes);
    }
}
