//! How much of the machine's CPUs is in use, by everything that runs on it.

use super::files::Root;

/// Remembers the last reading.
#[derive(Debug, Default)]
pub(super) struct Busy {
    last: Option<Ticks>,
    answer: Option<u32>,
}

/// Time that all CPUs together spent since the start, in ticks, whatever their length is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
    cpus: u64,
}

impl Busy {
    /// Thousandths of a CPU since the last reading; `None` at the first. Readings within one tick
    /// (10 ms) have the same answer.
    pub(super) fn read(&mut self, root: &Root) -> Option<u32> {
        let Some(now) = root.table("proc/stat").and_then(|text| Ticks::parse(&text)) else {
            *self = Self::default();
            return None;
        };
        match self.last.map(|last| now.since(last)) {
            Some(Since::Nothing) => return self.answer,
            Some(Since::Busy(milli)) => self.answer = Some(milli),
            // A CPU was taken out, or the file is nonsense: begin again.
            Some(Since::Backwards) | None => self.answer = None,
        }
        self.last = Some(now);
        self.answer
    }
}

/// What lies between two readings.
enum Since {
    Nothing,
    Busy(u32),
    Backwards,
}

impl Ticks {
    /// From `/proc/stat`: the line of all CPUs, and how many lines there are for one.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let all = lines.next()?.strip_prefix("cpu ")?;
        let cpus = lines.take_while(|line| line.starts_with("cpu")).count() as u64;
        // user nice system idle iowait irq softirq steal; guests' time is counted in user's.
        let mut times = [0u64; 8];
        let mut given = all.split_whitespace();
        for (at, time) in times.iter_mut().enumerate() {
            match given.next() {
                Some(text) => *time = text.parse().ok()?,
                // Kernels before 2.6.11 had no `steal`.
                None if at >= 4 => break,
                None => return None,
            }
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal] = times;
        let busy = [user, nice, system, irq, softirq]
            .into_iter()
            .try_fold(0u64, u64::checked_add)?;
        let all = [busy, idle, iowait, steal]
            .into_iter()
            .try_fold(0u64, u64::checked_add)?;
        (cpus > 0).then_some(Self { busy, all, cpus })
    }

    fn since(self, last: Self) -> Since {
        let (Some(busy), Some(all)) = (
            self.busy.checked_sub(last.busy),
            self.all.checked_sub(last.all),
        ) else {
            return Since::Backwards;
        };
        if all == 0 {
            return Since::Nothing;
        }
        let milli = u128::from(busy) * u128::from(self.cpus) * 1_000 / u128::from(all);
        Since::Busy(u32::try_from(milli).unwrap_or(u32::MAX))
    }
}
