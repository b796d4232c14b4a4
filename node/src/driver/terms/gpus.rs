//! Which GPUs are offered: those that were named, by number or by UUID, and no other.

use p2pnode_protocol::Gpu;
use p2pnode_protocol::api::OfferRequest;

/// The GPUs of an offer. `present` are those that are offered already.
pub(super) fn of(
    request: &OfferRequest,
    present: Option<&[Gpu]>,
    machine: &[Gpu],
    wrong: &mut Vec<String>,
) -> Vec<Gpu> {
    let chosen = match &request.gpus {
        Some(text) => chosen(text.trim(), machine, wrong),
        None => {
            // One that was taken out of the machine is not offered any more.
            let offered = present.unwrap_or_default();
            let stays = |gpu: &&Gpu| offered.iter().any(|before| before.uuid == gpu.uuid);
            machine.iter().filter(stays).cloned().collect()
        }
    };
    let was_shared = present.is_some_and(|gpus| gpus.iter().any(|gpu| gpu.shared));
    let shared = request.share_gpus.unwrap_or(was_shared);
    chosen
        .into_iter()
        .map(|gpu| Gpu { shared, ..gpu })
        .collect()
}

fn chosen(text: &str, machine: &[Gpu], wrong: &mut Vec<String>) -> Vec<Gpu> {
    if text == "all" {
        if machine.is_empty() {
            wrong.push(format!("--gpus all: {}", has(machine)));
        }
        return machine.to_vec();
    }
    if let Ok(count) = text.parse::<usize>() {
        return machine.get(..count).map_or_else(
            || {
                wrong.push(format!("--gpus {count} is too many: {}", has(machine)));
                Vec::new()
            },
            <[Gpu]>::to_vec,
        );
    }
    let mut gpus: Vec<Gpu> = Vec::new();
    for uuid in text
        .split(',')
        .map(str::trim)
        .filter(|uuid| !uuid.is_empty())
    {
        match machine
            .iter()
            .find(|gpu| gpu.uuid.eq_ignore_ascii_case(uuid))
        {
            Some(gpu) if gpus.contains(gpu) => {}
            Some(gpu) => gpus.push(gpu.clone()),
            None => {
                let shown: String = uuid.chars().take(60).collect();
                wrong.push(format!(
                    "--gpus {shown} is none of this machine's GPUs: {}",
                    has(machine)
                ));
            }
        }
    }
    if gpus.is_empty() && wrong.is_empty() {
        wrong.push(
            "--gpus names none: give a number, `all`, or UUIDs with commas between them".into(),
        );
    }
    gpus
}

/// What the machine has, in words.
fn has(machine: &[Gpu]) -> String {
    if machine.is_empty() {
        return "this machine shows none; GPUs are found through NVIDIA's driver library (NVML)"
            .into();
    }
    let each: Vec<String> = machine
        .iter()
        .map(|gpu| format!("{} ({}, {})", gpu.uuid, gpu.model, gpu.memory))
        .collect();
    format!("it has {}: {}", machine.len(), each.join(", "))
}
