//! How much of the machine's energy was a task's.
//!
//! Pure arithmetic over what the meters said at two moments; [`super::meter`] sees to the moments. The
//! CPUs' energy between them is shared by CPU time: a task that used half of all CPU time that anything
//! on the machine used gets half of it, idle power included. A GPU's energy is a task's only when the
//! whole GPU was. What cannot be read is absent and never guessed.

use std::collections::BTreeMap;
use std::time::Instant;

use p2pnode_protocol::{Gpu, WHOLE_GPU};

/// What the machine's meters said at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// When.
    pub(super) at: Instant,
    /// Counts how often the count of CPU time began anew: only within one can it be compared.
    pub(super) generation: u64,
    /// Energy of the CPU packages so far, in microjoules.
    pub(super) cpu_uj: Option<u64>,
    /// CPU time used by everything on the machine so far, in microseconds.
    pub(super) busy_us: u64,
    /// Energy of each GPU so far, by UUID, in millijoules; those that can tell.
    pub(super) gpus: BTreeMap<String, u64>,
}

/// The energy in millijoules of a task that used `cpu_us` of CPU time and had `gpus`, by what was
/// counted from `first` to `last`. `None` when it cannot be told:
///
/// - nothing lies between the two samples;
/// - the task had a GPU of which it did not have all, or that does not count its energy;
/// - neither CPUs nor GPUs can be read, or their counts began anew.
///
/// Of a task with whole GPUs whose CPUs cannot be read it is the GPUs' alone.
pub(super) fn of_task(first: &Sample, last: &Sample, cpu_us: u64, gpus: &[Gpu]) -> Option<u64> {
    if last.at <= first.at {
        return None;
    }
    let cpu = of_cpus(first, last, cpu_us);
    if gpus.is_empty() {
        return cpu;
    }
    let mut total = cpu.unwrap_or(0);
    for gpu in gpus {
        let whole = gpu.milli == WHOLE_GPU && !gpu.shared;
        let counted = |sample: &Sample| sample.gpus.get(&gpu.uuid).copied();
        let taken = counted(last)?.checked_sub(counted(first)?)?;
        total = total.saturating_add(whole.then_some(taken)?);
    }
    Some(total)
}

fn of_cpus(first: &Sample, last: &Sample, cpu_us: u64) -> Option<u64> {
    if last.generation != first.generation {
        return None;
    }
    let taken_uj = last.cpu_uj?.checked_sub(first.cpu_uj?)?;
    let busy_us = last.busy_us.checked_sub(first.busy_us)?;
    if cpu_us == 0 {
        return Some(0);
    }
    if busy_us == 0 {
        return None;
    }
    // Clocks differ by a tick; nobody has more than all.
    let mine_us = cpu_us.min(busy_us);
    let uj = u128::from(taken_uj) * u128::from(mine_us) / u128::from(busy_us);
    u64::try_from(uj / 1_000).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use p2pnode_protocol::Bytes;

    use super::*;

    fn sample(at: Instant, ms: u64, uj: Option<u64>, busy_us: u64, gpus: &[(&str, u64)]) -> Sample {
        Sample {
            at: at + Duration::from_millis(ms),
            generation: 0,
            cpu_uj: uj,
            busy_us,
            gpus: gpus
                .iter()
                .map(|(id, mj)| ((*id).to_owned(), *mj))
                .collect(),
        }
    }

    fn gpu(uuid: &str) -> Gpu {
        Gpu::whole(uuid.to_owned(), "a GPU".to_owned(), Bytes::gib(8))
    }

    #[test]
    fn cpus_are_shared_by_cpu_time() {
        let now = Instant::now();
        let first = sample(now, 0, Some(1_000_000), 500, &[]);
        let last = sample(now, 1_000, Some(61_000_000), 2_000_500, &[]);
        // 60 J for two CPU seconds.
        assert_eq!(of_task(&first, &last, 500_000, &[]), Some(15_000));
        assert_eq!(of_task(&first, &last, 2_000_000, &[]), Some(60_000));
        assert_eq!(of_task(&first, &last, 9_000_000, &[]), Some(60_000), "all");
        assert_eq!(of_task(&first, &last, 0, &[]), Some(0));
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        let now = Instant::now();
        let first = sample(now, 0, Some(0), 0, &[]);
        let blind = sample(now, 1_000, None, 1_000, &[]);
        assert_eq!(of_task(&first, &blind, 10, &[]), None);
        assert_eq!(of_task(&blind, &first, 10, &[]), None);
        let still = sample(now, 1_000, Some(9), 0, &[]);
        assert_eq!(of_task(&first, &still, 10, &[]), None, "nothing was busy");
        assert_eq!(of_task(&first, &first, 10, &[]), None, "no time went by");
        let anew = Sample {
            generation: 1,
            ..sample(now, 1_000, Some(9), 100, &[])
        };
        assert_eq!(of_task(&first, &anew, 10, &[]), None, "a meter began anew");
        let back = sample(now, 1_000, Some(9), 100, &[]);
        let ahead = sample(now, 0, Some(10), 0, &[]);
        assert_eq!(of_task(&ahead, &back, 10, &[]), None, "a meter ran back");
    }

    #[test]
    fn whole_gpus_are_added_and_parts_are_not_guessed() {
        let now = Instant::now();
        let first = sample(now, 0, Some(0), 0, &[("a", 100), ("b", 7)]);
        let last = sample(now, 1_000, Some(4_000_000), 1_000, &[("a", 400), ("b", 8)]);
        assert_eq!(of_task(&first, &last, 500, &[gpu("a")]), Some(2_300));
        let both = [gpu("a"), gpu("b")];
        assert_eq!(of_task(&first, &last, 500, &both), Some(2_301));
        assert_eq!(of_task(&first, &last, 500, &[gpu("c")]), None);
        let half = Gpu {
            milli: 500,
            ..gpu("a")
        };
        assert_eq!(of_task(&first, &last, 500, &[half]), None);
        let shared = Gpu {
            shared: true,
            ..gpu("a")
        };
        assert_eq!(of_task(&first, &last, 500, &[shared]), None);
        let first = sample(now, 0, None, 0, &[("a", 100)]);
        assert_eq!(of_task(&first, &last, 500, &[gpu("a")]), Some(300));
    }

    #[test]
    fn nothing_overflows() {
        let now = Instant::now();
        let first = sample(now, 0, Some(0), 0, &[("a", 0)]);
        let last = sample(now, 1, Some(u64::MAX), u64::MAX, &[("a", u64::MAX)]);
        let whole = of_task(&first, &last, u64::MAX, &[]);
        assert_eq!(whole, Some(u64::MAX / 1_000));
        assert_eq!(
            of_task(&first, &last, u64::MAX, &[gpu("a")]),
            Some(u64::MAX)
        );
    }
}
