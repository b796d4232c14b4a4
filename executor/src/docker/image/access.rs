//! Who may have an image that is on the engine already.
//!
//! What the owner put there is for everybody whom the owner lets run tasks. What was pulled with
//! credentials is only for those to whom the registry would give it now: it is asked, every time, with
//! what they present. What was in somebody's archive or was built for somebody can't be had by any
//! reference, until the owner gives it a name. The mark of a private image is a name on the engine, so
//! that it holds for every node there, and when this one has lost its list.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::Docker;
use bollard::models::ImageInspect;
use bollard::query_parameters::TagImageOptionsBuilder;
use p2pnode_protocol::task::{Failure, FailureKind};

use super::ledger::Origin;
use super::reference::{OWN_PREFIX, PRIVATE_PREFIX, canonical, repository};
use crate::docker::words;

/// Who may have an image that is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    Everybody,
    AskTheRegistry,
    Nobody,
}

/// Who may have the image `found` under the name `reference`. `standing` is what the list of images
/// brought here says of it; `arriving`: one of its names is being pulled with credentials.
pub(super) fn who_may(
    standing: Option<(Origin, BTreeSet<String>)>,
    arriving: bool,
    reference: &str,
    found: &ImageInspect,
) -> May {
    let marked = |prefix: &str| {
        let mut tags = found.repo_tags.iter().flatten();
        tags.any(|tag| tag.starts_with(prefix))
    };
    let (origin, ours) = match standing {
        Some(standing) => standing,
        // Another node on this engine brought it, or this one before it lost its list.
        None if arriving || marked(PRIVATE_PREFIX) => (Origin::Private, BTreeSet::new()),
        None if marked(OWN_PREFIX) => (Origin::Made, BTreeSet::new()),
        None => return May::Everybody,
    };
    if origin == Origin::Public {
        return May::Everybody;
    }
    // An id, or the beginning of one, can be found by trying.
    if !is_named(reference, found) {
        return May::Nobody;
    }
    let wanted = canonical(reference);
    let pulled_from_there = |name: &String| repository(name) == repository(&wanted);
    let unknown = origin == Origin::Private && ours.is_empty();
    if unknown || ours.iter().any(pulled_from_there) {
        May::AskTheRegistry
    } else {
        // The owner has named it.
        May::Everybody
    }
}

/// Whether `reference` is one of the image's names, as opposed to its id.
pub(super) fn is_named(reference: &str, found: &ImageInspect) -> bool {
    let wanted = canonical(reference);
    let names = [&found.repo_tags, &found.repo_digests];
    let mut names = names.into_iter().flatten().flatten();
    names.any(|name| canonical(name) == wanted)
}

/// Marks an image as one for which the registry is to be asked, and returns the mark.
///
/// # Errors
/// [`FailureKind::Host`] when the engine does not do it.
pub(super) async fn mark(docker: &Docker, id: &str) -> Result<String, Failure> {
    let tag = id.trim_start_matches("sha256:");
    let mark = format!("{PRIVATE_PREFIX}{tag}");
    let repository = repository(&mark).to_owned();
    let options = TagImageOptionsBuilder::new()
        .repo(&repository)
        .tag(tag)
        .build();
    match docker.tag_image(id, Some(options)).await {
        Ok(()) => Ok(mark),
        Err(error) => Err(Failure::new(
            FailureKind::Host,
            format!("a private image cannot be marked as one: {}", words(&error)),
        )),
    }
}

/// What is being pulled with credentials, and not marked yet.
#[derive(Debug, Default)]
pub(super) struct Arriving(Mutex<Vec<String>>);

/// While it lives, its repository is arriving.
#[derive(Debug)]
pub(super) struct Arrival<'a>(&'a Arriving, String);

impl Arriving {
    fn list(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pull of `reference` with credentials begins.
    pub(super) fn begin(&self, reference: &str) -> Arrival<'_> {
        let repository = repository(reference).to_owned();
        self.list().push(repository.clone());
        Arrival(self, repository)
    }

    /// Whether one of the image's names is of what arrives.
    pub(super) fn has(&self, found: &ImageInspect) -> bool {
        let list = self.list();
        let names = [&found.repo_tags, &found.repo_digests];
        let mut names = names.into_iter().flatten().flatten();
        names.any(|name| list.iter().any(|arriving| arriving == repository(name)))
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut list = self.0.list();
        if let Some(at) = list.iter().position(|name| *name == self.1) {
            list.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_have_an_image_depends_on_how_it_came() {
        let found = ImageInspect {
            id: Some("sha256:00ff".into()),
            repo_tags: Some(vec!["r.example/a:1".into(), "owners:1".into()]),
            repo_digests: Some(vec!["r.example/a@sha256:11".into()]),
            ..ImageInspect::default()
        };
        let names = |name: &str| BTreeSet::from([name.to_owned()]);
        let private = || Some((Origin::Private, names("r.example/a:1")));
        let made = || Some((Origin::Made, names("p2pnode.invalid/build:00")));
        for (standing, reference, expected) in [
            (None, "sha256:00ff", May::Everybody),
            (
                Some((Origin::Public, names("r.example/a:1"))),
                "00ff",
                May::Everybody,
            ),
            (private(), "r.example/a:1", May::AskTheRegistry),
            (private(), "r.example/a@sha256:11", May::AskTheRegistry),
            (private(), "r.example/a:9@sha256:11", May::AskTheRegistry),
            (private(), "owners:1", May::Everybody),
            (private(), "sha256:00ff", May::Nobody),
            (private(), "00f", May::Nobody),
            (made(), "00f", May::Nobody),
            (made(), "sha256:00ff", May::Nobody),
            (made(), "owners:1", May::Everybody),
        ] {
            assert_eq!(
                who_may(standing, false, reference, &found),
                expected,
                "{reference}"
            );
        }
    }

    #[test]
    fn marks_hold_without_the_list() {
        let found = |mark: &str| ImageInspect {
            id: Some("sha256:00ff".into()),
            repo_tags: Some(vec!["a:1".into(), format!("{mark}00ff")]),
            ..ImageInspect::default()
        };
        let private = found(PRIVATE_PREFIX);
        assert_eq!(who_may(None, false, "a:1", &private), May::AskTheRegistry);
        assert_eq!(who_may(None, false, "00ff", &private), May::Nobody);
        let made = found("p2pnode.invalid/build:");
        assert_eq!(who_may(None, false, "a:1", &made), May::Everybody);
        assert_eq!(who_may(None, false, "00ff", &made), May::Nobody);
    }

    #[test]
    fn what_arrives_is_for_nobody_unasked() {
        let found = ImageInspect {
            repo_tags: Some(vec!["r.example/a:1".into()]),
            ..ImageInspect::default()
        };
        let arriving = Arriving::default();
        let (one, two) = (
            arriving.begin("r.example/a"),
            arriving.begin("r.example/a:1"),
        );
        drop(one);
        assert!(arriving.has(&found));
        assert_eq!(
            who_may(None, true, "r.example/a:1", &found),
            May::AskTheRegistry
        );
        assert_eq!(who_may(None, true, "00ff", &found), May::Nobody);
        drop(two);
        assert!(!arriving.has(&found));
    }
}
