//! The state of single tasks: 12 bytes each, so that a million of them cost little.
//!
//! [`Stage`] is the state machine; a transition that it does not allow is an [`IllegalMove`] and
//! changes nothing. [`Tasks`] keeps a step's tasks and knows which wait to be handed out. Neither says
//! anything to the world: that is for the job that owns them.

use std::collections::BTreeSet;

use p2pnode_protocol::api::{TaskCounts, TaskState};
use p2pnode_protocol::id::{AttemptNumber, TaskIndex};

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Never handed out.
    Fresh,
    /// To be handed out again; its last attempt is settled.
    Again,
    /// To be handed out again because its provider was lost; until then its last attempt may still
    /// come in.
    Lost,
    /// Handed out.
    Queued,
    /// Known to run.
    Running,
    /// Ended there; outputs or the rest of its log are on the way.
    Collecting,
    /// Done.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Cancelled.
    Cancelled,
}

/// What can happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// It goes to a provider as a new attempt.
    HandOut,
    /// Its lost provider is back and may still have its last attempt.
    Adopt,
    /// Its process started.
    Start,
    /// It ended, and something of it is still there.
    Collect,
    /// It is done.
    Succeed,
    /// It failed for good.
    Fail,
    /// It has to be tried again.
    Again,
    /// Its provider is lost.
    Lose,
}

/// A transition that the state machine does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {from:?} cannot {by:?}")]
pub(super) struct IllegalMove {
    from: Stage,
    by: Move,
}

impl Stage {
    /// The stage after `by`.
    pub(super) const fn after(self, by: Move) -> Result<Self, IllegalMove> {
        use Stage::{Again, Collecting, Failed, Fresh, Lost, Queued, Running, Succeeded};
        Ok(match (self, by) {
            (Fresh | Again | Lost, Move::HandOut) | (Lost, Move::Adopt) => Queued,
            (Queued, Move::Start) => Running,
            (Queued | Running | Lost, Move::Collect) => Collecting,
            (Queued | Running | Lost | Collecting, Move::Succeed) => Succeeded,
            (Fresh | Again | Queued | Running | Lost | Collecting, Move::Fail) => Failed,
            (Queued | Running | Lost | Collecting, Move::Again) => Again,
            (Queued | Running | Collecting, Move::Lose) => Lost,
            (from, by) => return Err(IllegalMove { from, by }),
        })
    }

    /// Whether nothing more happens to it.
    pub(super) const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether it waits to be handed out.
    pub(super) const fn is_pending(self) -> bool {
        matches!(self, Self::Fresh | Self::Again | Self::Lost)
    }

    /// Whether its last attempt is at a provider.
    pub(super) const fn is_out(self) -> bool {
        matches!(self, Self::Queued | Self::Running | Self::Collecting)
    }

    pub(super) const fn shown(self) -> TaskState {
        match self {
            Self::Fresh | Self::Again | Self::Lost => TaskState::Pending,
            Self::Queued => TaskState::Queued,
            Self::Running => TaskState::Running,
            Self::Collecting => TaskState::Collecting,
            Self::Succeeded => TaskState::Succeeded,
            Self::Failed => TaskState::Failed,
            Self::Cancelled => TaskState::Cancelled,
        }
    }

    /// Where it is counted. What is collected still counts as running: its provider is not rid of it.
    pub(super) const fn counter(self, counts: &mut TaskCounts) -> &mut u64 {
        match self {
            Self::Fresh | Self::Again | Self::Lost => &mut counts.pending,
            Self::Queued => &mut counts.queued,
            Self::Running | Self::Collecting => &mut counts.running,
            Self::Succeeded => &mut counts.succeeded,
            Self::Failed => &mut counts.failed,
            Self::Cancelled => &mut counts.cancelled,
        }
    }
}

/// One task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    /// The last attempt; 0: never handed out.
    pub(super) attempt: AttemptNumber,
    /// Who has or had it, as a position in the job's list; meaningless before the first attempt.
    pub(super) peer: u32,
    /// Tries that failed by its own doing.
    pub(super) tries: u16,
    /// How often it left a provider by no doing of its own.
    pub(super) moves: u8,
    pub(super) stage: Stage,
}

/// The tasks of one step.
#[derive(Debug)]
pub(super) struct Tasks {
    cells: Vec<Cell>,
    /// Everything from here on was never handed out.
    fresh: TaskIndex,
    /// What else waits.
    again: BTreeSet<TaskIndex>,
    open: u32,
}

impl Tasks {
    pub(super) fn new(count: u32) -> Self {
        let cell = Cell {
            attempt: 0,
            peer: 0,
            tries: 0,
            moves: 0,
            stage: Stage::Fresh,
        };
        Self {
            cells: vec![cell; count as usize],
            fresh: 0,
            again: BTreeSet::new(),
            open: count,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.cells.len() as u32
    }

    /// Tasks that are not final.
    pub(super) const fn open(&self) -> u32 {
        self.open
    }

    /// Tasks that wait to be handed out.
    pub(super) fn pending(&self) -> u32 {
        self.len() - self.fresh + self.again.len() as u32
    }

    /// The next that waits, those that were out before first.
    pub(super) fn next_pending(&self) -> Option<TaskIndex> {
        let fresh = (self.fresh < self.len()).then_some(self.fresh);
        self.again.first().copied().or(fresh)
    }

    pub(super) fn get(&self, index: TaskIndex) -> Option<&Cell> {
        self.cells.get(index as usize)
    }

    pub(super) fn get_mut(&mut self, index: TaskIndex) -> Option<&mut Cell> {
        self.cells.get_mut(index as usize)
    }

    /// Makes a move of the task at `index` and returns the stages before and after.
    /// Tasks never handed out leave that state in order, or all at once by [`Tasks::cancel_all`].
    pub(super) fn make(
        &mut self,
        index: TaskIndex,
        by: Move,
    ) -> Result<(Stage, Stage), IllegalMove> {
        let Some(cell) = self.cells.get_mut(index as usize) else {
            let from = Stage::Fresh;
            return Err(IllegalMove { from, by });
        };
        let before = cell.stage;
        let after = before.after(by)?;
        if before == Stage::Fresh {
            if index != self.fresh {
                return Err(IllegalMove { from: before, by });
            }
            self.fresh += 1;
        }
        cell.stage = after;
        if before.is_pending() {
            self.again.remove(&index);
        }
        if after.is_pending() {
            self.again.insert(index);
        }
        if after.is_final() {
            self.open -= 1;
        }
        Ok((before, after))
    }

    /// Whether every task succeeded. Looks at all of them: asked once, when none is open.
    pub(super) fn all_succeeded(&self) -> bool {
        self.cells.iter().all(|cell| cell.stage == Stage::Succeeded)
    }

    /// Cancels whatever is not final.
    pub(super) fn cancel_all(&mut self, counts: &mut TaskCounts) {
        for cell in &mut self.cells {
            if !cell.stage.is_final() {
                *cell.stage.counter(counts) -= 1;
                cell.stage = Stage::Cancelled;
                counts.cancelled += 1;
            }
        }
        self.fresh = self.len();
        self.again.clear();
        self.open = 0;
    }

    /// Puts a task where a restart found it. Must be followed by [`Tasks::recount`].
    pub(super) fn restore(&mut self, index: TaskIndex, change: impl FnOnce(&mut Cell)) {
        if let Some(cell) = self.cells.get_mut(index as usize) {
            change(cell);
        }
    }

    /// Finds out anew which tasks wait, and counts all into `counts`.
    pub(super) fn recount(&mut self, counts: &mut TaskCounts) {
        let touched = self
            .cells
            .iter()
            .rposition(|cell| cell.stage != Stage::Fresh);
        self.fresh = touched.map_or(0, |last| last as u32 + 1);
        self.again.clear();
        self.open = 0;
        for (index, cell) in self.cells.iter_mut().enumerate() {
            *cell.stage.counter(counts) += 1;
            self.open += u32::from(!cell.stage.is_final());
            if cell.stage.is_pending() && (index as u32) < self.fresh {
                // Skipped by tasks that came after it: it waits like those that were out before.
                if cell.stage == Stage::Fresh {
                    cell.stage = Stage::Again;
                }
                self.again.insert(index as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const STAGES: [Stage; 9] = [
        Stage::Fresh,
        Stage::Again,
        Stage::Lost,
        Stage::Queued,
        Stage::Running,
        Stage::Collecting,
        Stage::Succeeded,
        Stage::Failed,
        Stage::Cancelled,
    ];
    const MOVES: [Move; 8] = [
        Move::HandOut,
        Move::Adopt,
        Move::Start,
        Move::Collect,
        Move::Succeed,
        Move::Fail,
        Move::Again,
        Move::Lose,
    ];

    #[test]
    fn nothing_leaves_a_final_stage() {
        for stage in STAGES.into_iter().filter(|stage| stage.is_final()) {
            for by in MOVES {
                assert_eq!(stage.after(by), Err(IllegalMove { from: stage, by }));
            }
        }
    }

    #[test]
    fn only_what_is_out_or_was_lost_ends_well() {
        let well = |stage: &Stage| stage.after(Move::Succeed).is_ok();
        let stages: Vec<Stage> = STAGES.into_iter().filter(well).collect();
        assert_eq!(
            stages,
            [
                Stage::Lost,
                Stage::Queued,
                Stage::Running,
                Stage::Collecting
            ]
        );
    }

    #[test]
    fn a_million_tasks_are_twelve_megabytes() {
        assert_eq!(size_of::<Cell>(), 12);
    }

    #[test]
    fn tasks_wait_in_order_and_those_that_come_back_go_first() {
        let mut tasks = Tasks::new(3);
        for index in 0..2 {
            assert_eq!(tasks.next_pending(), Some(index));
            tasks.make(index, Move::HandOut).unwrap();
        }
        tasks.make(0, Move::Lose).unwrap();
        assert_eq!(
            (tasks.next_pending(), tasks.pending(), tasks.open()),
            (Some(0), 2, 3)
        );
        tasks.make(0, Move::Succeed).unwrap();
        assert_eq!(
            (tasks.next_pending(), tasks.pending(), tasks.open()),
            (Some(2), 1, 2)
        );
        tasks.make(2, Move::HandOut).unwrap();
        assert_eq!(tasks.next_pending(), None);
        assert!(!tasks.all_succeeded());
    }

    #[test]
    fn a_move_that_is_not_allowed_changes_nothing() {
        let mut tasks = Tasks::new(2);
        for (index, by) in [(0, Move::Start), (1, Move::HandOut), (7, Move::HandOut)] {
            assert!(tasks.make(index, by).is_err());
        }
        assert_eq!(
            (tasks.next_pending(), tasks.pending(), tasks.open()),
            (Some(0), 2, 2)
        );
    }

    #[test]
    fn a_restart_counts_anew_and_skips_nothing() {
        let mut tasks = Tasks::new(4);
        tasks.restore(2, |cell| cell.stage = Stage::Succeeded);
        let mut counts = TaskCounts::default();
        tasks.recount(&mut counts);
        assert_eq!((counts.pending, counts.succeeded, tasks.open()), (3, 1, 3));
        let mut order = Vec::new();
        while let Some(index) = tasks.next_pending() {
            tasks.make(index, Move::HandOut).unwrap();
            order.push(index);
        }
        assert_eq!(order, [0, 1, 3]);
        let mut counts = TaskCounts {
            queued: 3,
            succeeded: 1,
            ..TaskCounts::default()
        };
        tasks.cancel_all(&mut counts);
        assert_eq!(
            (counts.cancelled, counts.succeeded, tasks.open()),
            (3, 1, 0)
        );
    }
}
