//! Names of things: peers, jobs, tasks, attempts and bytes.
//!
//! Ids are small fixed-size values that any peer can make without asking another.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::HEXLOWER;
use libp2p_identity::PublicKey;
use serde::{Deserialize, Serialize, de};

/// A node's identity: the hash of its public key, as libp2p defines it.
pub use libp2p_identity::PeerId;

/// Multihash codes of a peer id: the public key itself, or its SHA-256.
const IDENTITY_HASH: u64 = 0;
/// See [`IDENTITY_HASH`].
const SHA2_256: u64 = 0x12;

/// Reads a peer id that a person gave.
///
/// [`PeerId`]'s own reading takes the beginning of an id for an id, because base58 has no checksum
/// and a short hash is a hash; this one wants a whole public key, or a whole SHA-256 of one.
///
/// # Errors
/// [`IdError::NotPeer`].
pub fn parse_peer(text: &str) -> Result<PeerId, IdError> {
    let wrong = || IdError::NotPeer {
        text: text.chars().take(80).collect(),
    };
    let peer: PeerId = text.parse().map_err(|_| wrong())?;
    let hash = peer.as_ref();
    let whole = match hash.code() {
        IDENTITY_HASH => PublicKey::try_decode_protobuf(hash.digest()).is_ok(),
        SHA2_256 => hash.digest().len() == 32,
        _ => false,
    };
    if whole { Ok(peer) } else { Err(wrong()) }
}

/// Bytes in a [`JobId`]. 64 random bits: a submitter would need some 600 million jobs for a 1 %
/// chance of one collision, and a provider keys jobs by submitter and id together.
pub const JOB_ID_LEN: usize = 8;

/// Names one job of one submitter. Random, made by the submitting node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct JobId(pub [u8; JOB_ID_LEN]);

/// An id that does not read as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not hexadecimal, or not of the right length.
    #[error("`{text}` is not {what}: expected {expected} hexadecimal digits")]
    NotHex {
        /// What was to be read.
        what: &'static str,
        /// The text as given.
        text: String,
        /// How many digits there should be.
        expected: usize,
    },
    /// Not a peer id, or only a part of one.
    #[error(
        "`{text}` is not a whole peer id: it looks like 12D3KooW... and has 52 characters; `p2pnode id` prints a node's own"
    )]
    NotPeer {
        /// The text as given.
        text: String,
    },
    /// A task was not written as `JOB/INDEX`.
    #[error("`{text}` is not a task: write JOB/INDEX, for example 3f09a1c2d4e5f607/12")]
    NotTask {
        /// The text as given.
        text: String,
    },
}

fn parse_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], IdError> {
    let wrong = || IdError::NotHex {
        what,
        text: text.chars().take(80).collect(),
        expected: N * 2,
    };
    if text.len() != N * 2 {
        return Err(wrong());
    }
    let bytes = HEXLOWER
        .decode(text.to_ascii_lowercase().as_bytes())
        .map_err(|_| wrong())?;
    bytes.try_into().map_err(|_| wrong())
}

macro_rules! hex_id {
    ($name:ident, $len:expr, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex::<{ $len }>($what, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

hex_id!(JobId, JOB_ID_LEN, "a job id");

/// Bytes in a [`Digest`]: the default output length of BLAKE3.
pub const DIGEST_LEN: usize = 32;

/// The BLAKE3 hash that names a chunk or a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Digest(pub [u8; DIGEST_LEN]);

hex_id!(Digest, DIGEST_LEN, "a digest");

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// Position of a step within its job. Jobs of one step use 0.
pub type StepIndex = u16;

/// Position of a task within its step, counted from 0.
pub type TaskIndex = u32;

/// Which try at a task this is, counted from 1 by the submitter.
pub type AttemptNumber = u32;

/// Names one task of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TaskKey {
    /// The job it belongs to.
    pub job: JobId,
    /// The step within the job.
    pub step: StepIndex,
    /// The task within the step.
    pub index: TaskIndex,
}

impl fmt::Display for TaskKey {
    /// `JOB/INDEX` in a job's first step, `JOB/STEP.INDEX` in later ones.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.step == 0 {
            write!(f, "{}/{}", self.job, self.index)
        } else {
            write!(f, "{}/{}.{}", self.job, self.step, self.index)
        }
    }
}

impl FromStr for TaskKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::NotTask {
            text: text.chars().take(80).collect(),
        };
        let (job, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (step, index) = match rest.split_once('.') {
            Some((step, index)) => (step.parse().map_err(|_| wrong())?, index),
            None => (0, rest),
        };
        Ok(Self {
            job: job.parse()?,
            step,
            index: index.parse().map_err(|_| wrong())?,
        })
    }
}

/// Names one try at a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct AttemptKey {
    /// The task.
    pub task: TaskKey,
    /// The try, counted from 1.
    pub attempt: AttemptNumber,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.task, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let job = JobId([0x3f, 9, 0xa1, 0xc2, 0xd4, 0xe5, 0xf6, 7]);
        assert_eq!(job.to_string(), "3f09a1c2d4e5f607");
        assert_eq!("3F09a1c2d4e5f607".parse(), Ok(job));
        for step in [0, 3] {
            let task = TaskKey {
                job,
                step,
                index: 12,
            };
            assert_eq!(task.to_string().parse(), Ok(task));
        }
    }

    #[test]
    fn a_part_of_a_peer_id_is_none() {
        let peer = libp2p_identity::Keypair::ed25519_from_bytes([7; 32])
            .unwrap()
            .public()
            .to_peer_id();
        let whole = peer.to_base58();
        assert_eq!(parse_peer(&whole), Ok(peer));
        // The hash of a larger key.
        assert!(parse_peer("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N").is_ok());
        for length in 0..whole.len() {
            assert!(parse_peer(&whole[..length]).is_err(), "{length}");
        }
        assert!(
            "12D3KooWHfcb".parse::<PeerId>().is_ok(),
            "what libp2p itself takes"
        );
    }

    #[test]
    fn wrong_ids_say_what_was_expected() {
        let error = "xyz".parse::<JobId>().unwrap_err().to_string();
        assert!(error.contains("16 hexadecimal digits"), "{error}");
        assert!("3f09a1c2d4e5f607".parse::<TaskKey>().is_err());
        assert!("3f09a1c2d4e5f607/x".parse::<TaskKey>().is_err());
    }
}
