//! Energy of the CPU packages, from the counters that Intel calls RAPL and AMD has too.
//!
//! A counter is a zone in `sys/class/powercap` and comes round at its range. A zone that was there and
//! cannot be read makes the whole reading absent, since a sum without it would be too small.

use std::collections::BTreeMap;

use super::files::Root;

/// Remembers each zone's counter, and what was counted.
#[derive(Debug, Default)]
pub(super) struct Energy {
    zones: BTreeMap<String, Option<u64>>,
    total_uj: u64,
    /// A counter came round at a range that is not known, so something was not counted.
    lost: bool,
}

impl Energy {
    /// In microjoules since the first reading.
    pub(super) fn read(&mut self, root: &Root) -> Option<u64> {
        for zone in packages(root) {
            self.zones.entry(zone).or_default();
        }
        let mut whole = !self.zones.is_empty();
        for (zone, last) in &mut self.zones {
            let Some(now) = root.number(&format!("{zone}/energy_uj")) else {
                whole = false;
                continue;
            };
            // A zone's first reading is where it begins.
            let Some(before) = last.replace(now) else {
                continue;
            };
            let range = || root.number(&format!("{zone}/max_energy_range_uj"));
            match advanced(before, now, range) {
                Some(uj) => self.total_uj = self.total_uj.saturating_add(uj),
                None => self.lost = true,
            }
        }
        (whole && !self.lost).then_some(self.total_uj)
    }
}

/// By how much a counter went on that comes round after `range`; `None` when that cannot be told.
fn advanced(before: u64, now: u64, range: impl FnOnce() -> Option<u64>) -> Option<u64> {
    if now >= before {
        return Some(now - before);
    }
    range()?.checked_sub(before)?.checked_add(now)
}

/// Folders of the zones of whole packages. Within them are zones of cores and of memory, which must
/// not be counted again; `intel-rapl-mmio` shows the same packages a second time, and `psys` is the
/// whole board.
fn packages(root: &Root) -> Vec<String> {
    root.names("sys/class/powercap")
        .into_iter()
        .filter(|name| {
            let number = name.strip_prefix("intel-rapl:");
            number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        })
        .map(|name| format!("sys/class/powercap/{name}"))
        .filter(|zone| {
            let name = root.text(&format!("{zone}/name"));
            name.is_some_and(|name| name.starts_with("package"))
        })
        .collect()
}
