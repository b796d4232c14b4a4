//! What this node brought to the engine: the list, and the file that it outlives the node in.
//!
//! Owns the file `images.json` in the runtime's folder. It says what may be removed and what is not
//! for everybody, so it errs on the side of removing nothing: an image that is not in it is the
//! owner's. A file that is damaged, too large or of a later version counts as empty. It never holds
//! credentials, nor who brought what.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The only version so far.
const VERSION: u32 = 1;

/// The file's name in the runtime's folder.
pub(super) const FILE: &str = "images.json";

/// Images remembered, the longest unused forgotten first: an engine with so many is slow at everything.
const MAX_IMAGES: usize = 4_096;

/// Names remembered of one image.
const MAX_NAMES: usize = 64;

/// The largest file read: [`MAX_IMAGES`] with two names of 600 bytes each.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// How an image came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Origin {
    /// A registry gave it without credentials.
    Public,
    /// A registry gave it for credentials.
    Private,
    /// It was in an archive or was built.
    Made,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// How it came. [`Origin::Public`] once anybody may have it.
    pub origin: Origin,
    /// Whether it was not here before: only then may it be removed.
    pub brought: bool,
    /// The names that this node gave it or pulled it by, in canonical form.
    pub names: BTreeSet<String>,
    /// When it was last prepared, in seconds since 1970.
    pub used_s: u64,
    /// Its size as the engine tells it, layers shared with others included.
    pub bytes: u64,
}

/// All of them, by the engine's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    version: u32,
    images: BTreeMap<String, Entry>,
}

impl Ledger {
    /// What the file says; empty when there is none or it can't be believed.
    pub(super) fn load(path: &Path) -> Self {
        match Self::read(path) {
            Ok(ledger) => ledger,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "the list of images brought here cannot be read: they stay until they are removed by hand"
                );
                Self::default()
            }
        }
    }

    fn read(path: &Path) -> io::Result<Self> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut text = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(wrong("it is too large"));
        }
        let mut ledger: Self = serde_json::from_slice(&text)?;
        if ledger.version != VERSION {
            return Err(wrong("it is of another version"));
        }
        ledger.bound();
        Ok(ledger)
    }

    /// Writes the file, wholly or not at all.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        let mut whole = self.clone();
        whole.version = VERSION;
        file.write_all(&serde_json::to_vec(&whole)?)?;
        file.as_file().sync_data()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    fn bound(&mut self) {
        while self.images.len() > MAX_IMAGES {
            let oldest = self.images.iter().min_by_key(|(_, entry)| entry.used_s);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            self.images.remove(&oldest);
        }
    }

    /// An image by its id.
    pub(super) fn get(&self, id: &str) -> Option<&Entry> {
        self.images.get(id)
    }

    /// Notes that an image came, or came again. What was public stays so; what was here before it was
    /// first noted is never this node's to remove.
    pub(super) fn note(&mut self, id: &str, name: &str, news: Entry) {
        let entry = self.images.entry(id.to_owned()).or_insert_with(|| Entry {
            names: BTreeSet::new(),
            ..news.clone()
        });
        entry.origin = match (entry.origin, news.origin) {
            (Origin::Public, _) | (_, Origin::Public) => Origin::Public,
            // Made by somebody from what he had, and given by a registry: the registry is asked.
            (Origin::Private, _) | (_, Origin::Private) => Origin::Private,
            (Origin::Made, Origin::Made) => Origin::Made,
        };
        entry.used_s = news.used_s;
        entry.bytes = news.bytes;
        if entry.names.len() < MAX_NAMES {
            entry.names.insert(name.to_owned());
        }
        self.bound();
    }

    /// Notes that an image is used. False when it is not this node's.
    pub(super) fn touch(&mut self, id: &str, now_s: u64) -> bool {
        self.images.get_mut(id).is_some_and(|entry| {
            entry.used_s = now_s;
            true
        })
    }

    /// Forgets an image.
    pub(super) fn forget(&mut self, id: &str) {
        self.images.remove(id);
    }

    /// Bytes of all that may be removed.
    pub(super) fn bytes(&self) -> u64 {
        self.images
            .values()
            .filter(|entry| entry.brought)
            .fold(0, |sum, entry| sum.saturating_add(entry.bytes))
    }

    /// What may be removed, the longest unused first.
    pub(super) fn oldest_first(&self) -> Vec<String> {
        let mut ours: Vec<_> = self
            .images
            .iter()
            .filter(|(_, entry)| entry.brought)
            .map(|(id, entry)| (entry.used_s, id.clone()))
            .collect();
        ours.sort_unstable();
        ours.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(origin: Origin, used_s: u64) -> Entry {
        Entry {
            origin,
            brought: true,
            names: BTreeSet::new(),
            used_s,
            bytes: 10,
        }
    }

    #[test]
    fn it_outlives_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine").join(FILE);
        assert_eq!(Ledger::load(&path), Ledger::default());
        let mut ledger = Ledger {
            version: VERSION,
            ..Ledger::default()
        };
        ledger.note("sha256:a", "a:1", entry(Origin::Private, 5));
        ledger.note("sha256:b", "b:1", entry(Origin::Made, 4));
        ledger.save(&path).unwrap();
        assert_eq!(Ledger::load(&path), ledger);
        assert_eq!(ledger.oldest_first(), ["sha256:b", "sha256:a"]);
        assert_eq!(ledger.bytes(), 20);
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "no temporary file is left");
    }

    #[test]
    fn a_file_that_cannot_be_believed_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let huge = vec![b' '; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
        for text in [
            &b"{\"version\":1,\"images\":{\"a\""[..],
            b"{\"version\":9,\"images\":{}}",
            b"[]",
            b"\xff\xfe",
            &huge,
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Ledger::load(&path), Ledger::default());
        }
    }

    #[test]
    fn it_is_bounded_and_forgets_the_longest_unused() {
        let mut ledger = Ledger::default();
        for serial in 0..=MAX_IMAGES as u64 {
            ledger.note(&format!("{serial}"), "a:1", entry(Origin::Public, serial));
        }
        assert_eq!(ledger.images.len(), MAX_IMAGES);
        assert!(ledger.get("0").is_none() && ledger.get("1").is_some());
        for name in 0..2 * MAX_NAMES {
            ledger.note("1", &format!("a:{name}"), entry(Origin::Public, 1));
        }
        assert_eq!(ledger.get("1").unwrap().names.len(), MAX_NAMES);
    }

    #[test]
    fn what_anybody_may_have_stays_public_and_what_was_here_stays_the_owners() {
        let mut ledger = Ledger::default();
        ledger.note("a", "a:1", entry(Origin::Private, 1));
        ledger.note("a", "x:1", entry(Origin::Made, 1));
        assert_eq!(ledger.get("a").unwrap().origin, Origin::Private);
        ledger.note("a", "a:1", entry(Origin::Public, 2));
        ledger.note("a", "a:1", entry(Origin::Private, 3));
        assert_eq!(ledger.get("a").unwrap().origin, Origin::Public);
        let before = Entry {
            brought: false,
            ..entry(Origin::Public, 1)
        };
        ledger.note("b", "b:1", before);
        ledger.note("b", "b:1", entry(Origin::Public, 2));
        assert_eq!(ledger.oldest_first(), ["a"]);
        assert!(ledger.touch("b", 7) && !ledger.touch("c", 7));
    }
}
