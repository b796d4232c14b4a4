//! The core's time: milliseconds since the Unix epoch that never run backwards.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::core::io::Millis;

/// Wall time at start, advanced by the monotonic clock: a change of the system's clock moves no
/// deadline.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    started_ms: Millis,
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            started_ms: wall_ms(),
            started: Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Millis {
        self.started_ms + self.started.elapsed().as_millis() as Millis
    }

    pub(super) const fn started_ms(&self) -> Millis {
        self.started_ms
    }
}

/// The system's time now.
pub(super) fn wall_ms() -> Millis {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since_epoch.as_millis() as Millis
}
