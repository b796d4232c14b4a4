//! Images that travel as archives: checked here, and told to the engine in words of ours.
//!
//! The engine never sees the archive itself, but one that is written anew from it (`write`): one
//! configuration, its layers, and one name under this node's own prefix. So an archive's tags can't
//! take a name of the owner's, not for a moment; what nothing names stays behind; and a layout of OCI
//! becomes what every engine can read. `walk` and `plan` find the parts, `layer` checks them, all
//! before the engine is asked for anything.

mod layer;
mod plan;
mod walk;
mod write;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::ImageInspect;
use bollard::query_parameters::ImportImageOptionsBuilder;
use futures::StreamExt;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use self::layer::{Measure, TooLarge};
use self::plan::Plan;
pub(super) use self::plan::architecture;
use super::flight::Steps;
use super::ledger::Origin;
use super::reference::OWN_PREFIX;
use super::room::{Room, too_large};
use super::{Work, cache, name_part, pull};
use crate::docker::words;

/// What the failures call it.
const WHAT: &str = "the image in the archive";

/// How long a load that was stopped is waited for, so that what an engine goes on with is removed again.
/// One that takes longer may leave an image under a name of ours; the next who wants it finds it.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// How bytes are compressed, by how they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Other,
}

fn packing(magic: &[u8]) -> Packing {
    let begins = |with: &[u8]| magic.starts_with(with);
    if begins(&[0x1f, 0x8b]) {
        return Packing::Gzip;
    }
    let zstd = [0x28, 0xb5, 0x2f, 0xfd];
    let xz = [0xfd, b'7', b'z', b'X', b'Z', 0];
    if begins(&zstd) || begins(&xz) || begins(b"BZh") {
        return Packing::Other;
    }
    Packing::Plain
}

/// Whether bytes that begin so are not compressed in a way that builders unpack.
pub(super) fn is_plain(magic: &[u8]) -> bool {
    packing(magic) == Packing::Plain
}

/// Bytes as hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An archive that was read and found good.
#[derive(Debug)]
struct Checked {
    file: File,
    plan: Plan,
    measures: Vec<Measure>,
}

impl Checked {
    /// The configuration's digest in hex.
    fn id(&self) -> String {
        hex(&Sha256::digest(&self.plan.config))
    }

    /// Bytes that the engine needs: it lays the archive down first, and unpacks it then.
    fn needs(&self) -> u64 {
        let of = |measure: &Measure| measure.plain.saturating_add(measure.on_disk);
        self.measures
            .iter()
            .fold(0, |sum, measure| sum.saturating_add(of(measure)))
    }
}

/// The image in the archive at `path`, whose content has this digest.
///
/// # Errors
/// [`FailureKind::BadProgram`] when it is no image for this machine, [`FailureKind::ImageUnavailable`]
/// when there is no room for it, [`FailureKind::Host`] when the engine or the disk fails.
pub(super) async fn load(work: &Work, path: &Path, digest: &str) -> Result<ImageInspect, Failure> {
    let Some(part) = name_part(digest) else {
        let why = "the archive has a digest that cannot be part of a name";
        return Err(Failure::new(FailureKind::Host, why));
    };
    let name = format!("{OWN_PREFIX}archive:{part}");
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
    let permit = async { Ok(work.shared.images.loads.acquire().await.ok()) };
    let _permit = work.unless_stopped(permit).await?;
    let room = Room::of(work.docker()).await;
    let checked = check(work, path, &room).await?;
    room.check(WHAT, checked.needs())?;
    let id = checked.id();
    let was_here = pull::inspect(work.docker(), &format!("sha256:{id}")).await?;
    let layers: Vec<_> = checked
        .plan
        .layers
        .iter()
        .map(|l| l.plain.clone())
        .collect();
    tracing::info!(image = id, "loading an image from an archive");
    let result = match send(work, &room, checked, &name).await {
        Ok(()) => verify(work, &name, &id, &layers).await,
        Err(failure) => Err(failure),
    };
    match result {
        Ok(found) if !work.stop.is_cancelled() => {
            let brought = was_here.is_none();
            work.cache()
                .note(&found, &name, Origin::Made, brought)
                .await;
            Ok(found)
        }
        other => {
            // Also after an error: the engine may have had it before its answer was lost.
            cache::discard(work.docker(), &name).await;
            other.and_then(|_| Err(work.stopped()))
        }
    }
}

/// Reads the whole archive, off the async threads.
async fn check(work: &Work, path: &Path, room: &Room) -> Result<Checked, Failure> {
    let left = room.left();
    let (path, steps, stop) = (path.to_path_buf(), work.steps.clone(), work.stop.clone());
    let read = move || read(&path, left.unwrap_or(u64::MAX), &steps, &stop);
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.unwrap_or_else(|error| Err(error.into()));
    read.map_err(|error| {
        let large = error.get_ref().and_then(|of| of.downcast_ref::<TooLarge>());
        match (error.kind(), large) {
            (_, Some(large)) => {
                let size = format!("at least {}", Bytes(large.0));
                too_large(WHAT, &size, left.unwrap_or(0))
            }
            (io::ErrorKind::ConnectionAborted, _) => work.stopped(),
            (io::ErrorKind::InvalidData, _) => Failure::new(
                FailureKind::BadProgram,
                format!("the archive cannot be used as an image: {error}"),
            ),
            _ => Failure::new(
                FailureKind::Host,
                format!("the archive cannot be read here: {error}"),
            ),
        }
    })
}

fn read(path: &PathBuf, left: u64, steps: &Steps, stop: &CancellationToken) -> io::Result<Checked> {
    let file = File::open(path)?;
    let plan = plan::read(&file)?;
    let total = plan
        .layers
        .iter()
        .fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    let (mut done, mut room) = (0, left);
    let mut measures = Vec::with_capacity(plan.layers.len());
    for layer in &plan.layers {
        let measure = layer::measure(&file, layer, room, stop, |bytes| {
            done += bytes;
            steps.at(done, total);
        })?;
        room = room.saturating_sub(measure.on_disk);
        measures.push(measure);
    }
    Ok(Checked {
        file,
        plan,
        measures,
    })
}

/// Sends it to the engine under `name`. When it is stopped the rest of it never comes, which ends the
/// request; an engine that has all of it already is waited for, since nothing stops it then.
async fn send(work: &Work, room: &Room, checked: Checked, name: &str) -> Result<(), Failure> {
    let quit = work.stop.child_token();
    let body = write::stream(checked, name.to_owned(), work.steps.clone(), quit.clone());
    let options = ImportImageOptionsBuilder::new().quiet(false).build();
    let docker = work.patient();
    let mut answers = std::pin::pin!(docker.import_image_stream(options, body, None));
    let mut loading = std::pin::pin!(async {
        while let Some(answer) = answers.next().await {
            answer.map_err(|error| refused(&error))?;
        }
        Ok(())
    });
    let patience = async {
        work.stop.cancelled().await;
        tokio::time::sleep(LAST_WAIT).await;
    };
    let watched = tokio::select! {
        watched = room.watched(WHAT, &mut loading) => watched,
        () = patience => return Err(work.stopped()),
    };
    if let Err(failure) = &watched
        && failure.kind == FailureKind::ImageUnavailable
    {
        quit.cancel();
        let _stopped = loading.await;
    }
    match watched {
        Err(_) if work.stop.is_cancelled() => Err(work.stopped()),
        other => other,
    }
}

/// Why the engine does not take it. What it says while it unpacks is about the layers: everything else
/// was checked before.
fn refused(error: &Error) -> Failure {
    let why = words(error);
    let kind = match error {
        Error::DockerStreamError { .. } if why.contains("no space left") => {
            FailureKind::ImageUnavailable
        }
        Error::DockerStreamError { .. } => FailureKind::BadProgram,
        _ => FailureKind::Host,
    };
    Failure::new(kind, format!("the engine does not load the image: {why}"))
}

/// Whether the engine has what the archive said. An engine that names images by another digest than
/// their configuration's (one that keeps them in containerd) is held to the layers.
async fn verify(
    work: &Work,
    name: &str,
    id: &str,
    layers: &[String],
) -> Result<ImageInspect, Failure> {
    let found = pull::inspect(work.docker(), name).await?.ok_or_else(|| {
        let why = "the engine loaded the image and does not have it";
        Failure::new(FailureKind::Host, why)
    })?;
    let said = found.root_fs.as_ref().and_then(|root| root.layers.as_ref());
    let same_layers = said.is_some_and(|said| {
        let said = said.iter().map(|layer| layer.trim_start_matches("sha256:"));
        said.eq(layers.iter().map(String::as_str))
    });
    let same_id = found
        .id
        .as_deref()
        .map(|id| id.trim_start_matches("sha256:"))
        == Some(id);
    // `descriptor` is told only by engines that name images by it.
    if same_layers && (same_id || found.descriptor.is_some()) {
        return Ok(found);
    }
    let why = "the engine loaded another image than the one in the archive";
    Err(Failure::new(FailureKind::Host, why))
}
