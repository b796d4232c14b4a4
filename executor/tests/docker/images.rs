//! Images: what they may ask for, and what becomes of those that can't be had.

use bollard::query_parameters::{ListVolumesOptions, RemoveImageOptions};
use p2pnode_executor::{PrepareProgress, ProgramFile, Runtime};
use p2pnode_protocol::task::FailureKind;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::contract::{clean, within};
use crate::registry::Registry;
use crate::sandbox::{failure_text, task_uid, trial};
use crate::subject::{DockerSubject, ODD_IMAGE};

#[tokio::test]
#[ignore = "needs docker"]
async fn an_image_cannot_ask_for_more() {
    let subject = DockerSubject::new().await;
    let before = volumes(&subject).await;
    let mut trial = trial(
        &subject,
        "id -u; pwd; echo 1 > /data/x; echo 1 > x; grep -c ' /data tmpfs ' /proc/mounts",
    );
    trial.task.env = vec![("A".into(), "b".into())];
    let environment = prepare(&subject, ODD_IMAGE).await.unwrap();
    let (sink, mut log) = mpsc::channel(16);
    let run = environment.run(trial.task.clone(), sink, CancellationToken::new());
    let collect = async {
        let mut text = Vec::new();
        while let Some(chunk) = log.recv().await {
            text.extend(chunk.bytes);
        }
        String::from_utf8(text).unwrap()
    };
    let (end, text) = within(async { tokio::join!(run, collect) }).await;
    assert_eq!(end.result, Ok(()), "{text}");
    assert_eq!(text, format!("{}\n/work\n1\n", task_uid()));
    assert!(trial.work_dir().join("x").exists());
    // Its own command is run when the task names none, with its own entry point.
    trial.task.command.clear();
    let (sink, _log) = mpsc::channel(16);
    let end = within(environment.run(trial.task.clone(), sink, CancellationToken::new())).await;
    assert_eq!(
        end.result.unwrap_err().kind,
        FailureKind::Exit(1),
        "/bin/false"
    );
    clean(&subject).await;
    assert_eq!(volumes(&subject).await, before);
}

async fn volumes(subject: &DockerSubject) -> usize {
    let listed = subject
        .engine
        .list_volumes(None::<ListVolumesOptions>)
        .await
        .unwrap();
    listed.volumes.unwrap_or_default().len()
}

async fn prepare(
    subject: &DockerSubject,
    image: &str,
) -> Result<std::sync::Arc<dyn p2pnode_executor::Environment>, p2pnode_protocol::task::Failure> {
    let (progress, _) = mpsc::channel(1);
    let reference = image.to_owned();
    within(subject.runtime.prepare(
        ProgramFile::Image {
            reference,
            credentials: None,
            local_registry: true,
        },
        progress,
    ))
    .await
}

#[tokio::test]
#[ignore = "needs docker"]
async fn an_image_that_cannot_be_had_is_told() {
    let subject = DockerSubject::new().await;
    // Nothing listens on port 1 of this machine, so the pull fails without leaving it.
    let missing = "localhost:1/p2pnode/none:1";
    let failure = prepare(&subject, missing).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::ImageUnavailable);
    assert!(failure.message.contains(missing), "{}", failure.message);
    let failure = prepare(&subject, "../containers/json").await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::BadProgram);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_registry_of_this_network_is_asked_only_when_the_owner_has_named_it() {
    let bench = crate::bench::Bench::new(None).await;
    let registry = Registry::start().await;
    let stranger = |reference: &str| ProgramFile::Image {
        reference: reference.to_owned(),
        credentials: None,
        local_registry: false,
    };
    let mut build = bench.context(&format!("FROM {}\nLABEL a=b\n", registry.reference), &[]);
    if let ProgramFile::Build { local_registry, .. } = &mut build {
        *local_registry = false;
    }
    for program in [stranger(&registry.reference), build] {
        let failure = bench.prepare(program).await.err().unwrap();
        assert_eq!(failure.kind, FailureKind::ImageUnavailable, "{failure:?}");
        assert!(
            failure.message.contains("`p2pnode offer --image`"),
            "{failure:?}"
        );
    }
    assert_eq!(registry.requests(), 0);
    // Once it is at hand, its registry is not asked: then it is like any other.
    let owners = ProgramFile::Image {
        reference: registry.reference.clone(),
        credentials: None,
        local_registry: true,
    };
    bench.prepare(owners).await.unwrap();
    bench.prepare(stranger(&registry.reference)).await.unwrap();
    assert!(registry.requests() > 0);
    crate::bench::remove(bench.engine(), &format!("{}:latest", registry.reference)).await;
    // What the engine says of a registry is not passed on.
    let dead = format!("{}/none:1", registry.address());
    drop(registry);
    let program = ProgramFile::Image {
        reference: dead,
        credentials: None,
        local_registry: true,
    };
    let failure = bench.prepare(program).await.err().unwrap();
    assert!(
        failure.message.contains("its registry cannot be reached"),
        "{failure:?}"
    );
    assert!(!failure.message.contains("dial"), "{failure:?}");
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_command_that_is_not_there_is_the_jobs_fault() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(&subject, "");
    trial.task.command = vec!["no-such-command".into()];
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::BadProgram);
    assert!(failure_text(&ended).contains("`no-such-command`"));
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn the_probe_tells_version_and_images() {
    let subject = DockerSubject::new().await;
    let report = subject.runtime.probe().await;
    assert!(!report.version.unwrap().is_empty());
    assert!(
        report.images.contains(&ODD_IMAGE.to_owned()),
        "{:?}",
        report.images
    );
    assert!(report.images.len() <= 64);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn an_image_that_is_not_at_hand_is_pulled() {
    let subject = DockerSubject::new().await;
    let registry = Registry::start().await;
    let (progress, mut steps) = mpsc::channel(1_000);
    let program = ProgramFile::Image {
        reference: registry.reference.clone(),
        credentials: None,
        local_registry: true,
    };
    let prepared = within(subject.runtime.prepare(program.clone(), progress)).await;
    assert!(prepared.is_ok(), "{:?}", prepared.err());
    let mut last = PrepareProgress::default();
    while let Some(step) = steps.recv().await {
        assert!(step.done <= step.total, "{step:?}");
        last = step;
    }
    let whole = registry.layer_bytes;
    assert_eq!((last.done, last.total), (whole, whole));
    // Now it is at hand: the registry is not needed any more.
    let name = format!("{}:latest", registry.reference);
    drop(registry);
    let (progress, _) = mpsc::channel(1);
    assert!(
        within(subject.runtime.prepare(program, progress))
            .await
            .is_ok()
    );
    assert!(subject.runtime.probe().await.images.contains(&name));
    subject
        .engine
        .remove_image(&name, None::<RemoveImageOptions>, None)
        .await
        .unwrap();
}
