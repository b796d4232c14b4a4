//! How fast it is. Figures for people; the bounds only catch what is broken.

use std::time::{Duration, Instant};

use super::{KINDS, blind, finish, in_terminal, open, root, shell, until, write};
use crate::contract::{clean, within};
use crate::subject::DockerSubject;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// From a key to what it makes appear.
async fn echo(task: &super::Open<'_>) -> Duration {
    let mut session = within(
        task.inside
            .exec(in_terminal("stty -echo; echo on; exec cat")),
    )
    .await
    .unwrap();
    until(&mut session, "on\r\n").await;
    let mut times = Vec::new();
    for number in 0..200 {
        let start = Instant::now();
        write(&mut session, &format!("k{number}\n")).await;
        until(&mut session, &format!("k{number}\r\n")).await;
        times.push(start.elapsed());
    }
    median(times)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn commands_start_and_keys_echo_in_good_time() {
    let (subject, unseen) = (DockerSubject::new().await, blind().await);
    for kind in KINDS {
        let task = open(&subject, kind).await;
        let mut starts = [Vec::new(), Vec::new()];
        for _ in 0..15 {
            for (spec, times) in [shell, in_terminal].into_iter().zip(&mut starts) {
                let start = Instant::now();
                finish(within(task.inside.exec(spec("true"))).await.unwrap()).await;
                times.push(start.elapsed());
            }
        }
        let [plain, terminal] = starts.map(median);
        let far = open(&unseen, kind).await;
        let (own, engines) = (echo(&task).await, echo(&far).await);
        eprintln!(
            "{kind:?}: `true` from call to end {plain:?}, in a terminal {terminal:?}; a key echoes in \
             {own:?}, through the engine in {engines:?}"
        );
        assert!(plain < Duration::from_secs(5) && own < Duration::from_secs(1));
        if root() {
            assert!(own < engines, "{own:?} {engines:?}");
        }
        task.close().await;
        far.close().await;
    }
    clean(&subject).await;
    clean(&unseen).await;
}
