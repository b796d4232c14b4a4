//! Has an engine freeze a container or let it go on.
//!
//! An engine is not to be taken at its first word here: it may refuse what it will do a moment later.
//! Believed at once, a container would stay frozen for ever, or run on while it is taken for frozen.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use tokio::time::Instant;

use super::words;

/// How an engine is asked again that has refused.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// How long is waited before it is asked again.
    again: Duration,
    /// For how long it is asked.
    patience: Duration,
}

/// Docker hears of its own pausing a second time, by an event that arrives late (`ProcessEvent` in
/// moby's daemon/monitor.go), and believes it: who freezes a container soon after it was thawed may be
/// told that it is frozen already, and who thaws it then that it is not, although it is, and stays so.
/// The next event puts that right, in milliseconds, on a busy machine in seconds.
const PACE: Pace = Pace {
    again: Duration::from_millis(20),
    patience: Duration::from_secs(10),
};

/// How often an engine is asked to freeze that says it failed, not that there is nothing to do: some
/// runtimes give up on a busy machine, others never can.
const FAILURES: u32 = 3;

/// Why an engine did not freeze or thaw a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It takes the container for frozen or thawed as it is wanted.
    Already,
    Failed(String),
}

/// What an engine knows of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It has no processes.
    Ended,
    /// It takes it for frozen, or for running.
    Lives { frozen: bool },
    /// It does not say.
    Unknown,
}

/// What can be frozen.
trait Freezable: Sync {
    /// Asks the engine to freeze or to thaw it, once.
    fn turn(&self, frozen: bool) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// What the engine knows of it.
    fn look(&self) -> impl Future<Output = Look> + Send;
}

/// Has it frozen or thawed, although the engine may refuse at first. What has ended is both.
async fn insist(container: &impl Freezable, frozen: bool, pace: Pace) -> Result<(), Refusal> {
    let began = Instant::now();
    let mut failures = 0;
    loop {
        let Err(refusal) = container.turn(frozen).await else {
            return Ok(());
        };
        let look = container.look().await;
        if look == Look::Ended {
            return Ok(());
        }
        failures += u32::from(refusal != Refusal::Already);
        let gives_up = frozen && failures == FAILURES;
        let waited = began.elapsed() >= pace.patience;
        if gives_up || waited {
            // Somebody else has done it, or it was done and the answer is lost: what is believed for so
            // long is so.
            let is_so = waited && look == Look::Lives { frozen };
            return if is_so { Ok(()) } else { Err(refusal) };
        }
        tokio::time::sleep(pace.again).await;
    }
}

/// A container of an engine's.
struct Container<'a> {
    docker: &'a Docker,
    id: &'a str,
}

impl Freezable for Container<'_> {
    async fn turn(&self, frozen: bool) -> Result<(), Refusal> {
        let done = if frozen {
            self.docker.pause_container(self.id).await
        } else {
            self.docker.unpause_container(self.id).await
        };
        done.map_err(|error| match error {
            Error::DockerResponseServerError {
                status_code: 409, ..
            } => Refusal::Already,
            error => Refusal::Failed(words(&error)),
        })
    }

    async fn look(&self) -> Look {
        match self.docker.inspect_container(self.id, None).await {
            Ok(found) => {
                let state = found.state.unwrap_or_default();
                match (state.running, state.paused) {
                    (Some(false), _) => Look::Ended,
                    (_, Some(frozen)) => Look::Lives { frozen },
                    _ => Look::Unknown,
                }
            }
            Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => Look::Ended,
            Err(_) => Look::Unknown,
        }
    }
}

/// Freezes the container `id`, or lets it go on. What has ended is both.
///
/// # Errors
/// What the engine says in the end.
pub(super) async fn turn(docker: &Docker, id: &str, frozen: bool) -> Result<(), Refusal> {
    insist(&Container { docker, id }, frozen, PACE).await
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const QUICK: Pace = Pace {
        again: Duration::from_micros(10),
        patience: Duration::from_millis(200),
    };

    /// A container of an engine that hears of its own doing late: an event for each change is
    /// believed only when `lag` more questions have been asked.
    struct Late {
        lag: usize,
        state: std::sync::Mutex<LateState>,
    }

    #[derive(Default)]
    struct LateState {
        frozen: bool,
        believed: bool,
        asked: usize,
        events: VecDeque<(usize, bool)>,
    }

    impl Late {
        fn new(lag: usize) -> Self {
            Self {
                lag,
                state: std::sync::Mutex::default(),
            }
        }

        fn frozen(&self) -> bool {
            self.state.lock().unwrap().frozen
        }
    }

    impl Freezable for Late {
        async fn turn(&self, frozen: bool) -> Result<(), Refusal> {
            let state = &mut *self.state.lock().unwrap();
            state.asked += 1;
            while let Some((_, heard)) = state.events.pop_front_if(|(at, _)| *at <= state.asked) {
                state.believed = heard;
            }
            if state.believed == frozen {
                return Err(match frozen {
                    true => Refusal::Already,
                    false => Refusal::Failed("is not paused".to_owned()),
                });
            }
            if state.frozen == frozen {
                return Err(Refusal::Failed("cannot resume".to_owned()));
            }
            (state.frozen, state.believed) = (frozen, frozen);
            state.events.push_back((state.asked + self.lag, frozen));
            Ok(())
        }

        async fn look(&self) -> Look {
            Look::Lives {
                frozen: self.state.lock().unwrap().believed,
            }
        }
    }

    /// An engine that takes an old event for the present refuses, and is asked until it knows better.
    #[tokio::test]
    async fn an_engine_that_hears_late_is_asked_again() {
        for lag in 1..9 {
            let container = Late::new(lag);
            for turn in 0..40 {
                let frozen = turn % 2 == 0;
                assert_eq!(
                    insist(&container, frozen, QUICK).await,
                    Ok(()),
                    "{lag}, {turn}"
                );
                assert_eq!(container.frozen(), frozen, "{lag}, {turn}");
            }
        }
    }

    /// What fails, and how often it was asked.
    struct Never {
        look: Look,
        says: Refusal,
        asked: std::sync::atomic::AtomicUsize,
    }

    impl Freezable for Never {
        async fn turn(&self, _: bool) -> Result<(), Refusal> {
            self.asked
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Err(self.says.clone())
        }

        async fn look(&self) -> Look {
            self.look
        }
    }

    #[tokio::test]
    async fn nobody_asks_for_ever() {
        let never = |look, says: &Refusal| Never {
            look,
            says: says.clone(),
            asked: 0.into(),
        };
        let cannot = Refusal::Failed("cannot".to_owned());
        for refusal in [&Refusal::Already, &cannot] {
            let ended = never(Look::Ended, refusal);
            assert_eq!(insist(&ended, true, QUICK).await, Ok(()));
            assert_eq!(ended.asked.into_inner(), 1);
            let stays = never(Look::Unknown, refusal);
            assert_eq!(insist(&stays, false, QUICK).await, Err(refusal.clone()));
            assert!(stays.asked.into_inner() > FAILURES as usize);
        }
        // Somebody else has let it go.
        let goes_on = never(Look::Lives { frozen: false }, &cannot);
        assert_eq!(insist(&goes_on, false, QUICK).await, Ok(()));
        let stands = never(Look::Lives { frozen: true }, &cannot);
        assert!(insist(&stands, false, QUICK).await.is_err());
        let unable = never(Look::Unknown, &cannot);
        assert_eq!(insist(&unable, true, QUICK).await, Err(cannot));
        assert_eq!(unable.asked.into_inner(), FAILURES as usize);
    }
}
