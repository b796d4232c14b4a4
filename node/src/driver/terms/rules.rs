//! The rules of an offer, from what the owner wrote.

use std::collections::BTreeMap;

use p2pnode_protocol::api::OfferRequest;
use p2pnode_protocol::job::limits::MAX_TIME_MS;
use p2pnode_protocol::offer::{
    MAX_PATTERNS, OfferRules, Schedule, domain_fault, image_pattern_fault,
};

use super::Machine;

/// Temperatures that a limit can be: below, a machine is always warmer; above, it is destroyed.
const TEMPERATURES_C: std::ops::RangeInclusive<u16> = 20..=120;

/// The shortest limit on a task's run, in milliseconds: a second, which no container's start leaves
/// much of.
const LEAST_TASK_MS: u64 = 1_000;

/// Longest name of a node, and name or value of a label, in bytes: what the settings allow too.
const MAX_WORD_BYTES: usize = 64;

/// The most labels: what the settings allow too.
const MAX_LABELS: usize = 32;

/// The rules in `before`, changed as `request` says. What is wrong goes into `wrong`.
pub(super) fn of(
    request: &OfferRequest,
    before: OfferRules,
    machine: &Machine,
    wrong: &mut Vec<String>,
) -> OfferRules {
    let mut rules = before;
    let request = &spread(request, machine, wrong);
    set(&mut rules.only_when_idle, request.only_when_idle);
    set(&mut rules.not_on_battery, request.not_on_battery);
    set(&mut rules.on_close, request.on_close);
    set(&mut rules.allow_root, request.allow_root);
    set(&mut rules.allow_build, request.allow_build);
    set(&mut rules.max_tasks, request.max_tasks.map(nonzero));
    set(&mut rules.max_task_ms, request.max_task_ms.map(nonzero));
    set(&mut rules.max_cpu_c, request.max_cpu_c.map(nonzero));
    set(&mut rules.max_gpu_c, request.max_gpu_c.map(nonzero));
    schedule(request, &mut rules, wrong);
    limits(request, &rules, machine, wrong);
    lists(request, &mut rules, wrong);
    runtime(request, &mut rules, machine, wrong);
    words(request, &mut rules, wrong);
    rules
}

/// A temperature limit for whatever can be read becomes one for each that can.
fn spread(request: &OfferRequest, machine: &Machine, wrong: &mut Vec<String>) -> OfferRequest {
    let mut request = request.clone();
    let Some(limit) = request.max_c.take() else {
        return request;
    };
    let (cpu, gpu) = (machine.tells_cpu_temperature, machine.tells_gpu_temperature);
    if !cpu && !gpu && limit != 0 {
        wrong.push("--max-temperature: this machine tells no temperature, neither of its CPU nor of a GPU, so a limit could not be kept".into());
        return request;
    }
    if cpu || limit == 0 {
        request.max_cpu_c = request.max_cpu_c.or(Some(limit));
    }
    if gpu || limit == 0 {
        request.max_gpu_c = request.max_gpu_c.or(Some(limit));
    }
    request
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// A limit; zero takes it away.
fn nonzero<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn schedule(request: &OfferRequest, rules: &mut OfferRules, wrong: &mut Vec<String>) {
    match request.schedule.as_deref().map(str::trim) {
        None => {}
        Some("always") => rules.schedule = None,
        Some(text) => match text.parse::<Schedule>() {
            Ok(schedule) => rules.schedule = Some(schedule),
            Err(error) => wrong.push(format!("--schedule: {error}")),
        },
    }
}

fn limits(request: &OfferRequest, rules: &OfferRules, machine: &Machine, wrong: &mut Vec<String>) {
    if let Some(most) = rules.max_task_ms.filter(|_| request.max_task_ms.is_some())
        && !(LEAST_TASK_MS..=MAX_TIME_MS).contains(&most)
    {
        wrong.push(format!(
            "--max-task-time of {most} ms: give 1 s to a year, or 0 for no limit"
        ));
    }
    let temperatures = [
        (
            "CPU",
            rules.max_cpu_c.filter(|_| request.max_cpu_c.is_some()),
            machine.tells_cpu_temperature,
        ),
        (
            "GPU",
            rules.max_gpu_c.filter(|_| request.max_gpu_c.is_some()),
            machine.tells_gpu_temperature,
        ),
    ];
    for (what, limit, readable) in temperatures {
        let Some(limit) = limit else { continue };
        if !TEMPERATURES_C.contains(&limit) {
            let (low, high) = (TEMPERATURES_C.start(), TEMPERATURES_C.end());
            wrong.push(format!(
                "--max-temperature: {limit} °C is no limit for a {what}: give {low} to {high}, or 0 for none"
            ));
        } else if !readable {
            wrong.push(format!(
                "--max-temperature: this machine does not tell the temperature of its {what}, so a limit could not be kept"
            ));
        }
    }
    if request.only_when_idle == Some(true) && !machine.tells_idleness {
        wrong.push(
            "--only-when-idle: this system does not tell whether somebody uses it; that works on Linux and macOS"
                .into(),
        );
    }
}

fn lists(request: &OfferRequest, rules: &mut OfferRules, wrong: &mut Vec<String>) {
    if let Some(images) = &request.images {
        let faults = images
            .iter()
            .filter_map(|pattern| image_pattern_fault(pattern));
        wrong.extend(faults.map(|fault| format!("--image {fault}")));
        rules.images.clone_from(images);
    }
    if let Some(egress) = &request.egress {
        let faults = egress
            .iter()
            .filter_map(|domain| domain_fault(domain, true));
        wrong.extend(faults.map(|fault| format!("--egress {fault}")));
        rules.egress.clone_from(egress);
    }
    for (flag, list) in [("--image", &rules.images), ("--egress", &rules.egress)] {
        if list.len() > MAX_PATTERNS {
            wrong.push(format!("{flag} is given more than {MAX_PATTERNS} times"));
        }
    }
}

fn runtime(
    request: &OfferRequest,
    rules: &mut OfferRules,
    machine: &Machine,
    wrong: &mut Vec<String>,
) {
    match request.runtime.as_deref().map(str::trim) {
        None => {}
        Some("default" | "") => rules.runtime = None,
        Some(name) if machine.sandboxes.iter().any(|known| known == name) => {
            rules.runtime = Some(name.to_owned());
        }
        Some(name) => {
            let shown: String = name.chars().take(60).collect();
            let known = match machine.sandboxes.as_slice() {
                [] => "the container engine has none by name, or does not answer".to_owned(),
                known => format!("the container engine has {}", known.join(", ")),
            };
            wrong.push(format!("--runtime {shown}: {known}"));
        }
    }
}

fn words(request: &OfferRequest, rules: &mut OfferRules, wrong: &mut Vec<String>) {
    let is_word = |text: &str| {
        (1..=MAX_WORD_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
    };
    if let Some(name) = &request.name {
        if !is_word(name) {
            wrong.push(format!(
                "--name: a name has 1 to {MAX_WORD_BYTES} bytes and no control characters"
            ));
        }
        rules.name = Some(name.clone());
    }
    if let Some(labels) = &request.labels {
        check_labels(labels, is_word, wrong);
        rules.labels.clone_from(labels);
    }
}

fn check_labels(
    labels: &BTreeMap<String, String>,
    is_word: impl Fn(&str) -> bool,
    wrong: &mut Vec<String>,
) {
    if labels.len() > MAX_LABELS {
        wrong.push(format!("--label is given more than {MAX_LABELS} times"));
    }
    for (key, value) in labels {
        if !is_word(key) || !is_word(value) {
            wrong.push(format!(
                "--label {}={}: a label's name and value have 1 to {MAX_WORD_BYTES} bytes and no control characters, such as a line's end",
                key.escape_debug().take(60).collect::<String>(),
                value.escape_debug().take(60).collect::<String>()
            ));
        }
    }
}
