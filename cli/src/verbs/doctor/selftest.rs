//! `doctor --self-test`: a task through each executor and each GPU that is offered.
//!
//! On the node that runs, or on one of its own with a data directory of its own, which listens on
//! loopback alone and is gone afterwards: neither the owner's offer nor any job of theirs is touched.

use std::path::{Path, PathBuf};

use hyper::Method;
use p2pnode_node::config::Config;
use p2pnode_node::home::DataDir;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::api::{NodeStatus, OfferRequest};

use super::finding::Finding;
use super::trial::{self, Failed, Passed};
use crate::args::Global;
use crate::client::Client;
use crate::exit::Failure;
use crate::here;
use crate::interrupt::Interrupts;

/// A WASI module that writes `ok` and ends. Its text:
///
/// ```wat
/// (module
///   (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
///   (memory 1) (data (i32.const 0) "\08\00\00\00\03\00\00\00ok\0a")
///   (export "memory" (memory 0)) (export "_start" (func 1))
///   (func (drop (call 0 (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))
/// ```
const MODULE: &[u8] = b"\x00asm\x01\x00\x00\x00\
      \x01\x0c\x02`\x04\x7f\x7f\x7f\x7f\x01\x7f`\x00\x00\
      \x02#\x01\x16wasi_snapshot_preview1\x08fd_write\x00\x00\
      \x03\x02\x01\x01\
      \x05\x03\x01\x00\x01\
      \x07\x13\x02\x06memory\x02\x00\x06_start\x00\x01\
      \x0a\x0f\x01\x0d\x00A\x01A\x00A\x01A\x0c\x10\x00\x1a\x0b\
      \x0b\x11\x01\x00A\x00\x0b\x0b\x08\x00\x00\x00\x03\x00\x00\x00ok\x0a";

/// What every job of the self-test needs: little, so that it fits beside what runs.
const NEEDS: &str = "cpus = 0.1\nmemory = \"64MiB\"\ndisk = \"16MiB\"\n";

/// Once, and not for long.
const POLICY: &str = "[policy]\nretries = 0\ntimeout = \"30s\"\n";

/// Images that are tried, newest first, until one has a shell.
const MAX_IMAGES: usize = 4;

/// What the node of the self-test's own offers: room for its tasks, one after another.
const OWN_MEMORY: Bytes = Bytes::mib(256);
const OWN_DISK: Bytes = Bytes::mib(128);

/// How to have an image at hand when no registry can be reached.
const IMAGE_MEND: &str =
    "docker pull busybox, or where no registry is reached: docker load -i IMAGE.tar";

/// What is known of this machine.
pub struct Machine {
    /// Where the owner's node keeps its state.
    pub dir: DataDir,
    /// The owner's settings.
    pub config: Config,
    /// Images at hand, newest first.
    pub images: Vec<String>,
    /// Whether an engine answers.
    pub engine: bool,
    /// GPUs that NVML knows.
    pub gpus: usize,
}

/// Runs all of it and tells each finding as it comes.
///
/// # Errors
/// When it is interrupted.
pub async fn run(
    global: &Global,
    client: Option<Client>,
    machine: &Machine,
    mut tell: impl FnMut(Finding),
) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    let scratch = match scratch(&machine.dir) {
        Ok(scratch) => scratch,
        Err(failure) => {
            tell(Finding::fault("self-test", failure.message).mend("free disk, or set TMPDIR"));
            return Ok(());
        }
    };
    if let Some(client) = client {
        return tokio::select! {
            () = all(&client, machine, scratch.path(), &mut tell) => Ok(()),
            _ = interrupts.next() => Err(Failure::internal("interrupted")),
        };
    }
    let own = Global {
        data_dir: Some(scratch.path().join("node")),
        ..global.clone()
    };
    let node = match here::start(&own, alone(&machine.config)).await {
        Ok(node) => node,
        Err(failure) => {
            let found = format!("no node can be started: {}", failure.message);
            tell(Finding::fault("self-test", found));
            return Ok(());
        }
    };
    interrupts.watch(&node);
    let client = Client::new(node.endpoint().clone());
    let ended = tokio::select! {
        ended = offered(&client, machine, scratch.path(), &mut tell) => ended,
        _ = interrupts.next() => Err(Failure::internal("interrupted")),
    };
    node.stop().await.map_err(here::node_failure)?;
    ended
}

/// A folder for the jobs and for a node of the self-test's own: where the tasks' folders would be, so
/// that a killed self-test is cleared away by the next start of a node.
fn scratch(dir: &DataDir) -> Result<tempfile::TempDir, Failure> {
    let work = dir.paths().work;
    let mut builder = tempfile::Builder::new();
    builder.prefix("p2pnode-doctor-");
    let made = if work.is_dir() {
        builder.tempdir_in(&work)
    } else {
        builder.tempdir()
    };
    made.map_err(|error| Failure::internal(format!("no temporary folder: {error}")))
}

/// The owner's settings, with nobody else in the network.
fn alone(config: &Config) -> Config {
    let mut own = config.clone();
    "self-test".clone_into(&mut own.name);
    own.networks = vec!["self-test".to_owned()];
    let listen = ["/ip4/127.0.0.1/tcp/0"];
    own.listen = listen.iter().filter_map(|text| text.parse().ok()).collect();
    own.external.clear();
    own.bootstrap.clear();
    own.mdns = false;
    own.upnp = false;
    own.api = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    own.metrics = None;
    own.offer = OfferRequest {
        runtime: config.offer.runtime.clone(),
        ..OfferRequest::default()
    };
    own
}

/// Offers what the tasks need, then runs them.
async fn offered(
    client: &Client,
    machine: &Machine,
    scratch: &Path,
    tell: &mut impl FnMut(Finding),
) -> Result<(), Failure> {
    let offer = OfferRequest {
        cpus_milli: Some(1_000),
        memory: Some(OWN_MEMORY.0),
        disk: Some(OWN_DISK.0),
        gpus: (machine.gpus > 0).then(|| "all".to_owned()),
        ..OfferRequest::default()
    };
    let put: Result<NodeStatus, Failure> = client.ask(Method::PUT, "/offer", &offer).await;
    match put {
        Ok(_) => all(client, machine, scratch, tell).await,
        Err(failure) => tell(Finding::fault("self-test", failure.message)),
    }
    Ok(())
}

async fn all(client: &Client, machine: &Machine, scratch: &Path, tell: &mut impl FnMut(Finding)) {
    let status: NodeStatus = match client.get("/status").await {
        Ok(status) => status,
        Err(failure) => return tell(Finding::fault("self-test", failure.message)),
    };
    let Some(offer) = &status.offer else {
        let found = "the running node offers nothing, so no task can run on it";
        return tell(
            Finding::fault("self-test", found)
                .mend("p2pnode offer; or p2pnode stop, and the self-test starts a node of its own"),
        );
    };
    let bench = Bench {
        client,
        peer: &status.peer,
        folder: scratch.to_path_buf(),
    };
    tell(bench.wasm().await);
    if !machine.engine {
        tell(Finding::none(
            "run docker",
            "not tried: no container engine answers",
        ));
        return;
    }
    let (found, image) = bench.docker(&machine.images).await;
    tell(found);
    match (offer.total.gpus.len(), image) {
        (0, _) if machine.gpus == 0 => {}
        (0, _) => tell(
            Finding::none("run gpu", "not tried: no GPU is offered")
                .mend("p2pnode offer --gpus all"),
        ),
        (_, None) => tell(Finding::warning("run gpu", "not tried: no image ran").mend(IMAGE_MEND)),
        (count, Some(image)) => tell(bench.gpus(&image, count).await),
    }
}

/// Where trials run.
struct Bench<'a> {
    client: &'a Client,
    peer: &'a str,
    folder: PathBuf,
}

impl Bench<'_> {
    async fn trial(&self, toml: &str) -> Result<Passed, Failed> {
        trial::run(self.client, self.peer, &self.folder, toml).await
    }

    async fn wasm(&self) -> Finding {
        if let Err(error) = tokio::fs::write(self.folder.join("ok.wasm"), MODULE).await {
            return Finding::fault("run wasm", format!("the module cannot be written: {error}"));
        }
        let task = "name = \"self-test\"\n[task]\nwasm = \"ok.wasm\"\n";
        let toml = format!("{task}[resources]\n{NEEDS}{POLICY}");
        said("run wasm", "a module ran", self.trial(&toml).await)
    }

    /// Returns the image that ran, too.
    async fn docker(&self, images: &[String]) -> (Finding, Option<String>) {
        if images.is_empty() {
            let found = "not tried: no image is at hand, and none is pulled for this";
            return (Finding::warning("run docker", found).mend(IMAGE_MEND), None);
        }
        let mut shells = Vec::new();
        for image in images.iter().take(MAX_IMAGES) {
            let ended = self.trial(&container(image, "echo ok", "", "")).await;
            match ended {
                Err(failed) if failed.bad_program => shells.push(image.as_str()),
                ended => {
                    let ran = ended.is_ok().then(|| image.clone());
                    let what = format!("a container of {image} ran");
                    return (said("run docker", &what, ended), ran);
                }
            }
        }
        let found = format!("not tried: no shell is in {}", shells.join(", "));
        (Finding::warning("run docker", found).mend(IMAGE_MEND), None)
    }

    /// As many tasks at the same time as there are GPUs, one each. Each stays for a moment, so that
    /// none has the GPU of another that has ended.
    async fn gpus(&self, image: &str, count: usize) -> Finding {
        let array = format!("[array]\ngpu = \"1-{count}\"\nchunk = 1\n");
        let script = "ls /dev/nvidia[0-9]* && sleep 3";
        let toml = container(image, script, &array, "gpus = 1\n");
        let ended = self.trial(&toml).await;
        let tasks = ended.as_ref().map_or(0, |passed| passed.tasks);
        let what = format!("{tasks} of {count} GPUs were seen by tasks in containers");
        said("run gpu", &what, ended)
    }
}

/// A job of one container that runs `script`.
fn container(image: &str, script: &str, array: &str, needs: &str) -> String {
    // Names of images have no signs that TOML would take for its own; escaping makes sure.
    let image = image.escape_default();
    format!(
        "name = \"self-test\"\n[task]\nimage = \"{image}\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n\
         {array}[resources]\n{NEEDS}{needs}{POLICY}"
    )
}

fn said(check: &'static str, what: &str, ended: Result<Passed, Failed>) -> Finding {
    match ended {
        Ok(passed) => {
            let millis = passed.first.as_millis();
            Finding::ok(check, format!("{what}: first result after {millis} ms"))
        }
        Err(failed) => Finding::fault(check, failed.why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_what_its_text_says() {
        let text = r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory 1) (data (i32.const 0) "\08\00\00\00\03\00\00\00ok\0a")
            (export "memory" (memory 0)) (export "_start" (func 1))
            (func (drop (call 0 (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#;
        assert_eq!(MODULE, wat::parse_str(text).unwrap());
    }

    #[test]
    fn its_jobs_are_good_job_files() {
        let folder = tempfile::tempdir().unwrap();
        let array = "[array]\ngpu = \"1-3\"\nchunk = 1\n";
        let toml = container(
            "p2pnode-test:1",
            "ls /dev/nvidia[0-9]* && sleep 3",
            array,
            "gpus = 1\n",
        );
        let job = p2pnode_node::jobfile::load(&toml, "self-test", folder.path());
        assert_eq!(
            job.map(|job| job.task_count()).map_err(|e| e.lines()),
            Ok(3)
        );
    }

    #[test]
    fn its_own_node_meets_nobody() {
        let mut config = Config::default();
        config.bootstrap = vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap()];
        config.metrics = Some("0.0.0.0:9464".parse().unwrap());
        let own = alone(&config);
        assert!(own.bootstrap.is_empty() && !own.mdns && !own.upnp);
        assert_eq!(own.listen.len(), 1);
        assert!(own.metrics.is_none() && own.api.ip().is_loopback());
    }
}
