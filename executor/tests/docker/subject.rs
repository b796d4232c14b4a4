//! The Docker runtime as a subject of the contract: shell commands in a small image.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
};
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
    /// The runtime's folder.
    pub dir: PathBuf,
}

/// The folder that the runtimes of all tests share.
pub fn shared_dir() -> PathBuf {
    std::env::temp_dir().join("p2pnode-test-docker")
}

impl DockerSubject {
    /// A fresh one; panics with what to run when the engine or the image is missing.
    pub async fn new() -> Self {
        Self::named(PeerId::random(), &fresh_incarnation()).await
    }

    /// One whose tasks' ways out follow other rules.
    pub async fn with_gate(gate: Gate) -> Self {
        Self::with(PeerId::random(), &fresh_incarnation(), gate, |_| {}).await
    }

    pub async fn named(node: PeerId, incarnation: &str) -> Self {
        Self::with(node, incarnation, Gate::default(), |_| {}).await
    }

    /// A fresh one whose tasks have disks of their own. `None` where the machine can't, which is said.
    pub async fn with_hard_disks() -> Option<Self> {
        let hard = |config: &mut DockerConfig| config.hard_disk = true;
        let subject = Self::with(
            PeerId::random(),
            &fresh_incarnation(),
            Gate::default(),
            hard,
        )
        .await;
        if subject.runtime.probe().await.features.hard_disk {
            return Some(subject);
        }
        let root = rustix::process::getuid().is_root();
        let loops = Path::new("/dev/loop-control").exists();
        assert!(!root || !loops, "root with loop devices must be able to");
        eprintln!("not tested: tasks cannot have disks of their own here");
        None
    }

    /// One whose configuration is changed.
    pub async fn with_config(
        node: PeerId,
        incarnation: &str,
        change: impl FnOnce(&mut DockerConfig),
    ) -> Self {
        Self::with(node, incarnation, Gate::default(), change).await
    }

    async fn with(
        node: PeerId,
        incarnation: &str,
        gate: Gate,
        change: impl FnOnce(&mut DockerConfig),
    ) -> Self {
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
        let mut config = DockerConfig {
            node,
            incarnation: incarnation.to_owned(),
            reaper: reaper_command(),
            dir: shared_dir(),
            socket: None,
            sandbox: None,
            hard_disk: false,
            image_cache: None,
        };
        change(&mut config);
        Self {
            dir: config.dir.clone(),
            runtime: DockerRuntime::with_gate(config, gate),
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

/// Networks and volumes of a node's life.
pub async fn labelled(engine: &Docker, node: PeerId, incarnation: &str) -> Vec<String> {
    let label = format!("{}={node}:{incarnation}", labels::NODE);
    let filters = HashMap::from([("label", vec![label.as_str()])]);
    let networks = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let networks = engine.list_networks(Some(networks)).await.unwrap();
    let volumes = ListVolumesOptionsBuilder::new().filters(&filters).build();
    let volumes = engine.list_volumes(Some(volumes)).await.unwrap();
    let networks = networks.into_iter().filter_map(|network| network.name);
    let volumes = volumes.volumes.unwrap_or_default().into_iter();
    networks
        .map(|name| format!("network {name}"))
        .chain(volumes.map(|volume| format!("volume {}", volume.name)))
        .collect()
}

/// Mounts and files of tasks' disks of a node's life.
pub fn disks(dir: &Path, node: PeerId, incarnation: &str) -> Vec<String> {
    let own = dir.join("disks").join(format!("{node}:{incarnation}"));
    let text = own.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts.lines().filter(|line| line.contains(&text));
    let files = std::fs::read_dir(&own).into_iter().flatten().flatten();
    mounts
        .map(|line| format!("mount {line}"))
        .chain(files.map(|file| format!("file {}", file.path().display())))
        .collect()
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
                local_registry: true,
            },
            command,
        }
    }

    async fn leftovers(&self) -> Vec<String> {
        let found = containers(&self.engine, self.node, &self.incarnation).await;
        let mut left: Vec<String> = found
            .into_iter()
            .map(|container| format!("container {:?} {:?}", container.names, container.status))
            .collect();
        left.extend(labelled(&self.engine, self.node, &self.incarnation).await);
        left.extend(disks(&self.dir, self.node, &self.incarnation));
        left
    }
}
