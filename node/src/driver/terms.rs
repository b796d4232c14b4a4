//! What an owner's request to offer comes to: what it says, else what is offered already, else what the
//! settings say, else a default that leaves the machine usable.
//!
//! Pure; asked by [`super::owner`]. It must never offer more than the machine has.

use p2pnode_protocol::api::{ErrorCode, OfferRequest};
use p2pnode_protocol::job::limits::{MIN_CPUS, MIN_DISK, MIN_MEMORY};
use p2pnode_protocol::{Bytes, Capacity, Gpu, MilliCpus, PeerId, parse_peer};

use crate::command::CommandError;
use crate::config::OfferDefaults;
use crate::core::CapacityView;
use crate::core::io::OfferTerms;

/// What there is to be offered.
pub(super) struct Machine<'a> {
    pub(super) cpus: MilliCpus,
    pub(super) memory: Bytes,
    pub(super) free_disk: Bytes,
    pub(super) gpus: &'a [Gpu],
}

/// What is offered from now on, and who is allowed from now on.
///
/// `present` is what is offered already. All that is wrong with the request is told at once.
pub(super) fn of(
    request: &OfferRequest,
    present: Option<&CapacityView>,
    settings: &OfferDefaults,
    machine: &Machine<'_>,
) -> Result<(OfferTerms, Vec<PeerId>), CommandError> {
    if request.none {
        return Ok((OfferTerms::default(), Vec::new()));
    }
    let mut wrong = Vec::new();
    let mut allow = Vec::new();
    for text in &request.allow {
        match parse_peer(text) {
            Ok(peer) => allow.push(peer),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    if present.is_none() {
        allow.extend(&settings.allow);
    }
    // A first offer goes by the settings, a later one by the one before.
    let given = present.map(|view| &view.total);
    let settings = Some(settings).filter(|_| present.is_none());
    let whole = MilliCpus::whole(1);
    let total = Capacity {
        cpus: Part {
            name: "--cpus",
            asked: request.cpus_milli.map(MilliCpus),
            present: given.map(|total| total.cpus),
            set: settings.and_then(|settings| settings.cpus),
            default: MilliCpus(machine.cpus.0.saturating_sub(whole.0)).max(whole.min(machine.cpus)),
            least: MIN_CPUS,
            most: machine.cpus,
            has: "this machine's",
        }
        .choose(&mut wrong),
        memory: Part {
            name: "--memory",
            asked: request.memory.map(Bytes),
            present: given.map(|total| total.memory),
            set: settings.and_then(|settings| settings.memory),
            default: Bytes(machine.memory.0 / 4 * 3),
            least: MIN_MEMORY,
            most: machine.memory,
            has: "this machine's",
        }
        .choose(&mut wrong),
        disk: Part {
            name: "--disk",
            asked: request.disk.map(Bytes),
            present: given.map(|total| total.disk),
            set: settings.and_then(|settings| settings.disk),
            default: Bytes(machine.free_disk.0 / 2),
            least: MIN_DISK,
            most: machine.free_disk,
            has: "the free",
        }
        .choose(&mut wrong),
        gpus: gpus(request, given, settings, machine, &mut wrong),
    };
    let allow_any = request
        .allow_any
        .or(present.map(|view| view.allow_any))
        .or(settings.map(|settings| settings.allow_any))
        .unwrap_or(false);
    if wrong.is_empty() {
        return Ok((OfferTerms { total, allow_any }, allow));
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

/// One quantity of an offer.
struct Part<T> {
    name: &'static str,
    asked: Option<T>,
    present: Option<T>,
    set: Option<T>,
    default: T,
    least: T,
    most: T,
    has: &'static str,
}

impl<T: Copy + Ord + std::fmt::Display> Part<T> {
    fn choose(&self, wrong: &mut Vec<String>) -> T {
        let named = match (self.asked, self.present) {
            (None, Some(present)) => {
                // Nobody asked for it now: what the machine no longer has is not worth a refusal.
                return present.min(self.most);
            }
            (asked, _) => asked.or(self.set),
        };
        let Some(named) = named else {
            return self.default;
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

fn gpus(
    request: &OfferRequest,
    present: Option<&Capacity>,
    settings: Option<&OfferDefaults>,
    machine: &Machine<'_>,
    wrong: &mut Vec<String>,
) -> Vec<Gpu> {
    let kept = present.map(|total| total.gpus.len().min(machine.gpus.len()));
    let count = request
        .gpus
        .map(usize::from)
        .or(kept)
        .or(settings.and_then(|settings| settings.gpus).map(usize::from))
        .unwrap_or(0);
    match machine.gpus.get(..count) {
        Some(gpus) => gpus.to_vec(),
        None => {
            wrong.push(format!(
                "--gpus {count} is more than the {} that this machine shows; GPUs are found through NVIDIA's driver library (NVML)",
                machine.gpus.len()
            ));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine<'static> = Machine {
        cpus: MilliCpus::whole(4),
        memory: Bytes::gib(8),
        free_disk: Bytes::gib(100),
        gpus: &[],
    };

    fn view(terms: &OfferTerms) -> CapacityView {
        CapacityView {
            offering: true,
            total: terms.total.clone(),
            free: terms.total.clone(),
            allow_any: terms.allow_any,
            runtimes: Vec::new(),
            running: 0,
            queued: 0,
        }
    }

    #[test]
    fn a_first_offer_goes_by_flags_then_settings_then_defaults() {
        let peer = libp2p::PeerId::random();
        let settings = OfferDefaults {
            cpus: Some(MilliCpus::whole(2)),
            memory: Some(Bytes::gib(1)),
            allow: vec![peer],
            allow_any: true,
            ..OfferDefaults::default()
        };
        let request = OfferRequest {
            memory: Some(Bytes::gib(3).0),
            ..OfferRequest::default()
        };
        let (terms, allow) = of(&request, None, &settings, &MACHINE).unwrap();
        assert_eq!(terms.total.cpus, MilliCpus::whole(2));
        assert_eq!(terms.total.memory, Bytes::gib(3));
        assert_eq!(terms.total.disk, Bytes::gib(50));
        assert!(terms.allow_any);
        assert_eq!(allow, [peer]);
    }

    #[test]
    fn a_later_offer_changes_what_it_names() {
        let before = OfferTerms {
            total: Capacity {
                cpus: MilliCpus::whole(1),
                memory: Bytes::gib(2),
                // More than is free by now.
                disk: Bytes::gib(200),
                gpus: Vec::new(),
            },
            allow_any: true,
        };
        let settings = OfferDefaults {
            cpus: Some(MilliCpus::whole(3)),
            ..OfferDefaults::default()
        };
        let request = OfferRequest {
            memory: Some(Bytes::gib(4).0),
            ..OfferRequest::default()
        };
        let (terms, _) = of(&request, Some(&view(&before)), &settings, &MACHINE).unwrap();
        assert_eq!(terms.total.cpus, MilliCpus::whole(1));
        assert_eq!(terms.total.memory, Bytes::gib(4));
        assert_eq!(terms.total.disk, Bytes::gib(100));
        assert!(terms.allow_any);
        let closed = OfferRequest {
            allow_any: Some(false),
            ..OfferRequest::default()
        };
        let (terms, _) = of(&closed, Some(&view(&before)), &settings, &MACHINE).unwrap();
        assert!(!terms.allow_any);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let request = OfferRequest {
            cpus_milli: Some(64_000),
            memory: Some(1),
            gpus: Some(3),
            allow: vec!["12D3KooWHfcb".to_owned()],
            ..OfferRequest::default()
        };
        let error = of(&request, None, &OfferDefaults::default(), &MACHINE).unwrap_err();
        assert_eq!(error.details.len(), 4, "{:?}", error.details);
        assert!(error.details[1].contains("more than this machine's 4"));
        assert!(error.details[2].contains("at least 6 MiB"));
    }

    #[test]
    fn an_offer_can_be_withdrawn() {
        let request = OfferRequest {
            none: true,
            ..OfferRequest::default()
        };
        let (terms, allow) = of(&request, None, &OfferDefaults::default(), &MACHINE).unwrap();
        assert_eq!(terms, OfferTerms::default());
        assert!(allow.is_empty());
    }
}
