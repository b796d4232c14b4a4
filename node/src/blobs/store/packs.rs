//! Objects on disk, many to a file.
//!
//! A task's output is often a few bytes, and its manifest a hundred more; a large input is thousands of
//! chunks. As files of their own each would cost an inode, part of a block and 30 to 150 µs to make (a
//! filesystem searches for a free inode longer than it takes to write 256 KiB), and 10 to remove;
//! appended to a pack they cost their length and one `write`. Owns the format of packs and of their
//! indexes, and the pack that is being written. Used by [`super::BlobStore`] alone.
//!
//! A pack is a run of records: digest, length (4 bytes, little endian), bytes. It is only ever appended
//! to, by one life of the node, and sealed when it is full; a record that a crash cut short is the last
//! one and is ignored. Beside a sealed pack stands its index, the heads of its records followed by their
//! BLAKE3, so that a start reads 36 bytes per object and not the objects; without it the heads are read
//! in the pack. A pack's time of modification says when it was last used, for the order of eviction in
//! the next life.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use p2pnode_protocol::Digest;
use p2pnode_protocol::id::DIGEST_LEN;
use p2pnode_protocol::manifest::MAX_MANIFEST_BYTES;

use super::index::{PackId, Place};

/// The longest object, in bytes: a manifest, for chunks are shorter.
const MAX_OBJECT_BYTES: u32 = MAX_MANIFEST_BYTES as u32;

/// A pack is sealed at this length, in bytes (32 MiB): 128 average chunks. Rewriting what is left of
/// one, half of it at most, which others wait for, takes 10 to 20 ms; 100 GiB are 3,200 packs.
const PACK_BYTES: u32 = 32 << 20;

/// Objects shorter than this are written together with their heads (16 KiB): below it a copy is cheaper
/// than another system call.
const JOINED_BYTES: usize = 16 << 10;

/// Length of a record's head, in bytes.
const HEAD_LEN: usize = DIGEST_LEN + 4;

/// Bytes that an object of `bytes` takes in a pack.
pub(super) const fn record_bytes(bytes: u32) -> u64 {
    HEAD_LEN as u64 + bytes as u64
}

/// One record, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub digest: Digest,
    pub bytes: u32,
    /// Where the record begins, in bytes.
    pub offset: u32,
}

struct Active {
    id: PackId,
    file: File,
    length: u32,
    heads: Vec<u8>,
}

/// The folder of packs, and the one that is being written.
pub(super) struct Packs {
    dir: PathBuf,
    next: PackId,
    active: Option<Active>,
    /// At which length a pack is sealed, in bytes.
    seal_at: u32,
}

/// What came of an append.
pub(super) struct Appended {
    /// Where the record is.
    pub place: io::Result<Place>,
    /// A pack that takes no more.
    pub sealed: Option<PackId>,
}

impl Packs {
    /// Opens the folder, which exists. Every record found is given to `found`, those of the pack that
    /// was not used for longest first; packs of earlier lives are sealed.
    pub(super) fn open(
        dir: PathBuf,
        quota: u64,
        mut found: impl FnMut(PackId, Record),
    ) -> io::Result<Self> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".pack"));
            if let Some(id) = stem.and_then(|stem| PackId::from_str_radix(stem, 16).ok()) {
                ids.push((entry.metadata()?.modified()?, id));
            }
        }
        // Where the clock is too coarse to tell, by number.
        ids.sort_unstable();
        for (_, id) in &ids {
            for record in records_of(&dir, *id)? {
                found(*id, record);
            }
        }
        let last = ids.iter().map(|(_, id)| *id).max();
        Ok(Self {
            dir,
            next: last.map_or(0, |last| last.wrapping_add(1)),
            active: None,
            // A small quota must not be a single pack that nothing can be evicted from.
            seal_at: PACK_BYTES.min(u32::try_from(quota / 64).unwrap_or(PACK_BYTES)),
        })
    }

    /// Appends an object.
    pub(super) fn append(&mut self, digest: &Digest, bytes: &[u8]) -> Appended {
        let place = self.write(digest, bytes);
        // After a failure the pack may end in half a record, and nothing may follow that.
        let full = place.is_err()
            || self
                .active
                .as_ref()
                .is_some_and(|active| active.length >= self.seal_at);
        let sealed = if full { self.seal() } else { None };
        Appended { place, sealed }
    }

    fn write(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<Place> {
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= MAX_OBJECT_BYTES)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let active = match &mut self.active {
            Some(active) => active,
            None => {
                let id = self.next;
                let file = File::create_new(pack_path(&self.dir, id))?;
                self.next = id.wrapping_add(1);
                self.active.insert(Active {
                    id,
                    file,
                    length: 0,
                    heads: Vec::new(),
                })
            }
        };
        let head = head_of(digest, length);
        if bytes.len() < JOINED_BYTES {
            active.file.write_all(&[&head, bytes].concat())?;
        } else {
            active.file.write_all(&head)?;
            active.file.write_all(bytes)?;
        }
        active.heads.extend_from_slice(&head);
        let offset = active.length;
        active.length += HEAD_LEN as u32 + length;
        Ok(Place {
            pack: active.id,
            offset,
        })
    }

    fn seal(&mut self) -> Option<PackId> {
        let active = self.active.take()?;
        // Without its index the next start takes longer, nothing else.
        if let Err(error) = write_index(&self.dir, active.id, &active.heads) {
            tracing::warn!(pack = active.id, %error, "cannot write the index of a pack");
        }
        Some(active.id)
    }

    /// Seals `pack` if it is the one that is being written.
    pub(super) fn give_up(&mut self, pack: PackId) -> Option<PackId> {
        let writing = self.active.as_ref()?.id == pack;
        writing.then(|| self.seal()).flatten()
    }

    /// The records of a sealed pack.
    pub(super) fn records(&self, id: PackId) -> io::Result<Vec<Record>> {
        records_of(&self.dir, id)
    }
}

/// Fills `into` with the object whose record is at `place`.
pub(super) fn read(dir: &Path, place: Place, into: &mut [u8]) -> io::Result<()> {
    let file = File::open(pack_path(dir, place.pack))?;
    file.read_exact_at(into, u64::from(place.offset) + HEAD_LEN as u64)
}

/// Notes on disk that a pack is in use.
pub(super) fn note_use(dir: &Path, id: PackId) -> io::Result<()> {
    File::open(pack_path(dir, id))?.set_modified(SystemTime::now())
}

/// Removes a pack and its index.
pub(super) fn remove(dir: &Path, id: PackId) -> io::Result<()> {
    // The index first: alone it would be an orphan for ever.
    match std::fs::remove_file(index_path(dir, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::remove_file(pack_path(dir, id))
}

fn pack_path(dir: &Path, id: PackId) -> PathBuf {
    dir.join(format!("{id:08x}.pack"))
}

fn index_path(dir: &Path, id: PackId) -> PathBuf {
    dir.join(format!("{id:08x}.index"))
}

fn write_index(dir: &Path, id: PackId, heads: &[u8]) -> io::Result<()> {
    let mut file = File::create(index_path(dir, id))?;
    file.write_all(heads)?;
    file.write_all(&Digest::of(heads).0)
}

/// The records of a pack, from its index when that fits the pack, else from the pack.
fn records_of(dir: &Path, id: PackId) -> io::Result<Vec<Record>> {
    let length = std::fs::metadata(pack_path(dir, id))?.len();
    if let Some(records) = records_of_index(dir, id, length) {
        return Ok(records);
    }
    let records = records_of_pack(&File::open(pack_path(dir, id))?, length)?;
    let Some(last) = records.last() else {
        remove(dir, id)?;
        return Ok(records);
    };
    // What a crash cut short is cut off, so that the index fits from now on.
    let whole = u64::from(last.offset) + record_bytes(last.bytes);
    let file = File::options().write(true).open(pack_path(dir, id))?;
    let used = file.metadata()?.modified()?;
    file.set_len(whole)?;
    file.set_modified(used)?;
    let heads: Vec<u8> = records
        .iter()
        .flat_map(|record| head_of(&record.digest, record.bytes))
        .collect();
    write_index(dir, id, &heads)?;
    Ok(records)
}

/// Every whole record of a pack of `length` bytes, up to the first that is none.
fn records_of_pack(pack: &File, length: u64) -> io::Result<Vec<Record>> {
    let mut reader = BufReader::new(pack);
    let mut head = [0; HEAD_LEN];
    let mut records = Vec::new();
    let mut offset = 0u64;
    while offset + HEAD_LEN as u64 <= length {
        reader.read_exact(&mut head)?;
        let at = u32::try_from(offset).ok();
        let Some(record) = at.and_then(|at| parse_head(&head, at)) else {
            break;
        };
        offset += record_bytes(record.bytes);
        if offset > length {
            break;
        }
        reader.seek_relative(record.bytes.into())?;
        records.push(record);
    }
    Ok(records)
}

fn records_of_index(dir: &Path, id: PackId, pack_length: u64) -> Option<Vec<Record>> {
    let index = std::fs::read(index_path(dir, id)).ok()?;
    let (heads, digest) = index.split_at_checked(index.len().checked_sub(DIGEST_LEN)?)?;
    if Digest::of(heads).0 != digest {
        return None;
    }
    let mut records = Vec::with_capacity(heads.len() / HEAD_LEN);
    let mut offset = 0u32;
    for head in heads.chunks_exact(HEAD_LEN) {
        let record = parse_head(head, offset)?;
        offset = offset.checked_add(HEAD_LEN as u32 + record.bytes)?;
        records.push(record);
    }
    (u64::from(offset) == pack_length).then_some(records)
}

fn head_of(digest: &Digest, bytes: u32) -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    head[..DIGEST_LEN].copy_from_slice(&digest.0);
    head[DIGEST_LEN..].copy_from_slice(&bytes.to_le_bytes());
    head
}

fn parse_head(head: &[u8], offset: u32) -> Option<Record> {
    let digest = Digest(head.get(..DIGEST_LEN)?.try_into().ok()?);
    let bytes = u32::from_le_bytes(head.get(DIGEST_LEN..HEAD_LEN)?.try_into().ok()?);
    // A loss of power may leave zeros where records were to be.
    let zeros = bytes == 0 && digest != Digest::of(&[]);
    (bytes <= MAX_OBJECT_BYTES && !zeros).then_some(Record {
        digest,
        bytes,
        offset,
    })
}
