//! Commands: sessions that outlive their streams for a while.
//!
//! `table` knows the sessions, `session` is the task that owns one, `kept` holds what the other side
//! has not acknowledged, `line` is a stream of frames that can be given up at any byte. The owner's
//! side ([`client`](crate::client)) is made of the same `kept` and `line`.

pub(crate) mod kept;
pub(crate) mod line;
mod session;
mod table;

pub(crate) use table::Sessions;

use std::time::Duration;

/// How long a command whose stream broke waits for its owner: a change of networks, a restart of a
/// relay. The owner tries for as long.
pub(crate) const RESUME_WITHIN: Duration = Duration::from_secs(60);

/// The most bytes that either side keeps unacknowledged, and may send beyond the last
/// acknowledgement (1 MiB): 100 ms of round trip at 10 MB/s. A command that writes more waits.
pub(crate) const MAX_KEPT_BYTES: usize = 1 << 20;

/// After how many bytes the receiver acknowledges: a quarter of what may be kept, so that nobody
/// waits for an acknowledgement while bytes flow.
pub(crate) const ACKNOWLEDGE_EVERY: u64 = (MAX_KEPT_BYTES / 4) as u64;
