//! Figures. Run with `cargo test -p p2pnode-node --lib blobs::tests::bench -- --ignored --nocapture`.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use super::transfer::{Nodes, runtime};
use super::*;
use crate::blobs::folder::Folder;

/// Length of the large input, in bytes (512 MiB): it fits the page cache of a small machine.
const LARGE: usize = 512 << 20;

/// Figures go to standard error as they are had; the lints keep `println!` for programs.
fn say(what: &str, figure: f64, unit: &str) {
    let _ = writeln!(std::io::stderr(), "{what:<44} {figure:>10.1} {unit}");
}

fn mb_per_s(bytes: usize, since: Instant) -> f64 {
    bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
}

#[test]
#[ignore = "prints figures"]
fn large_input() {
    let nodes = Nodes::new();
    let path = nodes.dir.path().join("large");
    std::fs::write(&path, noise(1, LARGE)).unwrap();

    let content = std::fs::read(&path).unwrap();
    let start = Instant::now();
    blake3::hash(&content);
    say("blake3, one thread", mb_per_s(LARGE, start), "MB/s");
    let start = Instant::now();
    let cuts = fastcdc::v2020::FastCDC::new(&content, 64 << 10, 256 << 10, 1 << 20).count();
    say("fastcdc, one thread", mb_per_s(LARGE, start), "MB/s");
    say(
        "pieces of",
        LARGE as f64 / 1024.0 / cuts as f64,
        "KiB on average",
    );
    let start = Instant::now();
    std::fs::write(nodes.dir.path().join("copy"), &content).unwrap();
    say("plain write of one file", mb_per_s(LARGE, start), "MB/s");
    drop(content);

    let start = Instant::now();
    let (blob, manifest) = ingest(&nodes.from, &path).unwrap();
    say("ingest", mb_per_s(LARGE, start), "MB/s");
    let start = Instant::now();
    ingest(&nodes.from, &path).unwrap();
    say("ingest, already here", mb_per_s(LARGE, start), "MB/s");

    runtime().block_on(async {
        let (mut stream, serving) = nodes.serving();
        let item = FetchItem {
            blob,
            owner: owner(),
        };
        let start = Instant::now();
        fetch(&mut stream, JOB, item, &nodes.to, &|_| ())
            .await
            .unwrap();
        say("fetch over a duplex", mb_per_s(LARGE, start), "MB/s");
        drop(stream);
        serving.await.unwrap().unwrap();
    });

    let root = Folder::open(nodes.dir.path()).unwrap();
    let start = Instant::now();
    materialize(&nodes.to, &manifest, &root, b"job", options()).unwrap();
    say("materialize", mb_per_s(LARGE, start), "MB/s");
    let start = Instant::now();
    clone_tree(&manifest, &root, b"job", &root, b"task", options()).unwrap();
    say("clone for a task", mb_per_s(LARGE, start), "MB/s");
}

#[test]
#[ignore = "prints figures"]
fn many_small_files() {
    const FILES: usize = 10_000;
    let nodes = Nodes::new();
    let input = nodes.dir.path().join("input");
    for folder in 0..100 {
        std::fs::create_dir_all(input.join(folder.to_string())).unwrap();
        for file in 0..FILES / 100 {
            let path = input.join(format!("{folder}/{file}"));
            std::fs::write(path, noise((folder * 1000 + file) as u64, 2_000)).unwrap();
        }
    }
    let per_file = |start: Instant| start.elapsed().as_secs_f64() * 1e6 / FILES as f64;
    let start = Instant::now();
    let (blob, manifest) = ingest(&nodes.from, &input).unwrap();
    say("ingest of 10,000 files of 2 kB", per_file(start), "µs each");
    runtime().block_on(async {
        let (mut stream, serving) = nodes.serving();
        let item = FetchItem {
            blob,
            owner: owner(),
        };
        let start = Instant::now();
        fetch(&mut stream, JOB, item, &nodes.to, &|_| ())
            .await
            .unwrap();
        say("fetch of the same", per_file(start), "µs each");
        drop(stream);
        serving.await.unwrap().unwrap();
    });
    let root = Folder::open(nodes.dir.path()).unwrap();
    let start = Instant::now();
    materialize(&nodes.to, &manifest, &root, b"job", options()).unwrap();
    say("materialize", per_file(start), "µs each");
    let start = Instant::now();
    clone_tree(&manifest, &root, b"job", &root, b"task", options()).unwrap();
    say("clone for a task", per_file(start), "µs each");
    let start = Instant::now();
    write_outputs(
        &nodes.to,
        &manifest,
        &nodes.dir.path().join("out"),
        Durability::Each,
    )
    .unwrap();
    say("write as outputs, durable", per_file(start), "µs each");
}

#[test]
#[ignore = "prints figures"]
fn tiny_outputs() {
    const TASKS: u32 = 10_000;
    let nodes = Nodes::new();
    let work = nodes.dir.path().join("work");
    std::fs::create_dir_all(work.join("out")).unwrap();
    let dir = Folder::open(&work).unwrap();
    let patterns = OutputPatterns::new(&["out/**"]).unwrap();
    let mut spent = std::time::Duration::ZERO;
    let mut items = Vec::new();
    for index in 0..TASKS {
        std::fs::write(work.join("out/result"), index.to_string()).unwrap();
        let start = Instant::now();
        let owner = attempt(index);
        let taken = ingest_outputs(&nodes.from, owner, &dir, &patterns, Limits::default());
        spent += start.elapsed();
        let (blob, _) = taken.unwrap().unwrap();
        items.push(FetchItem { blob, owner });
    }
    let each = |spent: std::time::Duration| spent.as_secs_f64() * 1e6 / f64::from(TASKS);
    say("ingest of one tiny output", each(spent), "µs");
    runtime().block_on(async {
        let (mut stream, serving) = nodes.serving();
        let start = Instant::now();
        let manifests = fetch_many(&mut stream, JOB, &items, &nodes.to, &|_| ())
            .await
            .unwrap();
        say("fetch of one of 10,000", each(start.elapsed()), "µs");
        drop(stream);
        serving.await.unwrap().unwrap();
        let out = nodes.dir.path().join("outputs");
        let start = Instant::now();
        for (index, manifest) in manifests.iter().enumerate() {
            let task = out.join(index.to_string());
            write_outputs(
                &nodes.to,
                manifest.as_ref().unwrap(),
                &task,
                Durability::Later,
            )
            .unwrap();
        }
        say("write as an output", each(start.elapsed()), "µs");
        sync_outputs(&out).unwrap();
        say("with one sync for all", each(start.elapsed()), "µs");
    });
    let start = Instant::now();
    for item in &items {
        nodes.to.unpin(item.owner);
    }
    say("unpin", each(start.elapsed()), "µs");
    let task = nodes.dir.path().join("durable");
    let manifest = nodes.from.manifest(&items[0].blob).unwrap().unwrap();
    let start = Instant::now();
    for _ in 0..20 {
        write_outputs(&nodes.from, &manifest, &task, Durability::Each).unwrap();
    }
    let ms = start.elapsed().as_secs_f64() * 1e3 / 20.0;
    say("write as an output, each durable", ms, "ms");
}

#[test]
#[ignore = "prints figures"]
fn start_with_many_objects() {
    let dir = TempDir::new().unwrap();
    let quota = Bytes::gib(100);
    let store = Arc::new(store_in(dir.path(), quota));
    for seed in 0..100_000u64 {
        // Short content, but files of their own: what matters here are the names.
        let mut bytes = vec![0; 64 << 10];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        store.put(owner(), &bytes).unwrap();
    }
    for seed in 0..100_000u64 {
        store.put(owner(), &seed.to_le_bytes()).unwrap();
    }
    drop(store);
    let start = Instant::now();
    let store = store_in(dir.path(), quota);
    say(
        "open with 100,000 files and as many packed",
        start.elapsed().as_secs_f64() * 1e3,
        "ms",
    );
    assert_eq!(store.usage().objects, 200_000);
}
