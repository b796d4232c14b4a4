//! What a node says it can give: signed, numbered, expiring.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use libp2p_identity::{Keypair, PeerId, PublicKey};

use crate::codec::{self, CodecError};
use crate::resources::Capacity;
use crate::task::RuntimeKind;
use crate::text::{is_plain, printable};

/// The largest encoded advert, in bytes (8 KiB): 16 GPUs, 32 labels and 64 image names fit.
pub const MAX_ADVERT_BYTES: usize = 8 << 10;

/// The longest life that an advert may claim, in milliseconds (10 minutes).
pub const MAX_TTL_MS: u64 = 600_000;

/// How far a peer's clock may be ahead of ours, in milliseconds (2 minutes, what unsynchronised
/// desktop clocks are commonly off by).
pub const MAX_SKEW_MS: u64 = 120_000;

/// The most adverts in one [`AdvertAnswer`]: some 30 KiB, when they say what adverts usually do.
pub const MAX_ADVERTS: usize = 64;

/// Signed together with the advert, so that a signature made for anything else does not fit.
const DOMAIN: &[u8] = b"p2pnode capacity advert 1\0";

/// A node's capacity at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Advert {
    /// Name of the network it is meant for, so that it cannot be replayed into another.
    pub network: String,
    /// The node's name, for people.
    pub name: String,
    /// When it was made, in milliseconds since the Unix epoch by the node's own clock; of two
    /// adverts the one with the larger number counts.
    pub issued_ms: u64,
    /// How long it holds, in milliseconds, at most [`MAX_TTL_MS`].
    pub ttl_ms: u64,
    /// Everything that is offered. All zero when nothing is.
    pub total: Capacity,
    /// What is free of it.
    pub free: Capacity,
    /// Runtimes that can run tasks.
    pub runtimes: Vec<RuntimeKind>,
    /// Labels that placement can ask for.
    pub labels: BTreeMap<String, String>,
    /// Container images at hand, at most 64.
    pub images: Vec<String>,
    /// Why nothing is taken at the moment although it is offered; absent while tasks are taken. At
    /// most [`MAX_WHY_BYTES`].
    pub closed: Option<String>,
    /// Runtimes that cannot run tasks at the moment, each with why, at most [`MAX_WHY_BYTES`].
    pub away: Vec<(RuntimeKind, String)>,
    /// What containers can have there beyond the least.
    pub features: AdvertFeatures,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that wait.
    pub queued: u32,
}

/// The longest reason in an advert, in bytes: a sentence.
pub const MAX_WHY_BYTES: usize = 240;

/// What a provider's containers can have beyond the least.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct AdvertFeatures {
    /// OCI runtimes that a job can insist on, at most 16.
    pub sandboxes: Vec<String>,
    /// Whether a task's disk limit cannot be overrun even for a moment.
    pub hard_disk: bool,
    /// Whether the owner lets tasks reach any domains, and the machine can.
    pub egress: bool,
    /// Whether images may be built there.
    pub build: bool,
}

/// An [`Advert`] as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedAdvert {
    /// The encoded [`Advert`].
    pub advert: Vec<u8>,
    /// The node's public key in libp2p's protobuf encoding.
    pub public_key: Vec<u8>,
    /// Signature over the domain and `advert`.
    pub signature: Vec<u8>,
}

/// First and only message of the side that opens an exchange, `/p2pnode/<network>/advert/1`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AdvertHello {
    /// The sender's own advert; absent when it offers nothing.
    pub mine: Option<SignedAdvert>,
    /// How many adverts of others it wants to know.
    pub want: u16,
}

/// Answers an [`AdvertHello`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AdvertAnswer {
    /// Adverts of others, at most [`MAX_ADVERTS`], chosen by chance when there are more.
    pub others: Vec<SignedAdvert>,
}

/// An advert that must not be believed.
#[derive(Debug, thiserror::Error)]
pub enum AdvertError {
    /// Not decodable, or too large.
    #[error("not an advert")]
    Codec(#[from] CodecError),
    /// Not a public key.
    #[error("not a public key")]
    Key(#[source] libp2p_identity::DecodingError),
    /// The signature does not fit.
    #[error("forged: the signature does not fit")]
    Signature,
    /// For another network.
    #[error("for the network `{0}`")]
    Network(String),
    /// Its time is over.
    #[error("expired {0} ms ago")]
    Expired(u64),
    /// From the future.
    #[error("made {0} ms in the future")]
    Future(u64),
    /// Claims too long a life.
    #[error("claims to hold for {0} ms")]
    Ttl(u64),
    /// It could not be signed.
    #[error("cannot be signed")]
    Signing(#[from] libp2p_identity::SigningError),
}

fn signed_bytes(advert: &[u8]) -> Vec<u8> {
    [DOMAIN, advert].concat()
}

/// Takes out of a text what does not only show itself.
fn tame(words: &mut String) {
    if !words.chars().all(is_plain) {
        *words = printable(words);
    }
}

impl Advert {
    /// Takes out of every text what does not only show itself: people look at them, and a peer chose them.
    pub fn tame(&mut self) {
        let gpus = self.total.gpus.iter_mut().chain(&mut self.free.gpus);
        let of_gpus = gpus.flat_map(|gpu| [&mut gpu.uuid, &mut gpu.model]);
        let away = self.away.iter_mut().map(|(_, why)| why);
        of_gpus
            .chain(away)
            .chain([&mut self.name])
            .chain(&mut self.closed)
            .chain(&mut self.images)
            .chain(&mut self.features.sandboxes)
            .for_each(tame);
        let labels = std::mem::take(&mut self.labels).into_iter();
        self.labels = labels
            .map(|(mut name, mut value)| {
                tame(&mut name);
                tame(&mut value);
                (name, value)
            })
            .collect();
    }

    /// Signs this advert as the owner of `key`.
    ///
    /// # Errors
    /// When it is too large to travel.
    pub fn sign(&self, key: &Keypair) -> Result<SignedAdvert, AdvertError> {
        let advert = codec::encode(self, MAX_ADVERT_BYTES)?;
        let signature = key.sign(&signed_bytes(&advert))?;
        Ok(SignedAdvert {
            advert,
            public_key: key.public().encode_protobuf(),
            signature,
        })
    }
}

impl SignedAdvert {
    /// Checks signature, network and time, and returns whose it is and what it says. Whether it is
    /// newer than the last one from that peer is for the keeper of the table to tell.
    ///
    /// # Errors
    /// The first check that fails. `now_ms` is milliseconds since the Unix epoch.
    pub fn verify(&self, network: &str, now_ms: u64) -> Result<(PeerId, Advert), AdvertError> {
        let key = PublicKey::try_decode_protobuf(&self.public_key).map_err(AdvertError::Key)?;
        if !key.verify(&signed_bytes(&self.advert), &self.signature) {
            return Err(AdvertError::Signature);
        }
        let advert: Advert = codec::decode(&self.advert, MAX_ADVERT_BYTES)?;
        if advert.network != network {
            return Err(AdvertError::Network(
                advert.network.chars().take(40).collect(),
            ));
        }
        if advert.ttl_ms > MAX_TTL_MS {
            return Err(AdvertError::Ttl(advert.ttl_ms));
        }
        if advert.issued_ms > now_ms.saturating_add(MAX_SKEW_MS) {
            return Err(AdvertError::Future(advert.issued_ms - now_ms));
        }
        let expires = advert.issued_ms.saturating_add(advert.ttl_ms);
        if expires.saturating_add(MAX_SKEW_MS) < now_ms {
            return Err(AdvertError::Expired(now_ms - expires));
        }
        Ok((key.to_peer_id(), advert))
    }
}
