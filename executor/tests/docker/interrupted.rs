//! Builds that do not end as they should.

use std::time::Duration;

use bollard::models::{ContainerConfig, ContainerCreateBody};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};
use p2pnode_executor::{ProgramFile, Runtime};
use tokio::sync::mpsc;

use crate::bench::{BUILD, Bench, build_name, id_of, left_of, remove, unique};
use crate::contract::{clean, within};
use crate::subject::{IMAGE, containers};

#[tokio::test]
#[ignore = "needs docker"]
async fn a_build_that_is_given_up_leaves_nothing() {
    let bench = Bench::new(None).await;
    let dockerfile = format!("FROM {IMAGE}\nRUN echo 1 > /a\nCOPY . /b\nRUN sleep 1000\n");
    let program = bench.context(&dockerfile, &[("file", &"x".repeat(1 << 20))]);
    let name = build_name(&program);
    let runs = async || {
        let containers = containers(
            bench.engine(),
            bench.subject.node,
            &bench.subject.incarnation,
        );
        let containers = containers.await;
        containers.iter().any(|one| {
            one.command
                .as_deref()
                .is_some_and(|command| command.contains("sleep 1000"))
        })
    };
    // While its last step runs, and at some moment before.
    for wait in [
        None,
        Some(Duration::from_millis(300)),
        Some(Duration::from_millis(700)),
    ] {
        let (progress, _steps) = mpsc::channel(1);
        let until = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => {
                    while !runs().await {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        };
        let prepare = bench.subject.runtime.prepare(program.clone(), progress);
        tokio::select! {
            prepared = prepare => panic!("{:?}", prepared.err()),
            () = within(until) => {}
        }
    }
    within(bench.subject.runtime.shutdown()).await;
    clean(&bench.subject).await;
    assert_eq!(id_of(bench.engine(), &name).await, None);
    assert_eq!(left_of(&bench).await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn when_the_first_who_wanted_a_build_leaves_the_next_takes_over() {
    let bench = Bench::new(None).await;
    let dockerfile = format!("FROM {IMAGE}\nRUN sleep 1\nCOPY file /file\n");
    let first = bench.context(&dockerfile, &[("file", "text")]);
    let mut second = bench.context(&dockerfile, &[("file", "text")]);
    let name = build_name(&first);
    if let (ProgramFile::Build { digest: one, .. }, ProgramFile::Build { digest: two, .. }) =
        (&first, &mut second)
    {
        one.clone_into(two);
    }
    let leave = async {
        let (progress, _steps) = mpsc::channel(1);
        let prepare = bench.subject.runtime.prepare(first.clone(), progress);
        let left = tokio::time::timeout(Duration::from_millis(600), prepare).await;
        assert!(left.is_err(), "it was too quick");
        // What the first has brought goes with it.
        if let ProgramFile::Build { context, .. } = &first {
            std::fs::remove_dir_all(context).unwrap();
        }
    };
    let stay = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bench.prepare(second).await.unwrap()
    };
    let ((), environment) = tokio::join!(leave, stay);
    assert_eq!(bench.say(&environment, "cat /file").await, "text");
    drop(environment);
    clean(&bench.subject).await;
    remove(bench.engine(), &name).await;
    assert_eq!(left_of(&bench).await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn what_a_killed_node_left_of_a_build_is_removed_when_it_starts_again() {
    let mut bench = Bench::new(None).await;
    let engine = bench.engine().clone();
    let container = format!("p2pnode-test-{}", unique());
    let options = CreateContainerOptionsBuilder::new()
        .name(&container)
        .build();
    let body = ContainerCreateBody {
        image: Some(IMAGE.into()),
        ..ContainerCreateBody::default()
    };
    engine.create_container(Some(options), body).await.unwrap();
    let leave = async |owner: String| {
        let mark = [(BUILD.to_owned(), format!("{owner}/7"))];
        let config = ContainerConfig {
            labels: Some(mark.into()),
            ..ContainerConfig::default()
        };
        let options = CommitContainerOptionsBuilder::new()
            .container(&container)
            .build();
        engine.commit_container(options, config).await.unwrap().id
    };
    let earlier = leave(format!(
        "{}:{}",
        bench.subject.node, bench.subject.incarnation
    ))
    .await;
    let strangers = leave(format!("{}:1", p2pnode_protocol::PeerId::random())).await;
    bench.restart(None);
    bench.subject.runtime.remove_leftovers().await;
    assert_eq!(id_of(&engine, &earlier).await, None);
    assert!(id_of(&engine, &strangers).await.is_some());
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    engine
        .remove_container(&container, Some(options))
        .await
        .unwrap();
    remove(&engine, &strangers).await;
}
