//! Nothing is lost, nothing is kept without end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use futures::stream;
use tokio::sync::{mpsc, watch};

use super::*;

/// Counts what it is told; `flowing` tells the source.
struct Tap {
    works: bool,
    flowing: watch::Sender<bool>,
    turns: Mutex<Vec<&'static str>>,
    /// How often it is asked to thaw in vain.
    stubborn: AtomicI32,
}

impl Tap {
    fn new(works: bool) -> Self {
        Self {
            works,
            flowing: watch::Sender::new(true),
            turns: Mutex::default(),
            stubborn: AtomicI32::new(0),
        }
    }
}

impl Valve for Tap {
    async fn freeze(&self) -> bool {
        self.turns.lock().unwrap().push("freeze");
        self.flowing.send_replace(!self.works);
        self.works
    }

    async fn thaw(&self) -> bool {
        self.turns.lock().unwrap().push("thaw");
        let thaws = self.stubborn.fetch_sub(1, Ordering::Relaxed) <= 0;
        if thaws {
            self.flowing.send_replace(true);
        }
        thaws
    }
}

fn out(bytes: &[u8]) -> Result<LogOutput, Error> {
    Ok(LogOutput::StdOut {
        message: bytes.to_vec().into(),
    })
}

#[tokio::test]
async fn big_frames_are_cut_and_nothing_is_lost() {
    let (sink, mut log) = mpsc::channel(1);
    let content: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
    let err = LogOutput::StdErr {
        message: vec![b'e'; 100].into(),
    };
    let frames = stream::iter([out(&content), Ok(err)]);
    let pump =
        tokio::spawn(async move { pump(frames, &sink, &Pulse::default(), &Tap::new(true)).await });
    let (mut got, mut chunks) = (Vec::new(), 0);
    while let Some(chunk) = log.recv().await {
        assert!(chunk.bytes.len() <= MAX_CHUNK_BYTES);
        if chunk.stream == Channel::Stdout {
            chunks += 1;
            got.extend(chunk.bytes);
        }
    }
    assert_eq!(chunks, 4);
    assert!(got == content);
    assert_eq!(pump.await.unwrap().unwrap(), [b'e'; HEAD_BYTES]);
}

/// The source's frames while it flows; it ends after `count`.
fn source(tap: &Tap, count: usize) -> impl Stream<Item = Result<LogOutput, Error>> + Unpin {
    let flowing = tap.flowing.subscribe();
    Box::pin(stream::unfold(
        (flowing, 0),
        move |(mut flowing, number)| async move {
            flowing.wait_for(|flowing| *flowing).await.ok()?;
            (number < count).then(|| (out(&[number as u8; 32 << 10]), (flowing, number + 1)))
        },
    ))
}

/// Carries 100 frames of a source to `read`; returns what that makes of them.
async fn carried<T>(tap: &Tap, read: impl AsyncFnOnce(mpsc::Receiver<LogChunk>) -> T) -> T {
    let (sink, log) = mpsc::channel(1);
    let pulse = Pulse::default();
    let frames = source(tap, 100);
    let pump = async {
        let result = pump(frames, &sink, &pulse, tap).await;
        drop(sink);
        result
    };
    let (result, read) = tokio::join!(pump, read(log));
    result.unwrap();
    read
}

#[tokio::test]
async fn a_source_is_frozen_for_a_slow_reader_and_all_arrives() {
    let tap = Tap::new(true);
    let mut flowing = tap.flowing.subscribe();
    let count = carried(&tap, async |mut log| {
        // Nothing is read until the source has been frozen.
        flowing.wait_for(|flowing| !flowing).await.unwrap();
        let mut next = 0_usize;
        while let Some(chunk) = log.recv().await {
            assert_eq!(chunk.bytes, [next as u8; 32 << 10]);
            next += 1;
        }
        next
    });
    assert_eq!(count.await, 100);
    let turns = tap.turns.lock().unwrap();
    assert_eq!(turns[..2], ["freeze", "thaw"]);
    assert!(turns.chunks(2).all(|pair| pair[0] == "freeze"), "{turns:?}");
}

/// An engine may fail once.
#[tokio::test]
async fn what_did_not_freeze_or_thaw_is_tried_again() {
    for (works, stubborn) in [(true, 1), (false, 0)] {
        let tap = Tap {
            stubborn: AtomicI32::new(stubborn),
            ..Tap::new(works)
        };
        let count = carried(&tap, async |mut log| {
            let mut count = 0;
            while log.recv().await.is_some() {
                count += 1;
                // Slower than the source.
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            count
        });
        assert_eq!(count.await, 100);
        let turns = tap.turns.lock().unwrap();
        let failed = if works { "thaw" } else { "freeze" };
        let again = turns.windows(2).any(|pair| pair == [failed, failed]);
        assert!(again, "{turns:?}");
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_frozen_is_not_read_without_end() {
    let tap = Tap::new(false);
    let (sink, mut log) = mpsc::channel(1);
    let pulse = Pulse::default();
    let mut frames = source(&tap, 100);
    {
        let mut pump = pin!(pump(&mut frames, &sink, &pulse, &tap));
        assert!((&mut pump).now_or_never().is_none());
        assert!((&mut pump).now_or_never().is_none());
        assert!(
            pulse.stirred() && pulse.stirred(),
            "it waits for its reader"
        );
        assert_eq!(*tap.turns.lock().unwrap(), ["freeze"]);
    }
    // What is kept is bounded: the next frame of the source tells how many were read.
    let Some(Ok(LogOutput::StdOut { message })) = frames.next().await else {
        panic!("no frame");
    };
    assert!(
        usize::from(message[0]) <= FULL_BYTES / (32 << 10) + 2,
        "{}",
        message[0]
    );
    assert!(log.recv().await.is_some());
}

#[tokio::test]
async fn a_reader_that_left_stops_nothing() {
    let (sink, log) = mpsc::channel(1);
    drop(log);
    let frames = stream::iter((0..100).map(|_| out(b"x")));
    let result = pump(frames, &sink, &Pulse::default(), &Tap::new(true)).await;
    assert_eq!(result.unwrap(), b"");
}

#[tokio::test]
async fn a_broken_stream_is_told_after_what_came_before() {
    let (sink, mut log) = mpsc::channel(8);
    let frames = stream::iter([out(b"x"), Err(Error::RequestTimeoutError)]);
    let result = pump(frames, &sink, &Pulse::default(), &Tap::new(true)).await;
    assert!(result.is_err());
    assert_eq!(log.recv().await.unwrap().bytes, b"x");
}
