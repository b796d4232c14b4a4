//! Images: at hand, or pulled.
//!
//! Owns how a reference becomes an image id. Tasks run by that id, so that a tag which moves between
//! two tasks of a job changes nothing. A reference comes from a stranger and ends up in a request's
//! path: nothing may pass that is not an image's name.

use std::collections::HashMap;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{CreateImageOptionsBuilder, ListImagesOptions};
use futures::StreamExt;
use p2pnode_protocol::task::{Failure, FailureKind};
use tokio::sync::mpsc;

use super::words;
use crate::PrepareProgress;

/// Docker's own limit for a name is 255; a tag may add 128 and a digest 72.
const MAX_REFERENCE_BYTES: usize = 512;

/// Images told in an advert, newest first: what [`crate::RuntimeReport`] promises.
const MAX_LISTED: usize = 64;

/// An image as its tasks need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// The engine's id of it.
    pub id: String,
    /// Folders that it declares as volumes.
    pub volumes: Vec<String>,
}

/// The image that `reference` names, pulled when it is not at hand.
///
/// # Errors
/// [`FailureKind::BadProgram`] when it is no image's name, [`FailureKind::ImageUnavailable`] when it
/// cannot be had, [`FailureKind::Host`] when the engine fails.
pub(super) async fn prepare(
    docker: &Docker,
    reference: &str,
    progress: &mpsc::Sender<PrepareProgress>,
) -> Result<Image, Failure> {
    check(reference).map_err(|why| {
        Failure::new(
            FailureKind::BadProgram,
            format!(
                "`{}` is not the name of an image: {why}",
                reference.escape_debug()
            ),
        )
    })?;
    if let Some(image) = at_hand(docker, reference).await? {
        return Ok(image);
    }
    tracing::info!(reference, "pulling an image");
    pull(docker, reference, progress).await?;
    at_hand(docker, reference)
        .await?
        .ok_or_else(|| unavailable(reference, "the engine pulled it and does not have it"))
}

async fn at_hand(docker: &Docker, reference: &str) -> Result<Option<Image>, Failure> {
    match docker.inspect_image(reference).await {
        Ok(found) => found_image(found).map(Some).ok_or_else(|| {
            Failure::new(
                FailureKind::Host,
                format!("the engine has the image {reference} and tells no id of it"),
            )
        }),
        Err(Error::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(None),
        Err(error) => Err(Failure::new(
            FailureKind::Host,
            format!(
                "the engine cannot say whether it has the image {reference}: {}",
                words(&error)
            ),
        )),
    }
}

fn found_image(found: ImageInspect) -> Option<Image> {
    Some(Image {
        id: found.id?,
        volumes: found
            .config
            .and_then(|config| config.volumes)
            .unwrap_or_default(),
    })
}

async fn pull(
    docker: &Docker,
    reference: &str,
    progress: &mpsc::Sender<PrepareProgress>,
) -> Result<(), Failure> {
    let options = CreateImageOptionsBuilder::new()
        .from_image(&with_tag(reference))
        .build();
    let mut steps = docker.create_image(Some(options), None, None);
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
        // A full channel is not waited for: the next step tells more.
        let _ = progress.try_send(layers.update(&step));
    }
    Ok(())
}

fn unavailable(reference: &str, why: &str) -> Failure {
    Failure::new(
        FailureKind::ImageUnavailable,
        format!(
            "the image {reference} is not on this machine and cannot be pulled: {why}. Check its \
             name, or load it into the engine of this provider"
        ),
    )
}

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
            if downloading && number(detail.total) > 0 {
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

/// Without a tag the engine would pull every tag of the name.
fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains([':', '@']) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

/// Whether `reference` can be an image's name. The engine judges the rest; this keeps out whatever
/// could change the meaning of the request it is put into.
fn check(reference: &str) -> Result<(), &'static str> {
    if reference.is_empty() {
        return Err("it is empty");
    }
    if reference.len() > MAX_REFERENCE_BYTES {
        return Err("it is too long");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if !reference.chars().all(allowed) {
        return Err("only letters, digits and ._-/:@ may be in it");
    }
    let starts_well = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !reference.split('/').all(starts_well) {
        return Err("every part between slashes must begin with a letter or a digit");
    }
    Ok(())
}

/// Names of the images at hand, newest first.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn list(docker: &Docker) -> Result<Vec<String>, Error> {
    let mut images = docker.list_images(None::<ListImagesOptions>).await?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let names = images.into_iter().flat_map(|image| image.repo_tags);
    Ok(names
        .filter(|name| !name.contains("<none>"))
        .take(MAX_LISTED)
        .map(|name| short(&name).to_owned())
        .collect())
}

/// A name as people write it: Podman puts in front where an image would be pulled from.
fn short(name: &str) -> &str {
    ["docker.io/library/", "docker.io/", "localhost/"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn only_names_pass() {
        for good in [
            "busybox",
            "blender:4",
            "ghcr.io/owner/name_x.y:v1.2-rc",
            "localhost:5000/a/b@sha256:00ff",
            "sha256:00ff",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = "a".repeat(MAX_REFERENCE_BYTES + 1);
        for bad in [
            "", "a b", "a/../b", "../x", "a//b", "/a", "-x", "a?all=1", "a#b", "a%2fb", "ä", "a\n",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_told_as_people_write_them() {
        assert_eq!(short("docker.io/library/busybox:1"), "busybox:1");
        assert_eq!(short("docker.io/a/b:1"), "a/b:1");
        assert_eq!(short("localhost/a:1"), "a:1");
        assert_eq!(short("localhost:5000/a:1"), "localhost:5000/a:1");
        assert_eq!(short("quay.io/a:1"), "quay.io/a:1");
    }

    #[test]
    fn one_tag_is_pulled() {
        assert_eq!(with_tag("a"), "a:latest");
        assert_eq!(with_tag("host:5000/a"), "host:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
        assert_eq!(with_tag("a@sha256:00"), "a@sha256:00");
    }

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
}
