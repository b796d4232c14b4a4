//! Short tasks a second, with a container each and in warm ones, as many at once as there are CPUs.

use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use p2pnode_protocol::task::Isolation;

use crate::rig::{Error, Rig};
use crate::say;

/// How many times as many tasks a second warm containers must run.
const WANTED_TIMES: f64 = 2.0;

/// Rounds of each kind, in turns: the best counts, which noise of the machine spoils least.
const ROUNDS: usize = 3;

/// Measures and prints.
pub async fn measure(rig: &Rig, runs: usize) -> Result<(), Error> {
    let (mut own, mut warm) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        own = own.max(rate(rig, runs, Isolation::Task).await?);
        warm = warm.max(rate(rig, runs, Isolation::Job).await?);
    }
    say("isolation = \"task\"", &format!("{own:.1} tasks/s"), None);
    say("isolation = \"job\"", &format!("{warm:.1} tasks/s"), None);
    let times = warm / own;
    let figure = format!("{times:.1} (wanted: at least {WANTED_TIMES})");
    say("  \"job\" / \"task\"", &figure, Some(times >= WANTED_TIMES));
    Ok(())
}

async fn rate(rig: &Rig, runs: usize, isolation: Isolation) -> Result<f64, Error> {
    let width = std::thread::available_parallelism()?.get();
    let runs = u32::try_from(runs.max(width) * 2)?;
    let start = Instant::now();
    let all = stream::iter(0..runs).map(|index| async move {
        let dir = rig.work_dir()?;
        let mut task = rig.task(&["/bin/true"], dir.path(), index);
        task.isolation = isolation;
        rig.run(task).await.map(|_| ())
    });
    all.buffer_unordered(width).try_collect::<()>().await?;
    Ok(f64::from(runs) / start.elapsed().as_secs_f64())
}
