//! Negotiation of a stream: its protocol id, and the byte that says whether it is taken.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::{array, io};

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::StreamProtocol;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};
use libp2p::swarm::Stream;

use super::super::protocols::{Protocols, StreamKind};

/// First byte from the accepting side: the stream waits in its node's queue.
const ACCEPTED: u8 = 1;

/// First byte from the accepting side: no room; the stream ends here.
const REFUSED: u8 = 0;

/// A protocol id that remembers what it is for.
#[derive(Debug, Clone)]
pub struct KindId {
    kind: StreamKind,
    id: StreamProtocol,
}

impl AsRef<str> for KindId {
    fn as_ref(&self) -> &str {
        self.id.as_ref()
    }
}

/// What a connection accepts.
#[derive(Debug, Clone)]
pub struct Accept([KindId; StreamKind::ALL.len()]);

impl Accept {
    pub(super) fn new(protocols: &Protocols) -> Self {
        Self(StreamKind::ALL.map(|kind| KindId {
            kind,
            id: protocols.stream(kind),
        }))
    }

    /// The upgrade that opens a stream of this kind.
    pub(super) fn opening(&self, kind: StreamKind) -> Open {
        Open(self.0[kind as usize].clone())
    }
}

impl UpgradeInfo for Accept {
    type Info = KindId;
    type InfoIter = array::IntoIter<KindId, { StreamKind::ALL.len() }>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Accept {
    type Output = (Stream, StreamKind);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, id: KindId) -> Self::Future {
        ready(Ok((stream, id.kind)))
    }
}

/// Opens a stream and waits for the answer.
#[derive(Debug, Clone)]
pub struct Open(KindId);

/// Why a stream that was negotiated did not open.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// The other side said so.
    #[error("refused")]
    Refused,
    /// The answer did not come.
    #[error("no answer")]
    Lost(#[from] io::Error),
}

impl UpgradeInfo for Open {
    type Info = KindId;
    type InfoIter = array::IntoIter<KindId, 1>;

    fn protocol_info(&self) -> Self::InfoIter {
        [self.0.clone()].into_iter()
    }
}

impl OutboundUpgrade<Stream> for Open {
    type Output = Stream;
    type Error = NotOpened;
    type Future = BoxFuture<'static, Result<Stream, NotOpened>>;

    fn upgrade_outbound(self, mut stream: Stream, _: KindId) -> Self::Future {
        async move {
            let mut answer = [REFUSED];
            stream.read_exact(&mut answer).await?;
            match answer {
                [ACCEPTED] => Ok(stream),
                _ => Err(NotOpened::Refused),
            }
        }
        .boxed()
    }
}

/// Tells the opener that its stream is taken.
pub(super) async fn accept(stream: &mut Stream) -> io::Result<()> {
    stream.write_all(&[ACCEPTED]).await?;
    stream.flush().await
}

/// Tells the opener that its stream is not taken.
pub(super) async fn refuse(stream: &mut Stream) -> io::Result<()> {
    stream.write_all(&[REFUSED]).await?;
    stream.close().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_kind_is_opened_by_its_own_id() {
        let protocols = Protocols::new("test").unwrap();
        let accept = Accept::new(&protocols);
        for kind in StreamKind::ALL {
            let id = accept.opening(kind).protocol_info().next().unwrap();
            assert_eq!(id.kind, kind);
            assert_eq!(id.id, protocols.stream(kind));
        }
    }
}
