//! An owner's offer in words.

use std::time::Duration;

use p2pnode_protocol::api::{NodeStatus, OfferStatus};
use p2pnode_protocol::offer::OnClose;
use p2pnode_protocol::{Capacity, MilliCpus};

use super::follow::counted;
use crate::output;

pub fn note_nobody(offer: &OfferStatus, status: &NodeStatus) {
    if offer.requests > 0 {
        output::note(format!(
            "{} waiting for your answer: p2pnode requests",
            counted(offer.requests.into(), "peer")
        ));
    }
    let is_private = status.private_networks().next().is_some();
    if !is_private && !offer.allow_any && offer.allowed.is_empty() {
        output::note("nobody else may run tasks here yet: p2pnode allow PEER");
    }
}

/// Who may run tasks here, in words.
pub fn users(offer: &OfferStatus, status: &NodeStatus) -> String {
    if offer.allow_any {
        return "anyone".to_owned();
    }
    let private: Vec<&str> = status.private_networks().collect();
    let members = (!private.is_empty()).then(|| format!("all members of {}", private.join(", ")));
    let count = offer.allowed.len() as u64;
    match (members, count) {
        (Some(members), 0) => members,
        (None, 0) => "this node only; let others with: p2pnode allow PEER".to_owned(),
        (members, _) => format!(
            "{} and {}: p2pnode peers --allowed",
            members.as_deref().unwrap_or("this node"),
            counted(count, "peer")
        ),
    }
}

/// The rules of an offer, each in words.
pub fn rules(offer: &OfferStatus) -> Vec<String> {
    let rules = &offer.rules;
    let time = |ms| humantime::format_duration(Duration::from_millis(ms)).to_string();
    let list = |words: &[String]| (!words.is_empty()).then(|| words.join(", "));
    let on_close = match rules.on_close {
        OnClose::Finish => "when it closes, running tasks finish",
        OnClose::Stop => "when it closes, running tasks stop and go elsewhere",
    };
    let said = [
        rules
            .max_tasks
            .map(|most| format!("at most {most} tasks at a time")),
        rules
            .max_task_ms
            .map(|most| format!("no task runs longer than {}", time(most))),
        rules.schedule.as_ref().map(|times| format!("open {times}")),
        rules
            .only_when_idle
            .then(|| "only while nobody uses the machine".to_owned()),
        rules.not_on_battery.then(|| "not on battery".to_owned()),
        rules
            .max_cpu_c
            .map(|most| format!("not above {most} °C of the CPU")),
        rules
            .max_gpu_c
            .map(|most| format!("not above {most} °C of a GPU")),
        rules.is_conditional().then(|| on_close.to_owned()),
        list(&rules.images).map(|images| format!("only images {images}")),
        list(&rules.egress).map(|domains| format!("tasks may reach {domains}")),
        rules
            .allow_root
            .then(|| "tasks may be root in their containers".to_owned()),
        rules
            .allow_build
            .then(|| "jobs may build images".to_owned()),
        rules
            .runtime
            .as_ref()
            .map(|name| format!("containers run under {name}")),
    ];
    let shared = offer.total.gpus.iter().any(|gpu| gpu.shared);
    let shared = shared.then(|| "tasks may share a GPU".to_owned());
    said.into_iter().flatten().chain(shared).collect()
}

pub fn describe(capacity: &Capacity) -> String {
    let noun = if capacity.cpus == MilliCpus::whole(1) {
        "CPU"
    } else {
        "CPUs"
    };
    let mut text = format!(
        "{} {noun}, {} of memory, {} of disk",
        capacity.cpus, capacity.memory, capacity.disk
    );
    for gpu in &capacity.gpus {
        text.push_str(&format!(", {} ({})", gpu.model, gpu.memory));
    }
    text
}
