//! The images that this node brought: which are in use, and which go when they are too many.
//!
//! Owns the [`Ledger`] and the leases. An image is removed only when this node brought it, nothing of
//! ours uses it, and the engine agrees: names are removed, never an image by force, so that one which
//! the owner has named or a container holds stays. Called after every preparation and by the probe.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use bollard::query_parameters::{RemoveImageOptions, RemoveImageOptionsBuilder};
use p2pnode_protocol::Bytes;

use super::ledger::{Entry, FILE, Ledger, Origin};
use super::reference::{canonical, short};
use crate::docker::words;

/// All about the images that this node brought.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    quota: Option<Bytes>,
    state: Mutex<State>,
    /// One at a time writes the file, and one at a time removes images.
    saving: tokio::sync::Mutex<()>,
    trimming: tokio::sync::Mutex<()>,
    /// Something was given back or came since the last look.
    stirred: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    ledger: Option<Ledger>,
    leases: HashMap<String, usize>,
}

/// While it lives, its image is not removed.
#[derive(Debug)]
pub(super) struct Lease {
    cache: Arc<Cache>,
    id: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        if let Some(count) = state.leases.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(&self.id);
            }
        }
        self.cache.stirred.store(true, Ordering::Relaxed);
    }
}

impl Cache {
    /// Its file is in `dir`; read at the first use.
    pub(super) fn new(dir: &Path, quota: Option<Bytes>) -> Arc<Self> {
        Arc::new(Self {
            path: dir.join(FILE),
            quota,
            state: Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            trimming: tokio::sync::Mutex::default(),
            stirred: AtomicBool::new(true),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut state = self.state();
        act(state.ledger.get_or_insert_with(|| Ledger::load(&self.path)))
    }

    /// Keeps an image from being removed, from now on. It may have gone until now: look again.
    pub(super) async fn lease(self: &Arc<Self>, id: &str) -> Lease {
        let _not_while_removing = self.trimming.lock().await;
        *self.state().leases.entry(id.to_owned()).or_insert(0) += 1;
        Lease {
            cache: Arc::clone(self),
            id: id.to_owned(),
        }
    }

    /// How this node brought an image, and by which names; `None` when it did not.
    pub(super) fn standing(&self, id: &str) -> Option<(Origin, BTreeSet<String>)> {
        self.with(|ledger| {
            let entry = ledger.get(id)?;
            Some((entry.origin, entry.names.clone()))
        })
    }

    /// Notes that an image came by a name. `brought`: it was not here before.
    pub(super) async fn note(
        &self,
        found: &ImageInspect,
        name: &str,
        origin: Origin,
        brought: bool,
    ) {
        let Some(id) = &found.id else { return };
        let entry = Entry {
            origin,
            brought,
            names: BTreeSet::new(),
            used_s: now_s(),
            bytes: found
                .size
                .and_then(|size| size.try_into().ok())
                .unwrap_or(0),
        };
        self.with(|ledger| ledger.note(id, &canonical(name), entry));
        self.stirred.store(true, Ordering::Relaxed);
        self.save().await;
    }

    /// Notes that an image is used.
    pub(super) async fn touch(&self, id: &str) {
        if self.with(|ledger| ledger.touch(id, now_s())) {
            self.save().await;
        }
    }

    async fn save(&self) {
        let _one = self.saving.lock().await;
        let (ledger, path) = (self.with(|ledger| ledger.clone()), self.path.clone());
        let saved = tokio::task::spawn_blocking(move || ledger.save(&path)).await;
        if let Ok(Err(error)) = saved {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the list of images brought here cannot be written");
        }
    }

    /// Whether a look at what may go is worth it.
    pub(super) fn is_due(&self) -> bool {
        let over = |quota: Bytes| self.with(|ledger| ledger.bytes()) > quota.0;
        self.quota.is_some_and(over) && self.stirred.load(Ordering::Relaxed)
    }

    /// Removes what is unused, the longest unused first, until the rest is within the quota.
    pub(super) async fn trim(&self, docker: &Docker) {
        let Some(quota) = self.quota else { return };
        let _one = self.trimming.lock().await;
        self.stirred.store(false, Ordering::Relaxed);
        let mut changed = false;
        for id in self.with(|ledger| ledger.oldest_first()) {
            if self.with(|ledger| ledger.bytes()) <= quota.0 {
                break;
            }
            if self.state().leases.contains_key(&id) {
                continue;
            }
            changed |= self.remove(docker, &id).await;
        }
        if changed {
            self.save().await;
        }
    }

    /// Removes one image as far as it is ours. True when it is off the list.
    async fn remove(&self, docker: &Docker, id: &str) -> bool {
        let found = match docker.inspect_image(id).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => {
                self.with(|ledger| ledger.forget(id));
                return true;
            }
            Err(error) => {
                tracing::debug!(id, error = words(&error), "cannot look at an image");
                return false;
            }
        };
        let Some(names) = self.with(|ledger| ledger.get(id).map(|entry| entry.names.clone()))
        else {
            return false;
        };
        let ours = |name: &&String| names.contains(short(name)) || names.contains(&canonical(name));
        let tags = found.repo_tags.unwrap_or_default();
        let digests = found.repo_digests.unwrap_or_default();
        let mut gone: Vec<_> = tags.iter().filter(ours).collect();
        let owners = tags.len() > gone.len();
        if gone.is_empty() {
            gone.extend(digests.iter().filter(ours));
        }
        // Not a name of ours is left: the owner has taken them away, or named it himself.
        let theirs = owners || (gone.is_empty() && !(tags.is_empty() && digests.is_empty()));
        let targets: Vec<&str> = match (gone.is_empty(), theirs) {
            (true, true) => Vec::new(),
            (true, false) => vec![id],
            (false, _) => gone.into_iter().map(String::as_str).collect(),
        };
        for name in targets {
            match docker
                .remove_image(name, None::<RemoveImageOptions>, None)
                .await
            {
                Ok(_) => {}
                Err(error) if is_missing(&error) => {}
                // 409: a container of the owner's holds it.
                Err(error) => {
                    tracing::debug!(name, error = words(&error), "an image stays");
                    return false;
                }
            }
        }
        tracing::info!(id, ?names, "removed an image that was not used lately");
        self.with(|ledger| ledger.forget(id));
        true
    }
}

/// Removes a name, and the image with it when it was the last one; quietly, since it is about what
/// is of no use any more.
pub(super) async fn discard(docker: &Docker, name: &str) {
    let options = RemoveImageOptionsBuilder::new().build();
    match docker.remove_image(name, Some(options), None).await {
        Ok(_) => {}
        Err(error) if is_missing(&error) => {}
        Err(error) => tracing::debug!(name, error = words(&error), "an image stays"),
    }
}

/// Whether the engine says that there is no such thing.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(
        error,
        Error::DockerResponseServerError {
            status_code: 404,
            ..
        }
    )
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leases_are_counted_and_use_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), Some(Bytes(5)));
        let found = ImageInspect {
            id: Some("sha256:a".into()),
            size: Some(10),
            ..ImageInspect::default()
        };
        assert!(!cache.is_due());
        cache.note(&found, "a", Origin::Made, true).await;
        assert!(cache.is_due());
        let (first, second) = (cache.lease("sha256:a").await, cache.lease("sha256:a").await);
        drop(first);
        assert_eq!(cache.state().leases.get("sha256:a"), Some(&1));
        drop(second);
        assert!(cache.state().leases.is_empty());
        // A later life of the node knows it.
        let later = Cache::new(dir.path(), None);
        let (origin, names) = later.standing("sha256:a").unwrap();
        assert_eq!((origin, names.len()), (Origin::Made, 1));
        assert!(names.contains("a:latest") && later.standing("sha256:b").is_none());
        assert!(!later.is_due(), "without a quota nothing ever goes");
    }
}
