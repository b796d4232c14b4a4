//! Tasks that follow one another in one container: the contract once more, and what the next task
//! finds of the one before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use p2pnode_executor::{Environment, Runtime, TaskEnd};
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{FailureKind, Isolation};
use tokio::sync::mpsc;

use crate::contract::{self, Act, Ended, PATIENCE, Running, Script, Subject, Trial, clean};
use crate::life::until;
use crate::sandbox::task_uid;
use crate::subject::{DockerSubject, ODD_IMAGE, containers};

/// The Docker runtime, all of whose tasks may share containers.
pub struct WarmSubject(pub DockerSubject);

impl WarmSubject {
    pub async fn new() -> Self {
        Self(DockerSubject::new().await)
    }

    /// The ids of the containers that are there.
    async fn rooms(&self) -> BTreeSet<String> {
        let all = containers(&self.0.engine, self.0.node, &self.0.incarnation).await;
        all.into_iter().filter_map(|one| one.id).collect()
    }
}

#[async_trait]
impl Subject for WarmSubject {
    fn runtime(&self) -> &dyn Runtime {
        self.0.runtime()
    }

    fn script(&self, act: Act) -> Script {
        self.0.script(act)
    }

    fn isolation(&self) -> Isolation {
        Isolation::Job
    }

    async fn leftovers(&self) -> Vec<String> {
        self.0.leftovers().await
    }
}

crate::contract_tests!(WarmSubject::new, #[ignore = "needs docker"]);

/// Tasks of one job in one environment.
struct Job<'a> {
    subject: &'a WarmSubject,
    environment: Arc<dyn Environment>,
    /// A trial whose task the others are made of.
    model: Trial<'a>,
}

impl<'a> Job<'a> {
    async fn new(subject: &'a WarmSubject) -> Self {
        let model = Trial::new(subject, Act::Exit(0));
        Self {
            subject,
            environment: model.prepare().await,
            model,
        }
    }

    fn trial(&self, script: &str) -> Trial<'a> {
        let mut trial = Trial::new(self.subject, Act::Exit(0));
        let work_dir = trial.task.work_dir.clone();
        trial.task = self.model.task.clone();
        trial.task.work_dir = work_dir;
        trial.task.command = DockerSubject::shell(script);
        trial
    }

    fn start(&self, trial: &Trial<'_>) -> Running {
        let (sink, log) = mpsc::channel(1);
        let (task, cancel) = (trial.task.clone(), trial.cancel.clone());
        let environment = Arc::clone(&self.environment);
        let end = tokio::spawn(async move { environment.run(task, sink, cancel).await });
        Running { log, end }
    }

    async fn run(&self, script: &str) -> Ended {
        let trial = self.trial(script);
        self.start(&trial).finish().await
    }

    /// Runs a script that must succeed and returns what it wrote.
    async fn text(&self, script: &str) -> String {
        let ended = self.run(script).await;
        ended.expect_success();
        String::from_utf8(ended.stdout).unwrap()
    }

    /// The one container that waits now.
    async fn room(&self) -> String {
        let rooms = self.subject.rooms().await;
        assert_eq!(rooms.len(), 1, "{rooms:?}");
        rooms.into_iter().next().unwrap()
    }
}

/// Without root there are no rooms, and nothing here to be seen but the contract.
fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn tasks_of_a_job_follow_one_another_in_one_container() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    let first = job.text("echo mine > out; pwd; ls").await;
    assert_eq!(first, "/work\nout\n");
    let room = job.room().await;
    for turn in 0..5 {
        let trial = job.trial("cat given; ls; echo $NUMBER > out; exit $NUMBER");
        std::fs::write(trial.work_dir().join("given"), format!("{turn}\n")).unwrap();
        let mut trial = trial;
        trial.task.env = vec![("NUMBER".into(), turn.to_string())];
        let ended = job.start(&trial).finish().await;
        assert_eq!(ended.stdout, format!("{turn}\ngiven\n").as_bytes());
        let result = ended.end.result.map_err(|failure| failure.kind);
        assert_eq!(
            result.err(),
            (turn > 0).then_some(FailureKind::Exit(turn)),
            "an exit code is the task's own affair"
        );
        let out = std::fs::read_to_string(trial.work_dir().join("out")).unwrap();
        assert_eq!(out, format!("{turn}\n"));
        assert_eq!(job.room().await, room, "the container was replaced");
    }
    drop(job);
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn nothing_of_one_task_is_left_for_the_next() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    job.text("true").await;
    let room = job.room().await;
    let dirty = "mkdir -p /tmp/a/b && echo 1 > /tmp/a/b/c && ln -s /etc/passwd /tmp/link && \
        echo 1 > /dev/shm/x && echo 1 > /tmp/.hidden && chmod 000 /tmp/a/b && echo 1 > $PWD/x && \
        (sleep 1000 & sleep 1000 & setsid sleep 1000 >/dev/null 2>&1 </dev/null &) ; echo done";
    assert_eq!(job.text(dirty).await, "done\n");
    let seen = "find /tmp /dev/shm /dev/mqueue $PWD -mindepth 1; \
        for p in /proc/[0-9]*; do cat $p/comm; done | sort -u | tr '\\n' ' '";
    let seen = job.text(seen).await;
    let mut names: BTreeSet<_> = seen.split_whitespace().collect();
    // The kernel keeps 15 bytes of a name.
    assert!(
        names.remove(".p2pnode-pause") || names.remove("pause"),
        "{seen}"
    );
    for own in ["sh", "cat", "sort", "tr"] {
        names.remove(own);
    }
    assert_eq!(names, BTreeSet::new(), "{seen}");
    assert_eq!(job.room().await, room);
    drop(job);
    clean(&subject).await;
}

/// What holds a task's output open does not hold up its end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn what_a_task_leaves_running_is_killed_at_its_end() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    let start = Instant::now();
    assert_eq!(job.text("sleep 1000 & echo started").await, "started\n");
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    // A process that closed its output goes on to its own end.
    let trial = job.trial("exec >/dev/null 2>&1; sleep 0.5; echo 1 > late");
    job.start(&trial).finish().await.expect_success();
    assert!(trial.work_dir().join("late").exists());
    drop(job);
    clean(&subject).await;
}

/// Not even what makes new processes faster than they are killed outlives its task.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_bomb_that_is_left_behind_goes_with_the_task() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    let bomb =
        "b() { b | b & }; b 2>/dev/null; (while :; do sleep 1000 & done) 2>/dev/null & echo lit";
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(job.text(bomb).await, "lit\n");
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{:?}",
            start.elapsed()
        );
        // Whichever container it is: nothing of the bomb is in it.
        let count = "n=0; for p in /proc/[0-9]*; do n=$((n+1)); done; echo $n";
        assert_eq!(
            job.text(count).await,
            "2\n",
            "the program that waits and the shell"
        );
    }
    drop(job);
    clean(&subject).await;
}

/// Message queues, and a work directory whose own permissions were changed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_work_directory_is_the_tasks_own() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    job.text("chmod 777 . && mkdir -p deep/er && touch deep/er/x && chmod 000 deep && cd / && ls $PWD >/dev/null")
        .await;
    let room = job.room().await;
    for _ in 0..2 {
        let seen = job
            .text("stat -c %a . ; ls -A; rmdir . 2>/dev/null; mv . .. 2>/dev/null; pwd")
            .await;
        let expected = format!("{}\n/work\n", "755");
        assert_eq!(seen, expected, "as this test's folders are made");
    }
    assert_eq!(job.room().await, room);
    drop(job);
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_is_replaced_after_anything_but_an_exit() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    job.text("true").await;
    let room = job.room().await;
    // Out of time.
    let mut trial = job.trial("sleep 1000");
    trial.task.timeout = Duration::from_millis(300);
    let ended = job.start(&trial).finish().await;
    assert_eq!(ended.failure(), FailureKind::Timeout);
    assert!(subject.rooms().await.is_empty());
    // Out of memory.
    let mut trial = job.trial("tail /dev/zero");
    trial.task.resources.memory = Bytes::mib(32);
    let ended = job.start(&trial).finish().await;
    assert_eq!(ended.failure(), FailureKind::OutOfMemory);
    assert!(subject.rooms().await.is_empty());
    // Cancelled.
    let trial = job.trial("echo started; sleep 1000");
    let mut running = job.start(&trial);
    running.until_stdout("started\n").await;
    trial.cancel.cancel();
    assert_eq!(running.finish().await.failure(), FailureKind::Cancelled);
    assert!(subject.rooms().await.is_empty());
    job.text("true").await;
    assert_ne!(job.room().await, room);
    drop(job);
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_that_died_while_it_waited_costs_nobody_a_try() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    job.text("true").await;
    let room = job.room().await;
    subject.0.engine.kill_container(&room, None).await.unwrap();
    assert_eq!(job.text("echo well").await, "well\n");
    assert_ne!(job.room().await, room);
    drop(job);
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn only_tasks_of_the_same_job_and_limits_share() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    job.text("true").await;
    let mut others = Vec::new();
    for change in 0..4 {
        let mut trial = job.trial("true");
        let task = &mut trial.task;
        match change {
            0 => task.attempt.task.job = p2pnode_protocol::JobId([9; 8]),
            1 => task.submitter = p2pnode_protocol::PeerId::random(),
            2 => task.resources.memory = Bytes::mib(100),
            _ => task.resources.pids += 1,
        }
        others.push(trial);
    }
    for (count, trial) in others.iter().enumerate() {
        job.start(trial).finish().await.expect_success();
        assert_eq!(subject.rooms().await.len(), count + 2);
    }
    // Root is never shared, and leaves nothing.
    let mut trial = job.trial("id -u");
    trial.task.root = true;
    let ended = job.start(&trial).finish().await;
    assert_eq!(ended.expect_success().stdout, b"0\n");
    assert_eq!(subject.rooms().await.len(), others.len() + 1);
    drop(job);
    clean(&subject).await;
}

/// Two tasks at once have a container each.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_holds_one_task_at_a_time() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    let trials = [(); 3].map(|()| job.trial("echo early; while [ ! -e go ]; do sleep 0.05; done"));
    let mut running = Vec::new();
    for trial in &trials {
        let mut task = job.start(trial);
        task.until_stdout("early\n").await;
        running.push(task);
    }
    assert_eq!(subject.rooms().await.len(), trials.len());
    for trial in &trials {
        std::fs::write(trial.work_dir().join("go"), b"").unwrap();
    }
    for task in running {
        task.finish().await.expect_success();
    }
    assert_eq!(subject.rooms().await.len(), trials.len());
    drop(job);
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn it_is_as_hard_as_a_container_of_its_own() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    for _ in 0..2 {
        let status = job
            .text("cat /proc/self/status; ulimit -n; ulimit -c")
            .await;
        for line in [
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let uid = task_uid();
        assert!(
            status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")),
            "{status}"
        );
        assert!(status.ends_with("4096\n0\n"), "{status}");
    }
    // The program that waits can be neither ended, stopped, nor looked into.
    let script = "kill -9 1; kill -STOP 1; kill -TERM 1; grep State /proc/1/status; \
        cat /proc/1/mem /proc/1/environ 2>/dev/null; ls /proc/1/root/ 2>/dev/null; ls /proc/1/fd 2>/dev/null; \
        (echo 1000 > /proc/1/oom_score_adj) 2>/dev/null && echo wrote; \
        for f in /x /etc/x /dev/x /sys/fs/cgroup/x /.p2pnode-pause /etc/hosts; do \
        (echo 1 > $f) 2>/dev/null && echo wrote $f; done; ls /sys/class/net; hostname";
    assert_eq!(
        job.text(script).await,
        "State:\tS (sleeping)\nlo\np2pnode\n"
    );
    drop(job);
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn use_is_counted_for_each_task() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    let usage = |end: &TaskEnd| end.usage;
    let busy = job
        .run("head -c 60000000 /dev/zero > /tmp/x; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
        .await;
    let idle = job.run("sleep 0.3").await;
    let (busy, idle) = (usage(&busy.end), usage(&idle.end));
    assert!(busy.cpu_us > 100_000, "{busy:?}");
    assert!(idle.cpu_us < busy.cpu_us / 2, "{idle:?} after {busy:?}");
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        assert!(busy.memory_peak > 60_000_000, "{busy:?}");
        assert!((1..40_000_000).contains(&idle.memory_peak), "{idle:?}");
    }
    drop(job);
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn the_images_own_ways_do_not_matter_here_either() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let (progress, _) = mpsc::channel(1);
    let program = p2pnode_executor::ProgramFile::Image {
        reference: ODD_IMAGE.into(),
        credentials: None,
    };
    let environment = subject.runtime().prepare(program, progress).await.unwrap();
    let mut job = Job::new(&subject).await;
    job.environment = environment;
    for _ in 0..2 {
        let text = job
            .text("pwd; id -u; ls /data /work; echo 1 > /data/x; echo 1 > y")
            .await;
        assert_eq!(text, format!("/work\n{}\n/data:\n\n/work:\n", task_uid()));
    }
    job.room().await;
    // Its own command, when the job has none.
    let mut trial = job.trial("");
    trial.task.command.clear();
    let ended = job.start(&trial).finish().await;
    assert_eq!(ended.failure(), FailureKind::Exit(1), "it is /bin/false");
    // A command that is not there.
    let mut trial = job.trial("");
    trial.task.command = vec!["/no/such/program".into()];
    let ended = job.start(&trial).finish().await;
    assert_eq!(ended.failure(), FailureKind::BadProgram);
    job.room().await;
    drop(job);
    clean(&subject).await;
}

/// The engine's own processes must fit beside the task's.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_small_limit_of_processes_holds() {
    let subject = WarmSubject::new().await;
    let mut trial = Trial::new(&subject, Act::Exit(0));
    trial.task.command =
        DockerSubject::shell("for i in 0 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all");
    trial.task.resources.pids = 5;
    let ended = trial.run().await;
    assert!(
        matches!(ended.failure(), FailureKind::Exit(_)),
        "{:?}",
        ended.end
    );
    assert!(String::from_utf8_lossy(&ended.stderr).contains("fork"));
    trial.task.resources.pids = 1;
    trial.task.command = vec!["/bin/true".into()];
    trial.run().await.expect_success();
    clean(&subject).await;
}

/// The promise of `isolation = "job"`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn it_is_at_least_twice_as_fast() {
    const TASKS: u32 = 20;
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    let mut times = [Vec::new(), Vec::new()];
    // Turn by turn, so that whatever else the machine does meets both alike.
    for _ in 0..TASKS {
        for (isolation, times) in [Isolation::Task, Isolation::Job]
            .into_iter()
            .zip(&mut times)
        {
            let mut trial = job.trial("true");
            trial.task.isolation = isolation;
            let start = Instant::now();
            job.start(&trial).finish().await.expect_success();
            times.push(start.elapsed());
        }
    }
    let [own, shared] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let ratio = own.as_secs_f64() / shared.as_secs_f64();
    eprintln!(
        "a task of its own {own:?}, in a warm container {shared:?}: {ratio:.1} times as fast"
    );
    assert!(ratio >= 2.0, "{own:?} and {shared:?}: {ratio:.1}");
    drop(job);
    clean(&subject).await;
}

/// Nobody has to drop anything: what nobody uses goes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_that_nobody_uses_is_removed() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    job.text("true").await;
    job.room().await;
    until(PATIENCE, async || subject.rooms().await.is_empty()).await;
    job.text("true").await;
    drop(job);
    clean(&subject).await;
}

/// The node's stop, its end, and its next start: no container and no mount is left.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn waiting_containers_end_with_the_runtime() {
    let subject = WarmSubject::new().await;
    if !root() {
        return;
    }
    let job = Job::new(&subject).await;
    job.text("true").await;
    job.room().await;
    let mounted = || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&subject.0.incarnation)
    };
    assert!(mounted());
    subject.runtime().shutdown().await;
    assert!(subject.rooms().await.is_empty());
    assert!(!mounted());
    until(PATIENCE, async || subject.leftovers().await.is_empty()).await;
}
