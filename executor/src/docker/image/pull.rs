//! Images by reference: at hand, or pulled, for whoever may have them.
//!
//! Owns how a reference becomes an image id, and who gets an image that is here already. What the
//! owner put on the engine is for everybody whom the owner lets run tasks. What this node pulled with
//! credentials is only for those to whom the registry would give it now: the registry is asked, every
//! time, with what they present. What was in somebody's archive or was built for somebody can't be had
//! by any reference. Credentials pass through here to the engine and are kept nowhere.

use std::collections::{BTreeSet, HashMap};

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptions, TagImageOptionsBuilder,
};
use futures::StreamExt;
use p2pnode_protocol::task::{Failure, FailureKind};

use super::Work;
use super::cache::is_missing;
use super::ledger::Origin;
use super::reference::{
    OWN_PREFIX, PRIVATE_PREFIX, canonical, check, registry, repository, with_tag,
};
use super::room::Room;
use crate::docker::words;
use crate::{Credentials, PrepareProgress};

/// The image that `reference` names, pulled when it is not at hand.
///
/// # Errors
/// [`FailureKind::BadProgram`] when it is no image's name, [`FailureKind::ImageUnavailable`] when it
/// cannot be had, [`FailureKind::Host`] when the engine fails.
pub(super) async fn resolve(
    work: &Work,
    reference: &str,
    credentials: Option<&Credentials>,
) -> Result<ImageInspect, Failure> {
    check(reference).map_err(|why| {
        Failure::new(
            FailureKind::BadProgram,
            format!(
                "`{}` is not the name of an image: {why}",
                reference.escape_debug()
            ),
        )
    })?;
    let docker = work.docker();
    if let Some(found) = inspect(docker, reference).await? {
        let standing = work.cache().standing(found.id.as_deref().unwrap_or(""));
        match who_may(standing, reference, &found) {
            May::Everybody => return Ok(found),
            May::Nobody => {
                return Err(unavailable(reference, "there is no image of this name"));
            }
            May::AskTheRegistry => match ask(docker, reference, credentials).await {
                Ok(()) => return Ok(found),
                // Podman cannot ask; it can pull, for which the registry is asked for a tag, though
                // not always for a digest.
                Err(error) if reference.contains('@') => {
                    return Err(unavailable(reference, &words(&error)));
                }
                Err(_) => {}
            },
        }
    }
    tracing::info!(reference, "pulling an image");
    let before = ids(docker).await?;
    let what = format!("the image {reference}");
    let room = Room::of(docker).await;
    work.unless_stopped(room.watched(&what, pull(work, &room, reference, credentials)))
        .await?;
    let found = inspect(docker, reference)
        .await?
        .ok_or_else(|| unavailable(reference, "the engine pulled it and does not have it"))?;
    // Credentials are shown for public images as well: some registries give more to those they know.
    let private = credentials.is_some() && ask(docker, reference, None).await.is_err();
    let origin = if private {
        Origin::Private
    } else {
        Origin::Public
    };
    let brought = found.id.as_ref().is_some_and(|id| !before.contains(id));
    if private {
        let mark = mark(docker, found.id.as_deref().unwrap_or("")).await?;
        work.cache().note(&found, &mark, origin, brought).await;
    }
    work.cache().note(&found, reference, origin, brought).await;
    Ok(found)
}

/// Marks an image as one for which the registry is to be asked, and returns the mark.
async fn mark(docker: &Docker, id: &str) -> Result<String, Failure> {
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

/// Who may have an image that is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    Everybody,
    AskTheRegistry,
    Nobody,
}

fn who_may(
    standing: Option<(Origin, BTreeSet<String>)>,
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
        None if marked(PRIVATE_PREFIX) => (Origin::Private, BTreeSet::new()),
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

/// What the engine has under a name or id.
///
/// # Errors
/// [`FailureKind::Host`] when it does not say.
pub(super) async fn inspect(
    docker: &Docker,
    reference: &str,
) -> Result<Option<ImageInspect>, Failure> {
    match docker.inspect_image(reference).await {
        Ok(found) if found.id.is_some() => Ok(Some(found)),
        Ok(_) => Err(Failure::new(
            FailureKind::Host,
            format!("the engine has the image {reference} and tells no id of it"),
        )),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(Failure::new(
            FailureKind::Host,
            format!(
                "the engine cannot say whether it has the image {reference}: {}",
                words(&error)
            ),
        )),
    }
}

/// Whether the registry gives the image to whoever presents these credentials, or none.
async fn ask(
    docker: &Docker,
    reference: &str,
    credentials: Option<&Credentials>,
) -> Result<(), Error> {
    let shown = credentials.map(|credentials| shown(reference, credentials));
    let name = with_tag(reference);
    docker
        .inspect_registry_image(&name, shown)
        .await
        .map(|_| ())
}

fn shown(reference: &str, credentials: &Credentials) -> DockerCredentials {
    DockerCredentials {
        username: Some(credentials.username.clone()),
        password: Some(credentials.password.clone()),
        serveraddress: Some(registry(reference)),
        ..DockerCredentials::default()
    }
}

async fn ids(docker: &Docker) -> Result<BTreeSet<String>, Failure> {
    let listed = docker.list_images(None::<ListImagesOptions>).await;
    let listed = listed.map_err(|error| {
        let why = format!("the engine does not list its images: {}", words(&error));
        Failure::new(FailureKind::Host, why)
    })?;
    Ok(listed.into_iter().map(|image| image.id).collect())
}

async fn pull(
    work: &Work,
    room: &Room,
    reference: &str,
    credentials: Option<&Credentials>,
) -> Result<(), Failure> {
    let options = CreateImageOptionsBuilder::new()
        .from_image(&with_tag(reference))
        .build();
    let shown = credentials.map(|credentials| shown(reference, credentials));
    let mut steps = work.docker().create_image(Some(options), None, shown);
    let mut layers = Layers::default();
    while let Some(step) = steps.next().await {
        let step = step.map_err(|error| unavailable(reference, &words(&error)))?;
        if let Some(why) = step
            .error_detail
            .as_ref()
            .and_then(|detail| detail.message.as_deref())
        {
            return Err(unavailable(reference, why));
        }
        let PrepareProgress { done, total } = layers.update(&step);
        // Unpacked it is larger still, but what does not fit as it travels never will.
        room.check(
            &format!("the image {reference}"),
            total.saturating_sub(done),
        )?;
        work.steps.at(done, total);
    }
    Ok(())
}

fn unavailable(reference: &str, why: &str) -> Failure {
    Failure::new(
        FailureKind::ImageUnavailable,
        format!(
            "the image {reference} is not on this machine and cannot be pulled: {why}. Check its \
             name and, if it is a private one, the credentials, or load it into the engine of this \
             provider"
        ),
    )
}

/// Layers of one image counted at most: engines take no image with more than some 125.
const MAX_LAYERS: usize = 1_024;

/// Bytes of an image's layers, as a pull reports them one by one.
#[derive(Debug, Default)]
struct Layers(HashMap<String, PrepareProgress>);

impl Layers {
    fn update(&mut self, step: &CreateImageInfo) -> PrepareProgress {
        let downloading = step.status.as_deref() == Some("Downloading");
        if let (Some(layer), Some(detail)) = (&step.id, &step.progress_detail) {
            let number = |value: Option<i64>| {
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .unwrap_or(0)
            };
            let known = self.0.contains_key(layer) || self.0.len() < MAX_LAYERS;
            if downloading && known && number(detail.total) > 0 {
                let (done, total) = (number(detail.current), number(detail.total));
                self.0
                    .insert(layer.clone(), PrepareProgress { done, total });
            }
        }
        if step.status.as_deref() == Some("Download complete")
            && let Some(layer) = step.id.as_ref().and_then(|id| self.0.get_mut(id))
        {
            layer.done = layer.total;
        }
        self.0
            .values()
            .fold(PrepareProgress::default(), |sum, layer| PrepareProgress {
                done: sum.done.saturating_add(layer.done),
                total: sum.total.saturating_add(layer.total),
            })
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn progress_is_the_sum_of_layers() {
        let step = |id: &str, status: &str, current, total| CreateImageInfo {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail: Some(ProgressDetail { current, total }),
            ..CreateImageInfo::default()
        };
        let mut layers = Layers::default();
        layers.update(&step("a", "Downloading", Some(10), Some(100)));
        let sum = layers.update(&step("b", "Downloading", Some(5), Some(50)));
        assert_eq!(
            sum,
            PrepareProgress {
                done: 15,
                total: 150
            }
        );
        layers.update(&step("a", "Extracting", Some(1), Some(100)));
        let sum = layers.update(&step("a", "Download complete", None, None));
        assert_eq!(
            sum,
            PrepareProgress {
                done: 105,
                total: 150
            }
        );
        let odd = layers.update(&step("c", "Downloading", Some(-1), Some(-1)));
        assert_eq!(odd, sum);
    }

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
                who_may(standing, reference, &found),
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
        assert_eq!(who_may(None, "a:1", &private), May::AskTheRegistry);
        assert_eq!(who_may(None, "00ff", &private), May::Nobody);
        let made = found("p2pnode.invalid/build:");
        assert_eq!(who_may(None, "a:1", &made), May::Everybody);
        assert_eq!(who_may(None, "00ff", &made), May::Nobody);
    }

    #[test]
    fn credentials_are_for_the_registry_of_the_image() {
        let credentials = Credentials {
            username: "u".into(),
            password: "p".into(),
        };
        let shown = shown("r.example/a:1", &credentials);
        assert_eq!(shown.serveraddress.as_deref(), Some("r.example"));
        assert_eq!(shown.username.as_deref(), Some("u"));
    }
}
