//! Small objects, many to a file.
//!
//! A task's output is often a few bytes, and its manifest a hundred more. As files of their own each
//! would cost an inode, a block of 4 KiB and some 30 µs to make and 10 to remove; appended to a pack
//! they cost their length and one `write`. Owns the format of packs and of their indexes, and the pack
//! that is being written. Used by [`super::BlobStore`] alone.
//!
//! A pack is a run of records: digest, length (4 bytes, little endian), bytes. It is only ever appended
//! to, by one life of the node, and sealed when it is full; a record that a crash cut short is the last
//! one and is ignored. Beside a sealed pack stands its index, the heads of its records followed by their
//! BLAKE3, so that a start reads 36 bytes per object and not the objects; without it the pack is read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use p2pnode_protocol::Digest;
use p2pnode_protocol::id::DIGEST_LEN;

use super::index::{PackId, Place};

/// Objects shorter than this go into packs, in bytes: the shortest piece that is ever cut from the
/// middle of a file, so only small files, tails and small manifests are packed.
pub(super) const SMALL_BYTES: usize = crate::blobs::cut::MIN_CHUNK_BYTES;

/// A pack is sealed at this length, in bytes (8 MiB). Rewriting one, which others wait for, then takes
/// a few milliseconds, and 10 GiB of small objects are some 1,300 packs.
const PACK_BYTES: u32 = 8 << 20;

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
    /// Opens the folder, which exists. Every record found is given to `found`; packs of earlier lives
    /// are sealed.
    pub(super) fn open(
        dir: PathBuf,
        quota: u64,
        mut found: impl FnMut(PackId, Record),
    ) -> io::Result<Self> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let name = entry?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".pack"));
            if let Some(id) = stem.and_then(|stem| PackId::from_str_radix(stem, 16).ok()) {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        for id in &ids {
            for record in records_of(&dir, *id)? {
                found(*id, record);
            }
        }
        Ok(Self {
            dir,
            next: ids.last().map_or(0, |last| last.wrapping_add(1)),
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
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
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
        let mut record = Vec::with_capacity(HEAD_LEN + bytes.len());
        record.extend_from_slice(&digest.0);
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(bytes);
        active.file.write_all(&record)?;
        active.heads.extend_from_slice(&record[..HEAD_LEN]);
        let offset = active.length;
        active.length += HEAD_LEN as u32 + length;
        Ok(Place::Pack {
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

    /// All of a pack: its records and their bytes.
    pub(super) fn whole(&self, id: PackId) -> io::Result<Vec<(Record, Vec<u8>)>> {
        let all = std::fs::read(pack_path(&self.dir, id))?;
        Ok(parse(&all)
            .into_iter()
            .map(|record| {
                let start = record.offset as usize + HEAD_LEN;
                (record, all[start..start + record.bytes as usize].to_vec())
            })
            .collect())
    }
}

/// Reads an object of `bytes` whose record begins at `offset`.
pub(super) fn read(dir: &Path, id: PackId, offset: u32, into: &mut [u8]) -> io::Result<()> {
    let file = File::open(pack_path(dir, id))?;
    file.read_exact_at(into, u64::from(offset) + HEAD_LEN as u64)
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
    let mut all = Vec::new();
    // A pack is at most one record over its limit; what is longer is none of ours.
    let limit = u64::from(PACK_BYTES) + record_bytes(SMALL_BYTES as u32);
    File::open(pack_path(dir, id))?
        .take(limit)
        .read_to_end(&mut all)?;
    let records = parse(&all);
    let Some(last) = records.last() else {
        remove(dir, id)?;
        return Ok(records);
    };
    // What a crash cut short is cut off, so that the index fits from now on.
    let whole = u64::from(last.offset) + record_bytes(last.bytes);
    File::options()
        .write(true)
        .open(pack_path(dir, id))?
        .set_len(whole)?;
    let mut heads = Vec::with_capacity(records.len() * HEAD_LEN);
    for record in &records {
        let start = record.offset as usize;
        heads.extend_from_slice(&all[start..start + HEAD_LEN]);
    }
    write_index(dir, id, &heads)?;
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

fn parse_head(head: &[u8], offset: u32) -> Option<Record> {
    let digest = head.get(..DIGEST_LEN)?.try_into().ok()?;
    let bytes = u32::from_le_bytes(head.get(DIGEST_LEN..HEAD_LEN)?.try_into().ok()?);
    (bytes as usize <= SMALL_BYTES).then_some(Record {
        digest: Digest(digest),
        bytes,
        offset,
    })
}

/// Every whole record up to the first that is none.
fn parse(all: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut offset = 0usize;
    while let Some(record) = u32::try_from(offset)
        .ok()
        .and_then(|at| parse_head(all.get(offset..)?, at))
    {
        let end = offset + HEAD_LEN + record.bytes as usize;
        if end > all.len() {
            break;
        }
        records.push(record);
        offset = end;
    }
    records
}
