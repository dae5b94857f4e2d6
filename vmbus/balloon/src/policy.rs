//! How much memory each VM of a host should have: pure arithmetic, no guest and no host in it.
//!
//! A VM wants its demand plus a buffer, within its minimum and maximum. While the host has enough, everyone gets what it
//! wants. When it has not, everyone keeps its minimum and the rest is shared in proportion to the weights. The sum of all
//! targets never exceeds what there is, unless the minimums alone do.

/// What a VM may have, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Never less than this.
    pub minimum: u64,
    /// Never more than this.
    pub maximum: u64,
    /// Share of the demand that is kept free on top of it, in percent.
    pub buffer: u32,
    /// Importance against other VMs, 1 to 10,000; 5,000 is usual.
    pub weight: u32,
}

/// A VM, as the policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vm {
    /// Its limits.
    pub limits: Limits,
    /// What it has now, in bytes.
    pub assigned: u64,
    /// What its guest uses, in bytes; `None` without a driver that says so: it keeps what it has.
    pub demand: Option<u64>,
}

impl Vm {
    /// What it would have if the host had memory without end.
    pub fn desired(&self) -> u64 {
        let Limits { minimum, maximum, buffer, .. } = self.limits;
        match self.demand {
            None => self.assigned,
            Some(demand) => {
                let wanted = u128::from(demand) * u128::from(100 + u64::from(buffer)) / 100;
                u64::try_from(wanted).unwrap_or(u64::MAX).min(maximum).max(minimum)
            }
        }
    }

    /// What it keeps in any case.
    fn floor(&self) -> u64 {
        if self.demand.is_none() { self.assigned } else { self.limits.minimum.min(self.desired()) }
    }
}

/// The target of each VM, when `available` bytes are there for all of them together: what they have now, and what the host
/// has free beyond its own reserve.
pub fn distribute(available: u64, vms: &[Vm]) -> Vec<u64> {
    let mut targets: Vec<u64> = vms.iter().map(Vm::floor).collect();
    let mut left = available.saturating_sub(targets.iter().fold(0, |sum: u64, floor| sum.saturating_add(*floor)));
    let mut hungry: Vec<usize> = (0..vms.len()).filter(|at| vms[*at].desired() > targets[*at]).collect();
    // Each round satisfies at least one VM, or is the last one.
    while left > 0 && !hungry.is_empty() {
        let weights: u128 = hungry.iter().map(|at| u128::from(vms[*at].limits.weight.max(1))).sum();
        let shares = hungry.iter().map(|at| {
            let share = u128::from(left) * u128::from(vms[*at].limits.weight.max(1)) / weights;
            (*at, u64::try_from(share).unwrap_or(u64::MAX))
        });
        let shares: Vec<(usize, u64)> = shares.collect();
        let before = hungry.len();
        let satisfied = |at: usize, share: u64, targets: &[u64]| vms[at].desired() - targets[at] <= share;
        let full: Vec<usize> =
            shares.iter().filter(|(at, share)| satisfied(*at, *share, &targets)).map(|(at, _)| *at).collect();
        for at in &full {
            left -= vms[*at].desired() - targets[*at];
            targets[*at] = vms[*at].desired();
        }
        hungry.retain(|at| !full.contains(at));
        if hungry.len() == before {
            for (at, share) in shares {
                targets[at] += share;
            }
            break;
        }
    }
    targets
}

/// What the host keeps for itself: a sixteenth of its memory, at least 256 MiB and at most 4 GiB.
pub fn reserve(host_total: u64) -> u64 {
    (host_total / 16).clamp(256 << 20, 4 << 30)
}
