//! What a machine has and what a task needs.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::gpu::{Gpu, GpuRequest, WHOLE_GPU};
use crate::units::{Bytes, MilliCpus};

/// An amount of everything that is accounted for: a machine's total, or what is free of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Capacity {
    /// CPU time, in thousandths of a CPU.
    #[serde(rename = "cpus_milli")]
    pub cpus: MilliCpus,
    /// Memory, in bytes.
    pub memory: Bytes,
    /// Scratch and output space, in bytes.
    pub disk: Bytes,
    /// Processes and threads together.
    #[serde(default)]
    pub pids: u32,
    /// GPUs. Of what is free, a shared one may be there in part; one that is wholly taken is not.
    pub gpus: Vec<Gpu>,
}

/// What one task needs while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resources {
    /// CPU time, in thousandths of a CPU.
    #[serde(rename = "cpus_milli")]
    pub cpus: MilliCpus,
    /// Memory, in bytes. Going over it ends the task.
    pub memory: Bytes,
    /// Scratch and output space, in bytes.
    pub disk: Bytes,
    /// GPUs.
    pub gpus: GpuRequest,
    /// Processes and threads together.
    pub pids: u32,
}

impl Default for Resources {
    /// One CPU, 512 MiB, 1 GiB of disk, no GPU, 512 processes: what a small command needs, so that a
    /// job file may leave `[resources]` out.
    fn default() -> Self {
        Self {
            cpus: MilliCpus::whole(1),
            memory: Bytes::mib(512),
            disk: Bytes::gib(1),
            gpus: GpuRequest::default(),
            pids: 512,
        }
    }
}

/// The first thing of which there is too little.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Too few CPUs.
    #[error("needs {needed} CPUs, {have} there")]
    Cpus {
        /// Asked for.
        needed: MilliCpus,
        /// There.
        have: MilliCpus,
    },
    /// Too little memory.
    #[error("needs {needed} of memory, {have} there")]
    Memory {
        /// Asked for.
        needed: Bytes,
        /// There.
        have: Bytes,
    },
    /// Too little disk.
    #[error("needs {needed} of disk, {have} there")]
    Disk {
        /// Asked for.
        needed: Bytes,
        /// There.
        have: Bytes,
    },
    /// Too few processes.
    #[error("needs {needed} processes, {have} there")]
    Pids {
        /// Asked for.
        needed: u32,
        /// There.
        have: u32,
    },
    /// Too few GPUs that match.
    #[error("needs {needed} matching GPUs, {have} there")]
    Gpus {
        /// Asked for.
        needed: u16,
        /// Matching ones there.
        have: usize,
    },
    /// Parts of GPUs are asked for where only whole ones are given.
    #[error(
        "needs a part of {needed} matching GPUs, and only whole ones are given there; their owner can \
         share them: p2pnode offer --share-gpus"
    )]
    UnsharedGpus {
        /// Asked for.
        needed: u16,
    },
}

impl Capacity {
    /// Whether `needs` fits into this amount.
    ///
    /// # Errors
    /// The first thing that is short.
    pub fn check(&self, needs: &Resources) -> Result<(), Shortage> {
        if needs.cpus > self.cpus {
            return Err(Shortage::Cpus {
                needed: needs.cpus,
                have: self.cpus,
            });
        }
        if needs.memory > self.memory {
            return Err(Shortage::Memory {
                needed: needs.memory,
                have: self.memory,
            });
        }
        if needs.disk > self.disk {
            return Err(Shortage::Disk {
                needed: needs.disk,
                have: self.disk,
            });
        }
        if needs.pids > self.pids {
            return Err(Shortage::Pids {
                needed: needs.pids,
                have: self.pids,
            });
        }
        let wanted = usize::from(needs.gpus.count);
        let matching = self.gpus.iter().filter(|gpu| needs.gpus.matches(gpu));
        let have = matching.count();
        if wanted <= have {
            return Ok(());
        }
        let needed = needs.gpus.count;
        let were_shared = |gpu: &&Gpu| {
            let shared = true;
            let gpu = (**gpu).clone();
            needs.gpus.matches(&Gpu { shared, ..gpu })
        };
        if wanted <= self.gpus.iter().filter(were_shared).count() {
            return Err(Shortage::UnsharedGpus { needed });
        }
        Err(Shortage::Gpus { needed, have })
    }

    /// Takes `needs` out of this amount and returns the UUIDs of the GPUs taken.
    ///
    /// # Errors
    /// The first thing that is short; then nothing was taken.
    pub fn take(&mut self, needs: &Resources) -> Result<Vec<Gpu>, Shortage> {
        self.check(needs)?;
        self.cpus.0 -= needs.cpus.0;
        self.memory.0 -= needs.memory.0;
        self.disk.0 -= needs.disk.0;
        self.pids -= needs.pids;
        // The fullest that will do, so that whole GPUs stay whole for those who need one.
        let mut order: Vec<usize> = (0..self.gpus.len())
            .filter(|index| needs.gpus.matches(&self.gpus[*index]))
            .collect();
        order.sort_by_key(|index| self.gpus[*index].milli);
        order.truncate(needs.gpus.count.into());
        let mut taken = Vec::with_capacity(order.len());
        for index in order {
            let gpu = &mut self.gpus[index];
            gpu.milli -= needs.gpus.milli;
            taken.push(Gpu {
                milli: needs.gpus.milli,
                ..gpu.clone()
            });
        }
        self.gpus.retain(|gpu| gpu.milli > 0);
        taken.sort();
        Ok(taken)
    }

    /// Puts back what [`Capacity::take`] took.
    pub fn put_back(&mut self, needs: &Resources, gpus: Vec<Gpu>) {
        self.cpus.0 = self.cpus.0.saturating_add(needs.cpus.0);
        self.memory.0 = self.memory.0.saturating_add(needs.memory.0);
        self.disk.0 = self.disk.0.saturating_add(needs.disk.0);
        self.pids = self.pids.saturating_add(needs.pids);
        for gpu in gpus {
            match self.gpus.iter_mut().find(|free| free.uuid == gpu.uuid) {
                Some(free) => free.milli = free.milli.saturating_add(gpu.milli).min(WHOLE_GPU),
                None => self.gpus.push(gpu),
            }
        }
        self.gpus.sort();
    }

    /// How many tasks with `needs` fit at once, at most `limit`.
    #[must_use]
    pub fn slots(&self, needs: &Resources, limit: u32) -> u32 {
        let by = |have: u64, need: u64| have.checked_div(need).unwrap_or(limit.into());
        let parts = u64::from(needs.gpus.milli.max(1));
        let matching: u64 = self
            .gpus
            .iter()
            .filter(|gpu| needs.gpus.matches(gpu))
            .map(|gpu| u64::from(gpu.milli) / parts)
            .sum();
        by(self.cpus.0.into(), needs.cpus.0.into())
            .min(by(self.memory.0, needs.memory.0))
            .min(by(self.disk.0, needs.disk.0))
            .min(by(self.pids.into(), needs.pids.into()))
            .min(by(matching, needs.gpus.count.into()))
            .min(limit.into()) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, model: &str, gib: u64) -> Gpu {
        Gpu::whole(uuid.into(), model.into(), Bytes::gib(gib))
    }

    fn machine() -> Capacity {
        Capacity {
            cpus: MilliCpus::whole(4),
            memory: Bytes::gib(8),
            disk: Bytes::gib(100),
            pids: 4_096,
            gpus: vec![
                gpu("GPU-a", "Tesla T4", 16),
                gpu("GPU-b", "NVIDIA RTX 4090", 24),
            ],
        }
    }

    #[test]
    fn what_is_taken_comes_back() {
        let mut free = machine();
        let needs = Resources {
            gpus: GpuRequest {
                count: 1,
                model: Some("*rtx*".into()),
                ..GpuRequest::default()
            },
            ..Resources::default()
        };
        let gpus = free.take(&needs).unwrap();
        assert_eq!(gpus[0].uuid, "GPU-b");
        assert!(matches!(
            free.take(&needs),
            Err(Shortage::Gpus { needed: 1, have: 0 })
        ));
        free.put_back(&needs, gpus);
        assert_eq!(free, machine());
    }

    #[test]
    fn a_shared_gpu_is_given_out_in_parts_and_comes_back_whole() {
        let mut free = machine();
        for gpu in &mut free.gpus {
            gpu.shared = gpu.uuid == "GPU-b";
        }
        let whole = free.clone();
        let part = |milli: u16, memory: Option<Bytes>| Resources {
            cpus: MilliCpus(100),
            gpus: GpuRequest {
                count: 1,
                milli,
                memory,
                model: None,
            },
            ..Resources::default()
        };
        // 24 GiB halved; only the shared one will do.
        assert_eq!(free.slots(&part(500, None), 100), 2);
        let short = free.check(&part(500, Some(Bytes::gib(13)))).unwrap_err();
        assert_eq!(short, Shortage::Gpus { needed: 1, have: 0 });
        let said = machine().check(&part(500, None)).unwrap_err().to_string();
        assert!(said.contains("--share-gpus"), "{said}");
        let first = free.take(&part(300, None)).unwrap();
        assert_eq!((first[0].uuid.as_str(), first[0].milli), ("GPU-b", 300));
        let second = free.take(&part(700, None)).unwrap();
        assert_eq!(free.gpus.len(), 1, "nothing of it is free");
        assert!(free.take(&part(1, None)).is_err());
        free.put_back(&part(300, None), first);
        assert_eq!(
            free.slots(&part(WHOLE_GPU, None), 9),
            1,
            "the other one is whole"
        );
        free.put_back(&part(700, None), second);
        assert_eq!(free, whole);
    }

    #[test]
    fn slots_are_bound_by_the_scarcest() {
        assert_eq!(machine().slots(&Resources::default(), 100), 4);
        let hungry = Resources {
            memory: Bytes::gib(5),
            ..Resources::default()
        };
        assert_eq!(machine().slots(&hungry, 100), 1);
        let free_of_cost = Resources {
            cpus: MilliCpus(0),
            memory: Bytes(0),
            disk: Bytes(0),
            pids: 0,
            ..Resources::default()
        };
        assert_eq!(machine().slots(&free_of_cost, 7), 7);
    }
}
