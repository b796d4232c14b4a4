//! The two secrets of a node: its key and its API's token.
//!
//! Each is made when it is first asked for, under a temporary name that is renamed only when it is
//! whole and on disk, and read only when nobody else could have.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use libp2p::identity::Keypair;
use tempfile::NamedTempFile;

use super::error::HomeError;

/// Random bytes in a token: as hard to guess as a key.
const TOKEN_BYTES: usize = 32;

/// No secret here is larger, in bytes; an ed25519 key has 68, a token 64, a ticket some hundreds.
const MAX_SECRET_BYTES: u64 = 16 << 10;

/// The key at `path`, made when it is absent.
pub(super) fn identity(path: &Path) -> Result<Keypair, HomeError> {
    let bad = |source| HomeError::BadIdentity {
        path: path.to_owned(),
        source,
    };
    if let Some(bytes) = read(path)? {
        return Keypair::from_protobuf_encoding(&bytes).map_err(|error| bad(Some(error)));
    }
    let key = Keypair::generate_ed25519();
    let bytes = key
        .to_protobuf_encoding()
        .map_err(|error| bad(Some(error)))?;
    write_new(path, &bytes)?;
    Ok(key)
}

/// The token at `path`, made when it is absent.
pub(super) fn token(path: &Path) -> Result<String, HomeError> {
    if let Some(token) = existing_token(path)? {
        return Ok(token);
    }
    let token = HEXLOWER.encode(&rand::random::<[u8; TOKEN_BYTES]>());
    write_new(path, token.as_bytes())?;
    Ok(token)
}

/// The token at `path`, if it is there.
pub(super) fn existing_token(path: &Path) -> Result<Option<String>, HomeError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes).unwrap_or_default();
    let text = text.trim();
    let whole = text.len() == TOKEN_BYTES * 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole
        .then(|| Some(text.to_owned()))
        .ok_or_else(|| HomeError::BadToken {
            path: path.to_owned(),
        })
}

/// Reads a file that is this user's and that nobody else may have access to.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, HomeError> {
    let at = HomeError::at(path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(error)),
    };
    let found = file.metadata().map_err(&at)?;
    super::check_private(path, &found, 0o077, "600")?;
    let mut bytes = Vec::new();
    file.take(MAX_SECRET_BYTES)
        .read_to_end(&mut bytes)
        .map_err(&at)?;
    Ok(Some(bytes))
}

/// Makes a file of mode 0600 that is there whole or not at all, and survives a power cut.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let at = HomeError::at(path);
    replace(path, bytes, true).map_err(&at)
}

/// Puts a file of mode 0600 in the place of whatever is at `path`, in one step.
pub(super) fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    // Made with mode 0600 from the start.
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    if durable {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    if durable {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}
