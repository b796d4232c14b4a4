//! The container engine, and what it lets tasks have.

use p2pnode_executor::docker::facts::{self, EngineFacts};
use p2pnode_executor::docker::{DockerConfig, DockerRuntime};
use p2pnode_executor::{Runtime, RuntimeReport};
use p2pnode_node::config::Config;
use p2pnode_protocol::PeerId;

use super::finding::Finding;
use crate::exit::Failure;
use crate::here;

/// Images named at most.
const MAX_SHOWN: usize = 3;

/// What an engine says, and what the runtime makes of it.
#[derive(Debug)]
pub struct Engine {
    /// Absent: none answers, and why.
    pub facts: Result<EngineFacts, String>,
    report: RuntimeReport,
}

/// Asks the engine that a node with these settings would use.
pub async fn look(config: &Config) -> Result<Engine, Failure> {
    let scratch = tempfile::Builder::new()
        .prefix("p2pnode-doctor-")
        .tempdir()
        .map_err(|error| Failure::internal(format!("no temporary folder: {error}")))?;
    // It runs nothing, so whose it is does not matter; and it removes nothing.
    let runtime = DockerRuntime::new(DockerConfig {
        node: PeerId::random(),
        incarnation: "doctor000".into(),
        reaper: here::helpers()?.reaper,
        socket: config.docker_socket.clone(),
        sandbox: config.offer.runtime.clone(),
        hard_disk: config.hard_disk,
        image_cache: None,
        dir: scratch.path().join("engine"),
    });
    let facts = facts::look(config.docker_socket.as_deref()).await;
    let report = runtime.probe().await;
    runtime.shutdown().await;
    Ok(Engine {
        facts: facts.map_err(|error| error.to_string()),
        report,
    })
}

impl Engine {
    /// Images at hand, newest first.
    pub fn images(&self) -> &[String] {
        &self.report.images
    }

    /// Everything about it.
    pub fn findings(&self, hard_disk_wanted: bool) -> Vec<Finding> {
        let facts = match &self.facts {
            Ok(facts) => facts,
            // Without containers a node is a whole node; one that is there must answer.
            Err(why) if why.starts_with("no container engine") => {
                return vec![Finding::warning(
                    "engine",
                    format!("{why}. Without one only WASM jobs run here"),
                )];
            }
            Err(why) => {
                return vec![
                    Finding::fault("engine", why)
                        .mend("systemctl start docker, and see: docker info"),
                ];
            }
        };
        let mut all = vec![
            self.judge_engine(facts),
            judge_cgroups(facts),
            judge_swap(facts),
        ];
        if self.report.version.is_ok() {
            all.extend(judge_features(&self.report, hard_disk_wanted));
        }
        all
    }

    fn judge_engine(&self, facts: &EngineFacts) -> Finding {
        if let Some(why) = &facts.unfit {
            let found = format!("the one at {} cannot be used: {why}", facts.address);
            return Finding::fault("engine", found).mend("mend what it lacks, then: docker info");
        }
        if let Err(why) = &self.report.version {
            return Finding::fault("engine", why).mend("docker info");
        }
        let rootless = if facts.rootless { ", rootless" } else { "" };
        let found = format!("{} at {}{rootless}", facts.version, facts.address);
        Finding::ok("engine", found)
    }
}

/// Control groups, which hold a task's limits.
fn judge_cgroups(facts: &EngineFacts) -> Finding {
    let limits = [
        ("memory", facts.memory),
        ("cpu", facts.cpu),
        ("pids", facts.pids),
    ];
    let lacking: Vec<&str> = limits
        .iter()
        .filter(|(_, has)| *has == Some(false))
        .map(|(name, _)| *name)
        .collect();
    let version = match facts.cgroup_version {
        Some(version) => format!("version {version}"),
        None => "version not told".to_owned(),
    };
    if !lacking.is_empty() {
        let lacking = lacking.join(", ");
        let mend = if facts.rootless {
            "as root: mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' > /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload; then log in anew"
        } else {
            "enable the controller in the kernel (boot with cgroup_enable=memory where it is memory), or delegate it to the engine's service: Delegate=yes"
        };
        return Finding::fault(
            "cgroups",
            format!("{version}: the engine has no controller for {lacking}, so no container runs"),
        )
        .mend(mend);
    }
    let driver = match facts.cgroup_driver.as_str() {
        "" => String::new(),
        driver => format!(", driver {driver}"),
    };
    Finding::ok(
        "cgroups",
        format!("{version}{driver}: memory, cpu and pids are limited"),
    )
}

fn judge_swap(facts: &EngineFacts) -> Finding {
    match facts.swap {
        Some(false) => Finding::warning(
            "swap",
            "the engine cannot limit swap, so a task that goes over its memory can fill the swap first",
        )
        .mend("boot with swapaccount=1, or turn swap off: swapoff -a"),
        Some(true) => Finding::ok("swap", "is limited with memory"),
        None => Finding::none("swap", "the engine does not tell whether it is limited"),
    }
}

/// What tasks can have beyond the least.
fn judge_features(report: &RuntimeReport, hard_disk_wanted: bool) -> Vec<Finding> {
    let features = &report.features;
    let sandboxes = match features.sandboxes.as_slice() {
        [] => Finding::none("sandboxes", "no OCI runtime beside the engine's default"),
        names => Finding::ok("sandboxes", names.join(", ")),
    };
    let hard_disk = match (features.hard_disk, hard_disk_wanted) {
        (true, _) => Finding::ok(
            "hard disk",
            "each task has a filesystem that ends at its limit",
        ),
        (false, false) => Finding::none(
            "hard disk",
            "off: disk is watched and a task can be over its limit for a moment (docker.hard_disk in config.toml)",
        ),
        (false, true) => Finding::fault(
            "hard disk",
            "asked for and not to be had here: disk is watched instead",
        )
        .mend("run the node as root, with loop devices (modprobe loop), mkfs.ext4 and mount"),
    };
    let egress = match &features.egress {
        Some(Ok(())) => Finding::ok("egress", "tasks can reach what `offer --egress` names"),
        Some(Err(why)) => Finding::none("egress", format!("not to be had: {why}")),
        None => Finding::none("egress", "not to be had"),
    };
    let pause = if features.pause {
        Finding::ok("pause", "tasks can be frozen")
    } else {
        Finding::none(
            "pause",
            "tasks cannot be frozen: a rootless engine needs control groups of version 2",
        )
    };
    let images = match report.images.as_slice() {
        [] => Finding::none("images", "none at hand"),
        names => {
            let shown = &names[..names.len().min(MAX_SHOWN)];
            Finding::ok(
                "images",
                format!("{} at hand: {}", names.len(), listed(names, shown)),
            )
        }
    };
    vec![sandboxes, hard_disk, egress, pause, images]
}

fn listed(all: &[String], shown: &[String]) -> String {
    let more = if all.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use p2pnode_executor::Features;

    use super::super::finding::State;
    use super::*;

    fn engine(facts: Result<EngineFacts, String>) -> Engine {
        Engine {
            facts,
            report: RuntimeReport {
                version: Ok("1".into()),
                images: vec!["a:1".into(); 5],
                features: Features::default(),
            },
        }
    }

    fn state(findings: &[Finding], check: &str) -> State {
        let found = findings.iter().find(|finding| finding.check == check);
        found.unwrap().state
    }

    #[test]
    fn no_engine_is_a_warning_and_one_that_fails_a_fault() {
        let none = engine(Err("no container engine: none of x is there".into()));
        assert_eq!(state(&none.findings(false), "engine"), State::Warning);
        let dead = engine(Err("the container engine at x does not answer: y".into()));
        assert_eq!(state(&dead.findings(false), "engine"), State::Fault);
        let unfit = engine(Ok(EngineFacts {
            unfit: Some("no seccomp".into()),
            ..EngineFacts::default()
        }));
        assert_eq!(state(&unfit.findings(false), "engine"), State::Fault);
        let mut mute = engine(Ok(EngineFacts::default()));
        mute.report.version = Err("it has stopped answering".into());
        let found = mute.findings(true);
        assert_eq!(state(&found, "engine"), State::Fault);
        assert!(found.iter().all(|finding| finding.check != "hard disk"));
    }

    #[test]
    fn a_missing_controller_is_a_fault_that_names_it() {
        let facts = EngineFacts {
            pids: Some(false),
            memory: Some(true),
            cgroup_version: Some(2),
            ..EngineFacts::default()
        };
        let found = judge_cgroups(&facts);
        assert_eq!(found.state, State::Fault);
        assert!(found.found.contains("pids") && !found.found.contains("memory"));
        assert!(found.mend.unwrap().contains("Delegate"));
        let whole = EngineFacts {
            pids: Some(true),
            ..facts
        };
        assert_eq!(judge_cgroups(&whole).state, State::Ok);
    }

    #[test]
    fn swap_that_cannot_be_limited_is_a_warning() {
        let judge = |swap| {
            judge_swap(&EngineFacts {
                swap,
                ..EngineFacts::default()
            })
            .state
        };
        assert_eq!(judge(Some(false)), State::Warning);
        assert_eq!((judge(Some(true)), judge(None)), (State::Ok, State::None));
    }

    #[test]
    fn what_was_asked_for_and_is_not_there_is_a_fault() {
        let engine = engine(Ok(EngineFacts::default()));
        assert_eq!(state(&engine.findings(true), "hard disk"), State::Fault);
        let found = engine.findings(false);
        assert_eq!(state(&found, "hard disk"), State::None);
        let images = found.iter().find(|finding| finding.check == "images");
        assert_eq!(images.unwrap().found, "5 at hand: a:1, a:1, a:1, ...");
    }
}
