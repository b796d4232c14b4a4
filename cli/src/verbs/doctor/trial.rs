//! One small job on one node, to its end.

use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use p2pnode_protocol::api::{CreateJob, Event, JobInfo, JobState, TaskState};
use p2pnode_protocol::task::{Failure as TaskFailure, FailureKind};

use crate::client::{Client, EventStream};
use crate::exit::Failure;

/// Longest wait for the result of a job. A first container of an image takes seconds on a slow disk.
const LIMIT: Duration = Duration::from_secs(60);

/// How long the node waits for itself to be seen as a peer that fits, in milliseconds.
const FIT_MS: u64 = 10_000;

/// Reasons told at most.
const MAX_NOTES: usize = 3;

/// Failures of the machine, not of the task, that end a trial: the node would go on trying, and one
/// may be chance.
const MAX_SETBACKS: u32 = 2;

/// How a trial ended well.
pub struct Passed {
    /// From asking to the first result.
    pub first: Duration,
    /// Tasks that succeeded.
    pub tasks: u64,
}

/// Why one did not.
pub struct Failed {
    /// In words.
    pub why: String,
    /// Whether the program itself could not be started: another image may have it.
    pub bad_program: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        let mut why = vec![failure.message];
        why.extend(failure.details.into_iter().take(MAX_NOTES));
        why.dedup();
        Self {
            why: why.join("; "),
            bad_program: false,
        }
    }
}

/// What was seen of a job so far.
#[derive(Default)]
struct Seen {
    job: Option<String>,
    first: Option<Duration>,
    failure: Option<TaskFailure>,
    setbacks: u32,
    waits: Vec<String>,
    /// The job has ended, well or not.
    over: bool,
}

/// Runs the job `toml`, whose files stand in `folder`, on the node `peer` alone. One that does not end
/// in time, or that the machine fails again, is cancelled.
pub async fn run(client: &Client, peer: &str, folder: &Path, toml: &str) -> Result<Passed, Failed> {
    let began = Instant::now();
    let request = CreateJob {
        toml: toml.to_owned(),
        folder: folder.to_string_lossy().into_owned(),
        file: "self-test".to_owned(),
        peers: vec![peer.to_owned()],
        out: None,
        out_parent: None,
        wait_for_peers_ms: Some(FIT_MS),
    };
    let mut events = client.events(Method::POST, "/jobs", &request).await?;
    let mut seen = Seen::default();
    let ended = tokio::time::timeout(LIMIT, seen.until_end(&mut events, began)).await;
    let ended = ended.unwrap_or_else(|_| {
        let waits = seen.waits.join("; ");
        Err(Failed {
            why: format!("no result within {} s. {waits}", LIMIT.as_secs()),
            bad_program: false,
        })
    });
    if let (Some(job), false) = (&seen.job, seen.over) {
        let path = format!("/jobs/{job}/cancel");
        // What is told is why it was given up, whether or not it could be cancelled.
        let _cancelled: Result<JobInfo, Failure> = client.ask(Method::POST, &path, &()).await;
    }
    ended
}

impl Seen {
    async fn until_end(
        &mut self,
        events: &mut EventStream,
        began: Instant,
    ) -> Result<Passed, Failed> {
        while let Some(event) = events.next().await? {
            match event {
                Event::JobCreated { job, .. } => self.job = Some(job),
                Event::JobWaiting { reasons, .. } => {
                    self.waits = reasons.into_iter().take(MAX_NOTES).collect();
                }
                Event::TaskFinished { state, failure, .. } => {
                    if state == TaskState::Succeeded {
                        self.first.get_or_insert(began.elapsed());
                    }
                    if let Some(failure) = failure {
                        self.on_failure(failure)?;
                    }
                }
                Event::JobFinished {
                    state,
                    tasks,
                    notes,
                    ..
                } => {
                    self.over = true;
                    return self.end(state, tasks.succeeded, notes, began);
                }
                _ => {}
            }
        }
        Err(Failure::nobody("the node ended before the task did").into())
    }

    fn on_failure(&mut self, failure: TaskFailure) -> Result<(), Failed> {
        self.setbacks += u32::from(!failure.kind.is_tasks_fault());
        if self.setbacks >= MAX_SETBACKS {
            return Err(Failed {
                why: failure.message,
                bad_program: false,
            });
        }
        self.failure = Some(failure);
        Ok(())
    }

    fn end(
        &mut self,
        state: JobState,
        tasks: u64,
        notes: Vec<String>,
        began: Instant,
    ) -> Result<Passed, Failed> {
        if state == JobState::Succeeded {
            let first = self.first.unwrap_or_else(|| began.elapsed());
            return Ok(Passed { first, tasks });
        }
        let bad = |failure: &TaskFailure| failure.kind == FailureKind::BadProgram;
        let bad_program = self.failure.as_ref().is_some_and(bad);
        let why = match self.failure.take() {
            Some(failure) => failure.message,
            None if notes.is_empty() => "the job failed and did not say why".to_owned(),
            None => notes
                .into_iter()
                .take(MAX_NOTES)
                .collect::<Vec<_>>()
                .join("; "),
        };
        Err(Failed { why, bad_program })
    }
}
