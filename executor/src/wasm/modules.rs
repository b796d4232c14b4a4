//! Which modules a worker has, and giving it those that it lacks.
//!
//! A module is known by its digest: each job has its own copy in a file, and the second job with the
//! same module finds it compiled. A worker keeps what it compiled; when there are too many, the least
//! recently used one that nobody runs is forgotten. A new worker gets a module again when a task first
//! needs it, from the file that the environment was prepared from, if that still has the same content.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use p2pnode_protocol::task::{Failure, FailureKind};
use p2pnode_protocol::{Bytes, Digest};
use tokio::io::AsyncReadExt;
use tokio::sync::{OnceCell, Semaphore, mpsc};

use super::outbox::lock;
use super::process::{Worker, host};
use super::table::Gone;
use super::wire::{MAX_MODULE_BYTES, MODULE_PIECE_BYTES, ModuleId, ToWorker};
use crate::PrepareProgress;

/// Compiled modules that a worker keeps. A module of a megabyte takes some ten of them compiled, and
/// a node serves few jobs at a time.
const MAX_KEPT: usize = 32;

/// Modules read, sent and compiled at once. Each is held twice while it is sent, so that this many of
/// the largest are what the preparations of all jobs take together.
const AT_ONCE: usize = 2;
static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// A module as it stands on this host.
#[derive(Debug, Clone)]
pub struct ModuleFile {
    path: PathBuf,
    digest: Digest,
}

/// A module that a worker has, or is being given.
#[derive(Debug, Default)]
pub struct Module {
    id: OnceCell<ModuleId>,
    last_use: AtomicU64,
}

/// The modules of one worker.
#[derive(Debug, Default)]
pub struct Modules {
    kept: Mutex<HashMap<Digest, Arc<Module>>>,
    uses: AtomicU64,
}

/// Why a module is not there.
#[derive(Debug)]
pub enum LoadError {
    /// The worker is being stopped: take a new one.
    Gone,
    /// It cannot be had.
    Failed(Failure),
}

impl ModuleFile {
    /// Reads the module in `path`.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or is longer than any module may be.
    pub async fn open(path: &Path) -> Result<Self, Failure> {
        // It is never closed.
        let _turn = TURNS.acquire().await;
        let content = read(path).await?;
        Ok(Self {
            path: path.to_owned(),
            digest: Digest::of(&content),
        })
    }

    /// Its content, which must still be what it was.
    async fn read(&self) -> Result<Vec<u8>, Failure> {
        let content = read(&self.path).await?;
        if Digest::of(&content) == self.digest {
            Ok(content)
        } else {
            Err(host(format!(
                "the WASM module {} has changed since it was prepared",
                self.path.display()
            )))
        }
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error| {
        host(format!(
            "the WASM module {} cannot be read: {error}",
            path.display()
        ))
    };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut content = Vec::new();
    file.take(MAX_MODULE_BYTES + 1)
        .read_to_end(&mut content)
        .await
        .map_err(unreadable)?;
    let problem = if content.is_empty() {
        "the WASM module is empty".to_owned()
    } else if content.len() as u64 > MAX_MODULE_BYTES {
        format!(
            "the WASM module has more than the limit of {}: leave out debug information \
             (wasm-strip) and move data into inputs",
            Bytes(MAX_MODULE_BYTES)
        )
    } else {
        return Ok(content);
    };
    Err(Failure::new(FailureKind::BadProgram, problem))
}

impl Module {
    /// Its name in messages. Set in every module that [`Modules::get`] returned.
    pub fn id(&self) -> Option<ModuleId> {
        self.id.get().copied()
    }
}

impl Modules {
    /// The module in `file`, compiled by `worker`, whose modules these are. The handle keeps it from
    /// being forgotten.
    ///
    /// # Errors
    /// [`LoadError`]; asking again tries again.
    pub async fn get(
        &self,
        worker: &Worker,
        file: &ModuleFile,
        progress: Option<&mpsc::Sender<PrepareProgress>>,
    ) -> Result<Arc<Module>, LoadError> {
        let module = self.entry(worker, file);
        let loaded = module
            .id
            .get_or_try_init(|| load(worker, file, progress))
            .await;
        match loaded {
            Ok(_) => Ok(module),
            Err(error) => {
                self.remove_unused(file, &module);
                Err(error)
            }
        }
    }

    fn entry(&self, worker: &Worker, file: &ModuleFile) -> Arc<Module> {
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut kept = lock(&self.kept);
        if let Some(module) = kept.get(&file.digest) {
            module.last_use.store(now, Ordering::Relaxed);
            return Arc::clone(module);
        }
        if kept.len() >= MAX_KEPT {
            // Only the map itself holds a module that nobody uses.
            let unused = kept
                .iter()
                .filter(|(_, module)| Arc::strong_count(module) == 1)
                .min_by_key(|(_, module)| module.last_use.load(Ordering::Relaxed))
                .map(|(digest, _)| *digest);
            if let Some(module) = unused.and_then(|digest| kept.remove(&digest))
                && let Some(module) = module.id()
            {
                worker.outbox.push([ToWorker::Forget { module }]);
            }
        }
        let module = Arc::new(Module::default());
        module.last_use.store(now, Ordering::Relaxed);
        kept.insert(file.digest, Arc::clone(&module));
        module
    }

    /// Removes a module that could not be loaded, unless somebody else is trying.
    fn remove_unused(&self, file: &ModuleFile, module: &Arc<Module>) {
        let mut kept = lock(&self.kept);
        let same = kept
            .get(&file.digest)
            .is_some_and(|kept| Arc::ptr_eq(kept, module));
        // Held by the map and by the caller.
        if same && Arc::strong_count(module) <= 2 && module.id().is_none() {
            kept.remove(&file.digest);
        }
    }
}

/// A module on its way to a worker; dropped before it is there, it is called off.
struct Loading<'a> {
    worker: &'a Worker,
    module: ModuleId,
    done: bool,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if !self.done {
            lock(&self.worker.table).drop_compilation(self.module);
            let module = self.module;
            self.worker.outbox.push([ToWorker::Forget { module }]);
        }
    }
}

/// Sends a module to a worker and waits until it is compiled.
async fn load(
    worker: &Worker,
    file: &ModuleFile,
    progress: Option<&mpsc::Sender<PrepareProgress>>,
) -> Result<ModuleId, LoadError> {
    let _turn = TURNS.acquire().await;
    let content = file.read().await.map_err(LoadError::Failed)?;
    let total = content.len() as u64;
    let added = lock(&worker.table).add_compilation();
    let (module, compiled) = added.map_err(|Gone| LoadError::Gone)?;
    let mut loading = Loading {
        worker,
        module,
        done: false,
    };
    let start = ToWorker::Module {
        module,
        bytes: total,
    };
    let pieces = content
        .chunks(MODULE_PIECE_BYTES)
        .map(|piece| ToWorker::ModulePiece {
            module,
            bytes: piece.to_vec(),
        });
    worker.outbox.push(std::iter::once(start).chain(pieces));
    drop(content);
    if let Some(progress) = progress {
        let _ = progress.try_send(PrepareProgress { done: 0, total });
    }
    match compiled.await {
        Ok(Ok(())) => {
            loading.done = true;
            if let Some(progress) = progress {
                let done = total;
                let _ = progress.try_send(PrepareProgress { done, total });
            }
            Ok(module)
        }
        Ok(Err(why)) => Err(LoadError::Failed(Failure::new(
            FailureKind::BadProgram,
            format!("the WASM module cannot be run: {why}"),
        ))),
        Err(_) => Err(LoadError::Failed(worker.verdict())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn modules_wait_for_their_turn_before_they_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"module").unwrap();
        let turns = TURNS.acquire_many(AT_ONCE as u32).await.unwrap();
        let waiting = ModuleFile::open(file.path());
        let waited = tokio::time::timeout(Duration::from_millis(50), waiting).await;
        assert!(waited.is_err(), "it was read at once");
        drop(turns);
        let opened = ModuleFile::open(file.path()).await.unwrap();
        assert_eq!(opened.digest, Digest::of(b"module"));
    }
}
