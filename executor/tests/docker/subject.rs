//! The Docker runtime as a subject of the contract: shell commands in a small image.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptionsBuilder;
use p2pnode_executor::docker::{DockerConfig, DockerRuntime, ReaperCommand, labels};
use p2pnode_executor::egress::Gate;
use p2pnode_executor::{ProgramFile, Runtime};
use p2pnode_protocol::PeerId;

use crate::contract::{ARGUMENTS, Act, FLOOD_BYTES, Script, Subject};

/// Made by `docker/test-image.sh`.
pub const IMAGE: &str = "p2pnode-test:1";
/// The same with an entry point, a user, a folder and volumes of its own.
pub const ODD_IMAGE: &str = "p2pnode-test-odd:1";

/// A runtime with an identity of its own.
pub struct DockerSubject {
    pub runtime: DockerRuntime,
    /// A client beside the runtime's, to see what it does.
    pub engine: Docker,
    pub node: PeerId,
    pub incarnation: String,
}

impl DockerSubject {
    /// A fresh one; panics with what to run when the engine or the image is missing.
    pub async fn new() -> Self {
        Self::named(PeerId::random(), &fresh_incarnation()).await
    }

    /// One whose tasks' ways out follow other rules.
    pub async fn with_gate(gate: Gate) -> Self {
        Self::with(PeerId::random(), &fresh_incarnation(), gate).await
    }

    pub async fn named(node: PeerId, incarnation: &str) -> Self {
        Self::with(node, incarnation, Gate::default()).await
    }

    async fn with(node: PeerId, incarnation: &str, gate: Gate) -> Self {
        let engine = Docker::connect_with_unix_defaults().expect("no engine: run .ci/engine");
        let engine = engine
            .negotiate_version()
            .await
            .expect("no engine: run .ci/engine");
        for image in [IMAGE, ODD_IMAGE] {
            let found = engine.inspect_image(image).await;
            assert!(
                found.is_ok(),
                "the image {image} is missing: run docker/test-image.sh"
            );
        }
        let config = DockerConfig {
            node,
            incarnation: incarnation.to_owned(),
            reaper: reaper_command(),
            dir: std::env::temp_dir().join("p2pnode-test-docker"),
            socket: None,
        };
        let runtime = DockerRuntime::with_gate(config, gate);
        Self {
            runtime,
            engine,
            node,
            incarnation: incarnation.to_owned(),
        }
    }

    /// A shell script in the test image.
    pub fn shell(text: &str) -> Vec<String> {
        ["/bin/sh", "-c", text].map(str::to_owned).into()
    }
}

/// This test binary, told to be the reaper.
pub fn reaper_command() -> ReaperCommand {
    let mut command = ReaperCommand::this_program("life::reaper_process").unwrap();
    command
        .args
        .extend(["--exact".into(), "--include-ignored".into()]);
    command
}

pub fn fresh_incarnation() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{:08}x{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// All containers of a node's life, running or not.
pub async fn containers(engine: &Docker, node: PeerId, incarnation: &str) -> Vec<ContainerSummary> {
    let label = format!("{}={node}:{incarnation}", labels::NODE);
    let filters = HashMap::from([("label", vec![label.as_str()])]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    engine.list_containers(Some(options)).await.unwrap()
}

#[async_trait]
impl Subject for DockerSubject {
    fn runtime(&self) -> &dyn Runtime {
        &self.runtime
    }

    fn script(&self, act: Act) -> Script {
        let mut command = Self::shell(&match act {
            Act::Exit(code) => format!("exit {code}"),
            Act::Converse => {
                "echo early; while [ ! -e go ]; do sleep 0.05; done; echo late >&2".to_owned()
            }
            Act::Echo => r#"printf '%s\n' "$@" "$GREETING""#.to_owned(),
            Act::Copy => "cp in/data.bin out/data.bin".to_owned(),
            Act::Stdin => r#"test -z "$(cat)""#.to_owned(),
            Act::Spin => "echo started; while :; do :; done".to_owned(),
            Act::Idle => "echo started; exec sleep 1000000".to_owned(),
            Act::MemoryBomb => "exec tail /dev/zero".to_owned(),
            Act::Flood => format!("exec head -c {FLOOD_BYTES} /dev/zero"),
            Act::FillDisk => "exec dd if=/dev/zero of=big bs=65536".to_owned(),
            Act::Binary => r"printf '\377\000\376'".to_owned(),
        });
        if act == Act::Echo {
            command.push("name".to_owned());
            command.extend(ARGUMENTS.map(str::to_owned));
        }
        Script {
            program: ProgramFile::Image {
                reference: IMAGE.to_owned(),
                credentials: None,
            },
            command,
        }
    }

    async fn leftovers(&self) -> Vec<String> {
        containers(&self.engine, self.node, &self.incarnation)
            .await
            .into_iter()
            .map(|container| format!("container {:?} {:?}", container.names, container.status))
            .collect()
    }
}
