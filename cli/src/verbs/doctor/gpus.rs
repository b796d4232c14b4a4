//! GPUs: those that the driver knows, those that are there without it, and what a container needs.

use std::path::Path;

use p2pnode_executor::docker::facts::EngineFacts;
use p2pnode_executor::host::HostInfo;
use p2pnode_protocol::Gpu;

use super::finding::Finding;

/// NVIDIA's number as a maker of PCI devices.
const NVIDIA: &str = "0x10de";

/// PCI's class of displays: VGA is 0x0300, other GPUs 0x0302.
const DISPLAY: &str = "0x03";

/// Entries of a folder that are looked at, as many as a large machine has PCI devices.
const MAX_ENTRIES: usize = 4_096;

/// Where the toolkit's helpers for the engine stand: Docker before 25 gives GPUs through these, and
/// no OCI runtime need be named for it.
const HOOKS: [&str; 2] = [
    "usr/bin/nvidia-container-runtime-hook",
    "usr/bin/nvidia-container-toolkit",
];

/// What is known of GPUs.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// Those that NVML knows.
    gpus: Vec<Gpu>,
    /// What NVML said when it failed.
    notes: Vec<String>,
    /// Whether the driver made its files in `/dev`.
    nodes: bool,
    /// Whether the PCI bus has one.
    cards: bool,
    /// Whether the toolkit's helpers are installed.
    hooks: bool,
    /// What containers are run by, when there is an engine.
    engine: Option<EngineFacts>,
}

/// Looks at the machine below `root`, which is `/`, and at what the engine says.
pub fn look(root: &Path, host: &HostInfo, engine: Option<&EngineFacts>) -> Vec<Finding> {
    judge(&Facts {
        gpus: host.gpus.clone(),
        notes: host.notes.clone(),
        nodes: names(&root.join("dev")).iter().any(|name| is_node(name)),
        cards: has_card(root),
        hooks: HOOKS.iter().any(|hook| root.join(hook).exists()),
        engine: engine.cloned(),
    })
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.take(MAX_ENTRIES).collect()
}

/// `nvidia0`, not `nvidiactl` or the like, which the driver has without a GPU too.
fn is_node(name: &str) -> bool {
    let number = name.strip_prefix("nvidia");
    number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn has_card(root: &Path) -> bool {
    let devices = root.join("sys/bus/pci/devices");
    let is = |device: &str, file: &str, start: &str| {
        let text = std::fs::read_to_string(devices.join(device).join(file));
        text.is_ok_and(|text| text.starts_with(start))
    };
    let all = names(&devices);
    all.iter()
        .any(|device| is(device, "vendor", NVIDIA) && is(device, "class", DISPLAY))
}

fn judge(facts: &Facts) -> Vec<Finding> {
    if facts.gpus.is_empty() {
        return vec![judge_absent(facts)];
    }
    let gpus = facts.gpus.iter().map(|gpu| {
        let found = format!("{} ({}), {}", gpu.model, gpu.memory, gpu.uuid);
        Finding::ok("gpu", found)
    });
    gpus.chain(judge_runtime(facts)).collect()
}

/// NVML knows no GPU: right where there is none.
fn judge_absent(facts: &Facts) -> Finding {
    let why = facts.notes.join("; ");
    let mend = "install NVIDIA's driver with its library libnvidia-ml.so.1, then: nvidia-smi; a library in an unusual place is named by P2PNODE_NVML";
    if facts.nodes {
        let found = format!("a GPU is here (/dev/nvidia*) and cannot be offered: {why}");
        return Finding::fault("gpu", found).mend(mend);
    }
    if facts.cards {
        let found = format!("an NVIDIA GPU is on the PCI bus and has no driver: {why}");
        return Finding::warning("gpu", found).mend(mend);
    }
    Finding::none("gpu", "no NVIDIA GPU")
}

/// Whether containers can have the GPUs.
fn judge_runtime(facts: &Facts) -> Option<Finding> {
    let engine = facts.engine.as_ref()?;
    let named = engine
        .runtimes
        .iter()
        .any(|name| name.starts_with("nvidia"));
    let device = engine
        .devices
        .iter()
        .any(|name| name.starts_with("nvidia.com/gpu"));
    Some(if named || device || facts.hooks {
        let by = match (named, device) {
            (true, _) => "by the OCI runtime nvidia",
            (false, true) => "by the Container Device Interface",
            (false, false) => "by the hook of NVIDIA's toolkit",
        };
        Finding::ok("gpu runtime", format!("containers get GPUs {by}"))
    } else {
        Finding::fault(
            "gpu runtime",
            "a GPU is here and the container engine cannot give it to tasks",
        )
        .mend("install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker && systemctl restart docker")
    })
}

#[cfg(test)]
mod tests {
    use p2pnode_protocol::Bytes;

    use super::super::finding::State;
    use super::*;

    fn with_gpu(runtimes: &[&str], devices: &[&str], hooks: bool) -> Vec<Finding> {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        judge(&Facts {
            gpus: vec![Gpu::whole("GPU-1".into(), "RTX".into(), Bytes::gib(8))],
            engine: Some(EngineFacts {
                runtimes: owned(runtimes),
                devices: owned(devices),
                ..EngineFacts::default()
            }),
            hooks,
            ..Facts::default()
        })
    }

    #[test]
    fn a_gpu_without_a_runtime_for_it_is_a_fault() {
        let found = with_gpu(&["runc", "runsc"], &[], false);
        assert_eq!(found[0].state, State::Ok);
        assert_eq!(found[1].state, State::Fault);
        let mend = found[1].mend.as_deref().unwrap();
        assert!(
            mend.starts_with("install nvidia-container-toolkit"),
            "{mend}"
        );
        for found in [
            with_gpu(&["runc", "nvidia"], &[], false),
            with_gpu(&[], &["nvidia.com/gpu=0"], false),
            with_gpu(&["runc"], &[], true),
        ] {
            assert_eq!(found[1].state, State::Ok, "{found:?}");
        }
    }

    #[test]
    fn a_gpu_that_the_driver_does_not_know_is_told() {
        let judge = |nodes, cards| {
            let facts = Facts {
                nodes,
                cards,
                notes: vec!["libnvidia-ml is not there".into()],
                ..Facts::default()
            };
            judge(&facts).remove(0)
        };
        assert_eq!(judge(false, false).state, State::None);
        assert_eq!(judge(false, true).state, State::Warning);
        let found = judge(true, true);
        assert_eq!(found.state, State::Fault);
        assert!(found.found.contains("libnvidia-ml"), "{found:?}");
    }

    #[test]
    fn a_machine_of_files_shows_its_card() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/bus/pci/devices/0000:01:00.0");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("vendor"), "0x10de\n").unwrap();
        // The sound of a graphics card is no display.
        std::fs::write(device.join("class"), "0x040300\n").unwrap();
        assert!(!has_card(root.path()));
        std::fs::write(device.join("class"), "0x030200\n").unwrap();
        assert!(has_card(root.path()));
        assert!(is_node("nvidia0") && !is_node("nvidiactl") && !is_node("nvidia"));
    }
}
