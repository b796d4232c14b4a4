//! Length-prefixed frames on a byte stream: 4 bytes, big endian, then bincode.
//!
//! Both sides of a tunnel read and write through here, so that no length is believed before it was
//! compared with [`MAX_TUNNEL_FRAME_BYTES`].

use std::io;

use bincode::{Decode, Encode};
use p2pnode_protocol::codec::{self, CodecError};
use p2pnode_protocol::tunnel::MAX_TUNNEL_FRAME_BYTES;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A stream that broke, or a frame that is not one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or failed.
    #[error("the stream broke: {0}")]
    Broken(#[from] io::Error),
    /// The other side breaks the protocol.
    #[error("a bad frame: {0}")]
    Codec(#[from] CodecError),
}

/// A frame as it travels.
///
/// # Errors
/// [`FrameError::Codec`] when it is larger than [`MAX_TUNNEL_FRAME_BYTES`].
pub fn encode<T: Encode>(frame: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = codec::encode(frame, MAX_TUNNEL_FRAME_BYTES)?;
    let mut framed = Vec::with_capacity(4 + bytes.len());
    framed.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    framed.extend_from_slice(&bytes);
    Ok(framed)
}

/// Writes one frame and flushes it.
///
/// # Errors
/// [`FrameError`].
pub async fn write<T: Encode, W: AsyncWrite + Unpin + ?Sized>(
    writer: &mut W,
    frame: &T,
) -> Result<(), FrameError> {
    writer.write_all(&encode(frame)?).await?;
    writer.flush().await?;
    Ok(())
}

/// Reads one frame; its length is checked before anything is allocated.
///
/// # Errors
/// [`FrameError`].
pub async fn read<T: Decode<()>, R: AsyncRead + Unpin + ?Sized>(
    reader: &mut R,
) -> Result<T, FrameError> {
    let mut length = [0; 4];
    reader.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_TUNNEL_FRAME_BYTES {
        return Err(CodecError::TooLarge {
            bytes: length,
            limit: MAX_TUNNEL_FRAME_BYTES,
        }
        .into());
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    Ok(codec::decode(&bytes, MAX_TUNNEL_FRAME_BYTES)?)
}

#[cfg(test)]
mod tests {
    use p2pnode_protocol::tunnel::ToTask;

    use super::*;

    #[tokio::test]
    async fn a_length_is_judged_before_anything_else_is_read() {
        // Nothing follows: had it been believed, the stream would have been said to break.
        let mut bytes = &u32::MAX.to_be_bytes()[..];
        let refused = read::<ToTask, _>(&mut bytes).await.unwrap_err();
        assert!(
            matches!(refused, FrameError::Codec(CodecError::TooLarge { .. })),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        write(&mut bytes, &ToTask::Input(vec![1, 2, 3]))
            .await
            .unwrap();
        write(&mut bytes, &ToTask::InputEnd).await.unwrap();
        let mut reader = &bytes[..];
        let first: ToTask = read(&mut reader).await.unwrap();
        assert_eq!(first, ToTask::Input(vec![1, 2, 3]));
        assert_eq!(
            read::<ToTask, _>(&mut reader).await.unwrap(),
            ToTask::InputEnd
        );
        let ended = read::<ToTask, _>(&mut reader).await.unwrap_err();
        assert!(matches!(ended, FrameError::Broken(_)), "{ended}");
    }
}
