//! The names of the images at hand, for the advert.
//!
//! Only names that a submitter could use: not those of what others had made, and not those of what
//! was pulled with somebody's credentials.

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::ListImagesOptions;

use super::cache::Cache;
use super::ledger::Origin;
use super::reference::{OWN_PREFIX, PRIVATE_PREFIX, canonical, repository, short};

/// Images told in an advert, newest first: what [`crate::RuntimeReport`] promises.
const MAX_LISTED: usize = 64;

/// Names of the images at hand, newest first.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn list(docker: &Docker, cache: &Cache) -> Result<Vec<String>, Error> {
    let mut images = docker.list_images(None::<ListImagesOptions>).await?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let mut listed = Vec::new();
    for image in images {
        let private = cache
            .standing(&image.id)
            .filter(|(origin, _)| *origin == Origin::Private);
        let marked = |name: &String| name.starts_with(PRIVATE_PREFIX);
        // Marked by another node on this engine, or before this one lost its list.
        let unknown = cache.standing(&image.id).is_none() && image.repo_tags.iter().any(marked);
        for name in &image.repo_tags {
            let secret = unknown
                || private.as_ref().is_some_and(|(_, ours)| {
                    let name = canonical(name);
                    ours.iter()
                        .any(|ours| repository(ours) == repository(&name))
                });
            if listed.len() == MAX_LISTED {
                return Ok(listed);
            }
            if !secret && !name.contains("<none>") && !name.starts_with(OWN_PREFIX) {
                listed.push(short(name).to_owned());
            }
        }
    }
    Ok(listed)
}
