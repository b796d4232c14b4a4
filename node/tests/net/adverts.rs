//! Capacity adverts between real swarms: they arrive, and what is old, replayed or forged does not.

use p2pnode_node::net::NetEvent;
use p2pnode_protocol::advert::SignedAdvert;

use crate::support::{
    NETWORK, Node, advert, eventually, last_advert, loopback, now_ms, pair, start, start_beside,
};

#[tokio::test]
async fn an_advert_arrives_and_a_newer_one_after_it() {
    let (mut a, b) = pair().await;
    let first = now_ms();
    for issued_ms in [first, first + 1, first + 2] {
        b.handle.publish(b.advert(issued_ms)).await;
        a.until_advert(b.id(), issued_ms).await;
    }
}

#[tokio::test]
async fn whoever_connects_later_is_told() {
    let mut a = start(loopback()).await;
    let a_ms = now_ms();
    a.handle.publish(a.advert(a_ms)).await;
    let b_ms = a_ms + 1;
    let mut b = start_beside(&a, loopback()).await;
    b.handle.publish(b.advert(b_ms)).await;
    a.until_advert(b.id(), b_ms).await;
    b.until_advert(a.id(), a_ms).await;
}

#[tokio::test]
async fn a_newcomer_learns_of_nodes_that_are_gone_from_those_that_remain() {
    let (mut a, b) = pair().await;
    let (gone, issued_ms) = (b.id(), now_ms());
    b.handle.publish(b.advert(issued_ms)).await;
    a.until_advert(gone, issued_ms).await;
    b.handle.shutdown().await;
    let mut c = start_beside(&a, loopback()).await;
    c.until_advert(gone, issued_ms).await;
}

#[tokio::test]
async fn a_node_does_not_publish_what_is_not_its_own() {
    let (mut a, b) = pair().await;
    let issued_ms = now_ms();
    let other = a.advert(issued_ms);
    b.handle.publish(other).await;
    let foreign = advert("other", issued_ms).sign(&b.key).unwrap();
    b.handle.publish(foreign).await;
    b.handle.publish(b.advert(issued_ms)).await;
    a.until_advert(b.id(), issued_ms).await;
    assert_eq!(b.handle.metrics().adverts_published.get(), 1);
    assert_eq!(a.handle.metrics().adverts_rejected.get(), 0);
}

/// What a dishonest node says through gossip.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// An old advert of its own.
    Replayed,
    /// Somebody else's advert under its own name.
    Borrowed,
    /// Changed after it was signed.
    Forged,
    /// For another network.
    OtherNetwork,
    /// Valid for a year.
    Eternal,
    /// Not an advert.
    Garbage,
}

fn lie(kind: Lie, liar: &libp2p::identity::Keypair, other: &Node, issued_ms: u64) -> Vec<u8> {
    let encode =
        |signed: SignedAdvert| p2pnode_protocol::codec::encode(&signed, usize::MAX).unwrap();
    match kind {
        Lie::Replayed => encode(advert(NETWORK, issued_ms - 31_000).sign(liar).unwrap()),
        Lie::Borrowed => encode(other.advert(issued_ms)),
        Lie::Forged => {
            let mut signed = advert(NETWORK, issued_ms + 5).sign(liar).unwrap();
            signed.advert = advert(NETWORK, issued_ms + 6).sign(liar).unwrap().advert;
            encode(signed)
        }
        Lie::OtherNetwork => encode(advert("other", issued_ms + 7).sign(liar).unwrap()),
        Lie::Eternal => {
            let mut eternal = advert(NETWORK, issued_ms + 8);
            eternal.ttl_ms = 365 * 86_400_000;
            encode(eternal.sign(liar).unwrap())
        }
        Lie::Garbage => vec![0xee; 100],
    }
}

#[tokio::test]
async fn lies_do_not_arrive_and_are_counted() {
    for (kind, name) in [
        (Lie::Replayed, "replayed_advert"),
        (Lie::Borrowed, "forged_advert"),
        (Lie::Forged, "forged_advert"),
        (Lie::OtherNetwork, "forged_advert"),
        (Lie::Eternal, "forged_advert"),
        (Lie::Garbage, "forged_advert"),
    ] {
        let mut victim = start(loopback()).await;
        let bystander = start(loopback()).await;
        let mut liar = crate::misconduct::Gossiper::start(&victim.address()).await;
        let issued_ms = now_ms();
        let truth = advert(NETWORK, issued_ms).sign(&liar.key).unwrap();
        liar.say(p2pnode_protocol::codec::encode(&truth, usize::MAX).unwrap())
            .await;
        victim.until_advert(liar.id, issued_ms).await;
        liar.say(lie(kind, &liar.key, &bystander, issued_ms)).await;
        let metrics = victim.handle.metrics().clone();
        eventually(&format!("{kind:?} to be counted"), || async {
            let label = p2pnode_node::net::MisdeedLabel { kind: name.into() };
            metrics.misdeeds.get_or_create(&label).get() == 1
        })
        .await;
        // What it says next is heard, so the lie was behind us and told nobody anything.
        let truth = advert(NETWORK, issued_ms + 100).sign(&liar.key).unwrap();
        liar.say(p2pnode_protocol::codec::encode(&truth, usize::MAX).unwrap())
            .await;
        victim.until_advert(liar.id, issued_ms + 100).await;
        let adverts = victim
            .log
            .iter()
            .filter(|event| matches!(event, NetEvent::Advert { .. }))
            .count();
        assert_eq!(adverts, 2, "{kind:?}");
        assert_eq!(last_advert(&victim.log, bystander.id()), None, "{kind:?}");
    }
}
