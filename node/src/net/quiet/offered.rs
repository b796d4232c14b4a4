//! What the handlers of a connection accept: made once, and kept until it may have changed.
//!
//! After each poll of a connection the swarm asks its handlers what they accept, only to see whether that
//! is still the same, and throws the answer away: of seventeen behaviours it is some thirty protocols,
//! each with a name to be copied. What is lent from here comes back when it is thrown away; a stream that
//! is negotiated keeps it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use libp2p::core::upgrade::{InboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{InboundUpgradeSend, UpgradeInfoSend};
use libp2p::swarm::{Stream, SubstreamProtocol};

/// What is accepted, as the handlers said it.
struct Offer<U: UpgradeInfoSend, I> {
    upgrade: U,
    info: I,
    ids: Arc<[U::Info]>,
    timeout: Duration,
}

impl<U: UpgradeInfoSend, I> From<SubstreamProtocol<U, I>> for Offer<U, I> {
    fn from(protocol: SubstreamProtocol<U, I>) -> Self {
        let timeout = *protocol.timeout();
        let (upgrade, info) = protocol.into_upgrade();
        let ids = upgrade.protocol_info().collect();
        Self {
            upgrade,
            info,
            ids,
            timeout,
        }
    }
}

/// Where an offer is kept.
type Place<U, I> = Arc<Mutex<Option<Offer<U, I>>>>;

/// The offer of one connection's handlers.
pub(super) struct Kept<U: UpgradeInfoSend, I>(Place<U, I>);

impl<U: UpgradeInfoSend, I> Default for Kept<U, I> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<U: UpgradeInfoSend, I> Kept<U, I> {
    /// The handlers may accept something else from now on. What is lent comes back to where nobody looks.
    pub(super) fn forget(&mut self) {
        match Arc::get_mut(&mut self.0) {
            Some(place) => *place.get_mut().unwrap_or_else(PoisonError::into_inner) = None,
            None => self.0 = Arc::default(),
        }
    }

    /// What is kept; `make` says it anew when there is nothing.
    pub(super) fn lend(
        &self,
        make: impl FnOnce() -> SubstreamProtocol<U, I>,
    ) -> SubstreamProtocol<Offered<U, I>, ()> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let offer = kept.unwrap_or_else(|| make().into());
        let timeout = offer.timeout;
        let offered = Offered {
            offer: Some(offer),
            home: Arc::clone(&self.0),
        };
        SubstreamProtocol::new(offered, ()).with_timeout(timeout)
    }
}

/// An offer that is lent. There until it is dropped, or a stream is upgraded by it.
pub struct Offered<U: UpgradeInfoSend, I> {
    offer: Option<Offer<U, I>>,
    home: Place<U, I>,
}

impl<U: UpgradeInfoSend, I> Drop for Offered<U, I> {
    fn drop(&mut self) {
        if let Some(offer) = self.offer.take() {
            *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(offer);
        }
    }
}

/// One protocol of an offer.
pub struct Id<T> {
    ids: Arc<[T]>,
    at: usize,
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        Self {
            ids: Arc::clone(&self.ids),
            at: self.at,
        }
    }
}

impl<T: AsRef<str>> AsRef<str> for Id<T> {
    fn as_ref(&self) -> &str {
        self.ids.get(self.at).map_or("", AsRef::as_ref)
    }
}

/// All protocols of an offer.
pub struct Ids<T>(Option<Id<T>>);

impl<T> Iterator for Ids<T> {
    type Item = Id<T>;

    fn next(&mut self) -> Option<Id<T>> {
        let next = self.0.as_mut()?;
        if next.at >= next.ids.len() {
            return None;
        }
        let id = next.clone();
        next.at += 1;
        Some(id)
    }
}

impl<U: UpgradeInfoSend, I> UpgradeInfo for Offered<U, I> {
    type Info = Id<U::Info>;
    type InfoIter = Ids<U::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        let ids = self.offer.as_ref().map(|offer| Arc::clone(&offer.ids));
        Ids(ids.map(|ids| Id { ids, at: 0 }))
    }
}

impl<U: InboundUpgradeSend, I: Send + 'static> InboundUpgrade<Stream> for Offered<U, I> {
    type Output = (U::Output, I);
    type Error = (U::Error, I);
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(mut self, stream: Stream, id: Id<U::Info>) -> Self::Future {
        // An id comes from an offer that was there, and whoever negotiates gives up after a while.
        let (Some(offer), Some(id)) = (self.offer.take(), id.ids.get(id.at).cloned()) else {
            return pending().boxed();
        };
        let Offer { upgrade, info, .. } = offer;
        let upgrading = upgrade.upgrade_inbound(stream, id);
        async move {
            match upgrading.await {
                Ok(output) => Ok((output, info)),
                Err(error) => Err((error, info)),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use libp2p::StreamProtocol;
    use libp2p::core::upgrade::ReadyUpgrade;

    use super::*;

    #[test]
    fn an_offer_is_made_once_until_it_may_have_changed_or_is_used() {
        let made = Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            SubstreamProtocol::new(ReadyUpgrade::new(StreamProtocol::new("/a/1")), 7)
                .with_timeout(Duration::from_secs(3))
        };
        let mut kept = Kept::default();
        for _ in 0..3 {
            let lent = kept.lend(make);
            assert_eq!(*lent.timeout(), Duration::from_secs(3));
            let names: Vec<_> = UpgradeInfo::protocol_info(lent.upgrade()).collect();
            assert_eq!(
                names.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
                ["/a/1"]
            );
        }
        assert_eq!(made.get(), 1);

        // Two streams are negotiated at the same time.
        let both = (kept.lend(make), kept.lend(make));
        assert_eq!(made.get(), 2);
        kept.forget();
        drop(both);
        drop(kept.lend(make));
        assert_eq!(made.get(), 3);
        kept.forget();
        drop(kept.lend(make));
        assert_eq!(made.get(), 4);

        // One that was used does not come back.
        let (mut used, ()) = kept.lend(make).into_upgrade();
        assert_eq!(used.offer.take().map(|offer| offer.info), Some(7));
        drop(used);
        drop(kept.lend(make));
        assert_eq!(made.get(), 5);
    }
}
