//! Containers must not outlive their node, however it ends.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::models::{ContainerCreateBody, ContainerSummaryStateEnum};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use p2pnode_executor::Runtime;
use p2pnode_executor::docker::{DockerConfig, labels, reaper};
use p2pnode_protocol::PeerId;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::contract::{Act, PATIENCE, Subject, Trial, clean};
use crate::subject::{
    DockerSubject, IMAGE, containers, disks, fresh_incarnation, labelled, reaper_command,
};

/// What issue and design promise for a node that was killed.
const REAPED_WITHIN: Duration = Duration::from_secs(30);

/// Not a test: the process that [`reaper_command`] starts. Without its arguments it does nothing.
#[test]
#[ignore = "a process that other tests start"]
fn reaper_process() {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let [.., flag, address, label, dir] = &args[..]
        && flag == "--include-ignored"
    {
        let _status = reaper::run([address.clone(), label.clone(), dir.clone()]);
    }
}

const OWNER: &str = "P2PNODE_TEST_OWNER";
const HARD: &str = "P2PNODE_TEST_HARD";
const NO_REAPER: &str = "P2PNODE_TEST_NO_REAPER";

/// Not a test: a node's process, to be killed. It starts containers without end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that other tests start"]
async fn owner_process() {
    let Ok(owner) = std::env::var(OWNER) else {
        return;
    };
    let (node, incarnation) = owner.split_once(':').unwrap();
    let hard = std::env::var_os(HARD).is_some();
    let subject = DockerSubject::with_config(node.parse().unwrap(), incarnation, |config| {
        config.hard_disk = hard;
        if std::env::var_os(NO_REAPER).is_some() {
            // One that waits like a reaper and does nothing then.
            config.reaper.program = "/bin/sh".into();
            config.reaper.args = ["-c", "cat"].map(OsString::from).into();
        }
    })
    .await;
    let trials: Vec<_> = (0..4).map(|_| Trial::new(&subject, Act::Spin)).collect();
    let mut running = Vec::new();
    for trial in &trials {
        running.push(trial.start().await);
    }
    for task in running {
        task.finish().await;
    }
}

/// `dir` is for its temporary files, which it will not remove.
fn start_owner(node: PeerId, incarnation: &str, dir: &TempDir) -> Child {
    owner_command(node, incarnation, dir).spawn().unwrap()
}

/// One whose tasks have disks of their own.
fn start_hard_owner(node: PeerId, incarnation: &str, dir: &TempDir, reaped: bool) -> Child {
    let mut command = owner_command(node, incarnation, dir);
    command.env(HARD, "1");
    if !reaped {
        command.env(NO_REAPER, "1");
    }
    command.spawn().unwrap()
}

fn owner_command(node: PeerId, incarnation: &str, dir: &TempDir) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["life::owner_process", "--exact", "--include-ignored"])
        .env(OWNER, format!("{node}:{incarnation}"))
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Waits until `done`, asked every 50 ms; returns how long it took.
pub async fn until(limit: Duration, mut done: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < limit, "did not happen within {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    start.elapsed()
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_killed_nodes_containers_are_gone_within_30_s() {
    let subject = DockerSubject::new().await;
    let incarnation = fresh_incarnation();
    let dir = tempfile::tempdir().unwrap();
    let mut owner = start_owner(subject.node, &incarnation, &dir);
    let of_owner = async || containers(&subject.engine, subject.node, &incarnation).await;
    until(PATIENCE, async || {
        let running = Some(ContainerSummaryStateEnum::RUNNING);
        of_owner()
            .await
            .iter()
            .filter(|one| one.state == running)
            .count()
            == 4
    })
    .await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    until(REAPED_WITHIN, async || of_owner().await.is_empty()).await;
    clean(&subject).await;
}

/// Killed at any moment while containers are being made: what appears late is removed too.
#[tokio::test]
#[ignore = "needs docker"]
async fn a_node_killed_while_it_makes_containers_leaves_none() {
    let subject = DockerSubject::new().await;
    for delay_ms in [0, 30, 60, 120, 250] {
        let incarnation = fresh_incarnation();
        let dir = tempfile::tempdir().unwrap();
        let mut owner = start_owner(subject.node, &incarnation, &dir);
        let of_owner = async || containers(&subject.engine, subject.node, &incarnation).await;
        until(PATIENCE, async || !of_owner().await.is_empty()).await;
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        owner.kill().unwrap();
        owner.wait().unwrap();
        until(REAPED_WITHIN, async || of_owner().await.is_empty()).await;
        // Nothing appears afterwards either: watched for longer than a start takes.
        let watched = Instant::now();
        while watched.elapsed() < Duration::from_secs(2) {
            assert!(of_owner().await.is_empty());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs docker"]
async fn the_reaper_outlives_the_signals_that_end_its_node() {
    let subject = DockerSubject::new().await;
    let command = reaper_command();
    let label = format!("{}:{}", subject.node, subject.incarnation);
    let trial = Trial::new(&subject, Act::Idle);
    let mut running = trial.start().await;
    running.until_stdout("started\n").await;
    let mut process = Command::new(&command.program)
        .args(&command.args)
        .args(["/var/run/docker.sock", &label, "/no/such/folder"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&process);
    // It is ready for signals once it reads its standard input, sleeping in a pipe.
    let wchan = format!("/proc/{}/task", process.id());
    until(PATIENCE, async || {
        std::fs::read_dir(&wchan).unwrap().flatten().any(|thread| {
            let call = std::fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
            call.starts_with("0 0x0 ")
        })
    })
    .await;
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        kill_process(pid, signal).unwrap();
    }
    assert_eq!(subject.leftovers().await.len(), 1);
    drop(process.stdin.take());
    until(REAPED_WITHIN, async || subject.leftovers().await.is_empty()).await;
    until(REAPED_WITHIN, async || {
        process.try_wait().unwrap().is_some()
    })
    .await;
    assert!(process.wait().unwrap().success());
    assert!(running.finish().await.end.result.is_err());
}

#[tokio::test]
#[ignore = "needs docker"]
async fn only_an_earlier_lifes_containers_are_leftovers() {
    let subject = DockerSubject::new().await;
    let other = PeerId::random();
    let lives = [
        (subject.node, "earlier"),
        (subject.node, subject.incarnation.as_str()),
        (other, "earlier"),
    ];
    let name = |(node, life): (PeerId, &str)| {
        let node = node.to_string();
        format!("p2pnode-{}-{life}-1", &node[node.len() - 8..])
    };
    let create = async |(node, life): (PeerId, &str), name: &str| {
        let label = format!("{node}:{life}");
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            labels: Some(HashMap::from([(labels::NODE.to_owned(), label)])),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let created = subject.engine.create_container(Some(options), body).await;
        created.unwrap();
    };
    for life in lives {
        create(life, &name(life)).await;
    }
    // What the owner runs has its image's labels, and an image may say that it is ours.
    let owners = format!("owners-own-{}", subject.incarnation);
    create(lives[0], &owners).await;
    subject.runtime.remove_leftovers().await;
    let mut left = Vec::new();
    for (node, incarnation) in lives {
        let found = containers(&subject.engine, node, incarnation).await;
        left.push(found.len());
        for container in found {
            let id = container.id.unwrap();
            let names = container.names.unwrap_or_default();
            let is_owners = names.iter().any(|name| name.ends_with(&owners));
            assert_eq!(is_owners, (node, incarnation) == lives[0], "{names:?}");
            subject.engine.remove_container(&id, None).await.unwrap();
        }
    }
    assert_eq!(left, [1, 1, 1]);
}

/// Networks and volumes that carry the label are found without any container of theirs.
#[tokio::test]
#[ignore = "needs docker"]
async fn only_an_earlier_lifes_networks_and_volumes_are_leftovers() {
    let subject = DockerSubject::new().await;
    let other = PeerId::random();
    let lives = [
        (subject.node, "earlier"),
        (subject.node, subject.incarnation.as_str()),
        (other, "earlier"),
    ];
    let docker = |args: &[&str]| {
        let output = Command::new("docker").args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    let name = |at: usize| format!("p2pnode-test-{}-{at}", subject.incarnation);
    for (at, (node, incarnation)) in lives.into_iter().enumerate() {
        let (name, label) = (name(at), format!("{}={node}:{incarnation}", labels::NODE));
        docker(&["network", "create", "--internal", "--label", &label, &name]);
        docker(&["volume", "create", "--label", &label, &name]);
    }
    // And one of each that says nothing of whose it is.
    docker(&["volume", "create", &name(3)]);
    subject.runtime.remove_leftovers().await;
    let mut left = Vec::new();
    for (at, (node, incarnation)) in lives.into_iter().enumerate() {
        let found = labelled(&subject.engine, node, incarnation).await;
        left.push(found.len());
        if !found.is_empty() {
            docker(&["network", "rm", &name(at)]);
            docker(&["volume", "rm", &name(at)]);
        }
    }
    docker(&["volume", "rm", &name(3)]);
    assert_eq!(left, [0, 2, 2]);
}

/// A killed node's tasks had disks of their own: the reaper takes them away, and a restarted node
/// does the same when nobody reaped.
#[tokio::test]
#[ignore = "needs docker"]
async fn a_killed_nodes_disks_are_unmounted() {
    let Some(subject) = DockerSubject::with_hard_disks().await else {
        return;
    };
    for reaped in [true, false] {
        let incarnation = fresh_incarnation();
        let dir = tempfile::tempdir().unwrap();
        let mut owner = start_hard_owner(subject.node, &incarnation, &dir, reaped);
        // The owner's temporary folder is its own.
        let folder = dir.path().join("p2pnode-test-docker");
        until(PATIENCE, async || {
            let running = Some(ContainerSummaryStateEnum::RUNNING);
            let found = containers(&subject.engine, subject.node, &incarnation).await;
            found.iter().filter(|one| one.state == running).count() == 4
        })
        .await;
        assert!(disks(&folder, subject.node, &incarnation).len() >= 4 * 4);
        let shown = || {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let below = dir.path().display().to_string();
            mounts.lines().filter(|line| line.contains(&below)).count()
        };
        assert_eq!(
            shown(),
            4 * 3,
            "the filesystem, the overlay, the work directory"
        );
        owner.kill().unwrap();
        owner.wait().unwrap();
        if !reaped {
            let life = fresh_incarnation();
            let change = |config: &mut DockerConfig| config.dir.clone_from(&folder);
            let next = DockerSubject::with_config(subject.node, &life, change).await;
            next.runtime.remove_leftovers().await;
        }
        until(REAPED_WITHIN, async || {
            let found = containers(&subject.engine, subject.node, &incarnation).await;
            let files = disks(&folder, subject.node, &incarnation);
            found.is_empty() && shown() == 0 && files.is_empty()
        })
        .await;
    }
    clean(&subject).await;
}

/// The node's process ends cleanly: nothing of it is left, the reaper included.
#[tokio::test]
#[ignore = "needs docker"]
async fn shutdown_leaves_no_reaper() {
    let subject = DockerSubject::new().await;
    Trial::new(&subject, Act::Exit(0))
        .run()
        .await
        .expect_success();
    let label = format!("{}:{}", subject.node, subject.incarnation);
    let reapers = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|one| std::fs::read(one.path().join("cmdline")).ok());
        lines
            .filter(|line| {
                line.split(|byte| *byte == 0)
                    .any(|arg| arg == label.as_bytes())
            })
            .count()
    };
    assert_eq!(reapers(), 1);
    subject.runtime.shutdown().await;
    until(REAPED_WITHIN, async || reapers() == 0).await;
}
