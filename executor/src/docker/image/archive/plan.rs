//! From an archive to the one image in it: where its configuration and its layers lie.
//!
//! Reads `docker save`'s form (`manifest.json`) and an OCI layout (`index.json`). Only members that
//! these name are looked at, only by their exact names in the table that the walk made; nothing is
//! ever unpacked. What an OCI layout names by digest is checked against it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;

use p2pnode_protocol::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::walk::{Entry, Kind, Walk, broken};

/// Members of an archive. An image has at most some 125 layers, `docker save` writes three files for
/// each, and a layout may hold an image for each of some 20 platforms.
const MAX_MEMBERS: usize = 10_000;

/// Bytes of their names and of what links name, together: some hundred for each.
const MAX_NAMES_BYTES: usize = 2 << 20;

/// Layers of an image: engines take no more than some 125.
const MAX_LAYERS: usize = 512;

/// The largest text that is read whole: registries refuse manifests above 4 MiB.
const MAX_TEXT_BYTES: u64 = 4 << 20;

/// Lists within lists: a layout's index, an image's list of platforms, its manifest.
const MAX_DEPTH: usize = 3;

/// Where one layer's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// In the archive.
    pub at: u64,
    /// As they are stored, perhaps compressed.
    pub size: u64,
    /// What an OCI layout says of the stored bytes: SHA-256 in hex.
    pub stored: Option<String>,
    /// SHA-256 in hex of the layer's plain bytes, as the configuration says.
    pub plain: String,
}

/// An image that can be sent to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The configuration, whose digest is the image's id.
    pub config: Vec<u8>,
    /// From the lowest up.
    pub layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Config {
    architecture: Option<String>,
    os: Option<String>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// An OCI index or manifest: whichever of the two it is.
#[derive(Deserialize)]
struct Listed {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// The image in the archive.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with words for the submitter, or the disk's.
pub(super) fn read(file: &File) -> io::Result<Plan> {
    let archive = Archive::open(file)?;
    if archive.members.contains_key("manifest.json") {
        return archive.saved();
    }
    if archive.members.contains_key("index.json") {
        return archive.layout();
    }
    Err(broken(
        "it has neither a manifest.json (`docker save`) nor an index.json (an OCI layout)",
    ))
}

struct Archive<'a> {
    file: &'a File,
    len: u64,
    members: HashMap<String, Entry>,
}

impl<'a> Archive<'a> {
    fn open(file: &'a File) -> io::Result<Self> {
        let mut magic = [0; 6];
        let got = file.read_at(&mut magic, 0)?;
        if super::packing(&magic[..got]) != super::Packing::Plain {
            return Err(broken("it is compressed: send the plain tar file"));
        }
        let len = file.metadata()?.len();
        let (mut members, mut names_bytes) = (HashMap::new(), 0);
        let mut from_start = file;
        from_start.rewind()?;
        let mut walk = Walk::new(file);
        while let Some(entry) = walk.next()? {
            if entry.kind == Kind::Folder {
                continue;
            }
            if entry.at.saturating_add(entry.size) > len {
                return Err(broken(format!(
                    "it is cut off within `{}`",
                    shown(&entry.name)
                )));
            }
            if members.len() == MAX_MEMBERS {
                return Err(broken(format!("it holds more than {MAX_MEMBERS} files")));
            }
            names_bytes += entry.name.len();
            if let Kind::Link(target) = &entry.kind {
                names_bytes += target.len();
            }
            if names_bytes > MAX_NAMES_BYTES {
                let most = Bytes(MAX_NAMES_BYTES as u64);
                return Err(broken(format!("the names in it take more than {most}")));
            }
            let name = entry.name.trim_start_matches("./").to_owned();
            if let Some(twice) = members.insert(name, entry) {
                return Err(broken(format!("it holds `{}` twice", shown(&twice.name))));
            }
        }
        if members.is_empty() {
            return Err(broken("it is no tar file, or an empty one"));
        }
        Ok(Self { file, len, members })
    }

    /// A member's place. Links are not followed but for the one that `docker save` writes for a layer
    /// that an image has twice.
    fn member(&self, name: &str) -> io::Result<&Entry> {
        let missing = || broken(format!("`{}` is missing in it", shown(name)));
        let mut found = self.members.get(name).ok_or_else(missing)?;
        if let Kind::Link(target) = &found.kind {
            let layer = target.strip_prefix("../").filter(|rest| {
                rest.strip_suffix("/layer.tar").is_some_and(is_hex) && name.ends_with("/layer.tar")
            });
            let target = layer.and_then(|layer| self.members.get(layer));
            found = target.ok_or_else(|| broken(format!("`{}` is a link", shown(name))))?;
        }
        match found.kind {
            Kind::File => Ok(found),
            _ => Err(broken(format!("`{}` is no plain file", shown(name)))),
        }
    }

    fn bytes(&self, entry: &Entry) -> io::Result<Vec<u8>> {
        if entry.size > MAX_TEXT_BYTES {
            return Err(broken(format!("`{}` is too large", shown(&entry.name))));
        }
        debug_assert!(
            entry.at + entry.size <= self.len,
            "checked when it was found"
        );
        let mut bytes = vec![0; usize::try_from(entry.size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, entry.at)?;
        Ok(bytes)
    }

    fn text<T: DeserializeOwned>(&self, name: &str) -> io::Result<T> {
        parse(name, &self.bytes(self.member(name)?)?)
    }

    fn saved(&self) -> io::Result<Plan> {
        let mut images: Vec<Saved> = self.text("manifest.json")?;
        let count = images.len();
        let (Some(image), 1) = (images.pop(), count) else {
            return Err(broken(format!("it holds {count} images instead of one")));
        };
        let config = self.bytes(self.member(&image.config)?)?;
        let names = image.layers.unwrap_or_default();
        let layers = names.iter().map(|name| Ok((self.member(name)?, None)));
        plan(config, layers.collect::<io::Result<_>>()?)
    }

    fn layout(&self) -> io::Result<Plan> {
        let mut at: Listed = self.text("index.json")?;
        for _ in 0..MAX_DEPTH {
            if let (Some(config), Some(layers)) = (&at.config, &at.layers) {
                let config = self.checked(config)?;
                let layers = layers.iter().map(|layer| {
                    let (entry, digest) = self.blob(layer)?;
                    Ok((entry, Some(digest)))
                });
                return plan(config, layers.collect::<io::Result<_>>()?);
            }
            let chosen = choose(at.manifests.unwrap_or_default())?;
            at = parse(&chosen.digest, &self.checked(&chosen)?)?;
        }
        Err(broken("its lists of images are nested too deeply"))
    }

    /// A blob's place and digest in hex.
    fn blob(&self, of: &Descriptor) -> io::Result<(&Entry, String)> {
        let hex = hex_of(&of.digest)?;
        let entry = self.member(&format!("blobs/sha256/{hex}"))?;
        if entry.size != of.size {
            let name = shown(&of.digest);
            return Err(broken(format!(
                "`{name}` has not the size that is said of it"
            )));
        }
        Ok((entry, hex.to_owned()))
    }

    fn checked(&self, of: &Descriptor) -> io::Result<Vec<u8>> {
        let (entry, hex) = self.blob(of)?;
        let bytes = self.bytes(entry)?;
        if super::hex(&Sha256::digest(&bytes)) != hex {
            return Err(broken(format!(
                "`{}` does not match its digest",
                shown(&of.digest)
            )));
        }
        Ok(bytes)
    }
}

/// The one image for this machine.
fn choose(mut listed: Vec<Descriptor>) -> io::Result<Descriptor> {
    // Papers about an image, such as where it was built, are listed beside it.
    listed.retain(|one| !one.annotations.contains_key("vnd.docker.reference.type"));
    let fits = |one: &Descriptor| {
        let platform = one.platform.as_ref();
        platform.is_none_or(|at| at.os == "linux" && at.architecture == architecture())
    };
    if !listed.is_empty() && !listed.iter().any(fits) {
        return Err(broken(format!(
            "it holds no image for linux/{}, which this provider is",
            architecture()
        )));
    }
    listed.retain(fits);
    let count = listed.len();
    match (listed.pop(), count) {
        (Some(one), 1) => Ok(one),
        _ => Err(broken(format!("it holds {count} images instead of one"))),
    }
}

fn plan(config: Vec<u8>, stored: Vec<(&Entry, Option<String>)>) -> io::Result<Plan> {
    let said: Config = parse("its configuration", &config)?;
    let other = |said: &Option<String>, ours: &str| {
        said.as_deref()
            .is_some_and(|said| !said.is_empty() && said != ours)
    };
    if other(&said.os, "linux") || other(&said.architecture, architecture()) {
        return Err(broken(format!(
            "it is for {}/{}, and this provider is linux/{}",
            shown(&said.os.unwrap_or_default()),
            shown(&said.architecture.unwrap_or_default()),
            architecture()
        )));
    }
    let plain = said.rootfs.diff_ids;
    if plain.len() != stored.len() || plain.len() > MAX_LAYERS || plain.is_empty() {
        return Err(broken(format!(
            "it has {} layers where its configuration says {}",
            stored.len(),
            plain.len()
        )));
    }
    let layers = stored
        .into_iter()
        .zip(&plain)
        .map(|((entry, digest), plain)| {
            Ok(Layer {
                at: entry.at,
                size: entry.size,
                stored: digest,
                plain: hex_of(plain)?.to_owned(),
            })
        });
    let layers = layers.collect::<io::Result<_>>()?;
    Ok(Plan { config, layers })
}

/// This machine's architecture, in the words of images.
pub(in crate::docker::image) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

fn parse<T: DeserializeOwned>(name: &str, text: &[u8]) -> io::Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| broken(format!("`{}` cannot be read: {error}", shown(name))))
}

fn hex_of(digest: &str) -> io::Result<&str> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
    hex.ok_or_else(|| broken(format!("`{}` is no SHA-256 digest", shown(digest))))
}

fn is_hex(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name from the archive, fit to be shown.
fn shown(name: &str) -> String {
    name.chars()
        .take(100)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests;
