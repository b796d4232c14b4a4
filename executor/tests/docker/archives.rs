//! Images that travel as archives.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use p2pnode_executor::{ProgramFile, Runtime};
use p2pnode_protocol::task::FailureKind;
use serde_json::json;
use tokio::sync::mpsc;

use crate::bench::{Bench, archive_name, id_of, parts, remove, saved, sha, tar_of, unique};
use crate::contract::{clean, within};
use crate::subject::ODD_IMAGE;

#[tokio::test]
#[ignore = "needs docker"]
async fn an_archive_runs_and_takes_no_name_of_the_owners() {
    let bench = Bench::new(None).await;
    let engine = bench.engine();
    let owners = id_of(engine, ODD_IMAGE).await.unwrap();
    let (bytes, id) = saved(engine, ODD_IMAGE, 0).await;
    let program = bench.archive(&bytes);
    let name = archive_name(&program);
    let mut names_now = std::collections::BTreeSet::new();
    let watch = async {
        loop {
            names_now.insert(id_of(engine, ODD_IMAGE).await);
            tokio::task::yield_now().await;
        }
    };
    let environment = tokio::select! {
        prepared = bench.prepare(program.clone()) => prepared.unwrap(),
        () = watch => unreachable!("it looks for ever"),
    };
    // Not for a moment.
    assert_eq!(
        names_now.into_iter().collect::<Vec<_>>(),
        [Some(owners.clone())]
    );
    assert_eq!(bench.say(&environment, "echo here").await, "here\n");
    assert_eq!(id_of(engine, &name).await.as_deref(), Some(id.as_str()));
    assert_eq!(id_of(engine, ODD_IMAGE).await.unwrap(), owners);
    assert!(!bench.subject.runtime.probe().await.images.contains(&name));
    // The second time it is at hand: the archive is not even there.
    if let ProgramFile::Archive { path, .. } = &program {
        std::fs::remove_file(path).unwrap();
    }
    assert!(bench.prepare(program).await.is_ok());
    // Nobody gets it by its id or name.
    for reference in [&id[..], &id[7..19], &name] {
        let program = ProgramFile::Image {
            reference: reference.to_owned(),
            credentials: None,
            local_registry: true,
        };
        assert!(bench.prepare(program).await.is_err(), "{reference}");
    }
    drop(environment);
    clean(&bench.subject).await;
    remove(engine, &name).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_layout_with_compressed_layers_runs() {
    let bench = Bench::new(None).await;
    let engine = bench.engine();
    let (config, layers) = parts(engine, 100_000).await;
    let mut members = Vec::new();
    let mut blob = |bytes: Vec<u8>| {
        let digest = sha(&bytes);
        let descriptor = json!({ "digest": format!("sha256:{digest}"), "size": bytes.len() });
        members.push((format!("blobs/sha256/{digest}"), bytes));
        descriptor
    };
    let packed: Vec<_> = layers
        .iter()
        .map(|layer| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(layer).unwrap();
            blob(encoder.finish().unwrap())
        })
        .collect();
    let manifest = json!({ "config": blob(config.clone()), "layers": packed });
    let index = json!({ "manifests": [blob(manifest.to_string().into_bytes())] });
    members.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let program = bench.archive(&tar_of(&members));
    let name = archive_name(&program);
    let (progress, mut steps) = mpsc::channel(10_000);
    let prepared = within(bench.subject.runtime.prepare(program, progress)).await;
    let environment = prepared.unwrap();
    assert_eq!(
        bench.say(&environment, "wc -c < /more").await.trim(),
        "100000"
    );
    assert_eq!(
        id_of(engine, &name).await.unwrap(),
        format!("sha256:{}", sha(&config))
    );
    let mut last = p2pnode_executor::PrepareProgress::default();
    while let Some(step) = steps.recv().await {
        assert!(step.done <= step.total, "{step:?}");
        last = step;
    }
    let plain: usize = layers.iter().map(Vec::len).sum();
    assert_eq!((last.done, last.total), (plain as u64, plain as u64));
    drop(environment);
    clean(&bench.subject).await;
    remove(engine, &name).await;
}

/// An archive of one layer with a configuration that fits it.
fn of_layer(layer: &[u8]) -> Vec<u8> {
    let config = json!({
        "os": "linux", "config": { "Labels": { "p2pnode.test": unique() } },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha(layer))] },
    });
    let manifest = json!([{ "Config": "c", "Layers": ["l"], "RepoTags": [ODD_IMAGE] }]);
    tar_of(&[
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
        ("c".to_owned(), config.to_string().into_bytes()),
        ("l".to_owned(), layer.to_vec()),
    ])
}

#[tokio::test]
#[ignore = "needs docker"]
async fn archives_that_hurt_are_refused_and_leave_nothing() {
    let bench = Bench::new(None).await;
    let engine = bench.engine();
    let owners = id_of(engine, ODD_IMAGE).await.unwrap();
    let mut cut = saved(engine, ODD_IMAGE, 50_000).await.0;
    cut.truncate(cut.len() / 2);
    // A hard link to what is not there: only who unpacks it sees that.
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_path("link").unwrap();
    link.set_link_name("../../../etc/nowhere").unwrap();
    link.set_size(0);
    link.set_cksum();
    let mut link = link.as_bytes().to_vec();
    link.resize(2_048, 0);
    let mut huge = tar::Header::new_gnu();
    huge.set_path("huge").unwrap();
    huge.set_size(1 << 50);
    huge.set_cksum();
    for (bytes, kind, expected) in [
        (vec![1; 2_048], FailureKind::BadProgram, "no tar file"),
        (cut, FailureKind::BadProgram, "cut off"),
        (of_layer(&link), FailureKind::BadProgram, "does not load"),
        (
            of_layer(huge.as_bytes()),
            FailureKind::ImageUnavailable,
            "at least 1.0 PiB",
        ),
    ] {
        let program = bench.archive(&bytes);
        let name = archive_name(&program);
        let failure = bench.prepare(program).await.err().unwrap();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.contains(expected), "{failure:?}");
        assert_eq!(id_of(engine, &name).await, None, "{expected}");
    }
    assert_eq!(id_of(engine, ODD_IMAGE).await.unwrap(), owners);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_load_that_is_given_up_leaves_nothing() {
    let bench = Bench::new(None).await;
    let (bytes, id) = saved(bench.engine(), "x:1", 60 << 20).await;
    let program = bench.archive(&bytes);
    let name = archive_name(&program);
    let mut loaded = false;
    for wait in [0, 100, 300] {
        let (progress, mut steps) = mpsc::channel(1);
        let prepare = bench.subject.runtime.prepare(program.clone(), progress);
        tokio::select! {
            prepared = prepare => loaded |= prepared.is_ok(),
            () = async {
                let _ = steps.recv().await;
                tokio::time::sleep(Duration::from_millis(wait)).await;
            } => {}
        }
    }
    within(bench.subject.runtime.shutdown()).await;
    if loaded {
        // A machine that is quick has it before it is given up.
        remove(bench.engine(), &name).await;
    }
    assert_eq!(id_of(bench.engine(), &id).await, None);
}
