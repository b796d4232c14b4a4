//! The codec of both request-response protocols: bincode under a byte limit.
//!
//! Messages are encoded by whoever sends them and decoded on the task of the connection they arrive
//! on, so that a large message never holds up the swarm. What cannot be decoded is handed on as a
//! misdeed and not as an I/O error, because only so does it keep the name of the peer that sent it.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bincode::Decode;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use p2pnode_protocol::codec::{self, CodecError};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::conduct::Misdeed;
use super::metrics::ByteCounters;

/// Messages up to this size are read without asking for room (64 KiB: nearly all of them).
const SMALL_BYTES: usize = 64 << 10;

/// How many larger requests are read at a time, by all connections together: 32 × 4 MiB is the most
/// that peers can make this node allocate for requests that are not complete yet.
const LARGE_REQUESTS: usize = 32;

/// How many larger answers to calls of ours (64 MiB). A pool of their own: whoever likes may ask, and
/// must not keep us from being answered.
const LARGE_ANSWERS: usize = 16;

/// How many larger messages of each sort are read at a time from one connection; a peer has few
/// ([`super::NetLimits::connections_per_peer`]).
const LARGE_PER_CONNECTION: usize = 1;

/// A larger message that comes at less than this (64 KiB/s, a third of what the largest needs to come
/// in time) is given up, so that nobody holds its room for nothing.
const LEAST_PACE: u64 = 64 << 10;

/// How long it may be late.
const LATE: Duration = Duration::from_secs(2);

/// A message on its way in or out.
#[derive(Debug)]
pub(super) enum Frame<T> {
    /// Out: already encoded.
    Encoded(Vec<u8>),
    /// In: decoded, from so many bytes.
    Decoded(T, usize),
    /// In: not a message.
    Bad(Misdeed),
}

/// Reads and writes requests `Q` and answers `A`.
#[derive(Debug)]
pub(super) struct WireCodec<Q, A> {
    /// The largest request, in bytes.
    request_limit: usize,
    /// The largest answer, in bytes.
    answer_limit: usize,
    bytes: ByteCounters,
    requests: Room,
    answers: Room,
    messages: PhantomData<fn() -> (Q, A)>,
}

/// Room for larger messages of one sort: first one's own share, then a place among all.
///
/// libp2p has one codec for the behaviour, which reads nothing itself, clones it once for each
/// connection, and that clone for each stream. So a clone of the behaviour's is a new connection's,
/// and a clone of a connection's shares that one's room.
#[derive(Debug)]
struct Room {
    all: Arc<Semaphore>,
    /// `None` in the behaviour's.
    own: Option<Arc<Semaphore>>,
}

impl Room {
    fn new(places: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(places)),
            own: None,
        }
    }

    /// Waits for a place. The sender's time limit bounds the wait.
    async fn enter(&self) -> Option<(Option<SemaphorePermit<'_>>, SemaphorePermit<'_>)> {
        let own = match &self.own {
            Some(own) => Some(own.acquire().await.ok()?),
            None => None,
        };
        Some((own, self.all.acquire().await.ok()?))
    }
}

impl Clone for Room {
    fn clone(&self) -> Self {
        let fresh = || Arc::new(Semaphore::new(LARGE_PER_CONNECTION));
        Self {
            all: Arc::clone(&self.all),
            own: Some(self.own.as_ref().map_or_else(fresh, Arc::clone)),
        }
    }
}

impl<Q, A> Clone for WireCodec<Q, A> {
    fn clone(&self) -> Self {
        Self {
            request_limit: self.request_limit,
            answer_limit: self.answer_limit,
            bytes: self.bytes.clone(),
            requests: self.requests.clone(),
            answers: self.answers.clone(),
            messages: PhantomData,
        }
    }
}

impl<Q, A> WireCodec<Q, A> {
    /// A codec with these limits in bytes.
    pub(super) fn new(request_limit: usize, answer_limit: usize, bytes: ByteCounters) -> Self {
        Self {
            request_limit,
            answer_limit,
            bytes,
            requests: Room::new(LARGE_REQUESTS),
            answers: Room::new(LARGE_ANSWERS),
            messages: PhantomData,
        }
    }

    /// Reads to the end of the stream, but never more than one byte over the limit.
    async fn read<T, M>(&self, io: &mut T, limit: usize, room: &Room) -> io::Result<Frame<M>>
    where
        T: AsyncRead + Unpin + Send,
        M: Decode<()>,
    {
        let mut bytes = Vec::new();
        let small = limit.min(SMALL_BYTES) + 1;
        (&mut *io)
            .take(small as u64)
            .read_to_end(&mut bytes)
            .await?;
        let mut _place = None;
        if bytes.len() == small && small <= limit {
            _place = room.enter().await;
            read_on(io, &mut bytes, limit + 1).await?;
        }
        self.bytes.received.inc_by(bytes.len() as u64);
        if bytes.is_empty() {
            // The other side gave the stream up, which is not a message but no lie either.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(match codec::decode(&bytes, limit) {
            Ok(message) => Frame::Decoded(message, bytes.len()),
            Err(CodecError::TooLarge { .. }) => Frame::Bad(Misdeed::Oversize),
            Err(_) => Frame::Bad(Misdeed::Garbage),
        })
    }

    async fn write<T, M>(&self, io: &mut T, frame: Frame<M>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let Frame::Encoded(bytes) = frame else {
            return Err(io::Error::other(
                "a message was to be sent before it was encoded",
            ));
        };
        io.write_all(&bytes).await?;
        self.bytes.sent.inc_by(bytes.len() as u64);
        Ok(())
    }
}

/// Reads until `bytes` are `most`, or to the end of the stream.
///
/// # Errors
/// When the stream breaks, or is slower than [`LEAST_PACE`].
async fn read_on<T>(io: &mut T, bytes: &mut Vec<u8>, most: usize) -> io::Result<()>
where
    T: AsyncRead + Unpin + Send,
{
    let (began, before) = (Instant::now(), bytes.len());
    let mut part = vec![0; SMALL_BYTES];
    while bytes.len() < most {
        let due = (bytes.len() - before) as u64 * 1_000 / LEAST_PACE;
        let due = began + LATE + Duration::from_millis(due);
        let wanted = part.len().min(most - bytes.len());
        match tokio::time::timeout_at(due, io.read(&mut part[..wanted])).await?? {
            0 => return Ok(()),
            read => bytes.extend_from_slice(&part[..read]),
        }
    }
    Ok(())
}

impl<Q, A> request_response::Codec for WireCodec<Q, A>
where
    Q: Decode<()> + Send + 'static,
    A: Decode<()> + Send + 'static,
{
    type Protocol = StreamProtocol;
    type Request = Frame<Q>;
    type Response = Frame<A>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame<Q>>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read(io, self.request_limit, &self.requests).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame<A>>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read(io, self.answer_limit, &self.answers).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Frame<Q>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write(io, request).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Frame<A>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write(io, answer).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::io::Cursor;
    use libp2p::request_response::Codec;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    type Words = Vec<String>;

    fn codec(limit: usize) -> WireCodec<Words, Words> {
        WireCodec::new(limit, limit, ByteCounters::default())
    }

    async fn read(limit: usize, bytes: Vec<u8>) -> io::Result<Frame<Words>> {
        let codec = codec(limit);
        codec
            .read(&mut Cursor::new(bytes), limit, &codec.requests)
            .await
    }

    #[tokio::test]
    async fn messages_of_every_size_are_read_up_to_the_limit() {
        for len in [
            1,
            SMALL_BYTES - 10,
            SMALL_BYTES,
            SMALL_BYTES + 1,
            3 * SMALL_BYTES,
        ] {
            let words = vec!["x".repeat(len)];
            let bytes = codec::encode(&words, usize::MAX).unwrap();
            let exact = bytes.len();
            match read(exact, bytes.clone()).await.unwrap() {
                Frame::Decoded(read, bytes) => assert_eq!((read, bytes), (words, exact)),
                other => panic!("{len}: {other:?}"),
            }
            assert!(matches!(
                read(exact - 1, bytes).await.unwrap(),
                Frame::Bad(Misdeed::Oversize)
            ));
        }
    }

    #[tokio::test]
    async fn garbage_trailing_bytes_and_silence() {
        assert!(matches!(
            read(100, vec![0xff; 20]).await.unwrap(),
            Frame::Bad(Misdeed::Garbage)
        ));
        let mut bytes = codec::encode(&vec!["a".to_owned()], 100).unwrap();
        bytes.push(0);
        assert!(matches!(
            read(100, bytes).await.unwrap(),
            Frame::Bad(Misdeed::Garbage)
        ));
        assert_eq!(
            read(100, Vec::new()).await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[tokio::test]
    async fn no_more_than_one_byte_over_the_limit_is_taken() {
        let codec = codec(SMALL_BYTES * 2);
        let mut endless = Cursor::new(vec![7; SMALL_BYTES * 10]);
        let frame: Frame<Words> = codec
            .read(&mut endless, SMALL_BYTES * 2, &codec.requests)
            .await
            .unwrap();
        assert!(matches!(frame, Frame::Bad(Misdeed::Oversize)));
        assert_eq!(endless.position(), SMALL_BYTES as u64 * 2 + 1);
    }

    static PROTOCOL: StreamProtocol = StreamProtocol::new("/test");

    /// A stream on which the first part of a large message came, and its other end.
    async fn half_sent() -> (impl AsyncRead + Unpin + Send, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(2 * SMALL_BYTES);
        let mut writer = near.compat();
        writer.write_all(&[7; SMALL_BYTES + 10]).await.unwrap();
        (far.compat(), writer.into_inner())
    }

    #[tokio::test]
    async fn one_connection_takes_no_room_from_others_nor_from_answers() {
        let behaviour = codec(SMALL_BYTES * 4);
        let (hostile, honest) = (behaviour.clone(), behaviour.clone());
        let mut open = Vec::new();
        for _ in 0..2 * LARGE_REQUESTS {
            let (mut stream, other_end) = half_sent().await;
            let mut codec = hostile.clone();
            open.push(other_end);
            tokio::spawn(async move { codec.read_request(&PROTOCOL, &mut stream).await });
        }
        tokio::task::yield_now().await;
        let words = vec!["x".repeat(2 * SMALL_BYTES)];
        let bytes = codec::encode(&words, usize::MAX).unwrap();
        let mut stream = Cursor::new(bytes.clone());
        let mut reader = honest.clone();
        let request = reader.read_request(&PROTOCOL, &mut stream);
        let request = tokio::time::timeout(LATE / 2, request).await;
        assert!(matches!(request, Ok(Ok(Frame::Decoded(..)))), "{request:?}");
        let mut stream = Cursor::new(bytes);
        let mut reader = hostile.clone();
        let answer = reader.read_response(&PROTOCOL, &mut stream);
        let answer = tokio::time::timeout(LATE / 2, answer).await;
        assert!(matches!(answer, Ok(Ok(Frame::Decoded(..)))), "{answer:?}");
    }

    #[tokio::test]
    async fn a_large_message_that_stands_still_is_given_up() {
        let mut codec = codec(SMALL_BYTES * 4).clone();
        let (mut stream, _other_end) = half_sent().await;
        let reading = codec.read_request(&PROTOCOL, &mut stream);
        let read = tokio::time::timeout(LATE * 5, reading).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
