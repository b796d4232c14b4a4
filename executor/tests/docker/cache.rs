//! What becomes of the images that a node brought.

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, TagImageOptionsBuilder,
};
use p2pnode_executor::{ProgramFile, Runtime};
use p2pnode_protocol::Bytes;

use crate::bench::{Bench, archive_name, id_of, remove, saved, unique};
use crate::contract::{PATIENCE, clean};
use crate::registry::Registry;
use crate::subject::IMAGE;

/// Room for two of the images of these tests, which take some 12 MiB each.
const QUOTA: Bytes = Bytes(30 << 20);

/// An archive of some 12 MiB, and the name of its image.
async fn archive(bench: &Bench) -> (ProgramFile, String) {
    let (bytes, _) = saved(bench.engine(), "x:1", 10 << 20).await;
    let program = bench.archive(&bytes);
    let name = archive_name(&program);
    (program, name)
}

async fn here(bench: &Bench, name: &str) -> bool {
    id_of(bench.engine(), name).await.is_some()
}

/// Seconds are what the list of images counts in.
async fn next_second() {
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn the_longest_unused_goes_and_what_is_in_use_stays() {
    let mut bench = Bench::new(Some(QUOTA)).await;
    let (held, held_name) = archive(&bench).await;
    let environment = bench.prepare(held).await.unwrap();
    let mut names = Vec::new();
    for _ in 0..3 {
        next_second().await;
        let (program, name) = archive(&bench).await;
        bench.prepare(program).await.unwrap();
        names.push(name);
    }
    assert!(here(&bench, &held_name).await, "in use");
    assert!(!here(&bench, &names[0]).await && !here(&bench, &names[1]).await);
    assert!(here(&bench, &names[2]).await, "the last used");
    // A later life of the node knows what it brought; then nothing uses the first any more.
    drop(environment);
    bench.restart(Some(QUOTA));
    next_second().await;
    let (program, name) = archive(&bench).await;
    bench.prepare(program).await.unwrap();
    assert!(!here(&bench, &held_name).await);
    assert!(here(&bench, &names[2]).await && here(&bench, &name).await);
    // The probe sees to what is given back while nothing is prepared.
    bench.restart(Some(Bytes(1)));
    let start = tokio::time::Instant::now();
    while here(&bench, &name).await || here(&bench, &names[2]).await {
        assert!(start.elapsed() < PATIENCE);
        let _ = bench.subject.runtime.probe().await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(here(&bench, IMAGE).await, "the owner's own");
}

#[tokio::test]
#[ignore = "needs docker"]
async fn what_the_owner_has_or_uses_stays() {
    let bench = Bench::new(Some(Bytes(1))).await;
    let engine = bench.engine();
    let hold = bench.prepare(ProgramFile::Image {
        reference: IMAGE.into(),
        credentials: None,
        local_registry: true,
    });
    let owners = hold.await.unwrap();
    // The owner names one, and makes a container of another.
    let (tagged, tagged_name) = archive(&bench).await;
    let (used, used_name) = archive(&bench).await;
    let environments = (bench.prepare(tagged).await, bench.prepare(used).await);
    assert!(environments.0.is_ok() && environments.1.is_ok());
    let own = format!("p2pnode-test-kept:{}", unique());
    let (repo, tag) = own.split_once(':').unwrap();
    let options = TagImageOptionsBuilder::new().repo(repo).tag(tag).build();
    engine.tag_image(&tagged_name, Some(options)).await.unwrap();
    let container = format!("p2pnode-test-{}", unique());
    let options = CreateContainerOptionsBuilder::new()
        .name(&container)
        .build();
    let body = ContainerCreateBody {
        image: Some(used_name.clone()),
        ..ContainerCreateBody::default()
    };
    engine.create_container(Some(options), body).await.unwrap();
    drop((environments, owners));
    // An image that was here before, under another name, is not this node's to remove.
    let registry = Registry::start().await;
    let reference = format!("{}:latest", registry.reference);
    let other = Bench::new(None).await;
    let program = ProgramFile::Image {
        reference: reference.clone(),
        credentials: None,
        local_registry: true,
    };
    other.prepare(program.clone()).await.unwrap();
    bench.prepare(program).await.unwrap();
    let (last, last_name) = archive(&bench).await;
    bench.prepare(last).await.unwrap();
    let _ = bench.subject.runtime.probe().await;
    let start = tokio::time::Instant::now();
    while here(&bench, &last_name).await {
        assert!(start.elapsed() < PATIENCE);
        let _ = bench.subject.runtime.probe().await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(here(&bench, &own).await && !here(&bench, &tagged_name).await);
    assert!(here(&bench, &used_name).await, "a container holds it");
    assert!(here(&bench, &reference).await, "it was here");
    clean(&bench.subject).await;
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    engine
        .remove_container(&container, Some(options))
        .await
        .unwrap();
    for name in [&own, &used_name, &reference] {
        remove(engine, name).await;
    }
}
