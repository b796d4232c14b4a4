//! How fast it is. Figures for people; the bounds only catch what is broken.

use std::time::{Duration, Instant};

use super::{KINDS, blind, finish, in_terminal, open, root, shell, until, write};
use crate::contract::{clean, within};
use crate::subject::DockerSubject;

/// The shortest, which other work of the machine does not touch, and the median.
fn least_and_median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[0], times[times.len() / 2])
}

/// From a key to what it makes appear.
async fn echo(task: &super::Open<'_>) -> (Duration, Duration) {
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
    least_and_median(times)
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
        let [plain, terminal] = starts.map(|times| least_and_median(times).1);
        let far = open(&unseen, kind).await;
        let ((least, own), (engines_least, engines)) = (echo(&task).await, echo(&far).await);
        eprintln!(
            "{kind:?}, medians: `true` from call to end {plain:?}, in a terminal {terminal:?}; a key echoes in \
             {own:?}, through the engine in {engines:?}; at \
             best {least:?} and {engines_least:?}"
        );
        assert!(plain < Duration::from_secs(5) && own < Duration::from_secs(1));
        if root() {
            assert!(least < engines_least, "{least:?} {engines_least:?}");
        }
        task.close().await;
        far.close().await;
    }
    clean(&subject).await;
    clean(&unseen).await;
}
