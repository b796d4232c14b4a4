//! Many tasks in random order, killed at random in every way there is. Nothing may be left.
//!
//! `P2PNODE_STORM` says how many tasks, `P2PNODE_STORM_SEED` which ones: a failing run prints both.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures::{StreamExt, stream};
use p2pnode_executor::docker::labels;
use p2pnode_executor::{Environment, Hold, LiveUsage, Runtime, TaskEnd};
use p2pnode_protocol::task::FailureKind;
use p2pnode_protocol::{Bytes, PeerId};
use tokio::sync::{mpsc, watch};

use crate::contract::{Act, Subject, Trial, clean, within};
use crate::subject::{DockerSubject, fresh_incarnation};

/// They took 122 s on two cores.
const DEFAULT_TASKS: u64 = 1_000;

/// How long a task has that was to be killed before there was anything to kill.
const UNTOUCHED: Duration = Duration::from_secs(20);

/// A task that has not ended by now hangs: on a machine with ten times the work that it can do, a
/// start alone has been seen to take half a minute.
const LONGEST: Duration = Duration::from_secs(150);

/// Tasks at once.
const PARALLEL: usize = 12;

/// One in this many has a disk of its own, where the machine can.
const HARD_PART: u64 = 8;

/// `SplitMix64` (Steele, Lea and Flood): a few lines are worth no dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// What a task does, and whether that ends well when nobody interferes.
const SCRIPTS: [(&str, bool); 8] = [
    ("true", true),
    ("exit 3", false),
    ("sleep 0.2", true),
    (
        "head -c 300000 /dev/zero > out; mkdir -p a/b; ln -s / a/b/c",
        true,
    ),
    ("head -c 3000000 /dev/zero", true),
    ("(setsid sleep 1000 &); (sleep 1000 &) ; sleep 0.1", true),
    ("exec no-such-command", false),
    ("trap '' TERM; while :; do sleep 0.05; done", false),
];

/// How it is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    Nobody,
    Cancel,
    Drop,
    Timeout,
    /// `docker kill` by somebody else.
    Killed,
    /// `docker rm --force` by somebody else.
    Removed,
    /// The owner holds it and ends it then.
    Held,
}

const KILLS: [Kill; 10] = [
    Kill::Nobody,
    Kill::Nobody,
    Kill::Nobody,
    Kill::Nobody,
    Kill::Cancel,
    Kill::Drop,
    Kill::Timeout,
    Kill::Killed,
    Kill::Removed,
    Kill::Held,
];

/// One task of the storm.
#[derive(Debug, Clone, Copy)]
struct Plan {
    script: (&'static str, bool),
    kill: Kill,
    after: Duration,
    hard: bool,
}

impl Plan {
    fn next(random: &mut Random) -> Self {
        let (script, mut kill) = (random.pick(&SCRIPTS), random.pick(&KILLS));
        if script.0.contains("while") && kill == Kill::Nobody {
            kill = Kill::Timeout;
        }
        Self {
            script,
            kill,
            after: Duration::from_millis(random.below(900)),
            hard: random.below(HARD_PART) == 0,
        }
    }
}

/// A runtime of the storm, with its environment.
struct Side {
    subject: DockerSubject,
    environment: Arc<dyn Environment>,
}

impl Side {
    async fn of(subject: DockerSubject) -> Self {
        let environment = Trial::new(&subject, Act::Exit(0)).prepare().await;
        Self {
            subject,
            environment,
        }
    }
}

async fn one(side: &Side, plan: Plan) -> Option<TaskEnd> {
    let mut trial = Trial::new(&side.subject, Act::Exit(0));
    trial.task.command = DockerSubject::shell(plan.script.0);
    trial.task.resources.memory = Bytes::mib(32);
    trial.task.resources.disk = Bytes::mib(4);
    if plan.kill == Kill::Timeout {
        trial.task.timeout = plan.after + Duration::from_millis(1);
    } else {
        // For a task that was to be killed before it began.
        trial.task.timeout = UNTOUCHED;
    }
    let (pause, wanted) = watch::channel(false);
    let told = Arc::new(watch::channel(LiveUsage::default()).0);
    trial.task.hold = Hold {
        pause: wanted,
        usage: told,
        ..Hold::default()
    };
    let (sink, mut log) = mpsc::channel(4);
    let drain = tokio::spawn(async move { while log.recv().await.is_some() {} });
    let (task, cancel) = (trial.task.clone(), trial.cancel.clone());
    let environment = Arc::clone(&side.environment);
    let mut run = tokio::spawn(async move { environment.run(task, sink, cancel).await });
    let early = tokio::time::timeout(plan.after, &mut run).await;
    let end = match early {
        Ok(end) => Some(end.unwrap()),
        Err(_) => {
            interfere(side, plan, &trial, &pause).await;
            if plan.kill == Kill::Drop {
                run.abort();
                let _ = run.await;
                None
            } else {
                let ended = tokio::time::timeout(LONGEST, run).await;
                Some(
                    ended
                        .unwrap_or_else(|_| panic!("{plan:?} does not end"))
                        .unwrap(),
                )
            }
        }
    };
    within(drain).await.unwrap();
    within(side.environment.release(trial.work_dir())).await;
    end
}

async fn interfere(side: &Side, plan: Plan, trial: &Trial<'_>, pause: &watch::Sender<bool>) {
    match plan.kill {
        Kill::Nobody | Kill::Timeout | Kill::Drop => {}
        Kill::Cancel => trial.cancel.cancel(),
        Kill::Held => {
            pause.send_replace(true);
            tokio::time::sleep(plan.after / 2).await;
            trial.cancel.cancel();
        }
        Kill::Killed | Kill::Removed => {
            let engine = &side.subject.engine;
            let job = format!("{}={}", labels::JOB, trial.task.attempt.task.job);
            let filters = HashMap::from([("label", vec![job.as_str()])]);
            let options = ListContainersOptionsBuilder::new()
                .all(true)
                .filters(&filters)
                .build();
            for container in engine.list_containers(Some(options)).await.unwrap() {
                let id = container.id.unwrap();
                // It may end, or be removed, at the same moment.
                if plan.kill == Kill::Killed {
                    let _ = engine
                        .kill_container(&id, None::<KillContainerOptions>)
                        .await;
                } else {
                    let options = RemoveContainerOptionsBuilder::new().force(true).build();
                    let _ = engine.remove_container(&id, Some(options)).await;
                }
            }
        }
    }
}

/// A runtime of the storm's own, in `dir`.
async fn subject(dir: &Path, hard_disk: bool) -> DockerSubject {
    DockerSubject::with_config(PeerId::random(), &fresh_incarnation(), |config| {
        config.dir = dir.to_path_buf();
        config.hard_disk = hard_disk;
    })
    .await
}

/// What may have become of a task that was dealt with so.
fn check(plan: Plan, end: Option<&TaskEnd>) -> Result<(), String> {
    let kind = match end.map(|end| &end.result) {
        None => return Ok(()),
        Some(Ok(())) if plan.script.1 => return Ok(()),
        Some(Ok(())) => return Err(format!("{plan:?} ended well")),
        Some(Err(failure)) => failure.kind,
    };
    let own = !plan.script.1 && matches!(kind, FailureKind::Exit(_) | FailureKind::BadProgram);
    let fits = match plan.kill {
        Kill::Nobody => false,
        Kill::Cancel | Kill::Drop | Kill::Held => kind == FailureKind::Cancelled,
        Kill::Timeout => kind == FailureKind::Timeout,
        // Killed before it began to live, it may not have begun; then nobody was there to kill.
        Kill::Killed | Kill::Removed => matches!(
            kind,
            FailureKind::Exit(_) | FailureKind::Host | FailureKind::Timeout
        ),
    };
    if own || fits {
        Ok(())
    } else {
        Err(format!("{plan:?} ended with {end:?}"))
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_storm_of_tasks_leaves_nothing() {
    let tasks = number("P2PNODE_STORM", DEFAULT_TASKS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("P2PNODE_STORM_SEED", u64::from(now.subsec_nanos()));
    eprintln!("P2PNODE_STORM={tasks} P2PNODE_STORM_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let soft = Side::of(subject(dir.path(), false).await).await;
    let hard = subject(dir.path(), true).await;
    let hard = match hard.runtime.probe().await.features.hard_disk {
        true => Some(Side::of(hard).await),
        false => None,
    };
    let mut random = Random(seed);
    let plans: Vec<Plan> = (0..tasks).map(|_| Plan::next(&mut random)).collect();
    let began = Instant::now();
    let wrong: Vec<String> = stream::iter(plans)
        .map(|plan| {
            let side = hard.as_ref().filter(|_| plan.hard).unwrap_or(&soft);
            async move { check(plan, one(side, plan).await.as_ref()) }
        })
        .buffer_unordered(PARALLEL)
        .filter_map(|checked| std::future::ready(checked.err()))
        .collect()
        .await;
    eprintln!("{tasks} tasks in {:?}", began.elapsed());
    assert_eq!(wrong, [] as [String; 0], "seed {seed}");
    for side in [Some(&soft), hard.as_ref()].into_iter().flatten() {
        clean(&side.subject).await;
        within(side.subject.runtime.shutdown()).await;
        assert_eq!(
            side.subject.leftovers().await,
            [] as [String; 0],
            "seed {seed}"
        );
    }
    // Of the runtimes' own files one is left, which all containers share.
    let own = std::fs::read_dir(dir.path()).unwrap().flatten();
    let names: Vec<_> = own.map(|file| file.file_name()).collect();
    assert_eq!(names, ["hosts"], "seed {seed}");
}
