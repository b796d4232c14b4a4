//! Output of one task: from the guest's `fd_write` to the pipe, within a window.
//!
//! What a guest writes is gathered until it stops running for a moment (at the latest at the next
//! tick) or has written a chunk, and then put into the outbox. The node returns credit for what it
//! has passed on; without credit the guest waits, and only this guest. The window is kept here for
//! the guest's sake and checked in the node, which does not rely on it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use p2pnode_protocol::task::Stream;
use tokio::sync::Notify;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::wasm::outbox::{Outbox, lock};
use crate::wasm::wire::{CHUNK_BYTES, FromWorker, RunId, WINDOW_BYTES, chunk_cost};

/// The output of one task.
#[derive(Debug)]
pub struct Output {
    run: RunId,
    outbox: Arc<Outbox<FromWorker>>,
    pending: Mutex<Pending>,
    written: AtomicU64,
    waiting: AtomicBool,
    more: Notify,
}

#[derive(Debug)]
struct Pending {
    /// Not yet in the outbox.
    chunks: Vec<(Stream, Vec<u8>)>,
    /// What `chunks` will cost.
    cost: usize,
    /// Credit left, without what `chunks` will cost. Below zero by at most the slack.
    credit: isize,
}

impl Pending {
    fn room(&self) -> usize {
        let room = self.credit - self.cost as isize;
        usize::try_from(room).unwrap_or(0).min(CHUNK_BYTES)
    }

    fn append(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.chunks.last_mut() {
                Some((last, chunk)) if *last == stream && chunk.len() < CHUNK_BYTES => {
                    let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - chunk.len()));
                    self.cost -= chunk_cost(chunk.len());
                    chunk.extend_from_slice(now);
                    self.cost += chunk_cost(chunk.len());
                    bytes = rest;
                }
                _ => {
                    self.chunks.push((stream, Vec::new()));
                    self.cost += chunk_cost(0);
                }
            }
        }
    }

    fn take(&mut self) -> Vec<(Stream, Vec<u8>)> {
        self.credit -= self.cost as isize;
        self.cost = 0;
        std::mem::take(&mut self.chunks)
    }
}

impl Output {
    /// Output of `run`, with a full window.
    pub fn new(run: RunId, outbox: Arc<Outbox<FromWorker>>) -> Self {
        Self {
            run,
            outbox,
            pending: Mutex::new(Pending {
                chunks: Vec::new(),
                cost: 0,
                credit: WINDOW_BYTES as isize,
            }),
            written: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            more: Notify::new(),
        }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the guest waits for its output to be read.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Gives back what the node has passed on.
    pub fn add_credit(&self, cost: u32) {
        let mut pending = lock(&self.pending);
        let credit = pending.credit.saturating_add_unsigned(cost as usize);
        pending.credit = credit.min(WINDOW_BYTES as isize);
        drop(pending);
        self.more.notify_one();
    }

    /// Sends what was gathered.
    pub fn flush(&self) {
        let messages = self.take();
        if !messages.is_empty() {
            self.outbox.push(messages);
        }
    }

    /// Takes what was gathered, as messages: to be sent in one piece with the end.
    pub fn take(&self) -> Vec<FromWorker> {
        let chunks = lock(&self.pending).take();
        chunks
            .into_iter()
            .map(|(stream, bytes)| FromWorker::Log {
                run: self.run,
                stream,
                bytes,
            })
            .collect()
    }

    fn room(&self) -> usize {
        lock(&self.pending).room()
    }

    fn append(&self, stream: Stream, bytes: &[u8]) {
        self.written
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let mut pending = lock(&self.pending);
        pending.append(stream, bytes);
        let full = pending.cost >= CHUNK_BYTES;
        drop(pending);
        if full {
            self.flush();
        }
    }

    async fn wait_for_room(&self) {
        while self.room() == 0 {
            self.flush();
            self.waiting.store(true, Ordering::Relaxed);
            self.more.notified().await;
            self.waiting.store(false, Ordering::Relaxed);
        }
    }
}

/// One of the guest's two output streams.
#[derive(Debug, Clone)]
pub struct GuestStream {
    output: Arc<Output>,
    stream: Stream,
}

impl GuestStream {
    /// `stream` of the task with this output.
    pub fn new(output: Arc<Output>, stream: Stream) -> Self {
        Self { output, stream }
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStream {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// Only WASI preview 3 asks for this one, and there is no preview 3 here.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {
        self.output.wait_for_room().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.append(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.output.room())
    }

    /// The default asks for room once more after the write, and a task whose last byte fills the
    /// window would wait for a reader before it may end.
    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.wait_for_room().await;
        self.write(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wasm::wire::{CHUNK_COST, WINDOW_SLACK_BYTES};

    fn output() -> Arc<Output> {
        Arc::new(Output::new(1, Arc::new(Outbox::default())))
    }

    fn cost(messages: &[FromWorker]) -> usize {
        messages
            .iter()
            .map(|message| match message {
                FromWorker::Log { bytes, .. } => chunk_cost(bytes.len()),
                other => panic!("{other:?}"),
            })
            .sum()
    }

    #[test]
    fn writes_to_one_stream_are_gathered_and_the_order_is_kept() {
        let output = output();
        output.append(Stream::Stdout, b"a");
        output.append(Stream::Stdout, b"b");
        output.append(Stream::Stderr, b"c");
        output.append(Stream::Stdout, b"d");
        let seen: Vec<_> = output
            .take()
            .into_iter()
            .map(|message| match message {
                FromWorker::Log { stream, bytes, .. } => (stream, bytes),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            seen,
            [
                (Stream::Stdout, b"ab".to_vec()),
                (Stream::Stderr, b"c".to_vec()),
                (Stream::Stdout, b"d".to_vec()),
            ]
        );
        assert_eq!(output.written(), 4);
    }

    #[tokio::test]
    async fn the_window_holds_whatever_the_pieces() {
        for piece in [1, 100, 4_096] {
            let output = output();
            let mut stdout = GuestStream::new(Arc::clone(&output), Stream::Stdout);
            let mut stderr = GuestStream::new(Arc::clone(&output), Stream::Stderr);
            while output.room() > 0 {
                for stream in [&mut stdout, &mut stderr] {
                    if output.room() > 0 {
                        let bytes = Bytes::from(vec![0; piece]);
                        stream.blocking_write_and_flush(bytes).await.unwrap();
                    }
                }
            }
            output.flush();
            let sent = output.outbox.take().await.unwrap();
            let cost = cost(&sent);
            assert!(cost >= WINDOW_BYTES, "{cost}");
            assert!(cost <= WINDOW_BYTES + WINDOW_SLACK_BYTES, "{cost}");
            assert!(sent.iter().all(|message| matches!(
                message,
                FromWorker::Log { bytes, .. } if bytes.len() <= CHUNK_BYTES
            )));
        }
    }

    #[tokio::test]
    async fn a_guest_without_credit_waits_until_there_is_some() {
        let output = output();
        output.append(Stream::Stdout, &vec![0; WINDOW_BYTES]);
        let mut stream = GuestStream::new(Arc::clone(&output), Stream::Stdout);
        assert_eq!(stream.check_write().unwrap(), 0);
        let write = stream.blocking_write_and_flush(Bytes::from_static(b"x"));
        let (written, ()) = tokio::join!(write, async {
            assert!(output.is_waiting());
            output.add_credit(CHUNK_COST as u32);
        });
        written.unwrap();
        assert!(!output.is_waiting());
    }
}
