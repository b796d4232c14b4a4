//! Whose turn it is to write a task's outputs.
//!
//! Outputs of a lost provider may still be on their way when the task is given to another one. Both
//! would write the same files, and the one that no longer counts must not be the last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2pnode_protocol::{AttemptKey, JobId, TaskKey};
use tokio_util::sync::CancellationToken;

/// One attempt whose outputs are being brought. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    attempt: AttemptKey,
    /// Tells it from another turn of the same attempt.
    serial: u64,
    /// Cancelled when the attempt is not wanted any more.
    pub(super) forsaken: CancellationToken,
    /// Held while files are written; all attempts of a task share it.
    pub(super) writes: Arc<Mutex<()>>,
}

/// The last turn of each task of which something is under way: the core bounds how many those are.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    turns: HashMap<TaskKey, Turn>,
    count: u64,
}

impl Turns {
    /// A turn for `attempt`; an earlier one of its task is over.
    pub(super) fn take(&self, attempt: AttemptKey) -> Turn {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.count += 1;
        let before = known.turns.remove(&attempt.task);
        let turn = Turn {
            attempt,
            serial: known.count,
            forsaken: CancellationToken::new(),
            writes: before.map_or_else(Arc::default, |before| {
                before.forsaken.cancel();
                before.writes
            }),
        };
        known.turns.insert(attempt.task, turn.clone());
        turn
    }

    /// The turn of `attempt` is over.
    pub(super) fn forsake(&self, attempt: AttemptKey) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = known.turns.get(&attempt.task)
            && turn.attempt == attempt
        {
            turn.forsaken.cancel();
        }
    }

    /// All turns of a job are over; returns them.
    pub(super) fn forsake_job(&self, job: JobId) -> Vec<Turn> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_job = known
            .turns
            .values()
            .filter(|turn| turn.attempt.task.job == job);
        of_job
            .inspect(|turn| turn.forsaken.cancel())
            .cloned()
            .collect()
    }

    /// Everything of `turn` is done, its writing too.
    pub(super) fn end(&self, turn: &Turn) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let task = turn.attempt.task;
        if known
            .turns
            .get(&task)
            .is_some_and(|last| last.serial == turn.serial)
        {
            known.turns.remove(&task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(job: u8, attempt: u32) -> AttemptKey {
        let task = TaskKey {
            job: JobId([job; 8]),
            step: 0,
            index: 7,
        };
        AttemptKey { task, attempt }
    }

    #[test]
    fn a_new_attempt_ends_the_turn_of_the_one_before_and_waits_for_its_writing() {
        let turns = Turns::default();
        let first = turns.take(attempt(1, 1));
        let writing = first.writes.lock().unwrap();
        let second = turns.take(attempt(1, 2));
        assert!(first.forsaken.is_cancelled() && !second.forsaken.is_cancelled());
        assert!(second.writes.try_lock().is_err(), "the same lock");
        drop(writing);
        turns.end(&first);
        turns.forsake(attempt(1, 1));
        assert!(!second.forsaken.is_cancelled(), "another attempt's");
        turns.forsake(attempt(1, 2));
        assert!(second.forsaken.is_cancelled());
        turns.end(&second);
        assert!(turns.forsake_job(JobId([1; 8])).is_empty(), "none is kept");
    }

    #[test]
    fn all_turns_of_a_job_end_with_it() {
        let turns = Turns::default();
        let (mine, other) = (turns.take(attempt(1, 1)), turns.take(attempt(2, 1)));
        assert_eq!(turns.forsake_job(JobId([1; 8])).len(), 1);
        assert!(mine.forsaken.is_cancelled() && !other.forsaken.is_cancelled());
    }
}
