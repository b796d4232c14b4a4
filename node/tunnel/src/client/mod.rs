//! The owner's end of a tunnel.
//!
//! [`open`] makes a tunnel of a stream; [`exec`] runs a command and goes on when streams break;
//! [`files`] copies files and folders. Used by the command line and by whoever embeds a node. What
//! comes from a provider is not believed: sizes are checked, and names of files may not lead out of
//! the folder that they are written to.

pub mod exec;
pub mod files;
pub mod shortcut;

use std::time::Duration;

use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::tunnel::{Opened, TunnelHello, TunnelRefusal, TunnelWelcome};
use tokio::time::timeout;

use crate::frames::{self, FrameError};

/// How long a provider may take to answer a hello: what it allows its sandbox, and a relay's delays.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(90);

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The provider says no.
    #[error(transparent)]
    Refused(#[from] TunnelRefusal),
    /// The stream broke, or what came is no answer.
    #[error("the provider gave no answer: {0}")]
    Frame(#[from] FrameError),
    /// Nothing came.
    #[error("the provider did not answer within {} s", WELCOME_TIMEOUT.as_secs())]
    Silent,
    /// No stream to the provider.
    #[error("no stream to the provider: {0}")]
    Dial(#[source] std::io::Error),
}

/// Makes a tunnel of a stream.
///
/// # Errors
/// [`OpenError`].
pub async fn open<S: Duplex>(mut stream: S, hello: &TunnelHello) -> Result<(Opened, S), OpenError> {
    let asking = async {
        frames::write(&mut stream, hello).await?;
        frames::read::<TunnelWelcome, _>(&mut stream).await
    };
    match timeout(WELCOME_TIMEOUT, asking).await {
        Ok(Ok(TunnelWelcome::Open(opened))) => Ok((opened, stream)),
        Ok(Ok(TunnelWelcome::Refused(refusal))) => Err(refusal.into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(OpenError::Silent),
    }
}
