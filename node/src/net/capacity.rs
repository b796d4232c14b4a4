//! Capacity adverts: ours goes out, those of others come in, forged and old ones do not.
//!
//! Owns our latest advert and the latest of every other node. An advert travels in two ways. Gossip
//! brings it to everybody; two nodes that meet also exchange adverts directly
//! ([`super::exchange`]), because gossip begins only after both know of each other's subscription,
//! and never repeats what was said before. Adverts are signed by their makers, so what a third node
//! passes on can be believed, and a newcomer learns of the whole network from its first peers.
//!
//! Called by the actor. It never judges whether an advert is useful, only whether it is true and
//! newer than the last.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId, PublishError};
use p2pnode_protocol::advert::{Advert, AdvertError, MAX_ADVERT_BYTES, MAX_TTL_MS, SignedAdvert};
use p2pnode_protocol::codec;
use rand::seq::IteratorRandom;

use super::conduct::Misdeed;
use super::context::Context;
use super::peers::unix_ms;

/// The largest signed advert, in bytes: the advert, a public key, a signature and their lengths.
pub(super) const MAX_SIGNED_BYTES: usize = MAX_ADVERT_BYTES + 512;

/// The most nodes whose adverts are remembered (4,096, some 3 MiB). Beyond that size, peers are found
/// through the DHT and asked directly.
const MAX_ADVERTS: usize = 4_096;

/// What a node may spend on gossip of adverts, in bytes per second (16 KiB/s, 1.3 GiB a day).
const GOSSIP_BUDGET: u64 = 16 << 10;

/// How often each advert arrives at a node: once from each neighbour in the mesh, less those that it
/// was sent to. gossipsub's mesh has 6 on average.
const GOSSIP_COPIES: u64 = 6;

/// How much older than its successor an advert may be and still just be late (30 s). Adverts overtake
/// one another on the way, and whoever passes on an older one did not know better; nobody honest
/// passes on one that was replaced half a minute ago.
const LATE_MS: u64 = 30_000;

/// The shortest interval between repetitions of an unchanged advert.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(30);

/// The longest: a third of the longest life that an advert may claim, so that two may be lost.
const LONGEST_INTERVAL: Duration = Duration::from_millis(MAX_TTL_MS / 3);

/// The interval at which all of `nodes` together spend the budget.
fn fair_interval_ms(nodes: usize, advert_bytes: usize) -> u64 {
    let round = (nodes as u64).saturating_mul(advert_bytes as u64 * GOSSIP_COPIES);
    round.saturating_mul(1_000).div_ceil(GOSSIP_BUDGET)
}

/// How often an unchanged advert should be repeated in a network of `nodes`, so that the gossip of
/// all of them stays within its budget. Its life should be three such intervals.
#[must_use]
pub fn advert_interval(nodes: usize, advert_bytes: usize) -> Duration {
    Duration::from_millis(fair_interval_ms(nodes, advert_bytes))
        .clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
}

/// Which share of the adverts is gossiped in a network so large that even the longest interval would
/// spend more than the budget. Who is connected is told in any case, and who is not finds this node
/// through the DHT.
fn gossip_share(nodes: usize, advert_bytes: usize) -> f64 {
    let longest = LONGEST_INTERVAL.as_millis() as f64;
    (longest / fair_interval_ms(nodes, advert_bytes).max(1) as f64).min(1.0)
}

/// What to think of an advert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    /// True and new.
    New,
    /// True and known, overtaken, or too old by somebody's clock: nobody's fault.
    Known,
    /// Replaced long ago, and said again as if it were new.
    Replayed,
    /// Nobody who checks what he passes on would have passed it on.
    Forged,
}

#[derive(Debug, Clone)]
struct Latest {
    issued_ms: u64,
    expires_ms: u64,
    signed: SignedAdvert,
}

/// Our advert and everybody else's.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    own: Option<Latest>,
    /// Our latest advert was gossiped when nobody was there to hear it.
    unheard: bool,
    others: HashMap<PeerId, Latest>,
}

impl Capacity {
    /// The node says what it can give from now on.
    pub(super) fn publish(&mut self, cx: &mut Context<'_>, signed: SignedAdvert) {
        let advert = match signed.verify(&cx.protocols.network, unix_ms()) {
            Ok((signer, advert)) if signer == cx.local => advert,
            Ok((signer, _)) => {
                tracing::error!(%signer, "not publishing an advert of another node as our own");
                return;
            }
            Err(error) => {
                tracing::error!(%error, "not publishing an advert that nobody would believe");
                return;
            }
        };
        self.own = Some(latest(&advert, signed));
        cx.metrics.adverts_published.inc();
        self.gossip(cx);
    }

    /// A peer follows our gossip from now on. The advert that nobody heard goes out again.
    pub(super) fn on_subscribed(&mut self, cx: &mut Context<'_>) {
        if self.unheard {
            self.gossip(cx);
        }
    }

    fn gossip(&mut self, cx: &mut Context<'_>) {
        self.unheard = false;
        let Some(own) = &self.own else {
            return;
        };
        let bytes = match codec::encode(&own.signed, MAX_SIGNED_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "not gossiping an advert");
                return;
            }
        };
        if rand::random::<f64>() >= gossip_share(self.others.len() + 1, bytes.len()) {
            return;
        }
        match cx
            .behaviour
            .gossipsub
            .publish(cx.protocols.topic.hash(), bytes)
        {
            Ok(_) => {}
            Err(PublishError::NoPeersSubscribedToTopic) => self.unheard = true,
            Err(error) => tracing::debug!(%error, "an advert was not gossiped"),
        }
    }

    /// Our own advert, as it travels.
    pub(super) fn own(&self) -> Option<&SignedAdvert> {
        self.own.as_ref().map(|latest| &latest.signed)
    }

    /// When our own advert was made.
    pub(super) fn own_issued_ms(&self) -> Option<u64> {
        self.own.as_ref().map(|latest| latest.issued_ms)
    }

    /// Up to `count` adverts of others than `asker` that still hold, chosen by chance, so that two who
    /// are asked tell different things.
    pub(super) fn some(&self, count: usize, asker: PeerId) -> Vec<SignedAdvert> {
        let now_ms = unix_ms();
        self.others
            .iter()
            .filter(|(peer, latest)| **peer != asker && latest.expires_ms > now_ms)
            .map(|(_, latest)| latest.signed.clone())
            .sample(&mut rand::rng(), count)
    }

    /// How many nodes are known by their adverts.
    pub(super) fn len(&self) -> usize {
        self.others.len()
    }

    /// Gossip arrived. gossipsub waits for the verdict before it passes the message on.
    pub(super) fn on_gossip(
        &mut self,
        cx: &mut Context<'_>,
        from: PeerId,
        id: &MessageId,
        message: &gossipsub::Message,
    ) {
        let judgement = match (
            message.source,
            codec::decode::<SignedAdvert>(&message.data, MAX_SIGNED_BYTES),
        ) {
            (Some(maker), Ok(signed)) => self.consider(cx, signed, Some(maker)),
            _ => Judgement::Forged,
        };
        self.blame(cx, from, judgement);
        let acceptance = match judgement {
            Judgement::New => MessageAcceptance::Accept,
            Judgement::Known | Judgement::Replayed => MessageAcceptance::Ignore,
            Judgement::Forged => MessageAcceptance::Reject,
        };
        cx.behaviour
            .gossipsub
            .report_message_validation_result(id, &from, acceptance);
    }

    /// An advert arrived directly from `from`, who says that `maker` made it, or does not say.
    pub(super) fn on_exchange(
        &mut self,
        cx: &mut Context<'_>,
        from: PeerId,
        maker: Option<PeerId>,
        signed: SignedAdvert,
    ) {
        let judgement = self.consider(cx, signed, maker);
        self.blame(cx, from, judgement);
    }

    fn blame(&self, cx: &mut Context<'_>, from: PeerId, judgement: Judgement) {
        let misdeed = match judgement {
            Judgement::New | Judgement::Known => return,
            Judgement::Replayed => Misdeed::ReplayedAdvert,
            Judgement::Forged => Misdeed::ForgedAdvert,
        };
        cx.report(from, misdeed);
    }

    fn consider(
        &mut self,
        cx: &mut Context<'_>,
        signed: SignedAdvert,
        maker: Option<PeerId>,
    ) -> Judgement {
        match self.judge(cx, &signed, maker) {
            Ok((peer, advert)) => {
                cx.metrics.adverts_accepted.inc();
                self.remember(peer, latest(&advert, signed));
                cx.events.advert(peer, Box::new(advert));
                Judgement::New
            }
            Err(judgement) => {
                match judgement {
                    Judgement::Forged => cx.metrics.adverts_rejected.inc(),
                    _ => cx.metrics.adverts_stale.inc(),
                };
                judgement
            }
        }
    }

    fn judge(
        &self,
        cx: &Context<'_>,
        signed: &SignedAdvert,
        maker: Option<PeerId>,
    ) -> Result<(PeerId, Advert), Judgement> {
        let (peer, advert) = signed
            .verify(&cx.protocols.network, unix_ms())
            .map_err(|error| match error {
                AdvertError::Expired(_) => {
                    cx.metrics.adverts_expired.inc();
                    Judgement::Known
                }
                AdvertError::Future(_) => {
                    cx.metrics.adverts_future.inc();
                    Judgement::Known
                }
                _ => Judgement::Forged,
            })?;
        if maker.is_some_and(|maker| maker != peer) {
            return Err(Judgement::Forged);
        }
        if peer == cx.local {
            return Err(Judgement::Known);
        }
        match self.others.get(&peer) {
            Some(last) if last.issued_ms >= advert.issued_ms => {
                let late = last.issued_ms - advert.issued_ms <= LATE_MS;
                // A newcomer is told what a peer has, not what is new.
                Err(if late || maker.is_none() {
                    Judgement::Known
                } else {
                    Judgement::Replayed
                })
            }
            _ => Ok((peer, advert)),
        }
    }

    /// When the table is full, the advert that ends first makes room: it could be replayed for the
    /// shortest time.
    fn remember(&mut self, peer: PeerId, latest: Latest) {
        if self.others.len() >= MAX_ADVERTS && !self.others.contains_key(&peer) {
            let first = self
                .others
                .iter()
                .min_by_key(|(_, latest)| latest.expires_ms)
                .map(|(peer, _)| *peer);
            if let Some(first) = first {
                self.others.remove(&first);
            }
        }
        self.others.insert(peer, latest);
    }
}

fn latest(advert: &Advert, signed: SignedAdvert) -> Latest {
    Latest {
        issued_ms: advert.issued_ms,
        expires_ms: advert.issued_ms.saturating_add(advert.ttl_ms),
        signed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gossip_stays_within_its_budget_at_any_size() {
        assert_eq!(advert_interval(3, 500), SHORTEST_INTERVAL);
        assert_eq!(advert_interval(1_000_000, 8_192), LONGEST_INTERVAL);
        for nodes in [3, 200, 1_000, 5_000, 1_000_000] {
            let interval = advert_interval(nodes, 500).as_secs_f64();
            let round = nodes as f64 * 500.0 * GOSSIP_COPIES as f64;
            let rate = round / interval * gossip_share(nodes, 500);
            assert!(rate <= GOSSIP_BUDGET as f64, "{nodes}: {rate} B/s");
            assert!(
                nodes < 1_000 || rate > 0.9 * GOSSIP_BUDGET as f64,
                "{nodes}: {rate} B/s"
            );
        }
    }
}
