//! Images that are built from a Dockerfile and its context.
//!
//! Owns the order in which a Dockerfile is carried out (`dockerfile` reads it, `words` fills in its
//! variables): instructions that run nothing go to the engine's builder (`segment`), each `RUN` is a
//! container of ours (`step`), and what `FROM` and `COPY --from` name is an image that the submitter
//! could run itself. The image is named by its context's content, so the next job with the same builds
//! nothing.
//!
//! Nothing but that image is left: whatever is made on the way carries the label [`BUILD`], and is
//! swept when the build ends, however it does, and when the node starts again.

mod budget;
mod context;
mod dockerfile;
mod options;
mod segment;
mod stages;
mod step;
mod tail;
mod words;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ImageInspect;
use bollard::query_parameters::{ListImagesOptionsBuilder, TagImageOptionsBuilder};
use p2pnode_protocol::Resources;
use p2pnode_protocol::task::{Failure, FailureKind};
use sha2::{Digest, Sha256};

use self::dockerfile::Recipe;
pub(super) use super::archive::architecture;
use super::cache::{Lease, discard};
use super::ledger::Origin;
use super::reference::OWN_PREFIX;
use super::room::Room;
use super::{Work, archive, pull};

/// `<owner>/<serial>` on whatever a build makes on its way; empty on the image that it ends with.
const BUILD: &str = "p2pnode.build";

/// What the failures call it.
const WHAT: &str = "the image to be built";

/// Looks for what a stopped build left, and the pause between two of them: the engine's builder ends
/// the instruction that it is at before it sees that nobody waits.
const LOOKS: u32 = 4;
const LOOK: Duration = Duration::from_millis(500);

/// The name of the image for a context of this digest and a Dockerfile in it.
pub(super) fn name(digest: &str, dockerfile: &str) -> String {
    let platform = architecture();
    let whole = [digest, dockerfile, platform].join("\0");
    let hash = archive::hex(&Sha256::digest(whole));
    format!("{OWN_PREFIX}build:{hash}")
}

/// What is to be built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub context: &'a Path,
    pub dockerfile: &'a str,
    pub digest: &'a str,
    pub resources: &'a Resources,
    /// Whether what it names may come from a registry on this machine or its network.
    pub local_registry: bool,
}

/// One build under way.
#[derive(Debug)]
struct Build<'a> {
    work: &'a Work,
    context: &'a Path,
    context_bytes: u64,
    resources: &'a Resources,
    local_registry: bool,
    recipe: Recipe,
    mark: String,
    room: Room,
    done: AtomicU64,
    /// Keeps the images that it builds upon.
    leases: Mutex<Vec<Lease>>,
}

impl Build<'_> {
    fn container_name(&self) -> String {
        self.work.shared.next_name()
    }

    /// `count` more instructions are carried out.
    fn went_on(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        self.work.steps.at(done, self.recipe.steps());
    }
}

/// The image that the Dockerfile in the context at `context` describes.
///
/// # Errors
/// [`FailureKind::BadProgram`] when it can't be built, with the last words of the step that failed;
/// [`FailureKind::ImageUnavailable`] when what it builds upon can't be had or there is no room;
/// [`FailureKind::Host`] when the engine fails.
pub(super) async fn build(work: &Work, wanted: &Wanted<'_>) -> Result<ImageInspect, Failure> {
    let Wanted {
        context,
        dockerfile,
        resources,
        local_registry,
        ..
    } = *wanted;
    let name = name(wanted.digest, dockerfile);
    if let Some(found) = pull::inspect(work.docker(), &name).await? {
        if work
            .cache()
            .standing(found.id.as_deref().unwrap_or(""))
            .is_none()
        {
            work.cache().note(&found, &name, Origin::Made, true).await;
        }
        return Ok(found);
    }
    let permit = async { Ok(work.shared.images.builds.acquire().await.ok()) };
    let _permit = work.unless_stopped(permit).await?;
    let (recipe, context_bytes) = read(context.to_path_buf(), dockerfile.to_owned()).await?;
    let serial = work.shared.serial.fetch_add(1, Ordering::Relaxed);
    let build = Build {
        work,
        context,
        context_bytes,
        resources,
        local_registry,
        recipe,
        mark: format!("{}/{serial}", work.shared.label),
        room: Room::of(work.docker()).await,
        done: AtomicU64::new(0),
        leases: Mutex::default(),
    };
    tracing::info!(image = name, "building an image");
    work.steps.at(0, build.recipe.steps());
    let built = match stages::run(&build).await {
        Ok(id) => keep(&build, &id, &name).await,
        Err(failure) => Err(failure),
    };
    if built.is_err() {
        discard(work.docker(), &name).await;
    }
    // Only one build of this life runs at a time, so all marks of this life are of builds that ended.
    let looks = if work.stop.is_cancelled() { LOOKS } else { 1 };
    for look in 0..looks {
        if look > 0 {
            tokio::time::sleep(LOOK).await;
        }
        sweep(work.docker(), |owner| owner == work.shared.label).await;
    }
    built
}

async fn read(context: PathBuf, dockerfile: String) -> Result<(Recipe, u64), Failure> {
    let shown = dockerfile.escape_debug().to_string();
    let read = move || {
        let text = context::dockerfile(&context, &dockerfile)?;
        Ok((text, context::measure(&context)?))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (text, bytes) =
        read.unwrap_or_else(|error| Err(error.into()))
            .map_err(|error: std::io::Error| {
                let theirs = [
                    std::io::ErrorKind::InvalidData,
                    std::io::ErrorKind::NotFound,
                ];
                let kind = if theirs.contains(&error.kind()) {
                    FailureKind::BadProgram
                } else {
                    FailureKind::Host
                };
                let why = format!("the build's context with `{shown}` cannot be read: {error}");
                Failure::new(kind, why)
            })?;
    let recipe = dockerfile::parse(&text).map_err(|why| {
        let why = format!("`{shown}` cannot be built: {why}");
        Failure::new(FailureKind::BadProgram, why)
    })?;
    Ok((recipe, bytes))
}

/// Gives the built image its name, and remembers it.
async fn keep(build: &Build<'_>, id: &str, name: &str) -> Result<ImageInspect, Failure> {
    let work = build.work;
    if work.stop.is_cancelled() {
        return Err(work.stopped());
    }
    let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let options = TagImageOptionsBuilder::new()
        .repo(repository)
        .tag(tag)
        .build();
    let tagged = work.docker().tag_image(id, Some(options)).await;
    tagged.map_err(|error| {
        let why = format!(
            "the built image cannot be named: {}",
            crate::docker::words(&error)
        );
        Failure::new(FailureKind::Host, why)
    })?;
    let found = pull::inspect(work.docker(), name).await?.ok_or_else(|| {
        let why = "the engine built the image and does not have it";
        Failure::new(FailureKind::Host, why)
    })?;
    work.cache().note(&found, name, Origin::Made, true).await;
    Ok(found)
}

/// Removes images without a name that builds of picked owners have left. What they were made from
/// goes with them, unless it has a name.
pub(super) async fn sweep(docker: &Docker, pick: impl Fn(&str) -> bool) {
    let filters = HashMap::from([("dangling", vec!["true"]), ("label", vec![BUILD])]);
    // An image that another was made from can only go after it: as often as there is something to do.
    loop {
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let Ok(listed) = docker.list_images(Some(options)).await else {
            return;
        };
        let mut removed = false;
        for image in listed {
            let mark = image
                .labels
                .get(BUILD)
                .and_then(|mark| mark.rsplit_once('/'));
            let named = image.repo_tags.iter().any(|name| !name.contains("<none>"));
            if named || !mark.is_some_and(|(owner, _)| pick(owner)) {
                continue;
            }
            discard(docker, &image.id).await;
            removed |= docker.inspect_image(&image.id).await.is_err();
        }
        if !removed {
            return;
        }
    }
}
