//! Keys for an SSH client: a pair for the occasion, and how the other side's key is told to OpenSSH.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use p2pnode_protocol::tunnel::PUBLIC_KEY_LEN;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::ssh_key::public::{Ed25519PublicKey, KeyData};
use russh::keys::ssh_key::{LineEnding, PublicKey};

/// A key pair that cannot be written, or one that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("the key's file cannot be used: {0}")]
    File(#[from] io::Error),
    /// The encoding.
    #[error("the key cannot be encoded or read: {0}")]
    Encode(#[from] russh::keys::ssh_key::Error),
    /// A file with a key that this program did not make.
    #[error("the key's file holds another kind of key: remove it")]
    OtherKind,
}

/// An Ed25519 key pair, made for one connection or a few.
pub struct ClientKey(Ed25519Keypair);

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientKey(..)")
    }
}

impl ClientKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(Ed25519Keypair::from_seed(&rand::random()))
    }

    /// What the provider is told, in [`Purpose::Ssh`](p2pnode_protocol::tunnel::Purpose::Ssh).
    pub fn public(&self) -> [u8; PUBLIC_KEY_LEN] {
        self.0.public.0
    }

    /// The one that is kept at `path`, which is made when there is none. Several processes may do so at
    /// once, and end up with the same.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn keep(path: &Path) -> Result<Self, KeyError> {
        match Self::read(path) {
            Err(KeyError::File(error)) if error.kind() == io::ErrorKind::NotFound => {}
            read => return read,
        }
        let whole = path.with_extension(format!("new-{:016x}", rand::random::<u64>()));
        Self::generate().write(&whole)?;
        // Unlike a rename this fails when another was faster, whose key then counts.
        let linked = std::fs::hard_link(&whole, path);
        std::fs::remove_file(&whole)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Self::read(path),
        }
    }

    fn read(path: &Path) -> Result<Self, KeyError> {
        let key = PrivateKey::from_openssh(std::fs::read_to_string(path)?)?;
        let pair = key.key_data().ed25519().cloned();
        pair.map(Self).ok_or(KeyError::OtherKind)
    }

    /// Writes it as OpenSSH reads it, to a new file that only its owner may read.
    ///
    /// # Errors
    /// [`KeyError`]; a file that is there already is not touched.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let key = PrivateKey::from(self.0.clone());
        let text = key.to_openssh(LineEnding::LF)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        Ok(())
    }
}

/// A line of `known_hosts`, or of what a `KnownHostsCommand` prints, without its end:
/// `NAME ssh-ed25519 BASE64`.
///
/// # Errors
/// [`KeyError::Encode`].
pub fn known_hosts_line(name: &str, host_key: &[u8; PUBLIC_KEY_LEN]) -> Result<String, KeyError> {
    let key = PublicKey::from(KeyData::from(Ed25519PublicKey(*host_key)));
    Ok(format!("{name} {}", key.to_openssh()?.trim_end()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn whoever_comes_first_makes_the_key_and_all_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| ClientKey::keep(&path).unwrap().public()))
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(&path, "no key").unwrap();
        assert!(ClientKey::keep(&path).is_err());
    }
}
