//! GPUs through a whole node, with a stand-in for NVIDIA's library. The engine has no way to give GPUs
//! to containers, so what is asked of it is looked at in the moment before it refuses.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::bench::{begin, containers_of, docker, end, pair_on, shell, small_job, succeed};
use crate::harness::{Lab, eventually};

/// The GPU that is offered: of the stand-in's three, the first in the order of UUIDs.
const OFFERED: &str = "GPU-00000007";

/// Another that works and is not offered.
const KEPT: &str = "GPU-00000009";

/// What the engine's owner has to install.
const TOOLKIT: &str = "nvidia-container-toolkit";

/// Building p2pnode needs a C compiler anyway.
fn stand_in(lab: &Lab) -> PathBuf {
    let library = lab.path("libnvidia-ml.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../executor/tests/gpu/nvml.c");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(made.unwrap().success());
    library
}

/// Containers as the engine had them when each was to be started.
type Seen = Arc<Mutex<Vec<Value>>>;

/// The engine at another socket. Before a start goes on to it, the container is inspected.
fn looking_glass(socket: &Path) -> Seen {
    let seen = Seen::default();
    let listener = UnixListener::bind(socket).unwrap();
    let kept = Arc::clone(&seen);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            let engine = UnixStream::connect(engine_socket()).unwrap();
            let (from, to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
            let seen = Arc::clone(&kept);
            std::thread::spawn(move || pass_on(from, to, |bytes| look(bytes, &seen)));
            std::thread::spawn(move || pass_on(engine, client, |_| {}));
        }
    });
    seen
}

fn engine_socket() -> String {
    let host = docker(&[
        "context",
        "inspect",
        "--format",
        "{{.Endpoints.docker.Host}}",
    ]);
    host.trim_start_matches("unix://").to_owned()
}

/// Copies until either end is gone.
fn pass_on(mut from: UnixStream, mut to: UnixStream, mut before: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        before(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _gone = to.shutdown(Shutdown::Write);
}

/// Inspects the container that a request is about to start. Requests to start have no body and come
/// in one piece.
fn look(request: &[u8], seen: &Seen) {
    let request = String::from_utf8_lossy(request);
    let started = request.lines().find_map(|line| {
        let path = line.strip_prefix("POST ")?.split(' ').next()?;
        let path = path.split('?').next()?.strip_suffix("/start")?;
        path.split_once("/containers/").map(|(_, id)| id.to_owned())
    });
    if let Some(id) = started {
        let shown: Value = serde_json::from_str(&docker(&["inspect", &id])).unwrap();
        seen.lock().unwrap().push(shown[0].clone());
    }
}

/// A lab on a machine with the stand-in's GPUs, and what its nodes start.
fn lab_with_gpus() -> (Lab, Seen) {
    let mut lab = Lab::new();
    let socket = lab.path("engine.sock");
    let seen = looking_glass(&socket);
    let library = stand_in(&lab);
    lab.env = vec![
        ("P2PNODE_NVML", library.into()),
        (
            "DOCKER_HOST",
            OsString::from(format!("unix://{}", socket.display())),
        ),
    ];
    (lab, seen)
}

fn gpu_job(lab: &Lab, name: &str, gpus: &str) -> PathBuf {
    let toml = small_job(&shell("echo ran"), "");
    let toml = toml.replace("[resources]\n", &format!("[resources]\ngpus = {gpus}\n"));
    lab.job(name, &toml, &[])
}

fn uuids(capacity: &Value) -> Vec<String> {
    let gpus = capacity["gpus"].as_array().unwrap().iter();
    gpus.map(|gpu| gpu["uuid"].as_str().unwrap().to_owned())
        .collect()
}

/// Has a job asked for in vain: what its submitter reads, and which device requests its containers had.
fn asked(lab: &Lab, seen: &Seen, job: &Path, wanted: &str) -> (String, Vec<Value>) {
    seen.lock().unwrap().clear();
    let submitted = begin(lab, job, &["--wait-for-peers", "5s"]);
    // It waits until the provider can, or ends because none would take it.
    let said = eventually(wanted, || {
        let notes = lab.last_job("me")?["job"]["notes"].to_string();
        notes.contains(wanted).then_some(notes)
    });
    let _may_be_over = lab.run("me", &["cancel", "last"]);
    let ended = end(lab, submitted);
    assert!(!ended.status.success(), "{:?}", ended.events);
    let seen = seen.lock().unwrap().clone();
    for container in &seen {
        assert!(!container.to_string().contains(KEPT), "{container}");
    }
    let requests = seen.iter();
    let requests = requests.map(|container| container["HostConfig"]["DeviceRequests"].clone());
    (said, requests.collect())
}

#[test]
#[ignore = "needs docker"]
fn a_container_gets_the_gpu_that_is_offered_and_never_another() {
    let (lab, seen) = lab_with_gpus();
    let (provider, _mine) = pair_on(&lab, &["--gpus", "1"]);
    let offer = lab.json("provider", &["status"])["offer"].clone();
    assert_eq!(uuids(&offer["total"]), [OFFERED]);
    assert_eq!(uuids(&offer["free"]), [OFFERED]);
    let known = lab.json("me", &["peers"])[0].clone();
    assert_eq!(known["peer"], provider.id.as_str());
    let gpu = &known["capacity"]["gpus"];
    assert_eq!(gpu[0]["model"], "Stand-in 2", "{known}");
    assert_eq!(gpu.as_array().unwrap().len(), 1, "{known}");

    let wanted = json!([{
        "Driver": "", "Count": 0, "DeviceIDs": [OFFERED], "Capabilities": [["gpu"]], "Options": null,
    }]);
    let (said, requests) = asked(&lab, &seen, &gpu_job(&lab, "one", "1"), TOOLKIT);
    assert!(said.contains("cannot give GPUs to containers"), "{said}");
    assert!(!requests.is_empty());
    assert!(
        requests.iter().all(|request| *request == wanted),
        "{requests:?}"
    );

    // Half of one, which is another's right only where the owner says so.
    let half = gpu_job(&lab, "half", "0.5");
    let (_, requests) = asked(&lab, &seen, &half, "p2pnode offer --share-gpus");
    assert_eq!(requests, [Value::Null; 0]);
    let shared = lab.json("provider", &["offer", "--share-gpus"]);
    assert_eq!(uuids(&shared["offer"]["total"]), [OFFERED]);
    let (_, requests) = asked(&lab, &seen, &half, TOOLKIT);
    assert!(!requests.is_empty());
    assert!(
        requests.iter().all(|request| *request == wanted),
        "{requests:?}"
    );

    // What is not offered is asked for in vain.
    for (name, gpus) in [
        ("two", "2"),
        ("kept", "{ count = 1, model = \"Stand-in 0\" }"),
    ] {
        let (_, requests) = asked(&lab, &seen, &gpu_job(&lab, name, gpus), "matching GPUs");
        assert_eq!(requests, [Value::Null; 0], "{name}");
    }
    eventually("the GPU is free again", || {
        let offer = lab.json("provider", &["status"])["offer"].clone();
        (offer["free"] == offer["total"]).then_some(())
    });
    assert_eq!(containers_of(&provider.id), [""; 0]);
    // A task without a GPU runs as ever, and without one.
    seen.lock().unwrap().clear();
    let plain = lab.job("plain", &small_job(&shell("echo ran"), ""), &[]);
    assert_eq!(succeed(&lab, &plain).log_of(0), "ran\n");
    let started = seen.lock().unwrap().clone();
    assert_eq!(started.len(), 1);
    assert!(started[0]["HostConfig"]["DeviceRequests"].is_null());
}

#[test]
#[ignore = "needs docker"]
fn the_doctor_says_that_the_engine_cannot_give_the_gpu() {
    let (lab, seen) = lab_with_gpus();
    let output = lab.run("me", &["doctor", "--json", "--self-test"]);
    assert_eq!(output.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |check: &str| -> Vec<Value> {
        let all = said["checks"].as_array().unwrap().iter();
        all.filter(|finding| finding["check"] == check)
            .cloned()
            .collect()
    };
    let gpus = of("gpu");
    assert_eq!(gpus.len(), 2, "{said}");
    for (gpu, uuid) in gpus.iter().zip([OFFERED, KEPT]) {
        assert_eq!(gpu["state"], "ok");
        assert!(gpu["found"].as_str().unwrap().contains(uuid), "{gpu}");
    }
    let runtime = &of("gpu runtime")[0];
    assert_eq!(runtime["state"], "fault", "{said}");
    assert!(runtime["mend"].as_str().unwrap().contains(TOOLKIT));
    let ran = &of("run gpu")[0];
    assert_eq!(ran["state"], "fault", "{said}");
    assert!(ran["found"].as_str().unwrap().contains(TOOLKIT), "{ran}");
    // It tried.
    let started = seen.lock().unwrap().clone();
    let asked = |container: &Value| !container["HostConfig"]["DeviceRequests"].is_null();
    assert!(started.iter().any(asked), "{started:?}");
}
