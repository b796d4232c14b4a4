//! Adverts: signed by whom they are from, for one network, for a time.

use libp2p_identity::Keypair;
use p2pnode_protocol::advert::{
    Advert, AdvertError, MAX_ADVERT_BYTES, MAX_SKEW_MS, MAX_TTL_MS, SignedAdvert,
};
use p2pnode_protocol::codec;
use proptest::prelude::*;

use crate::parts::{advert, keypair, peer};

const NOW: u64 = 1_700_000_000_000;

fn signed(change: impl FnOnce(&mut Advert)) -> SignedAdvert {
    let mut advert = advert(NOW);
    change(&mut advert);
    advert.sign(&keypair()).unwrap()
}

#[test]
fn an_honest_advert_is_believed() {
    let (from, says) = signed(|_| ()).verify("public", NOW).unwrap();
    assert_eq!(from, peer());
    assert_eq!(says, advert(NOW));
}

#[test]
fn an_advert_of_another_network_is_refused() {
    let error = signed(|_| ()).verify("lab", NOW).unwrap_err();
    assert!(matches!(error, AdvertError::Network(name) if name == "public"));
}

#[test]
fn an_expired_advert_is_refused() {
    let end = NOW + 60_000 + MAX_SKEW_MS;
    assert!(signed(|_| ()).verify("public", end).is_ok());
    let error = signed(|_| ()).verify("public", end + 1).unwrap_err();
    assert!(matches!(error, AdvertError::Expired(ago) if ago == MAX_SKEW_MS + 1));
}

#[test]
fn an_advert_from_the_future_is_refused() {
    let early = NOW - MAX_SKEW_MS;
    assert!(signed(|_| ()).verify("public", early).is_ok());
    let error = signed(|_| ()).verify("public", early - 1).unwrap_err();
    assert!(matches!(error, AdvertError::Future(ahead) if ahead == MAX_SKEW_MS + 1));
}

#[test]
fn too_long_a_life_and_absurd_times_are_refused() {
    let error = signed(|advert| advert.ttl_ms = MAX_TTL_MS + 1)
        .verify("public", NOW)
        .unwrap_err();
    assert!(matches!(error, AdvertError::Ttl(_)));
    let latest = signed(|advert| advert.issued_ms = u64::MAX);
    assert!(matches!(
        latest.verify("public", NOW),
        Err(AdvertError::Future(_))
    ));
    assert!(latest.verify("public", u64::MAX).is_ok());
    let oldest = signed(|advert| advert.issued_ms = 0);
    assert!(matches!(
        oldest.verify("public", NOW),
        Err(AdvertError::Expired(_))
    ));
}

#[test]
fn nobody_speaks_for_another() {
    let mut forged = signed(|_| ());
    forged.public_key = Keypair::generate_ed25519().public().encode_protobuf();
    assert!(matches!(
        forged.verify("public", NOW),
        Err(AdvertError::Signature)
    ));
    forged.public_key = vec![1, 2, 3];
    assert!(matches!(
        forged.verify("public", NOW),
        Err(AdvertError::Key(_))
    ));
}

#[test]
fn a_signature_for_something_else_does_not_fit() {
    let mut forged = signed(|_| ());
    // The same key over the same bytes, without the domain.
    forged.signature = keypair().sign(&forged.advert).unwrap();
    assert!(matches!(
        forged.verify("public", NOW),
        Err(AdvertError::Signature)
    ));
}

#[test]
fn signed_garbage_is_no_advert() {
    let sign = |bytes: Vec<u8>| {
        let domain = b"p2pnode capacity advert 1\0".as_slice();
        SignedAdvert {
            signature: keypair().sign(&[domain, &bytes].concat()).unwrap(),
            advert: bytes,
            public_key: keypair().public().encode_protobuf(),
        }
    };
    let honest = codec::encode(&advert(NOW), MAX_ADVERT_BYTES).unwrap();
    assert!(sign(honest.clone()).verify("public", NOW).is_ok());
    let trailing = [honest.as_slice(), &[0]].concat();
    for bytes in [
        vec![],
        vec![0xff; 64],
        trailing,
        vec![0; MAX_ADVERT_BYTES + 1],
    ] {
        assert!(matches!(
            sign(bytes).verify("public", NOW),
            Err(AdvertError::Codec(_))
        ));
    }
}

#[test]
fn an_advert_too_large_to_travel_is_not_signed() {
    let mut large = advert(NOW);
    large.images = vec!["x".repeat(200); 64];
    assert!(matches!(large.sign(&keypair()), Err(AdvertError::Codec(_))));
}

proptest! {
    #![proptest_config(crate::cases(32))]
    #[test]
    fn one_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut forged = signed(|_| ());
        let at = at.index(forged.advert.len());
        forged.advert[at] ^= 1 << bit;
        prop_assert!(matches!(forged.verify("public", NOW), Err(AdvertError::Signature)));
    }
}
