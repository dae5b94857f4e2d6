//! The policy: what everybody gets, and that the host never runs out.

use bulkhead_balloon::policy::{Limits, Vm, distribute, reserve};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn vm(minimum: u64, maximum: u64, weight: u32, assigned: u64, demand: u64) -> Vm {
    let limits = Limits { minimum: minimum * MIB, maximum: maximum * MIB, buffer: 20, weight };
    Vm { limits, assigned: assigned * MIB, demand: Some(demand * MIB) }
}

#[test]
fn everybody_gets_demand_and_buffer_while_there_is_enough() {
    let vms = [vm(256, 4096, 5000, 512, 1000), vm(256, 4096, 5000, 2048, 100), vm(256, 1024, 5000, 512, 3000)];
    assert_eq!(distribute(100_000 * MIB, &vms), [1200 * MIB, 256 * MIB, 1024 * MIB]);
}

#[test]
fn scarce_memory_is_shared_by_weight_above_the_minimums() {
    // 3000 MiB; 500 + 500 are minimums, 2000 are left: one part for the first, three for the second.
    let vms = [vm(500, 9000, 1000, 500, 5000), vm(500, 9000, 3000, 500, 5000)];
    assert_eq!(distribute(3000 * MIB, &vms), [1000 * MIB, 2000 * MIB]);
    // The second wants less than its part: the first gets the rest.
    let vms = [vm(500, 9000, 1000, 500, 5000), vm(500, 9000, 3000, 500, 1000)];
    assert_eq!(distribute(3000 * MIB, &vms), [1800 * MIB, 1200 * MIB]);
}

#[test]
fn vms_without_a_driver_keep_what_they_have() {
    let mute = Vm { demand: None, ..vm(256, 4096, 5000, 700, 0) };
    assert_eq!(distribute(1000 * MIB, &[mute, vm(256, 4096, 5000, 300, 4000)]), [700 * MIB, 300 * MIB]);
}

#[test]
fn the_reserve_grows_with_the_host() {
    assert_eq!([1 << 30, 32 << 30, 1 << 40].map(reserve), [256 << 20, 2 << 30, 4 << 30]);
}

proptest! {
    #[test]
    fn the_host_never_runs_out(
        available in 0u64..1 << 40,
        vms in prop::collection::vec((0u64..1 << 36, 0u64..1 << 36, 0u32..10_001, 0u64..1 << 36, prop::option::of(any::<u64>())), 0..8),
    ) {
        let vms: Vec<Vm> = vms.into_iter().map(|(minimum, more, weight, assigned, demand)| {
            let limits = Limits { minimum, maximum: minimum + more, buffer: weight % 200, weight };
            Vm { limits, assigned, demand }
        }).collect();
        let targets = distribute(available, &vms);
        let floors: u64 = vms.iter().map(|vm| if vm.demand.is_some() { vm.limits.minimum } else { vm.assigned }).sum();
        prop_assert!(targets.iter().sum::<u64>() <= available.max(floors));
        for (vm, target) in vms.iter().zip(&targets) {
            prop_assert!(*target <= vm.desired());
            prop_assert!(vm.demand.is_none() || (vm.limits.minimum..=vm.limits.maximum).contains(target));
        }
        // Nobody goes hungry while memory is left.
        let given = targets.iter().sum::<u64>();
        if given + (vms.len() as u64) < available {
            prop_assert!(vms.iter().zip(&targets).all(|(vm, target)| *target == vm.desired()));
        }
    }
}
