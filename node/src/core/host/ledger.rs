//! What is offered, what is taken of it, what is left.
//!
//! The one place where capacity is given out. Whatever a run took it gives back exactly once, with the
//! same needs; the owner may offer more or less at any time, also less than what runs.

use std::collections::BTreeMap;

use p2pnode_protocol::resources::Shortage;
use p2pnode_protocol::{Bytes, Capacity, Gpu, MilliCpus, Resources};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    total: Capacity,
    free: Capacity,
    cpus: u64,
    memory: u64,
    disk: u64,
    pids: u64,
    /// Thousandths taken of each GPU, by UUID.
    gpus: BTreeMap<String, u32>,
    runs: u32,
}

impl Ledger {
    /// Everything offered.
    pub(super) const fn total(&self) -> &Capacity {
        &self.total
    }

    /// What is left of it.
    pub(super) const fn free(&self) -> &Capacity {
        &self.free
    }

    /// How many runs have taken something.
    pub(super) const fn runs(&self) -> u32 {
        self.runs
    }

    /// The owner offers this from now on.
    pub(super) fn set_total(&mut self, total: Capacity) {
        self.total = total;
        self.recount();
    }

    /// Takes what one run needs; returns its GPUs.
    pub(super) fn take(&mut self, needs: &Resources) -> Result<Vec<Gpu>, Shortage> {
        let gpus = self.free.take(needs)?;
        self.cpus += u64::from(needs.cpus.0);
        self.memory = self.memory.saturating_add(needs.memory.0);
        self.disk = self.disk.saturating_add(needs.disk.0);
        self.pids += u64::from(needs.pids);
        for gpu in &gpus {
            *self.gpus.entry(gpu.uuid.clone()).or_default() += u32::from(gpu.milli);
        }
        self.runs += 1;
        Ok(gpus)
    }

    /// Puts back what one run took.
    pub(super) fn put_back(&mut self, needs: &Resources, gpus: &[Gpu]) {
        self.cpus = self.cpus.saturating_sub(needs.cpus.0.into());
        self.memory = self.memory.saturating_sub(needs.memory.0);
        self.disk = self.disk.saturating_sub(needs.disk.0);
        self.pids = self.pids.saturating_sub(needs.pids.into());
        for gpu in gpus {
            if let Some(taken) = self.gpus.get_mut(&gpu.uuid) {
                *taken = taken.saturating_sub(gpu.milli.into());
            }
        }
        self.gpus.retain(|_, taken| *taken > 0);
        self.runs = self.runs.saturating_sub(1);
        self.recount();
    }

    fn recount(&mut self) {
        let cpus = u64::from(self.total.cpus.0).saturating_sub(self.cpus);
        self.free.cpus = MilliCpus(u32::try_from(cpus).unwrap_or(u32::MAX));
        self.free.memory = Bytes(self.total.memory.0.saturating_sub(self.memory));
        self.free.disk = Bytes(self.total.disk.0.saturating_sub(self.disk));
        let pids = u64::from(self.total.pids).saturating_sub(self.pids);
        self.free.pids = u32::try_from(pids).unwrap_or(u32::MAX);
        let left = |gpu: &Gpu| {
            let taken = self.gpus.get(&gpu.uuid).copied().unwrap_or(0);
            let milli = u16::try_from(u32::from(gpu.milli).saturating_sub(taken)).unwrap_or(0);
            (milli > 0).then(|| Gpu {
                milli,
                ..gpu.clone()
            })
        };
        self.free.gpus = self.total.gpus.iter().filter_map(left).collect();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::GpuRequest;

    use super::*;

    fn gpu(uuid: &str) -> Gpu {
        Gpu::whole(uuid.into(), "T4".into(), Bytes::gib(16))
    }

    fn offer(cpus: u32, gpus: &[&str]) -> Capacity {
        Capacity {
            cpus: MilliCpus::whole(cpus),
            memory: Bytes::gib(8),
            disk: Bytes::gib(8),
            pids: 4_096,
            gpus: gpus.iter().map(|uuid| gpu(uuid)).collect(),
        }
    }

    fn needs(cpus: u32, gpus: u16) -> Resources {
        Resources {
            cpus: MilliCpus::whole(cpus),
            gpus: GpuRequest {
                count: gpus,
                ..GpuRequest::default()
            },
            ..Resources::default()
        }
    }

    #[test]
    fn what_is_taken_comes_back_and_no_gpu_is_given_twice() {
        let mut ledger = Ledger::default();
        ledger.set_total(offer(4, &["a", "b"]));
        let first = ledger.take(&needs(1, 1)).unwrap();
        let second = ledger.take(&needs(1, 1)).unwrap();
        assert_ne!(first, second);
        assert!(matches!(
            ledger.take(&needs(1, 1)),
            Err(Shortage::Gpus { .. })
        ));
        ledger.put_back(&needs(1, 1), &first);
        assert_eq!(ledger.take(&needs(1, 1)).unwrap(), first);
        ledger.put_back(&needs(1, 1), &first);
        ledger.put_back(&needs(1, 1), &second);
        assert_eq!((ledger.free(), ledger.runs()), (&offer(4, &["a", "b"]), 0));
    }

    #[test]
    fn less_can_be_offered_than_runs() {
        let mut ledger = Ledger::default();
        ledger.set_total(offer(4, &["a", "b"]));
        let taken = ledger.take(&needs(3, 2)).unwrap();
        ledger.set_total(offer(2, &["b"]));
        assert_eq!(ledger.free().cpus, MilliCpus(0));
        assert!(ledger.free().gpus.is_empty());
        assert!(ledger.take(&needs(1, 0)).is_err());
        ledger.put_back(&needs(3, 2), &taken);
        assert_eq!(ledger.free(), &offer(2, &["b"]));
    }
}
