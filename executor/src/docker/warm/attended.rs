//! One task in a waiting container to which somebody attends: the container waits, as it did before,
//! and the first command that comes from outside is the task.

use super::super::hold::Freezer;
use super::super::inside::{Attendance, Place};
use super::super::meter::Meter;
use super::super::remove;
use super::super::watch;
use super::turn::{End, Outcome, Turn, clear_processes};

impl Turn<'_> {
    /// Waits for the command of whoever attends to the task, and for its end.
    pub(super) async fn attended(
        &self,
        attendance: &Attendance,
        place: Place,
        meter: Meter,
        kills: Option<u64>,
    ) -> Outcome {
        let (docker, id) = (&self.room.docker, &self.room.id);
        let freezer = Freezer::new(docker, id, place.apart.clone());
        let presence = place.show(&self.task.hold, docker, id);
        let mut holding = Box::pin(freezer.follow(&self.task.hold, self.pulse));
        let hold = &self.task.hold;
        let ended = tokio::select! {
            code = attendance.end() => code,
            failure = watch::watch(self.limits, meter, self.pulse, hold) => Err(failure),
            never = &mut holding => match never {},
            failure = self.stops.stopped() => Err(failure),
        };
        // It may be in the midst of freezing.
        drop(holding);
        drop(presence);
        self.pulse.ends();
        let code = match ended {
            Ok(code) => code,
            Err(failure) => {
                remove::kill(docker, id).await;
                freezer.give_up().await;
                return Outcome::failed(failure);
            }
        };
        if !clear_processes(&self.room.parts).await {
            remove::kill(docker, id).await;
        }
        let started = true;
        // It may be frozen yet, or be so in a moment: no next task can begin in it.
        let thawed = !freezer.give_up().await;
        self.judge(End { code, started }, kills, thawed).await
    }
}
