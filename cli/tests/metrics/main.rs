//! What real nodes show of themselves, and that what is set up to look at it fits.

#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;
// The reader that the node's own tests use.
#[path = "../../../node/src/driver/metrics/tests/openmetrics.rs"]
mod openmetrics;

mod compose;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Lab, modules, text};
use serde_json::Value;

const JOB: &str = r#"
name = "burn"
task.wasm = "burn.wasm"
[resources]
memory = "64MiB"
disk = "64MiB"
"#;

const COPY: &str = r#"
name = "copy"
task.wasm = "copy.wasm"
inputs."in.txt" = "in.txt"
outputs.paths = ["out/out.txt"]
[resources]
memory = "64MiB"
disk = "64MiB"
"#;

/// Uses a CPU for about a second: a thousand million turns.
fn burn() -> Vec<u8> {
    wat::parse_str(
        r#"(module (memory (export "memory") 1) (func (export "_start") (local $i i64)
            (loop $on
                (local.set $i (i64.add (local.get $i) (i64.const 1)))
                (i64.store (i32.const 0) (local.get $i))
                (br_if $on (i64.lt_u (local.get $i) (i64.const 1000000000))))))"#,
    )
    .unwrap()
}

/// A machine of files with one CPU that is always busy and takes 10 W, for as long as it is kept.
struct Machine {
    over: Arc<AtomicBool>,
    clock: Option<std::thread::JoinHandle<()>>,
}

impl Machine {
    fn start(root: &Path) -> Self {
        let zone = root.join("sys/class/powercap/intel-rapl:0");
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::create_dir_all(root.join("proc")).unwrap();
        std::fs::write(zone.join("name"), "package-0\n").unwrap();
        let chip = root.join("sys/class/hwmon/hwmon0");
        std::fs::create_dir_all(&chip).unwrap();
        std::fs::write(chip.join("name"), "coretemp\n").unwrap();
        std::fs::write(chip.join("temp1_input"), "55000\n").unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (stat, counter) = (root.join("proc/stat"), zone.join("energy_uj"));
        let ended = over.clone();
        let mut tick = 0u64;
        let mut step = move || {
            tick += 1;
            // Whole files at once, as the kernel gives them.
            let put = |path: &Path, text: String| {
                let new = path.with_extension("new");
                std::fs::write(&new, text).unwrap();
                std::fs::rename(new, path).unwrap();
            };
            put(&stat, format!("cpu  {tick} 0 0 0 0 0 0 0\ncpu0 0\n"));
            put(&counter, (tick * 100_000).to_string());
        };
        step();
        let clock = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                step();
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self {
            over,
            clock: Some(clock),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ended = self.clock.take().map(std::thread::JoinHandle::join);
    }
}

fn get(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n{header}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    text(&answer)
}

/// What a node shows, by name and labels.
fn scrape(address: &str, header: &str) -> BTreeMap<String, f64> {
    let answer = get(address, "/metrics", header);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"));
    openmetrics::parse(body)
}

/// The local API of the node called `name`: address, and the header that lets one in.
fn api_of(lab: &Lab, name: &str) -> (String, String) {
    let read = |file: &str| std::fs::read_to_string(lab.path(name).join(file)).unwrap();
    let api: Value = serde_json::from_str(&read("api.json")).unwrap();
    let token = format!("Authorization: Bearer {}\r\n", read("token").trim());
    (api["address"].as_str().unwrap().to_owned(), token)
}

#[test]
fn a_job_shows_in_the_metrics_and_its_energy_in_its_receipt() {
    let lab = Lab::new();
    let _machine = Machine::start(&lab.path("machine"));
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let me = lab.id("me");
    let args = [
        "--cpus",
        "1",
        "--memory",
        "1GiB",
        "--disk",
        "1GiB",
        "--allow",
        &me,
        "--metrics",
        &address,
    ];
    let provider = lab.start("provider", "offer", &args, None);
    let _mine = lab.start("me", "join", &[], Some(&provider));
    lab.wait_until_known("me", &provider);
    let ended = lab.submit("me", &lab.job("job", JOB, &[("burn.wasm", &burn())]), &[]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);

    // Some 10 W for the time that it ran; it was not alone on the machine of files.
    let energy = ended.finished()["usage"]["energy_mj"].as_u64();
    assert!(energy.is_some_and(|mj| mj > 0), "{}", ended.finished());
    let shown = lab.last_job("me").unwrap();
    assert_eq!(shown["job"]["usage"]["energy_mj"].as_u64(), energy);
    assert_eq!(shown["tasks"][0]["usage"]["energy_mj"].as_u64(), energy);
    let words = text(&lab.run("me", &["job", "last"]).stdout);
    assert!(words.contains("\nenergy   "), "{words}");

    let there = scrape(&address, "");
    let of = |name: &str| there.get(name).copied().unwrap_or_default();
    assert_eq!(of("p2pnode_runs_ended_total{outcome=\"succeeded\"}"), 1.0);
    assert_eq!(of("p2pnode_tasks_accepted_total"), 1.0);
    assert_eq!(of("p2pnode_offer_cpus{part=\"offered\"}"), 1.0);
    assert_eq!(of("p2pnode_machine_cpu_temperature_celsius"), 55.0);
    assert!(of("p2pnode_run_energy_joules_total") > 0.0, "{there:#?}");
    assert!(of("p2pnode_uptime_seconds") > 0.0);
    for phase in ["fetch", "environment", "queue", "inputs", "run"] {
        let count = format!("p2pnode_phase_seconds_count{{phase=\"{phase}\"}}");
        assert_eq!(of(&count), 1.0, "{phase}: {there:#?}");
    }
    assert!(get(&address, "/api/v1/status", "").starts_with("HTTP/1.0 404 "));

    let (address, token) = api_of(&lab, "me");
    let here = scrape(&address, &token);
    let of = |name: &str| here.get(name).copied().unwrap_or_default();
    assert_eq!(of("p2pnode_own_jobs_ended_total{state=\"succeeded\"}"), 1.0);
    assert_eq!(of("p2pnode_own_jobs{state=\"succeeded\"}"), 1.0);
    assert_eq!(
        of("p2pnode_own_tasks_ended_total{state=\"succeeded\"}"),
        1.0
    );
    assert!(of("p2pnode_own_tasks_energy_joules_total") > 0.0);
    assert!(of("p2pnode_own_inputs_sent_bytes_total") > 0.0);
    assert!(of("p2pnode_net_blob_sent_bytes_total") > 0.0);

    let files: [(&str, &[u8]); 2] = [("copy.wasm", &modules::copy()), ("in.txt", b"to be copied")];
    let ended = lab.submit("me", &lab.job("copy", COPY, &files), &[]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let here = scrape(&address, &token);
    let of = |name: &str| here.get(name).copied().unwrap_or_default();
    assert_eq!(of("p2pnode_phase_seconds_count{phase=\"collect\"}"), 1.0);
    assert_eq!(of("p2pnode_own_outputs_received_bytes_total"), 12.0);
    assert!(get(&address, "/metrics", "").starts_with("HTTP/1.0 401 "));
}

#[test]
fn an_address_for_scrapes_that_cannot_be_had_is_told_with_the_mend() {
    let lab = Lab::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--metrics"];
    for (address, mend) in [
        (address.as_str(), "setting `metrics`"),
        ("9464", "0.0.0.0:9464"),
    ] {
        let refused = lab.run("me", &[&["join"], &args[..], &[address]].concat());
        assert_eq!(refused.status.code(), Some(2), "{address}");
        assert!(
            text(&refused.stderr).contains(mend),
            "{}",
            text(&refused.stderr)
        );
    }
}
