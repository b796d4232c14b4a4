//! Length-prefixed frames on a byte stream.

use std::io;

use bincode::{Decode, Encode};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use p2pnode_protocol::codec::{self, CodecError};
use p2pnode_protocol::stream::MAX_FRAME_BYTES;

/// A stream that broke or a frame that is not one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the stream could not be opened: {0}")]
    Open(String),
    #[error("the stream broke: {0}")]
    Broken(#[from] io::Error),
    #[error("a frame that breaks the rules: {0}")]
    Refused(String),
    #[error("a bad frame: {0}")]
    Codec(#[from] CodecError),
}

/// Writes one frame without flushing.
pub(crate) async fn write<T: Encode, W: AsyncWrite + Unpin>(
    writer: &mut W,
    frame: &T,
) -> Result<(), FrameError> {
    let bytes = codec::encode(frame, MAX_FRAME_BYTES)?;
    let mut framed = Vec::with_capacity(4 + bytes.len());
    framed.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    framed.extend_from_slice(&bytes);
    writer.write_all(&framed).await?;
    Ok(())
}

/// Reads one frame; its length is checked before anything is allocated.
pub(crate) async fn read<T: Decode<()>, R: AsyncRead + Unpin>(
    reader: &mut R,
) -> Result<T, FrameError> {
    let mut length = [0; 4];
    reader.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(CodecError::TooLarge {
            bytes: length,
            limit: MAX_FRAME_BYTES,
        }
        .into());
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    Ok(codec::decode(&bytes, MAX_FRAME_BYTES)?)
}
