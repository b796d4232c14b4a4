//! Going through a tar file entry by entry, none of which is trusted.
//!
//! Knows headers of ustar, GNU and pax, and nothing of what stands in them: names are never used as
//! paths of this machine. Unlike a general reader it holds an extended name only up to a limit, says
//! where each entry's bytes are, and says which entries take more room than they have bytes (sparse
//! ones), which are a way to fill a disk.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use tar::{EntryType, Header, PaxExtensions};

/// Tar's unit.
const BLOCK: u64 = 512;

/// The longest extended header: Linux takes attributes of 64 KiB, and they stand in one.
const MAX_EXTENDED_BYTES: u64 = 64 << 10;

/// The longest name, and target of a link: Linux takes paths of 4,096 bytes.
const MAX_NAME_BYTES: usize = 8 << 10;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file with its bytes.
    File,
    /// A folder.
    Folder,
    /// A link, symbolic or hard, to this name.
    Link(String),
    /// A file with holes, which are not among its bytes.
    Sparse,
    /// A device, a pipe, or what else there may be.
    Other,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name, made text.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where its bytes begin.
    pub at: u64,
    /// How many they are.
    pub size: u64,
}

/// What bytes can be skipped in.
pub(super) trait Skip: Read {
    /// Goes on by `count` bytes.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

impl Skip for &File {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let by = i64::try_from(count).map_err(|_| broken("an entry is too large"))?;
        self.seek(SeekFrom::Current(by)).map(|_| ())
    }
}

/// Something wrong with the content, as opposed to the disk.
pub(super) fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// A walk through one tar file.
#[derive(Debug)]
pub(super) struct Walk<R> {
    source: R,
    at: u64,
    /// Bytes of the current entry that were not read, with what fills its last block.
    rest: u64,
}

impl<R: Skip> Walk<R> {
    /// From the beginning of `source`.
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            at: 0,
            rest: 0,
        }
    }

    /// The source, wherever it stands.
    pub(super) fn into_source(self) -> R {
        self.source
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is no tar, [`io::ErrorKind::UnexpectedEof`] when it is
    /// cut off, and the source's.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let (mut long_name, mut long_link, mut pax) = (None, None, Pax::default());
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let stored = header
                .entry_size()
                .map_err(|_| broken("a size is no number"))?;
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => long_name = Some(name_of(&self.extended(stored)?)?),
                EntryType::GNULongLink => long_link = Some(name_of(&self.extended(stored)?)?),
                EntryType::XHeader => pax = Pax::parse(&self.extended(stored)?)?,
                EntryType::XGlobalHeader => {
                    self.extended(stored)?;
                }
                _ => {
                    let name = pax.name.or(long_name);
                    let link = pax.link.or(long_link);
                    let size = pax.size.unwrap_or(stored);
                    let sparse = pax.sparse || kind == EntryType::GNUSparse;
                    let entry = Entry {
                        name: name.unwrap_or_else(|| text_of(&header.path_bytes())),
                        kind: kind_of(kind, sparse, || {
                            link.unwrap_or_else(|| {
                                text_of(&header.link_name_bytes().unwrap_or_default())
                            })
                        }),
                        at: self.at,
                        size: if has_bytes(kind) { size } else { 0 },
                    };
                    self.rest = padded(entry.size)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let rest = std::mem::take(&mut self.rest);
        self.source.skip(rest)?;
        self.at = self
            .at
            .checked_add(rest)
            .ok_or_else(|| broken("it is too large"))?;
        let mut block = [0; BLOCK as usize];
        match self.source.read_exact(&mut block) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        self.at += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The sum is taken with its own field read as spaces.
        let sum: u32 = block[..148]
            .iter()
            .chain(&[b' '; 8])
            .chain(&block[156..])
            .map(|byte| u32::from(*byte))
            .sum();
        match header.cksum() {
            Ok(said) if said == sum => Ok(Some(header)),
            _ => Err(broken("it is no tar file: a header is wrong")),
        }
    }

    fn extended(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENDED_BYTES {
            return Err(broken("an extended header is too large"));
        }
        let whole = padded(size)?;
        let mut bytes = Vec::new();
        self.source.by_ref().take(whole).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != whole {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += whole;
        bytes.truncate(usize::try_from(size).unwrap_or(0));
        Ok(bytes)
    }
}

fn has_bytes(kind: EntryType) -> bool {
    !(kind.is_dir()
        || kind.is_symlink()
        || kind.is_hard_link()
        || kind.is_character_special()
        || kind.is_block_special()
        || kind.is_fifo())
}

fn kind_of(kind: EntryType, sparse: bool, link: impl FnOnce() -> String) -> Kind {
    match kind {
        _ if sparse => Kind::Sparse,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink | EntryType::Link => Kind::Link(link()),
        _ => Kind::Other,
    }
}

#[derive(Debug, Default)]
struct Pax {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
    sparse: bool,
}

impl Pax {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut pax = Self::default();
        for record in PaxExtensions::new(bytes) {
            let record = record.map_err(|_| broken("an extended header is wrong"))?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => pax.name = Some(name_of(value)?),
                b"linkpath" => pax.link = Some(name_of(value)?),
                b"size" => {
                    let size = std::str::from_utf8(value).ok();
                    let size = size.and_then(|size| size.parse().ok());
                    pax.size = Some(size.ok_or_else(|| broken("a size is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse") => pax.sparse = true,
                _ => {}
            }
        }
        Ok(pax)
    }
}

fn padded(size: u64) -> io::Result<u64> {
    let whole = size.checked_next_multiple_of(BLOCK);
    whole
        .filter(|whole| *whole <= i64::MAX as u64)
        .ok_or_else(|| broken("an entry is too large"))
}

fn name_of(bytes: &[u8]) -> io::Result<String> {
    let name = text_of(bytes);
    match name.len() > MAX_NAME_BYTES {
        true => Err(broken("a name is too long")),
        false => Ok(name),
    }
}

/// GNU's long names end with a NUL.
fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Skip for &[u8] {
        fn skip(&mut self, count: u64) -> io::Result<()> {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            *self = self.get(count..).unwrap_or_default();
            Ok(())
        }
    }

    fn all(bytes: &[u8]) -> io::Result<Vec<Entry>> {
        let mut walk = Walk::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = walk.next()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header
    }

    #[test]
    fn entries_are_found_by_name_and_place() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "long/".repeat(60) + "name";
        let mut file = header(EntryType::Regular, 5);
        builder.append_data(&mut file, "a", &b"hello"[..]).unwrap();
        builder
            .append_data(&mut file, &long, &b"world"[..])
            .unwrap();
        let mut link = header(EntryType::Symlink, 0);
        builder
            .append_link(&mut link, "b", "../x/layer.tar")
            .unwrap();
        let pax: [(&str, &[u8]); 2] = [("path", b"c"), ("size", b"3")];
        builder.append_pax_extensions(pax).unwrap();
        let mut small = header(EntryType::Regular, 3);
        builder.append_data(&mut small, "z", &b"abc"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let found = all(&bytes).unwrap();
        let at = |entry: &Entry| {
            let from = usize::try_from(entry.at).unwrap();
            bytes[from..][..usize::try_from(entry.size).unwrap()].to_vec()
        };
        assert_eq!(
            (found[0].name.as_str(), at(&found[0])),
            ("a", b"hello".to_vec())
        );
        assert_eq!(
            (found[1].name.as_str(), at(&found[1])),
            (long.as_str(), b"world".to_vec())
        );
        assert_eq!(found[2].kind, Kind::Link("../x/layer.tar".into()));
        assert_eq!(
            (found[3].name.as_str(), at(&found[3])),
            ("c", b"abc".to_vec())
        );
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn what_is_no_tar_is_an_error_and_never_a_large_buffer() {
        assert!(all(&[7; 1_024]).is_err());
        assert!(all(b"short").unwrap().is_empty());
        // An extended name that claims to have a terabyte.
        let claim = header(EntryType::GNULongName, 1 << 40);
        assert!(all(claim.as_bytes()).is_err());
        let mut absurd = header(EntryType::Regular, 0);
        absurd.as_gnu_mut().unwrap().size = [0xff; 12];
        absurd.set_cksum();
        assert!(all(absurd.as_bytes()).is_err());
        let mut words = header(EntryType::Regular, 0);
        words.as_gnu_mut().unwrap().size = *b"twelve bytes";
        words.set_cksum();
        assert!(all(words.as_bytes()).is_err());
    }

    #[test]
    fn names_have_a_length_that_a_system_takes() {
        let named = |key: &str, length: usize| {
            let mut builder = tar::Builder::new(Vec::new());
            let name = "x".repeat(length);
            builder
                .append_pax_extensions([(key, name.as_bytes())])
                .unwrap();
            let mut file = header(EntryType::Regular, 0);
            builder.append_data(&mut file, "a", &b""[..]).unwrap();
            all(&builder.into_inner().unwrap())
        };
        for key in ["path", "linkpath"] {
            assert!(named(key, MAX_NAME_BYTES).is_ok());
            assert!(named(key, MAX_NAME_BYTES + 1).is_err());
        }
        assert!(named("SCHILY.xattr.user.x", MAX_NAME_BYTES * 4).is_ok());
        let mut long = header(EntryType::GNULongName, 9 << 10).as_bytes().to_vec();
        long.resize(512 + (9 << 10), b'x');
        assert!(all(&long).is_err());
    }

    #[test]
    fn holes_and_devices_are_told() {
        let sparse = header(EntryType::GNUSparse, 0);
        assert_eq!(all(sparse.as_bytes()).unwrap()[0].kind, Kind::Sparse);
        let device = header(EntryType::Block, 0);
        assert_eq!(all(device.as_bytes()).unwrap()[0].kind, Kind::Other);
        let mut builder = tar::Builder::new(Vec::new());
        let pax: [(&str, &[u8]); 1] = [("GNU.sparse.major", b"1")];
        builder.append_pax_extensions(pax).unwrap();
        let mut file = header(EntryType::Regular, 0);
        builder.append_data(&mut file, "a", &b""[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        assert_eq!(all(&bytes).unwrap()[0].kind, Kind::Sparse);
    }
}
