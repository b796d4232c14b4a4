//! One layer's bytes: read once to be measured and checked, and once more to be sent.
//!
//! A layer says nothing true about its size until it is unpacked: it may be compressed, and its
//! files may have holes that an engine fills. So it is unpacked in memory, piece by piece, against a
//! limit, and its digest and its entries are checked before the engine sees a byte.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::plan::Layer;
use super::walk::{Kind, Skip, Walk, broken};
use super::{Packing, hex, packing};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Files in one layer: a full desktop has some 500,000.
const MAX_ENTRIES: u64 = 4_000_000;

/// What even an empty file takes on a disk.
const BLOCK: u64 = 4_096;

/// What a layer is, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measure {
    /// Bytes of its plain tar file.
    pub plain: u64,
    /// Bytes that it takes on a disk.
    pub on_disk: u64,
}

/// How much room is needed at least: the source of an error [`io::ErrorKind::StorageFull`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at least {0} bytes are needed")]
pub(super) struct TooLarge(pub u64);

fn too_large(bytes: u64) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, TooLarge(bytes))
}

/// A part of a file, which ends with an error when nobody wants it any more.
struct Part<'a, F> {
    file: &'a File,
    at: u64,
    end: u64,
    stop: &'a CancellationToken,
    hash: Option<Sha256>,
    on_read: F,
}

impl<F: FnMut(u64)> Read for Part<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let want = left.min(buffer.len()).min(PIECE);
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..got]);
        }
        (self.on_read)(got as u64);
        Ok(got)
    }
}

/// Plain bytes on their way past a limit and a hash.
struct Plain<R> {
    source: R,
    hash: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.count = self.count.saturating_add(got as u64);
        if self.count > self.limit {
            return Err(too_large(self.count));
        }
        Ok(got)
    }
}

impl<R: Read> Skip for Plain<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let mut buffer = vec![0; PIECE.min(usize::try_from(count).unwrap_or(PIECE))];
        let mut left = count;
        while left > 0 {
            let want = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            match self.read(&mut buffer[..want])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => left -= got as u64,
            }
        }
        Ok(())
    }
}

fn unpacked<'a, R: Read + 'a>(part: R, how: Packing) -> io::Result<Box<dyn Read + 'a>> {
    match how {
        Packing::Plain => Ok(Box::new(part)),
        Packing::Gzip => Ok(Box::new(MultiGzDecoder::new(part))),
        Packing::Other => Err(broken(
            "a layer is compressed otherwise than with gzip: save the image with gzip or plain",
        )),
    }
}

fn packing_of(file: &File, layer: &Layer) -> io::Result<Packing> {
    let mut magic = [0; 6];
    let want = usize::try_from(layer.size.min(6)).unwrap_or(6);
    file.read_exact_at(&mut magic[..want], layer.at)?;
    Ok(packing(&magic[..want]))
}

/// Reads a layer to its end and checks it. `limit` is the room for it in bytes.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with words for the submitter, [`io::ErrorKind::StorageFull`] when it
/// is larger than `limit`, [`io::ErrorKind::ConnectionAborted`] when it was stopped, or the disk's.
pub(super) fn measure(
    file: &File,
    layer: &Layer,
    limit: u64,
    stop: &CancellationToken,
    on_read: impl FnMut(u64),
) -> io::Result<Measure> {
    let how = packing_of(file, layer)?;
    let mut part = Part {
        file,
        at: layer.at,
        end: layer.at + layer.size,
        stop,
        hash: layer.stored.is_some().then(Sha256::new),
        on_read,
    };
    let (measure, digest) = pass(unpacked(&mut part, how)?, limit)?;
    if digest != layer.plain {
        return Err(broken("a layer does not match its digest"));
    }
    // Bytes after the end of the compressed ones are part of the blob.
    io::copy(&mut part, &mut io::sink())?;
    let stored = part.hash.map(|hash| hex(&hash.finalize()));
    if stored != layer.stored {
        return Err(broken("a layer does not match its digest"));
    }
    Ok(measure)
}

/// Goes through plain bytes to their end: what they are, and their digest.
fn pass(source: impl Read, limit: u64) -> io::Result<(Measure, String)> {
    let mut walk = Walk::new(Plain {
        source,
        hash: Sha256::new(),
        count: 0,
        limit,
    });
    let (mut entries, mut on_disk) = (0_u64, 0_u64);
    while let Some(entry) = walk.next().map_err(named)? {
        entries += 1;
        if entry.kind == Kind::Sparse {
            return Err(broken(
                "a layer holds a file with holes, which is not taken",
            ));
        }
        if entries > MAX_ENTRIES {
            return Err(broken(format!(
                "a layer holds more than {MAX_ENTRIES} files"
            )));
        }
        let whole = entry.size.saturating_add(BLOCK);
        on_disk = on_disk.saturating_add(whole.next_multiple_of(BLOCK));
        if on_disk > limit {
            return Err(too_large(on_disk));
        }
    }
    let mut rest = walk.into_source();
    // What fills up the last block belongs to the digest.
    io::copy(&mut rest, &mut io::sink()).map_err(named)?;
    let measure = Measure {
        plain: rest.count,
        on_disk: on_disk.max(rest.count),
    };
    Ok((measure, hex(&rest.hash.finalize())))
}

fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => broken("a layer is cut off"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            broken(format!("a layer cannot be unpacked: {error}"))
        }
        _ => error,
    }
}

/// A layer's plain bytes, to be sent.
///
/// # Errors
/// Of the disk.
pub(super) fn open<'a>(
    file: &'a File,
    layer: &Layer,
    stop: &'a CancellationToken,
) -> io::Result<Box<dyn Read + 'a>> {
    let how = packing_of(file, layer)?;
    let part = Part {
        file,
        at: layer.at,
        end: layer.at + layer.size,
        stop,
        hash: None,
        on_read: |_| {},
    };
    unpacked(part, how)
}
