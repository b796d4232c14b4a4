//! The codec of both request-response protocols: bincode under a byte limit.
//!
//! Messages are encoded by whoever sends them and decoded on the task of the connection they arrive
//! on, so that a large message never holds up the swarm. What cannot be decoded is handed on as a
//! misdeed and not as an I/O error, because only so does it keep the name of the peer that sent it.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use bincode::Decode;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use p2pnode_protocol::codec::{self, CodecError};
use tokio::sync::Semaphore;

use super::conduct::Misdeed;
use super::metrics::ByteCounters;

/// Messages up to this size are read without asking for room (64 KiB: nearly all of them).
const SMALL_BYTES: usize = 64 << 10;

/// How many larger messages are read at a time, by all connections together: 16 × 4 MiB is the most
/// that peers can make this node allocate for messages that are not complete yet.
const LARGE_AT_A_TIME: usize = 16;

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
    room: Arc<Semaphore>,
    messages: PhantomData<fn() -> (Q, A)>,
}

impl<Q, A> Clone for WireCodec<Q, A> {
    fn clone(&self) -> Self {
        Self {
            request_limit: self.request_limit,
            answer_limit: self.answer_limit,
            bytes: self.bytes.clone(),
            room: Arc::clone(&self.room),
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
            room: Arc::new(Semaphore::new(LARGE_AT_A_TIME)),
            messages: PhantomData,
        }
    }

    /// Reads to the end of the stream, but never more than one byte over the limit.
    async fn read<T, M>(&self, io: &mut T, limit: usize) -> io::Result<Frame<M>>
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
        let mut _room = None;
        if bytes.len() == small && small <= limit {
            _room = self.room.acquire().await.ok();
            let rest = limit + 1 - small;
            (&mut *io).take(rest as u64).read_to_end(&mut bytes).await?;
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
        self.read(io, self.request_limit).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame<A>>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read(io, self.answer_limit).await
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

    use super::*;

    type Words = Vec<String>;

    fn codec(limit: usize) -> WireCodec<Words, Words> {
        WireCodec::new(limit, limit, ByteCounters::default())
    }

    async fn read(limit: usize, bytes: Vec<u8>) -> io::Result<Frame<Words>> {
        codec(limit).read(&mut Cursor::new(bytes), limit).await
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
        let frame: Frame<Words> = codec.read(&mut endless, SMALL_BYTES * 2).await.unwrap();
        assert!(matches!(frame, Frame::Bad(Misdeed::Oversize)));
        assert_eq!(endless.position(), SMALL_BYTES as u64 * 2 + 1);
    }
}
