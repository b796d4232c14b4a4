//! Tasks on a machine of files.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use p2pnode_executor::Hold;
use p2pnode_protocol::task::{Isolation, NetworkMode, Usage};
use p2pnode_protocol::{AttemptKey, JobId, PeerId, Resources, TaskKey};

use super::*;

/// A machine with one package and one CPU.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.set("sys/class/powercap/intel-rapl:0/name", "package-0");
        machine.at(0, 0, 0);
        machine
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Energy so far, and ticks of its CPU that were busy and idle.
    fn at(&self, uj: u64, busy: u64, idle: u64) {
        self.set("sys/class/powercap/intel-rapl:0/energy_uj", &uj.to_string());
        let stat = format!("cpu  {busy} 0 0 {idle} 0 0 0 0\ncpu0 0\n");
        self.set("proc/stat", &stat);
    }

    fn meter(&self) -> Meter {
        let sensors = Sensors::new(self.0.path(), Some(Path::new("/no/such/nvml.so")));
        Meter {
            table: Arc::default(),
            sensors: Arc::new(tokio::sync::Mutex::new(Some(sensors))),
        }
    }
}

fn key(index: u32) -> RunKey {
    let job = JobId([7; 8]);
    RunKey {
        submitter: PeerId::from_bytes(&[0, 1, 7]).unwrap(),
        attempt: AttemptKey {
            task: TaskKey {
                job,
                step: 0,
                index,
            },
            attempt: 1,
        },
    }
}

fn task(index: u32) -> TaskRun {
    let key = key(index);
    TaskRun {
        submitter: key.submitter,
        attempt: key.attempt,
        command: Vec::new(),
        env: Vec::new(),
        work_dir: PathBuf::new(),
        resources: Resources::default(),
        gpus: Vec::new(),
        timeout: Duration::ZERO,
        stall: Duration::ZERO,
        network: NetworkMode::None,
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
        hold: Hold::default(),
    }
}

fn end(cpu_us: u64) -> TaskEnd {
    TaskEnd {
        result: Ok(()),
        usage: Usage {
            cpu_us,
            ..Usage::default()
        },
    }
}

async fn measure(meter: &Meter, index: u32, run: impl Future<Output = TaskEnd>) -> TaskEnd {
    meter.enter(key(index), &task(index)).measure(run).await
}

#[tokio::test]
async fn a_task_is_charged_its_part_of_what_the_machine_took() {
    let machine = Machine::new();
    let meter = machine.meter();
    let run = async {
        // All of the CPU for this time, of which a quarter was the task's; 8 J.
        tokio::time::sleep(SHORT + Duration::from_millis(100)).await;
        machine.at(8_000_000, 30, 0);
        let ran = meter.table().last.as_ref().unwrap().at.elapsed();
        end(u64::try_from(ran.as_micros()).unwrap() / 4)
    };
    let end = measure(&meter, 0, run).await;
    let joules = end.usage.energy_mj.unwrap();
    // More time goes by until the last reading, on a busy machine much more.
    assert!((200..=2_000).contains(&joules), "{joules} mJ");
    assert_eq!(meter.running(9).len(), 0);
}

#[tokio::test]
async fn a_short_task_is_charged_by_the_interval_before_it() {
    let machine = Machine::new();
    let meter = machine.meter();
    let first = measure(&meter, 0, async { end(10) }).await;
    assert_eq!(first.usage.energy_mj, None, "no interval has gone by");
    tokio::time::sleep(Duration::from_millis(50)).await;
    machine.at(1_000_000, 100, 0);
    meter.look(Instant::now()).await;
    let busy = meter.table().last.as_ref().unwrap().busy_us;
    let second = measure(&meter, 1, async { end(busy / 2) }).await;
    let joules = second.usage.energy_mj.unwrap();
    assert!((495..=500).contains(&joules), "{joules} mJ of 1 J");
}

#[tokio::test]
async fn a_machine_that_cannot_tell_says_nothing() {
    let empty = tempfile::tempdir().unwrap();
    let meter = Machine(empty).meter();
    for index in 0..2 {
        let run = async {
            tokio::time::sleep(SHORT).await;
            end(1_000)
        };
        let end = measure(&meter, index, run).await;
        assert_eq!(end.usage.energy_mj, None);
    }
}

#[tokio::test]
async fn a_meter_that_begins_anew_is_not_compared_with_what_was_before() {
    let machine = Machine::new();
    let meter = machine.meter();
    let run = async {
        machine.at(1_000_000, 100, 100);
        meter.look(Instant::now()).await;
        // The counters of CPU time run back.
        machine.at(2_000_000, 50, 50);
        meter.look(Instant::now()).await;
        machine.at(3_000_000, 90, 90);
        tokio::time::sleep(SHORT * 2).await;
        end(1_000)
    };
    let end = measure(&meter, 0, run).await;
    assert_eq!(end.usage.energy_mj, None);
}

#[tokio::test]
async fn running_tasks_are_shown_with_what_they_use_and_no_more_than_asked_for() {
    let machine = Machine::new();
    let meter = machine.meter();
    let tasks: Vec<TaskRun> = (0..5).map(task).collect();
    let holds: Vec<Hold> = tasks.iter().map(|task| task.hold.clone()).collect();
    let entries: Vec<Entry> = (0..5)
        .zip(&tasks)
        .map(|(i, t)| meter.enter(key(i), t))
        .collect();
    holds[1].usage.send_replace(LiveUsage {
        memory: 42,
        ..LiveUsage::default()
    });
    let shown = meter.running(3);
    let memory: Vec<u64> = shown.iter().map(|task| task.usage.memory).collect();
    assert_eq!(memory, [0, 42, 0]);
    drop(entries);
    assert!(meter.running(3).is_empty());
}

#[tokio::test]
async fn sensors_rest_when_nothing_runs() {
    let machine = Machine::new();
    let meter = machine.meter();
    measure(&meter, 0, async { end(1) }).await;
    assert!(meter.table().is_sampling);
    while meter.table().is_sampling {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let last = meter.table().last.clone();
    tokio::time::sleep(INTERVAL + Duration::from_millis(500)).await;
    assert_eq!(meter.table().last, last);
}

/// The stand-in for NVIDIA's library, whose GPU 0 counts 1,000 mJ more at each question. Building
/// p2pnode needs a C compiler anyway.
fn nvml(folder: &Path) -> PathBuf {
    let library = folder.join("libnvidia-ml.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../executor/tests/gpu/nvml.c");
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(built.unwrap().success());
    library
}

#[tokio::test]
async fn a_whole_gpu_is_charged_from_the_first_question_to_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let sensors = Sensors::new(folder.path(), Some(&nvml(folder.path())));
    let meter = Meter {
        table: Arc::default(),
        sensors: Arc::new(tokio::sync::Mutex::new(Some(sensors))),
    };
    let with = |uuid: &str| TaskRun {
        gpus: vec![Gpu::whole(
            uuid.to_owned(),
            "a GPU".to_owned(),
            p2pnode_protocol::Bytes(1),
        )],
        ..task(0)
    };
    for _ in 0..3 {
        let entry = meter.enter(key(0), &with("GPU-00000009"));
        let end = entry.measure(async { end(5) }).await;
        // The regular reading may come between the two.
        let energy = end.usage.energy_mj.unwrap();
        assert!(matches!(energy, 1_000 | 2_000), "{energy} mJ");
    }
    let entry = meter.enter(key(0), &with("GPU-00000007"));
    let end = entry.measure(async { end(5) }).await;
    assert_eq!(end.usage.energy_mj, None, "that one does not count");
}
