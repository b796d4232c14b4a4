//! What the servers of files of one node may hold together.
//!
//! Each is a thread, and a listed folder is memory of the node's until it is closed: both are bounded for
//! a task, for a peer, and for all of them.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use p2pnode_protocol::tunnel::TunnelRefusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::doors::{Limits, Place, Places, TaskKey};

/// Threads: a task's own clients have one each, and 16 is what a parallel copy opens.
const SERVERS: Limits = Limits {
    what: "servers of files",
    of_task: 16,
    of_peer: 64,
    of_all: 256,
};

/// Names of listed folders that all servers may hold, in KiB (128 MiB).
const NAMES_KIB: u32 = 128 << 10;

/// What a name costs beside its bytes, in bytes: its place in a list and the allocator's share.
const NAME_COST: usize = 48;

/// The longest name of a file, in bytes (Linux, `NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// How long a listing waits for others to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Shared by all servers of a node.
#[derive(Debug, Clone)]
pub(crate) struct Rooms {
    servers: Arc<Places>,
    names: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            servers: Places::new(SERVERS),
            names: Arc::new(Semaphore::new(NAMES_KIB as usize)),
        }
    }
}

/// One server's.
#[derive(Debug)]
pub(crate) struct Room {
    _place: Place,
    names: Arc<Semaphore>,
}

/// Names of a folder, and the memory that is taken for them.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) names: Vec<Vec<u8>>,
    pub(super) held: OwnedSemaphorePermit,
}

impl Rooms {
    /// Room for one more server, into this task.
    pub(crate) fn take(&self, task: TaskKey) -> Result<Room, TunnelRefusal> {
        Ok(Room {
            _place: self.servers.take(task)?,
            names: self.names.clone(),
        })
    }
}

impl Room {
    /// Lists at most `most` names, when there is memory for as many of the longest; what stays taken is
    /// for those that came. `None` when others hold it all.
    pub(super) fn list(
        &self,
        most: usize,
        list: impl FnOnce() -> io::Result<Vec<Vec<u8>>>,
    ) -> io::Result<Option<Listed>> {
        let Some(mut held) = self.take_names(most * (LONGEST_NAME + NAME_COST)) else {
            return Ok(None);
        };
        let names = list()?;
        let bytes = names.iter().map(|name| name.len() + NAME_COST).sum();
        let held = held.split(kib(bytes) as usize);
        Ok(held.map(|held| Listed { names, held }))
    }

    /// The server has a thread of its own, so it may sleep.
    fn take_names(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(held) = self.names.clone().try_acquire_many_owned(kib(bytes)) {
                return Some(held);
            }
            if Instant::now() > until {
                return None;
            }
            thread::sleep(LOOK);
        }
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::id::{JobId, PeerId};

    use super::*;

    fn task(peer: PeerId, index: u32) -> TaskKey {
        TaskKey {
            peer,
            job: JobId([1; 8]),
            step: 0,
            index,
        }
    }

    #[test]
    fn threads_are_bounded_for_a_task_a_peer_and_all() {
        let rooms = Rooms::default();
        let mut held = Vec::new();
        let mut fill = |peer: PeerId, index: u32| {
            let before = held.len();
            while let Ok(room) = rooms.take(task(peer, index)) {
                held.push(room);
            }
            held.len() - before
        };
        let peer = PeerId::random();
        assert_eq!(fill(peer, 0), SERVERS.of_task);
        let of_others: usize = (1..10).map(|index| fill(peer, index)).sum();
        assert_eq!(of_others, SERVERS.of_peer - SERVERS.of_task);
        for _ in 0..10 {
            let peer = PeerId::random();
            (0..10).for_each(|index| {
                fill(peer, index);
            });
        }
        assert_eq!(held.len(), SERVERS.of_all);
        held.clear();
        assert!(rooms.take(task(peer, 0)).is_ok());
    }

    #[test]
    fn names_are_bounded_for_all_and_given_back() {
        let rooms = Rooms::default();
        let room = rooms.take(task(PeerId::random(), 0)).unwrap();
        let long = || Ok(vec![vec![b'x'; LONGEST_NAME]; 100_000]);
        let mut held = Vec::new();
        while let Some(listed) = room.list(100_000, long).unwrap() {
            held.push(listed);
        }
        assert_eq!(held.len(), 4);
        held.pop();
        // Few names hold little, though there has to be room for many.
        for _ in 0..64 {
            let few = room.list(100_000, || Ok(vec![vec![b'x']]));
            held.push(few.unwrap().unwrap());
        }
    }
}
