//! Carries bytes between a task and the world, counts them, and gives up on silence.
//!
//! A slow reader on one side slows the other: nothing is kept but one buffer each way.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

/// One buffer: a few packets of an ordinary network, and the largest record of TLS.
const BUFFER: usize = 16 << 10;

/// Counts what passes: for the task's use, and for signs of life.
#[derive(Debug)]
pub(super) struct Count<'a> {
    all: &'a AtomicU64,
    here: AtomicU64,
}

impl<'a> Count<'a> {
    pub(super) fn new(all: &'a AtomicU64) -> Self {
        Self {
            all,
            here: AtomicU64::new(0),
        }
    }

    pub(super) fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.all.fetch_add(bytes, Ordering::Relaxed);
        self.here.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns when nothing has passed for `idle`, or up to half of it longer.
    async fn silence(&self, idle: Duration) {
        let (mut before, mut quiet) = (u64::MAX, 0);
        while quiet < 3 {
            sleep(idle / 2).await;
            let now = self.here.load(Ordering::Relaxed);
            quiet = if now == before { quiet + 1 } else { 1 };
            before = now;
        }
    }
}

/// Both ways, until both have ended.
///
/// # Errors
/// When a side breaks off, or nothing passes for `idle`.
pub(super) async fn both<A, B>(
    a: &mut A,
    b: &mut B,
    count: &Count<'_>,
    idle: Duration,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_a, mut to_a) = tokio::io::split(a);
    let (mut from_b, mut to_b) = tokio::io::split(b);
    let there = async {
        pass(&mut from_a, &mut to_b, u64::MAX, count).await?;
        to_b.shutdown().await
    };
    let back = async {
        pass(&mut from_b, &mut to_a, u64::MAX, count).await?;
        to_a.shutdown().await
    };
    tokio::select! {
        ended = async { tokio::try_join!(there, back) } => ended.map(|_| ()),
        () = count.silence(idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// `body` bytes there, and everything back until the end.
///
/// # Errors
/// When a side breaks off, or nothing passes for `idle`.
pub(super) async fn exchange<A, B>(
    client: &mut A,
    server: &mut B,
    body: u64,
    count: &Count<'_>,
    idle: Duration,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let there = async {
        let sent = pass(&mut from_client, &mut to_server, body, count).await;
        // A server may answer without having read all of it: its answer decides.
        if sent.is_err() {
            tracing::trace!("a request's body was not passed on whole");
        }
        std::future::pending::<()>().await;
    };
    let back = async {
        pass(&mut from_server, &mut to_client, u64::MAX, count).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        ended = back => ended,
        () = there => Ok(()),
        () = count.silence(idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Passes at most `most` bytes, until the end.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    most: u64,
    count: &Count<'_>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut left = most;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        let read = from.read(&mut buffer[..room]).await?;
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read]).await?;
        count.add(read);
        left -= read as u64;
    }
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_are_counted() {
        let (mut task, mut near) = tokio::io::duplex(64);
        let (mut world, mut far) = tokio::io::duplex(64);
        let all = AtomicU64::new(5);
        let count = Count::new(&all);
        let ends = async {
            task.write_all(b"question").await.unwrap();
            task.shutdown().await.unwrap();
            let (mut asked, mut answered) = (Vec::new(), Vec::new());
            world.read_to_end(&mut asked).await.unwrap();
            world
                .write_all(b"answer, after the question's end")
                .await
                .unwrap();
            drop(world);
            task.read_to_end(&mut answered).await.unwrap();
            (asked, answered)
        };
        let relayed = both(&mut near, &mut far, &count, Duration::from_secs(60));
        let (relayed, (asked, answered)) = tokio::join!(relayed, async {
            let ((asked, answered),) = tokio::join!(ends);
            (asked, answered)
        });
        relayed.unwrap();
        assert_eq!(asked, b"question");
        assert_eq!(answered, b"answer, after the question's end");
        assert_eq!(all.into_inner(), 5 + 8 + 32);
    }

    #[tokio::test]
    async fn silence_ends_it_and_a_trickle_does_not() {
        let idle = Duration::from_millis(100);
        let all = AtomicU64::new(0);
        let (_task, mut near) = tokio::io::duplex(64);
        let (mut world, mut far) = tokio::io::duplex(64);
        let count = Count::new(&all);
        let error = both(&mut near, &mut far, &count, idle).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let trickle = async {
            for _ in 0..20 {
                sleep(idle / 5).await;
                world.write_all(b".").await.unwrap();
            }
        };
        tokio::select! {
            ended = both(&mut near, &mut far, &count, idle) => panic!("{ended:?}"),
            () = trickle => {}
        }
    }

    #[tokio::test]
    async fn no_more_than_the_body_is_passed_on() {
        let (mut task, mut near) = tokio::io::duplex(64);
        let (mut world, mut far) = tokio::io::duplex(64);
        let all = AtomicU64::new(0);
        let count = Count::new(&all);
        task.write_all(b"bodyGET /second").await.unwrap();
        let server = async {
            let mut asked = [0; 4];
            world.read_exact(&mut asked).await.unwrap();
            world.write_all(b"yes").await.unwrap();
            world.shutdown().await.unwrap();
            let mut more = Vec::new();
            let _ =
                tokio::time::timeout(Duration::from_millis(50), world.read_to_end(&mut more)).await;
            assert_eq!((&asked, more.len()), (b"body", 0));
        };
        let (exchanged, ()) = tokio::join!(
            exchange(&mut near, &mut far, 4, &count, Duration::from_secs(60)),
            server
        );
        exchanged.unwrap();
        drop(near);
        let mut answer = Vec::new();
        task.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"yes");
    }
}
