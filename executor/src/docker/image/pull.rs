//! Images by reference: at hand, or pulled, for whoever may have them.
//!
//! Owns how a reference becomes an image id; who gets an image that is here already is said in
//! `access`. Credentials pass through here to the engine, for the registry that the reference names,
//! and are kept nowhere.

use std::collections::{BTreeSet, HashMap};

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{CreateImageOptionsBuilder, ListImagesOptions};
use futures::StreamExt;
use p2pnode_protocol::task::{Failure, FailureKind};

use super::Work;
use super::access::{May, mark, who_may};
use super::cache::{discard, is_missing};
use super::ledger::Origin;
use super::reference::{check, registry, with_tag};
use super::registry::{Problem, permitted, told};
use super::room::Room;
use crate::docker::words;
use crate::{Credentials, PrepareProgress};

/// The image that `reference` names, pulled when it is not at hand: from a public registry, unless
/// `local_registry`.
///
/// # Errors
/// [`FailureKind::BadProgram`] when it is no image's name, [`FailureKind::ImageUnavailable`] when it
/// cannot be had, [`FailureKind::Host`] when the engine fails.
pub(super) async fn resolve(
    work: &Work,
    reference: &str,
    credentials: Option<&Credentials>,
    local_registry: bool,
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
        let arriving = work.shared.images.arriving.has(&found);
        match who_may(standing, arriving, reference, &found) {
            May::Everybody => return Ok(found),
            May::Nobody => return Err(Problem::NotFound.of(reference)),
            May::AskTheRegistry => {
                permitted(&work.shared.gate, reference, local_registry).await?;
                match ask(docker, reference, credentials).await {
                    Ok(()) => return Ok(found),
                    // Podman cannot ask; it can pull, for which the registry is asked for a tag, though
                    // not always for a digest.
                    Err(error) if reference.contains('@') => {
                        return Err(told(reference, &words(&error)));
                    }
                    Err(_) => {}
                }
            }
        }
    }
    permitted(&work.shared.gate, reference, local_registry).await?;
    tracing::info!(reference, "pulling an image");
    let before = ids(docker).await?;
    // Until it is known whether it is private, and marked as such, nobody gets it unasked.
    let _arriving = credentials.map(|_| work.shared.images.arriving.begin(reference));
    let what = format!("the image {reference}");
    let room = Room::of(docker).await;
    work.unless_stopped(room.watched(&what, pull(work, &room, reference, credentials)))
        .await?;
    let found = inspect(docker, reference)
        .await?
        .ok_or_else(|| Problem::Other.of(reference))?;
    // Credentials are shown for public images as well: some registries give more to those they know.
    let private = credentials.is_some() && ask(docker, reference, None).await.is_err();
    let origin = if private {
        Origin::Private
    } else {
        Origin::Public
    };
    let brought = found.id.as_ref().is_some_and(|id| !before.contains(id));
    if private {
        let id = found.id.as_deref().unwrap_or("");
        let mark = match mark(docker, id).await {
            Ok(mark) => mark,
            Err(failure) => {
                discard(docker, &with_tag(reference)).await;
                return Err(failure);
            }
        };
        work.cache().note(&found, &mark, origin, brought).await;
    }
    work.cache().note(&found, reference, origin, brought).await;
    Ok(found)
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
        let step = step.map_err(|error| told(reference, &words(&error)))?;
        if let Some(why) = step
            .error_detail
            .as_ref()
            .and_then(|detail| detail.message.as_deref())
        {
            return Err(told(reference, why));
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
