//! Tasks that are given GPUs where containers cannot have them: what `p2pnode doctor --self-test` runs,
//! one task on each GPU at the same time.
//!
//! The GPUs are those of a stand-in for NVIDIA's library, and no engine has seen them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use p2pnode_executor::host::HostInfo;
use p2pnode_executor::{Environment, Runtime};
use p2pnode_protocol::Gpu;
use p2pnode_protocol::task::{Failure, FailureKind, Isolation};
use tokio::sync::mpsc;

use crate::contract::{Act, Subject, Trial, clean, within};
use crate::engine::{OwnEngine, prepared};
use crate::sandbox::trial;
use crate::stand_in::stand_in;
use crate::subject::DockerSubject;

/// The self-test's, which takes a container without a GPU for a failure.
const SCRIPT: &str = "ls /dev/nvidia[0-9]* && sleep 3";

/// The GPUs that a node with the stand-in offers.
fn gpus() -> Vec<Gpu> {
    let dir = tempfile::tempdir().unwrap();
    let gpus = HostInfo::detect(Some(&stand_in(dir.path()))).gpus;
    assert_eq!(gpus.len(), 2, "{gpus:?}");
    gpus
}

/// Runs the script on each GPU at the same time. Returns why each failed. What it wrote may only say that
/// there is no GPU.
async fn failures(
    subject: &DockerSubject,
    environment: &dyn Environment,
    isolation: Isolation,
) -> Vec<Failure> {
    let runs = gpus().into_iter().map(async |gpu| {
        let mut trial = trial(subject, SCRIPT);
        trial.task.gpus = vec![gpu];
        trial.task.isolation = isolation;
        let (sink, mut log) = mpsc::channel(16);
        let end = environment.run(trial.task.clone(), sink, trial.cancel.clone());
        let end = within(end).await;
        while let Some(chunk) = log.recv().await {
            let text = String::from_utf8_lossy(&chunk.bytes).into_owned();
            assert!(text.starts_with("ls: /dev/nvidia"), "{text}");
        }
        end.result.unwrap_err()
    });
    futures::future::join_all(runs).await
}

/// Whether anything of the subject's life is still mounted.
fn is_mounted(subject: &DockerSubject) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(&subject.incarnation)
}

/// In a container of their own, in a shared one, and with disks of their own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn an_engine_that_cannot_give_gpus_says_so_with_its_mend_and_nothing_is_left() {
    let mut subjects = vec![DockerSubject::new().await];
    subjects.extend(DockerSubject::with_hard_disks().await);
    for subject in &subjects {
        let environment = prepared(&subject.runtime).await;
        for isolation in [Isolation::Task, Isolation::Job] {
            for failure in failures(subject, &*environment, isolation).await {
                assert_eq!(failure.kind, FailureKind::Host, "{failure:?}");
                let text = failure.message;
                // The latter on a machine whose engine has NVIDIA's toolkit.
                let mends = ["nvidia-container-toolkit", "nvidia-ctk", "nvidia-smi"];
                assert!(mends.iter().any(|mend| text.contains(mend)), "{text}");
                assert!(text.contains("its owner must"), "{text}");
            }
            let mut ordinary = Trial::new(subject, Act::Exit(0));
            ordinary.task.isolation = isolation;
            ordinary.run().await.expect_success();
            // What has succeeded keeps its disk until its outputs are read.
            environment.release(ordinary.work_dir()).await;
        }
        drop(environment);
        clean(subject).await;
        within(subject.runtime.shutdown()).await;
        assert!(subject.leftovers().await.is_empty());
        assert!(!is_mounted(subject));
    }
}

/// Makes what engines call to put GPUs into a container: it does as `script` says.
fn toolkit(programs: &Path, script: &str) {
    let hook = programs.join("nvidia-container-runtime-hook");
    std::fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// An engine with a toolkit whose driver does not answer, then with one that does nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_toolkit_that_fails_is_told_in_its_own_words_and_an_absent_gpu_is_noticed() {
    let Some(mut engine) = OwnEngine::new() else {
        return;
    };
    let subject = DockerSubject::new().await;
    let programs = tempfile::tempdir().unwrap();
    let said = "nvidia-container-cli: initialization error: nvml error: driver not loaded";
    toolkit(programs.path(), &format!("echo '{said}' >&2; exit 1"));
    engine.programs = Some(programs.path().to_owned());
    engine.start().await;
    engine.load(crate::subject::IMAGE);
    let runtime = engine.runtime();
    let environment = prepared(&runtime).await;
    for failure in failures(&subject, &*environment, Isolation::Task).await {
        assert_eq!(failure.kind, FailureKind::Host, "{failure:?}");
        let text = failure.message;
        assert!(text.contains(said) && text.contains("nvidia-smi"), "{text}");
    }
    assert_eq!(engine.containers(), 0);
    // The container starts, and finds none.
    toolkit(programs.path(), "exit 0");
    for failure in failures(&subject, &*environment, Isolation::Task).await {
        assert_eq!(failure.kind, FailureKind::Exit(1), "{failure:?}");
    }
    assert_eq!(engine.containers(), 0);
    within(runtime.shutdown()).await;
}
