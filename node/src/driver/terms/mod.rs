//! What an owner's request to offer comes to: what it says, else what is offered already, else what the
//! settings say, else a default that leaves the machine usable.
//!
//! Pure; asked by [`super::owner`]. It must never offer more than the machine has, nor a GPU that was
//! not named. All that is wrong with a request is told at once.

mod gpus;
mod rules;
#[cfg(test)]
mod tests;

use p2pnode_protocol::api::{ErrorCode, OfferRequest};
use p2pnode_protocol::job::limits::{MIN_CPUS, MIN_DISK, MIN_MEMORY};
use p2pnode_protocol::{Bytes, Capacity, Gpu, MilliCpus, PeerId, parse_peer};

use crate::command::CommandError;
use crate::core::CapacityView;
use crate::core::io::OfferTerms;

/// What there is to be offered.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) cpus: MilliCpus,
    pub(super) memory: Bytes,
    pub(super) free_disk: Bytes,
    pub(super) pids: u32,
    pub(super) gpus: Vec<Gpu>,
    /// OCI runtimes that the engine has by name.
    pub(super) sandboxes: Vec<String>,
    /// Whether a CPU's temperature can be read.
    pub(super) tells_cpu_temperature: bool,
    /// Whether a GPU's can.
    pub(super) tells_gpu_temperature: bool,
    /// Whether it can be told that nobody uses it.
    pub(super) tells_idleness: bool,
}

/// What is offered from now on, and who is allowed from now on.
///
/// `present` is what is offered already.
pub(super) fn of(
    request: &OfferRequest,
    present: Option<&CapacityView>,
    settings: &OfferRequest,
    machine: &Machine,
) -> Result<(OfferTerms, Vec<PeerId>), CommandError> {
    if request.none {
        return Ok((OfferTerms::default(), Vec::new()));
    }
    // A first offer goes by the settings, a later one by the one before.
    let request = match present {
        None => &request.clone().or(settings),
        Some(_) => request,
    };
    let mut wrong = Vec::new();
    let mut allow = Vec::new();
    for text in &request.allow {
        match parse_peer(text) {
            Ok(peer) => allow.push(peer),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    let terms = OfferTerms {
        total: total(
            request,
            present.map(|view| &view.total),
            machine,
            &mut wrong,
        ),
        allow_any: request
            .allow_any
            .or(present.map(|view| view.allow_any))
            .unwrap_or(false),
        rules: rules::of(
            request,
            present.map(|view| view.rules.clone()).unwrap_or_default(),
            machine,
            &mut wrong,
        ),
    };
    if wrong.is_empty() {
        return Ok((terms, allow));
    }
    let message = match wrong.as_slice() {
        [one] => one.clone(),
        several => format!("the offer has {} faults", several.len()),
    };
    Err(CommandError {
        code: ErrorCode::Invalid,
        message,
        details: wrong,
    })
}

fn total(
    request: &OfferRequest,
    present: Option<&Capacity>,
    machine: &Machine,
    wrong: &mut Vec<String>,
) -> Capacity {
    let percent = percent(request, wrong);
    // A part of the machine takes the place of amounts that were offered before.
    let given = present.filter(|_| percent.is_none());
    let part = |of: u64, default: u64| {
        let share = |percent: u8| u128::from(of) * u128::from(percent) / 100;
        percent.map_or(default, |percent| {
            u64::try_from(share(percent)).unwrap_or(u64::MAX)
        })
    };
    let whole = MilliCpus::whole(1);
    let all_but_one =
        MilliCpus(machine.cpus.0.saturating_sub(whole.0)).max(whole.min(machine.cpus));
    let cpus = part(machine.cpus.0.into(), all_but_one.0.into());
    Capacity {
        cpus: Part {
            name: "--cpus",
            asked: request.cpus_milli.map(MilliCpus),
            present: given.map(|total| total.cpus),
            default: MilliCpus(u32::try_from(cpus).unwrap_or(u32::MAX)).max(MIN_CPUS),
            least: MIN_CPUS,
            most: machine.cpus,
            has: "this machine's",
        }
        .choose(wrong),
        memory: Part {
            name: "--memory",
            asked: request.memory.map(Bytes),
            present: given.map(|total| total.memory),
            default: Bytes(part(machine.memory.0, machine.memory.0 / 4 * 3)),
            least: MIN_MEMORY,
            most: machine.memory,
            has: "this machine's",
        }
        .choose(wrong),
        disk: Part {
            name: "--disk",
            asked: request.disk.map(Bytes),
            present: given.map(|total| total.disk),
            default: Bytes(part(machine.free_disk.0, machine.free_disk.0 / 2)),
            least: MIN_DISK,
            most: machine.free_disk,
            has: "the free",
        }
        .choose(wrong),
        pids: machine.pids,
        gpus: gpus::of(
            request,
            present.map(|total| &total.gpus[..]),
            &machine.gpus,
            wrong,
        ),
    }
}

fn percent(request: &OfferRequest, wrong: &mut Vec<String>) -> Option<u8> {
    let percent = request.percent?;
    if !(1..=100).contains(&percent) {
        wrong.push(format!(
            "--percent {percent} is no part of a machine: give 1 to 100"
        ));
    }
    Some(percent)
}

/// One quantity of an offer.
struct Part<T> {
    name: &'static str,
    asked: Option<T>,
    present: Option<T>,
    default: T,
    least: T,
    most: T,
    has: &'static str,
}

impl<T: Copy + Ord + std::fmt::Display> Part<T> {
    fn choose(&self, wrong: &mut Vec<String>) -> T {
        let Some(named) = self.asked else {
            // Nobody asked for it now: what the machine no longer has is not worth a refusal.
            return self.present.unwrap_or(self.default).min(self.most);
        };
        let Self {
            name, least, most, ..
        } = self;
        if named > *most {
            wrong.push(format!("{name} {named} is more than {} {most}", self.has));
        } else if named < *least {
            wrong.push(format!(
                "{name} {named} is less than any task needs, at least {least}; to offer nothing, run: p2pnode offer --none"
            ));
        }
        named
    }
}
