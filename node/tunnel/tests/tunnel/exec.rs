//! Commands over streams that break at any byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::task::Stream;
use p2pnode_protocol::tunnel::{
    ExecEnd, ExecSpec, Purpose, SessionId, TaskSignal, Terminal, TunnelFault, WindowSize,
};
use p2pnode_tunnel::client::exec::{Dial, ExecClient, ExecEvent};
use p2pnode_tunnel::client::{OpenError, open};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::timeout;

use crate::rig::{LONG, Rig, RigDial, TARGET};
use crate::ssh::noise;

fn shell(script: &str) -> ExecSpec {
    ExecSpec {
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        ..ExecSpec::default()
    }
}

/// A stream that breaks after so many bytes read, or written.
struct Cut {
    stream: DuplexStream,
    readable: usize,
    writable: usize,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.readable == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut bytes = vec![0; into.remaining().min(self.readable)];
        let mut part = ReadBuf::new(&mut bytes);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        into.put_slice(part.filled());
        self.readable -= part.filled().len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.writable == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let part = &bytes[..bytes.len().min(self.writable)];
        let count = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, part))?;
        self.writable -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Dials streams that break as planned, and whole ones after those.
struct CutDial {
    rig: Arc<Rig>,
    cuts: Mutex<Vec<(usize, usize)>>,
    dialled: AtomicUsize,
}

impl CutDial {
    fn new(rig: &Arc<Rig>, mut cuts: Vec<(usize, usize)>) -> Arc<Self> {
        cuts.reverse();
        Arc::new(Self {
            rig: Arc::clone(rig),
            cuts: Mutex::new(cuts),
            dialled: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl Dial for CutDial {
    async fn dial(&self) -> io::Result<Box<dyn Duplex>> {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        let stream = self.rig.stream();
        Ok(match self.cuts.lock().unwrap().pop() {
            Some((readable, writable)) => Box::new(Cut {
                stream,
                readable,
                writable,
            }),
            None => Box::new(stream),
        })
    }
}

/// Types `input`, and gathers stdout, stderr and the end.
async fn run(mut client: ExecClient, input: Vec<u8>) -> (Vec<u8>, Vec<u8>, ExecEnd) {
    let typing = client.input();
    tokio::spawn(async move {
        for piece in input.chunks(7_919) {
            if !typing.input(piece.to_vec()).await {
                return;
            }
        }
        typing.end().await;
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let gathering = async {
        loop {
            match client.next().await.expect("an end") {
                ExecEvent::Output { stream, bytes } => match stream {
                    Stream::Stdout => out.extend(bytes),
                    Stream::Stderr => err.extend(bytes),
                },
                ExecEvent::Ended(end) => return end,
                ExecEvent::Interrupted | ExecEvent::Resumed => {}
            }
        }
    };
    let end = timeout(LONG, gathering).await.expect("in time");
    (out, err, end)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled_wherever_streams_break(
        // The first stream lives through hello and welcome: before, there is nothing to go on with.
        first in (100..200_000_usize, 100..200_000_usize),
        later in proptest::collection::vec((0..150_000_usize, 0..150_000_usize), 0..6),
        length in 0..600_000_usize,
    ) {
        runtime().block_on(async {
            let rig = Rig::new();
            let mut cuts = vec![first];
            cuts.extend(later);
            let dial = CutDial::new(&rig, cuts);
            let client = ExecClient::start(dial, TARGET, shell("cat; echo done >&2; exit 7"))
                .await
                .unwrap();
            let input = noise(length);
            let (out, err, end) = run(client, input.clone()).await;
            assert_eq!(end, ExecEnd::Exited(7));
            assert!(out == input, "{} of {} bytes, or others", out.len(), input.len());
            assert_eq!(err, b"done\n");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_reads_is_slowed_not_killed() {
    let rig = Rig::new();
    // Every stream but the last breaks at once: output piles up at the provider meanwhile.
    let dial = CutDial::new(&rig, vec![(200, 200), (0, 0), (5, 5), (30, 30), (0, 40)]);
    let script = "dd if=/dev/zero bs=65536 count=160 2>/dev/null";
    let client = ExecClient::start(Arc::clone(&dial) as _, TARGET, shell(script))
        .await
        .unwrap();
    let (out, _, end) = run(client, Vec::new()).await;
    assert_eq!(end, ExecEnd::Exited(0));
    assert_eq!(out.len(), 160 * 65536);
    assert_eq!(dial.dialled.load(Ordering::Relaxed), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_not_read_does_not_keep_output_from_coming() {
    let rig = Rig::new();
    let dial = Arc::new(RigDial(Arc::clone(&rig)));
    let script = "dd if=/dev/zero bs=65536 count=160 2>/dev/null; wc -c >&2";
    let client = ExecClient::start(dial, TARGET, shell(script))
        .await
        .unwrap();
    let (out, err, end) = run(client, noise(4 << 20)).await;
    assert_eq!(end, ExecEnd::Exited(0));
    assert_eq!(out.len(), 160 * 65536);
    assert_eq!(String::from_utf8_lossy(&err).trim(), (4 << 20).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_resize_and_signals_arrive() {
    let rig = Rig::new();
    let dial = Arc::new(RigDial(Arc::clone(&rig)));
    let mut command =
        shell("trap 'stty size' WINCH; stty size; echo $TERM; while :; do sleep 0.05; done");
    command.terminal = Some(Terminal {
        term: "xterm".to_owned(),
        size: WindowSize {
            columns: 91,
            rows: 33,
        },
    });
    let mut client = ExecClient::start(dial, TARGET, command).await.unwrap();
    let mut screen = String::new();
    let mut wait_for = async |client: &mut ExecClient, wanted: &str| {
        while !screen.contains(wanted) {
            match timeout(LONG, client.next())
                .await
                .expect("in time")
                .expect("output")
            {
                ExecEvent::Output { bytes, .. } => screen += &String::from_utf8_lossy(&bytes),
                other => panic!("{other:?} after {screen}"),
            }
        }
    };
    wait_for(&mut client, "33 91").await;
    wait_for(&mut client, "xterm").await;
    let input = client.input();
    input
        .resize(WindowSize {
            columns: 100,
            rows: 40,
        })
        .await;
    wait_for(&mut client, "40 100").await;
    input.signal(TaskSignal::Kill).await;
    loop {
        match timeout(LONG, client.next()).await.unwrap().unwrap() {
            ExecEvent::Ended(end) => {
                assert_eq!(end, ExecEnd::Exited(128 + 9));
                return;
            }
            ExecEvent::Output { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_task_and_says_so() {
    let rig = Rig::new();
    let dial = Arc::new(RigDial(Arc::clone(&rig)));
    let mut client = ExecClient::start(dial, TARGET, shell("echo up; sleep 1000"))
        .await
        .unwrap();
    let up = timeout(LONG, client.next()).await.unwrap().unwrap();
    assert!(matches!(up, ExecEvent::Output { .. }), "{up:?}");
    rig.gone.cancel();
    let end = timeout(LONG, client.next()).await.unwrap().unwrap();
    assert_eq!(
        end,
        ExecEvent::Ended(ExecEnd::Lost("the task has ended".to_owned()))
    );
}

/// The command that is the task takes the task with it, while its owner reads page by page.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_wrote_last_and_its_end_outlive_its_task() {
    let rig = Rig::new();
    let dial = Arc::new(RigDial(Arc::clone(&rig)));
    // More than is kept unread, and little enough for the command to end before it is read.
    let script = "dd if=/dev/zero bs=65536 count=34 2>/dev/null; touch done; exit 3";
    let mut client = ExecClient::start(dial, TARGET, shell(script))
        .await
        .unwrap();
    timeout(LONG, async {
        while !rig.inside("done").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    rig.gone.cancel();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut count = 0;
    loop {
        match timeout(LONG, client.next()).await.unwrap().unwrap() {
            ExecEvent::Output { bytes, .. } => count += bytes.len(),
            other => {
                assert_eq!(other, ExecEvent::Ended(ExecEnd::Exited(3)), "after {count}");
                break;
            }
        }
    }
    assert_eq!(count, 34 * 65_536);
}

/// The same when its stream is broken at that moment, and back only when the task's door is shut.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_gone_on_with_although_its_task_has_ended() {
    struct AfterTheEnd(Arc<Rig>, AtomicUsize);

    #[async_trait]
    impl Dial for AfterTheEnd {
        async fn dial(&self) -> io::Result<Box<dyn Duplex>> {
            if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
                return Ok(Box::new(Cut {
                    stream: self.0.stream(),
                    readable: 1_000,
                    writable: 1_000,
                }));
            }
            self.0.gone.cancelled().await;
            Ok(Box::new(self.0.stream()))
        }
    }

    let rig = Rig::new();
    let dial = Arc::new(AfterTheEnd(Arc::clone(&rig), AtomicUsize::new(0)));
    let script = "dd if=/dev/zero bs=65536 count=4 2>/dev/null; touch done; exit 3";
    let client = ExecClient::start(dial, TARGET, shell(script)).await;
    let done = async {
        while !rig.inside("done").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.gone.cancel();
    };
    let (ended, ()) = tokio::join!(run(client.unwrap(), Vec::new()), done);
    assert_eq!(ended.0.len(), 4 * 65_536);
    assert_eq!(ended.2, ExecEnd::Exited(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_goes_on_with_a_command() {
    let rig = Rig::new();
    let hello = TARGET.hello(Purpose::Exec(shell("sleep 1000")));
    let (opened, _stream) = open(rig.stream(), &hello).await.unwrap();
    let session = opened.session.unwrap();
    let resume = |session| {
        let received = 0;
        TARGET.hello(Purpose::Resume { session, received })
    };
    let kind = |result: Result<_, OpenError>| match result {
        Err(OpenError::Refused(refusal)) => refusal.kind,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    };
    let stranger = p2pnode_protocol::id::PeerId::random();
    let result = open(rig.stream_of(stranger), &resume(session)).await;
    assert_eq!(kind(result), TunnelFault::NotHere);
    let result = open(rig.stream(), &resume(SessionId([1; 16]))).await;
    assert_eq!(kind(result), TunnelFault::NoSession);
    let received = 12;
    let ahead = TARGET.hello(Purpose::Resume { session, received });
    assert_eq!(kind(open(rig.stream(), &ahead).await), TunnelFault::Invalid);
    open(rig.stream(), &resume(session))
        .await
        .expect("its owner may");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_owner_closes_early_is_given_up_for() {
    let rig = Rig::new();
    let marker = rig.inside("alive");
    let script = format!("while :; do date > {}; sleep 0.05; done", marker.display());
    let dial = Arc::new(RigDial(Arc::clone(&rig)));
    let client = ExecClient::start(dial, TARGET, shell(&script))
        .await
        .unwrap();
    timeout(LONG, async {
        while !marker.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    drop(client);
    // A minute, in which its owner could have come back; then it is killed.
    timeout(LONG, async {
        loop {
            std::fs::remove_file(&marker).ok();
            tokio::time::sleep(Duration::from_secs(2)).await;
            if !marker.exists() {
                return;
            }
        }
    })
    .await
    .expect("killed");
}
