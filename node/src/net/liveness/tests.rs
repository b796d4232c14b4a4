//! What silence means.
#![allow(clippy::unwrap_used)]

use libp2p::identity::Keypair;

use super::super::{NetConfig, prepare};
use super::*;

/// What is done when a doubted connection brings `came`, on which a stream moved bytes that long ago.
async fn closes(came: Came, moved: Option<Duration>) -> bool {
    let config = NetConfig::in_memory(Keypair::generate_ed25519(), "test");
    let (mut actor, _handle, _events) = prepare(config).await.unwrap();
    let (peer, connection) = (PeerId::random(), ConnectionId::new_unchecked(7));
    actor.with(|cx| {
        if let Some(ago) = moved {
            let at = cx.now.checked_sub(ago).unwrap();
            cx.behaviour.streams.pretend_moved(peer, connection, at);
        }
        let mut liveness = Liveness::default();
        liveness.ask(cx, peer, connection, None);
        let id = EchoId(liveness.next);
        let event = Event {
            peer,
            connection,
            id,
            came,
        };
        liveness.on_echo(cx, event);
        let again = liveness.asked.len() == 1;
        let closed = cx
            .actions
            .drain(..)
            .any(|action| matches!(action, Action::Close(_)));
        assert!(!(again && closed));
        assert_eq!(again || closed, came == Came::Nothing);
        closed
    })
}

#[tokio::test]
async fn only_silence_on_a_connection_that_stands_still_is_death() {
    assert!(closes(Came::Nothing, None).await);
    assert!(closes(Came::Nothing, Some(MOVING)).await);
    assert!(!closes(Came::Nothing, Some(MOVING / 2)).await, "bytes move");
    assert!(!closes(Came::Otherwise, None).await, "there is somebody");
    assert!(!closes(Came::Back(Duration::ZERO), None).await);
}
