//! The archive that the engine is given: written anew, every name in it ours.

use std::io::{self, Read};

use bytes::Bytes;
use futures::Stream;
use serde_json::json;
use tar::Builder;
use tokio_util::sync::CancellationToken;

use super::{Checked, layer};
use crate::docker::image::body::{Pieces, body, header};
use crate::docker::image::flight::Steps;

/// The permissions of every file in it.
const MODE: u32 = 0o644;

/// The archive as a body for a request. It ends with an error when `stop` is cancelled.
pub(super) fn stream(
    checked: Checked,
    name: String,
    steps: Steps,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    body(move |target| archive(&checked, &name, target, &steps, &stop))
}

/// Counts what is read of the layers.
struct Counted<'a, R> {
    source: R,
    steps: &'a Steps,
    done: &'a mut u64,
    total: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        *self.done += got as u64;
        self.steps.at(*self.done, self.total);
        Ok(got)
    }
}

fn archive(
    checked: &Checked,
    name: &str,
    target: &mut Pieces,
    steps: &Steps,
    stop: &CancellationToken,
) -> io::Result<()> {
    let config_name = format!("{}.json", checked.id());
    let layers = &checked.plan.layers;
    let layer_names: Vec<_> = (0..layers.len())
        .map(|at| format!("{at}/layer.tar"))
        .collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": layer_names }]);
    let plain = checked.measures.iter().map(|measure| measure.plain);
    let total = plain.fold(0_u64, u64::saturating_add);
    let mut done = 0;
    let mut builder = Builder::new(target);
    let manifest = manifest.to_string();
    for (name, text) in [
        ("manifest.json", manifest.as_bytes()),
        (&config_name, &checked.plan.config),
    ] {
        builder.append_data(&mut header(text.len() as u64, MODE), name, text)?;
    }
    let parts = layers.iter().zip(&checked.measures).zip(&layer_names);
    for ((layer, measure), layer_name) in parts {
        let counted = Counted {
            source: layer::open(&checked.file, layer, stop)?,
            steps,
            done: &mut done,
            total,
        };
        let mut header = header(measure.plain, MODE);
        builder.append_data(&mut header, layer_name, counted.take(measure.plain))?;
    }
    builder.into_inner().map(|_| ())
}
