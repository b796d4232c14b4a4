//! An engine that starts late, dies under a task and comes back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::docker::{DockerConfig, DockerRuntime};
use p2pnode_executor::{Environment, LogSink, ProgramFile, Runtime};
use p2pnode_protocol::PeerId;
use p2pnode_protocol::task::FailureKind;
use tokio::sync::mpsc;

use crate::contract::{Act, PATIENCE, Subject, Trial, within};
use crate::life::until;
use crate::subject::{DockerSubject, IMAGE, fresh_incarnation, reaper_command};

/// An engine of the test's own, beside the machine's.
pub struct OwnEngine {
    pub dir: tempfile::TempDir,
    process: Option<Child>,
    /// A folder of programs that it finds before the machine's.
    pub programs: Option<PathBuf>,
}

impl OwnEngine {
    /// One that has yet to be started. `None` without root, who alone can start engines.
    pub fn new() -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            eprintln!("not tested: only root can start an engine");
            return None;
        }
        Some(Self {
            dir: tempfile::tempdir().unwrap(),
            process: None,
            programs: None,
        })
    }

    /// A runtime that knows this engine alone, running or not.
    pub fn runtime(&self) -> DockerRuntime {
        DockerRuntime::new(DockerConfig {
            node: PeerId::random(),
            incarnation: fresh_incarnation(),
            reaper: reaper_command(),
            dir: self.dir.path().join("runtime"),
            socket: Some(self.socket()),
            sandbox: None,
            hard_disk: false,
            image_cache: None,
        })
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.dir.path().join("docker.sock").display())
    }

    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.socket()]).args(args);
        command
    }

    pub async fn start(&mut self) {
        let own = self.programs.iter().cloned();
        let machines = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(own.chain(std::env::split_paths(&machines)));
        let at = |name: &str| self.dir.path().join(name);
        let log = std::fs::File::create(at("log")).unwrap();
        let process = Command::new("dockerd")
            .args(["--host", &self.socket()])
            .args([Path::new("--data-root"), &at("data")])
            .args([Path::new("--exec-root"), &at("exec")])
            .args([Path::new("--pidfile"), &at("pid")])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .env("PATH", path.unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap());
        until(PATIENCE, async || {
            let answer = self
                .docker(&["version"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            answer.unwrap().success()
        })
        .await;
    }

    pub fn load(&self, image: &str) {
        let mut save = Command::new("docker")
            .args(["save", image])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let load = self
            .docker(&["load", "--quiet"])
            .stdin(save.stdout.take().unwrap())
            .stdout(Stdio::null())
            .status();
        assert!(load.unwrap().success() && save.wait().unwrap().success());
    }

    pub fn containers(&self) -> usize {
        let listed = self.docker(&["ps", "--all", "--quiet"]).output().unwrap();
        assert!(listed.status.success());
        listed
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .count()
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Asked, not killed, so that it unmounts what it has mounted below the folder.
            let pid = rustix::process::Pid::from_child(process);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = process.wait();
        }
        // One mount for each life of the engine that was killed.
        let unmount = || {
            let mut command = Command::new("umount");
            command
                .args(["--recursive", "--lazy"])
                .arg(self.dir.path().join("data"));
            command
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        while unmount() {}
    }
}

/// The test image on the runtime's own engine.
pub async fn prepared(runtime: &DockerRuntime) -> Arc<dyn Environment> {
    let program = ProgramFile::Image {
        reference: IMAGE.to_owned(),
        credentials: None,
        local_registry: true,
    };
    let (progress, _) = mpsc::channel(1);
    within(runtime.prepare(program, progress)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn it_may_come_late_die_and_come_back() {
    let Some(mut engine) = OwnEngine::new() else {
        return;
    };
    let subject = DockerSubject::new().await;
    let runtime = engine.runtime();
    assert!(runtime.probe().await.version.is_err());

    engine.start().await;
    engine.load(IMAGE);
    assert!(runtime.probe().await.images.contains(&IMAGE.to_owned()));
    let environment = prepared(&runtime).await;

    let trial = Trial::new(&subject, Act::Idle);
    let (sink, mut log): (LogSink, _) = mpsc::channel(16);
    let run = environment.run(trial.task.clone(), sink, trial.cancel.clone());
    let kill = async {
        assert_eq!(log.recv().await.unwrap().bytes, b"started\n");
        engine.kill();
    };
    let (end, ()) = within(async { tokio::join!(run, kill) }).await;
    assert_eq!(end.result.unwrap_err().kind, FailureKind::Host);
    assert!(runtime.probe().await.version.is_err());

    // What could not be removed then is removed now, and the node goes on.
    engine.start().await;
    assert!(runtime.probe().await.version.is_ok());
    until(PATIENCE, async || engine.containers() == 0).await;
    let mut trial = Trial::new(&subject, Act::Exit(0));
    trial.task.timeout = Duration::from_secs(30);
    let (sink, _log) = mpsc::channel(16);
    let end = within(environment.run(trial.task.clone(), sink, trial.cancel.clone())).await;
    assert_eq!(end.result, Ok(()));
    within(runtime.shutdown()).await;
    assert_eq!(engine.containers(), 0);
    assert!(subject.leftovers().await.is_empty());
}

/// Three times in a row, with tasks at every point of their lives.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn an_engine_lost_again_and_again_keeps_no_container() {
    let Some(mut engine) = OwnEngine::new() else {
        return;
    };
    let subject = DockerSubject::new().await;
    engine.start().await;
    engine.load(IMAGE);
    let runtime = engine.runtime();
    for round in 0..3 {
        let environment = prepared(&runtime).await;
        let acts = [Act::Exit(0), Act::Spin, Act::Idle, Act::Flood];
        let trials: Vec<_> = (0..12)
            .map(|n| Trial::new(&subject, acts[n % acts.len()]))
            .collect();
        let runs = trials.iter().map(|trial| {
            let environment = Arc::clone(&environment);
            let (task, cancel) = (trial.task.clone(), trial.cancel.clone());
            let (sink, mut log) = mpsc::channel(16);
            tokio::spawn(async move { while log.recv().await.is_some() {} });
            tokio::spawn(async move { environment.run(task, sink, cancel).await })
        });
        let runs: Vec<_> = runs.collect();
        // Some have ended by then, some run, some wait for their start.
        until(PATIENCE, async || engine.containers() >= 3).await;
        engine.kill();
        for (run, trial) in runs.into_iter().zip(&trials) {
            let end = within(run).await.unwrap();
            let endless = ["sleep", "while"]
                .iter()
                .any(|word| trial.task.command[2].contains(word));
            match end.result {
                Ok(()) => assert!(!endless, "round {round}: {:?}", trial.task.command),
                Err(failure) => assert_eq!(failure.kind, FailureKind::Host, "{failure:?}"),
            }
        }
        engine.start().await;
        until(PATIENCE, async || {
            runtime.probe().await.version.is_ok() && engine.containers() == 0
        })
        .await;
    }
    within(runtime.shutdown()).await;
    assert_eq!(engine.containers(), 0);
}
