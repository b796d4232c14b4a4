//! Archives that are right, and archives that are made to hurt.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tar::{Builder, EntryType, Header};
use tokio_util::sync::CancellationToken;

use super::super::hex;
use super::super::layer::{Measure, TooLarge, measure};
use super::*;

type Members = Vec<(String, Vec<u8>)>;

fn sha(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    header
}

fn tar(members: &[(String, Vec<u8>)]) -> Builder<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = header(EntryType::Regular, bytes.len() as u64);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn layer() -> Vec<u8> {
    tar(&[("bin/x".to_owned(), vec![7; 5_000])])
        .into_inner()
        .unwrap()
}

fn config(layers: &[&[u8]], architecture: &str) -> Vec<u8> {
    let diff_ids = layers.iter().map(|layer| format!("sha256:{}", sha(layer)));
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids.collect::<Vec<_>>() },
    });
    config.to_string().into_bytes()
}

/// What `docker save` writes for an image of one layer.
fn saved() -> Members {
    let config = config(&[&layer()], architecture());
    let name = format!("{}.json", sha(&config));
    let manifest = json!([{ "Config": name, "RepoTags": ["owners:1"], "Layers": ["a/layer.tar"] }]);
    vec![
        ("manifest.json".into(), manifest.to_string().into_bytes()),
        (name, config),
        ("a/layer.tar".into(), layer()),
    ]
}

fn blob(members: &mut Members, bytes: Vec<u8>) -> serde_json::Value {
    let digest = sha(&bytes);
    let descriptor = json!({ "digest": format!("sha256:{digest}"), "size": bytes.len() });
    members.push((format!("blobs/sha256/{digest}"), bytes));
    descriptor
}

fn for_platform(mut of: serde_json::Value, architecture: &str) -> serde_json::Value {
    of["platform"] = json!({ "os": "linux", "architecture": architecture });
    of
}

/// A layout with a list of platforms within its index, one of them this machine's.
fn layout(stored: Vec<u8>) -> Members {
    let mut members = Members::new();
    let stored = blob(&mut members, stored);
    let manifest = |members: &mut Members, architecture: &str| {
        let config = blob(members, config(&[&layer()], architecture));
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [&stored] });
        let listed = blob(members, manifest.to_string().into_bytes());
        for_platform(listed, architecture)
    };
    let ours = manifest(&mut members, architecture());
    let other = manifest(&mut members, "vax");
    let mut papers = for_platform(blob(&mut members, b"{}".to_vec()), "unknown");
    papers["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let list = json!({ "manifests": [other, ours, papers] }).to_string();
    let list = blob(&mut members, list.into_bytes());
    let index = json!({ "manifests": [list] }).to_string();
    members.push(("index.json".into(), index.into_bytes()));
    members.push((
        "oci-layout".into(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    ));
    members
}

fn read_members(members: &[(String, Vec<u8>)]) -> io::Result<(Plan, File)> {
    let file = file(&tar(members).into_inner().unwrap());
    Ok((read(&file)?, file))
}

fn measured(plan: &Plan, file: &File, limit: u64) -> io::Result<Measure> {
    let mut seen = 0;
    let stop = CancellationToken::new();
    let measure = measure(file, &plan.layers[0], limit, &stop, |bytes| seen += bytes)?;
    assert_eq!(seen, plan.layers[0].size, "all of it was read");
    Ok(measure)
}

fn wrong(members: &[(String, Vec<u8>)]) -> String {
    let error = read_members(members).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    error.to_string()
}

#[test]
fn what_docker_saves_is_read() {
    let (plan, file) = read_members(&saved()).unwrap();
    assert_eq!(plan.config, saved()[1].1);
    assert_eq!((plan.layers.len(), &plan.layers[0].stored), (1, &None));
    let measure = measured(&plan, &file, 1 << 20).unwrap();
    assert_eq!(measure.plain, layer().len() as u64);
    assert!(measure.on_disk >= measure.plain);
}

#[test]
fn a_layout_is_read_whether_its_layers_are_compressed_or_not() {
    for stored in [layer(), gzip(&layer())] {
        let (plan, file) = read_members(&layout(stored.clone())).unwrap();
        assert_eq!(plan.config, config(&[&layer()], architecture()));
        assert_eq!(plan.layers[0].stored, Some(sha(&stored)));
        let measure = measured(&plan, &file, 1 << 20).unwrap();
        assert_eq!(measure.plain, layer().len() as u64);
    }
}

#[test]
fn a_layer_that_docker_saved_as_a_link_to_its_twin_is_read() {
    let twin = "0".repeat(64);
    let config = config(&[&layer(), &layer()], architecture());
    let names = [format!("{twin}/layer.tar"), "b/layer.tar".to_owned()];
    let manifest = json!([{ "Config": "c.json", "Layers": names }]);
    let members = [
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
        ("c.json".to_owned(), config),
        (names[0].clone(), layer()),
    ];
    let linked = |target: &str| {
        let mut builder = tar(&members);
        let mut link = header(EntryType::Symlink, 0);
        builder
            .append_link(&mut link, "b/layer.tar", target)
            .unwrap();
        read(&file(&builder.into_inner().unwrap()))
    };
    let plan = linked(&format!("../{twin}/layer.tar")).unwrap();
    assert_eq!(plan.layers[0].at, plan.layers[1].at);
    for target in ["/etc/shadow", "../../x/layer.tar", "../c.json", "layer.tar"] {
        let error = linked(target).unwrap_err();
        assert!(error.to_string().contains("is a link"), "{error}");
    }
}

#[test]
fn what_is_no_image_is_told() {
    assert!(wrong(&[]).contains("empty"));
    assert!(wrong(&[("a".into(), vec![1])]).contains("neither"));
    assert!(read(&file(&[9; 4_096])).is_err());
    assert!(read(&file(b"")).is_err());
    let packed = gzip(&tar(&saved()).into_inner().unwrap());
    let error = read(&file(&packed)).unwrap_err();
    assert!(error.to_string().contains("compressed"), "{error}");
    let mut cut = tar(&saved()).into_inner().unwrap();
    cut.truncate(cut.len() - 4_096);
    let error = read(&file(&cut)).unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error}");
}

#[test]
fn manifests_that_lie_are_refused() {
    let with = |text: String| {
        let mut members = saved();
        members[0].1 = text.into_bytes();
        wrong(&members)
    };
    let name = saved()[1].0.clone();
    let image = |layers: &[&str]| json!({ "Config": name, "Layers": layers });
    assert!(with("nonsense".into()).contains("cannot be read"));
    assert!(with(json!([]).to_string()).contains("0 images"));
    let two = json!([image(&["a/layer.tar"]), image(&["a/layer.tar"])]);
    assert!(with(two.to_string()).contains("2 images"));
    let outside = json!([image(&["../../../etc/shadow"])]);
    assert!(with(outside.to_string()).contains("missing"));
    let more = json!([image(&["a/layer.tar", "a/layer.tar"])]);
    assert!(with(more.to_string()).contains("2 layers where"));
    assert!(with(json!([image(&[])]).to_string()).contains("0 layers where"));
    let huge = " ".repeat(usize::try_from(MAX_TEXT_BYTES).unwrap() + 1);
    assert!(with(huge).contains("too large"));
    let mut twice = saved();
    twice.push(("./a/layer.tar".into(), layer()));
    assert!(wrong(&twice).contains("twice"));
    let many: Members = (0..=MAX_MEMBERS)
        .map(|at| (at.to_string(), Vec::new()))
        .collect();
    assert!(wrong(&many).contains("more than"));
}

#[test]
fn images_for_other_machines_are_refused() {
    let mut members = saved();
    members[1].1 = config(&[&layer()], "vax");
    assert!(wrong(&members).contains("it is for linux/vax"));
    let mut members = Members::new();
    let other = for_platform(blob(&mut members, b"{}".to_vec()), "vax");
    let index = json!({ "manifests": [other] }).to_string();
    members.push(("index.json".into(), index.into_bytes()));
    assert!(wrong(&members).contains("no image for linux/"));
}

#[test]
fn a_layout_is_held_to_its_digests() {
    for at in 0..2 {
        // The stored layer, or the configuration, is changed by one byte.
        let mut members = layout(layer());
        let last = members[at].1.len() - 1;
        members[at].1[last] ^= 1;
        let told = match read_members(&members) {
            Err(error) => error,
            Ok((plan, file)) => measured(&plan, &file, 1 << 20).unwrap_err(),
        };
        assert!(told.to_string().contains("match its digest"), "{told}");
    }
    let mut members = layout(layer());
    members[0].1.push(0);
    assert!(wrong(&members).contains("size"));
    let nested = |depth: usize| {
        let mut members = Members::new();
        let mut list = json!({ "manifests": [] });
        for _ in 0..depth {
            let inner = blob(&mut members, list.to_string().into_bytes());
            list = json!({ "manifests": [inner] });
        }
        members.push(("index.json".into(), list.to_string().into_bytes()));
        wrong(&members)
    };
    assert!(nested(1).contains("0 images"));
    assert!(nested(9).contains("nested"));
    let odd = json!({ "manifests": [{ "digest": "sha256:../../x", "size": 1 }] });
    let odd = [("index.json".to_owned(), odd.to_string().into_bytes())];
    assert!(wrong(&odd).contains("no SHA-256"));
}

/// An archive of one layer, which is given as it is stored, and said to be `plain`.
fn of_layer(stored: Vec<u8>, plain: &[u8]) -> (Plan, File) {
    let mut members = saved();
    members[1].1 = config(&[plain], architecture());
    members[2].1 = stored;
    read_members(&members).unwrap()
}

#[test]
fn a_layer_cannot_grow_beyond_the_room_for_it() {
    // 64 MiB of nothing in 64 KiB.
    let bomb = tar(&[("zeros".to_owned(), vec![0; 64 << 20])])
        .into_inner()
        .unwrap();
    let (plan, file) = of_layer(gzip(&bomb), &bomb);
    assert!(plan.layers[0].size < 1 << 20);
    let error = measured(&plan, &file, 8 << 20).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    // It is told without unpacking it: what its header says is enough.
    let needed = error.get_ref().unwrap().downcast_ref::<TooLarge>().unwrap();
    assert!(needed.0 > 64 << 20);
    // A tail of zeros after the end of the tar.
    let mut tail = layer();
    tail.resize(16 << 20, 0);
    let (plan, file) = of_layer(gzip(&tail), &tail);
    let error = measured(&plan, &file, 8 << 20).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(measured(&plan, &file, 80 << 20).is_ok());
}

#[test]
fn layers_that_are_no_layers_are_refused() {
    let mut sparse = header(EntryType::GNUSparse, 0).as_bytes().to_vec();
    sparse.resize(2_048, 0);
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0].to_vec();
    let mut short = gzip(&layer());
    short.truncate(short.len() / 2);
    for (stored, plain, expected) in [
        (sparse.clone(), sparse, "holes"),
        (zstd, layer(), "otherwise than with gzip"),
        (short, layer(), "a layer"),
        (vec![5; 1_024], vec![5; 1_024], "no tar file"),
        (layer(), layer()[1..].to_vec(), "match its digest"),
        (
            layer()[..4_096].to_vec(),
            layer()[..4_096].to_vec(),
            "cut off",
        ),
    ] {
        let (plan, file) = of_layer(stored, &plain);
        let error = measured(&plan, &file, 1 << 30).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn names_take_no_more_than_they_may_together() {
    let member = |n: usize| (format!("{n:04}{}", "x".repeat(8_000)), Vec::new());
    let few: Members = saved().into_iter().chain((0..200).map(member)).collect();
    assert!(read_members(&few).is_ok());
    let many: Members = saved().into_iter().chain((0..300).map(member)).collect();
    let error = read_members(&many).unwrap_err();
    assert!(error.to_string().contains("names in it take"), "{error}");
}

#[test]
fn reading_stops_when_nobody_wants_it() {
    let (plan, file) = read_members(&saved()).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let error = measure(&file, &plan.layers[0], 1 << 20, &stop, |_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
}
