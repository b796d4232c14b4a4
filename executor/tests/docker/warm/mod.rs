//! Tasks that follow one another in one container: the contract once more, and what the next task
//! finds of the one before (`fresh`) and which tasks share (`rooms`).

mod disks;
mod fresh;
mod holds;
mod rooms;
mod walls;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use p2pnode_executor::{Environment, Runtime};
use p2pnode_protocol::task::Isolation;
use tokio::sync::mpsc;

use crate::contract::{self, Act, Ended, Running, Script, Subject, Trial};
use crate::subject::{DockerSubject, containers};

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

/// Shows `check` a fresh job, and that nothing is left of it. Without root there are no rooms, and
/// nothing here to be seen but the contract.
async fn with_rooms(check: impl AsyncFnOnce(Job<'_>)) {
    if rustix::process::geteuid().is_root() {
        with_rooms_of(WarmSubject::new().await, check).await;
    } else {
        eprintln!("not tested: only root has warm containers");
    }
}

/// The same of a runtime that differs.
async fn with_rooms_of(subject: WarmSubject, check: impl AsyncFnOnce(Job<'_>)) {
    check(Job::new(&subject).await).await;
    contract::clean(&subject).await;
}
