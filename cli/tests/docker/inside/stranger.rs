//! What a peer that does not own the job gets of the provider: nothing, whatever it says.

use p2pnode_node::home::DataDir;
use p2pnode_node::net::{self, NetConfig, ReachConfig, StreamKind};
use p2pnode_protocol::tunnel::{ExecSpec, Purpose, SessionId, TunnelFault, TunnelHello};
use p2pnode_tunnel::client::{self, OpenError};

use super::Place;

/// The network that nodes are in unless they are told otherwise.
const NETWORK: &str = "main";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn whoever_does_not_own_the_job_is_told_that_there_is_none() {
    let place = tokio::task::spawn_blocking(Place::new).await.unwrap();
    let provider = &place.nodes.0;
    // It knows the job's id, and speaks the protocol as well as anybody.
    let dir = DataDir::find(Some(place.lab.path("stranger"))).unwrap();
    let config = NetConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        bootstrap: vec![provider.address.parse().unwrap()],
        mdns: false,
        reach: ReachConfig::none(),
        ..NetConfig::new(dir.identity().unwrap(), NETWORK)
    };
    let (stranger, _events) = net::start(config).await.unwrap();
    let purposes = [
        Purpose::Exec(ExecSpec::default()),
        Purpose::Resume {
            session: SessionId([0; 16]),
            received: 0,
        },
        Purpose::Ssh {
            client_key: [7; 32],
            shortcut: true,
        },
        Purpose::Files,
        Purpose::Tcp { port: 80 },
        Purpose::Udp { port: 80 },
    ];
    for purpose in purposes {
        let hello = TunnelHello {
            job: place.job.parse().unwrap(),
            step: 0,
            index: 0,
            purpose,
        };
        let peer = provider.id.parse().unwrap();
        let stream = stranger.open_stream(peer, StreamKind::Tunnel).await;
        let opened = client::open(stream.unwrap(), &hello).await;
        match opened.map(|_| ()) {
            Err(OpenError::Refused(refusal)) => {
                assert_eq!(refusal.kind, TunnelFault::NotHere, "{hello:?}: {refusal}");
            }
            other => panic!("{hello:?}: {other:?}"),
        }
    }
    tokio::task::spawn_blocking(move || {
        assert!(
            place.ssh(&["true"], b"").status.success(),
            "its owner is let in"
        );
    })
    .await
    .unwrap();
}
