//! What a search brings.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use libp2p::identity::Keypair;

use super::super::{NetConfig, prepare};
use super::*;

#[tokio::test]
async fn a_search_dials_no_more_for_many_answers_than_for_one() {
    let config = NetConfig::in_memory(Keypair::generate_ed25519(), "test");
    let (mut actor, _handle, _events) = prepare(config).await.unwrap();
    let joining = Joining::new(&[], Instant::now());
    let mut discovery = Discovery::new(joining, 8);
    actor.with(|cx| {
        let mut left = RELAYS_DIALLED;
        for _ in 0..20 {
            let found = GetProvidersOk::FoundProviders {
                key: cx.protocols.relays.clone(),
                providers: (0..5).map(|_| PeerId::random()).collect(),
            };
            left = discovery.on_providers(cx, left, &found);
        }
        assert_eq!(left, 0);
        assert_eq!(discovery.seeking.under_way(), RELAYS_DIALLED);
    });
}
