//! OCI runtimes by name.

use bollard::query_parameters::InspectContainerOptions;
use p2pnode_executor::Runtime;
use p2pnode_executor::docker::DockerConfig;
use p2pnode_protocol::PeerId;
use p2pnode_protocol::task::FailureKind;

use crate::contract::{Act, Trial, clean};
use crate::sandbox::failure_text;
use crate::subject::{DockerSubject, containers, fresh_incarnation};

/// The name that the engine has given the task's container's runtime.
async fn runtime_of(subject: &DockerSubject, trial: &Trial<'_>) -> String {
    let mut running = trial.start().await;
    running.until_stdout("started\n").await;
    let found = containers(&subject.engine, subject.node, &subject.incarnation).await;
    let id = found[0].id.clone().unwrap();
    let inspected = subject
        .engine
        .inspect_container(&id, None::<InspectContainerOptions>)
        .await
        .unwrap();
    trial.cancel.cancel();
    running.finish().await;
    inspected.host_config.unwrap().runtime.unwrap()
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_task_runs_under_the_runtime_that_it_names() {
    let subject = DockerSubject::new().await;
    let default = subject
        .engine
        .info()
        .await
        .unwrap()
        .default_runtime
        .unwrap();
    let known = subject.runtime.probe().await.features.sandboxes;
    assert!(known.contains(&default), "{known:?}");
    let mut trial = Trial::new(&subject, Act::Idle);
    assert_eq!(runtime_of(&subject, &trial).await, default);
    // Engines of Docker's know runc by containerd's name for it, too.
    let second = known.iter().find(|name| name.contains("runc.v2"));
    for name in second.into_iter().chain([&default]) {
        trial = Trial::new(&subject, Act::Idle);
        trial.task.sandbox = Some(name.clone());
        assert_eq!(runtime_of(&subject, &trial).await, *name);
    }
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_runtime_that_the_engine_lacks_is_told() {
    let subject = DockerSubject::new().await;
    let default = subject
        .engine
        .info()
        .await
        .unwrap()
        .default_runtime
        .unwrap();
    let mut trial = Trial::new(&subject, Act::Exit(0));
    trial.task.sandbox = Some("no-such-runtime".into());
    let ended = trial.run().await;
    assert_eq!(ended.failure(), FailureKind::Host);
    let text = failure_text(&ended);
    assert!(
        text.contains("`no-such-runtime`") && text.contains(&default),
        "{text}"
    );
    clean(&subject).await;
}

/// A runtime whose owner has chosen.
async fn choose(name: &str) -> DockerSubject {
    let change = |config: &mut DockerConfig| config.sandbox = Some(name.to_owned());
    DockerSubject::with_config(PeerId::random(), &fresh_incarnation(), change).await
}

/// The owner's choice holds for every task, and no task gets a weaker one.
#[tokio::test]
#[ignore = "needs docker"]
async fn the_owners_choice_is_never_weakened() {
    let probe = DockerSubject::new().await;
    let default = probe.engine.info().await.unwrap().default_runtime.unwrap();
    let others = probe.runtime.probe().await.features.sandboxes;
    let Some(second) = others.iter().find(|name| name.contains("runc.v2")) else {
        eprintln!("not tested: the engine has no second runtime");
        return;
    };
    let subject = choose(second).await;
    let trial = Trial::new(&subject, Act::Idle);
    assert_eq!(runtime_of(&subject, &trial).await, *second);
    let mut weaker = Trial::new(&subject, Act::Exit(0));
    weaker.task.sandbox = Some(default);
    let ended = weaker.run().await;
    assert_eq!(ended.failure(), FailureKind::Host);
    assert!(failure_text(&ended).contains(second.as_str()));
    clean(&subject).await;
    // A choice that the engine cannot keep runs nothing, rather than something weaker.
    let subject = choose("no-such-runtime").await;
    let ended = Trial::new(&subject, Act::Exit(0)).run().await;
    assert_eq!(ended.failure(), FailureKind::Host);
    clean(&subject).await;
}
