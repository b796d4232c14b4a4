//! A runtime with a folder of its own, and what tests of images need: archives, contexts, and what the
//! engine has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bollard::Docker;
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptionsBuilder};
use futures::StreamExt;
use p2pnode_executor::docker::{DockerConfig, DockerRuntime};
use p2pnode_executor::{Environment, LogSink, ProgramFile, Runtime};
use p2pnode_protocol::task::Failure;
use p2pnode_protocol::{Bytes, Resources};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::contract::{Act, Trial, within};
use crate::subject::{DockerSubject, IMAGE, fresh_incarnation, reaper_command};

/// A runtime beside the others.
pub struct Bench {
    pub subject: DockerSubject,
    pub dir: TempDir,
}

impl Bench {
    pub async fn new(quota: Option<Bytes>) -> Self {
        let mut bench = Self {
            subject: DockerSubject::new().await,
            dir: tempfile::tempdir().unwrap(),
        };
        bench.restart(quota);
        bench
    }

    /// Another life of the same node.
    pub fn restart(&mut self, quota: Option<Bytes>) {
        self.subject.incarnation = fresh_incarnation();
        self.subject.runtime = DockerRuntime::new(DockerConfig {
            node: self.subject.node,
            incarnation: self.subject.incarnation.clone(),
            reaper: reaper_command(),
            dir: self.dir.path().join("engine"),
            socket: None,
            image_cache: quota,
            sandbox: None,
            hard_disk: false,
        });
    }

    pub fn engine(&self) -> &Docker {
        &self.subject.engine
    }

    pub async fn prepare(&self, program: ProgramFile) -> Result<Arc<dyn Environment>, Failure> {
        let (progress, _steps) = mpsc::channel(1);
        within(self.subject.runtime.prepare(program, progress)).await
    }

    /// What a shell command in an environment says.
    pub async fn say(&self, environment: &Arc<dyn Environment>, text: &str) -> String {
        let mut trial = Trial::new(&self.subject, Act::Idle);
        trial.task.command = DockerSubject::shell(text);
        let (sink, mut log): (LogSink, _) = mpsc::channel(64);
        let run = environment.run(trial.task.clone(), sink, trial.cancel.clone());
        let listen = async {
            let mut text = Vec::new();
            while let Some(chunk) = log.recv().await {
                text.extend(chunk.bytes);
            }
            String::from_utf8(text).unwrap()
        };
        let (end, text) = within(async { tokio::join!(run, listen) }).await;
        assert_eq!(end.result, Ok(()), "{text}");
        text
    }

    /// An archive in a file.
    pub fn archive(&self, bytes: &[u8]) -> ProgramFile {
        let digest = sha(&[bytes, unique().as_bytes()].concat());
        let path = self.dir.path().join(&digest);
        std::fs::write(&path, bytes).unwrap();
        ProgramFile::Archive { path, digest }
    }

    /// A context of one Dockerfile and perhaps more.
    pub fn context(&self, dockerfile: &str, files: &[(&str, &str)]) -> ProgramFile {
        let digest = sha(unique().as_bytes());
        let context = self.dir.path().join(&digest);
        write(&context, "Dockerfile", dockerfile);
        for (name, text) in files {
            write(&context, name, text);
        }
        ProgramFile::Build {
            context,
            dockerfile: "Dockerfile".into(),
            digest,
            local_registry: true,
            resources: Resources {
                memory: Bytes(256 << 20),
                disk: Bytes(64 << 20),
                pids: 64,
                ..Resources::default()
            },
        }
    }
}

fn write(context: &Path, name: &str, text: &str) {
    let path: PathBuf = context.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A text that no other test has.
pub fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{serial}", std::process::id(), now.as_nanos())
}

pub fn sha(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The test image as an archive that says it is `tag`: another image, by a label and `more` bytes.
/// The second is its id.
pub async fn saved(engine: &Docker, tag: &str, more: usize) -> (Vec<u8>, String) {
    let (config, layers) = parts(engine, more).await;
    let name = format!("{}.json", sha(&config));
    let names: Vec<_> = (0..layers.len())
        .map(|at| format!("{at}/layer.tar"))
        .collect();
    let manifest = json!([{ "Config": name, "RepoTags": [tag], "Layers": names }]);
    let mut members = vec![
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
        (name, config.clone()),
    ];
    members.extend(names.into_iter().zip(layers));
    (tar_of(&members), format!("sha256:{}", sha(&config)))
}

/// The configuration and layers of a new image that is the test image and `more` bytes.
pub async fn parts(engine: &Docker, more: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut bytes = Vec::new();
    let mut export = std::pin::pin!(engine.export_image(IMAGE));
    while let Some(piece) = export.next().await {
        bytes.extend(piece.unwrap());
    }
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.insert(name, content);
    }
    let manifest: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    let part = |name: &Value| members[name.as_str().unwrap()].clone();
    let mut layers: Vec<_> = manifest[0]["Layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(part)
        .collect();
    let mut config: Value = serde_json::from_slice(&part(&manifest[0]["Config"])).unwrap();
    if more > 0 {
        layers.push(tar_of(&[("more".to_owned(), vec![0; more])]));
    }
    let ids: Vec<_> = layers
        .iter()
        .map(|layer| format!("sha256:{}", sha(layer)))
        .collect();
    config["rootfs"]["diff_ids"] = json!(ids);
    config["config"]["Labels"] = json!({ "p2pnode.test": unique() });
    config["history"] = json!([]);
    (config.to_string().into_bytes(), layers)
}

pub fn tar_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The name that this node gives to what was in an archive.
pub fn archive_name(program: &ProgramFile) -> String {
    match program {
        ProgramFile::Archive { digest, .. } => format!("p2pnode.invalid/archive:{digest}"),
        other => panic!("{other:?}"),
    }
}

/// The name of what is built from a context.
pub fn build_name(program: &ProgramFile) -> String {
    match program {
        ProgramFile::Build {
            digest, dockerfile, ..
        } => {
            let platform = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            let whole = [digest, dockerfile, platform].join("\0");
            format!("p2pnode.invalid/build:{}", sha(whole.as_bytes()))
        }
        other => panic!("{other:?}"),
    }
}

/// The id that a name has, if any.
pub async fn id_of(engine: &Docker, name: &str) -> Option<String> {
    engine.inspect_image(name).await.ok()?.id
}

/// Ids of the images without a name that carry this label, those that others were made from included.
pub async fn nameless(engine: &Docker, label: &str) -> BTreeSet<String> {
    let filters = std::collections::HashMap::from([("label", vec![label])]);
    let options = ListImagesOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    let listed = engine.list_images(Some(options)).await.unwrap();
    let named = |names: &[String]| names.iter().any(|name| !name.contains("<none>"));
    let nameless = listed.into_iter().filter(|image| !named(&image.repo_tags));
    nameless.map(|image| image.id).collect()
}

pub async fn remove(engine: &Docker, name: &str) {
    let options = RemoveImageOptionsBuilder::new().build();
    let _ = engine.remove_image(name, Some(options), None).await;
}

/// What builds put on everything on their way.
pub const BUILD: &str = "p2pnode.build";

/// What the builds of this life have left.
pub async fn left_of(bench: &Bench) -> Vec<String> {
    let mark = format!(
        "{BUILD}={}:{}",
        bench.subject.node, bench.subject.incarnation
    );
    let all = nameless(bench.engine(), BUILD).await;
    let mut ours = Vec::new();
    for id in all {
        // Another test's may be gone by now.
        let Ok(found) = bench.engine().inspect_image(&id).await else {
            continue;
        };
        let labels = found
            .config
            .and_then(|config| config.labels)
            .unwrap_or_default();
        let value = labels.get(BUILD).cloned().unwrap_or_default();
        if format!("{BUILD}={value}").starts_with(&mark) {
            ours.push(id);
        }
    }
    ours
}
