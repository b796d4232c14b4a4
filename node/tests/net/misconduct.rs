//! Peers that break the rules: bare libp2p swarms with no more sense than they need.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::{DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, gossipsub, identify};
use p2pnode_node::net::{Misdeed, MisdeedLabel, NetEvent};
use p2pnode_protocol::JobId;
use p2pnode_protocol::message::{MAX_MESSAGE_BYTES, Renewal, TaskRequest, TaskResponse};

use crate::support::{
    NETWORK, Node, PATIENCE, connected, eventually, loopback, start, start_beside,
};

/// Sends whatever bytes it is given and reads nothing into the answer.
#[derive(Debug, Clone, Default)]
struct Bytes {
    /// Whether it then waits for ever instead of ending the message.
    stalls: bool,
}

impl request_response::Codec for Bytes {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<Vec<u8>>
    where
        T: futures::AsyncRead + Unpin + Send,
    {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: futures::AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        futures::AsyncReadExt::read_to_end(io, &mut bytes).await?;
        Ok(bytes)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        // The other side may stop reading before the end.
        let _ = futures::AsyncWriteExt::write_all(io, &bytes).await;
        if self.stalls {
            let _ = futures::AsyncWriteExt::flush(io).await;
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        _: Vec<u8>,
    ) -> io::Result<()>
    where
        T: futures::AsyncWrite + Unpin + Send,
    {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn swarm<B: NetworkBehaviour>(behaviour: impl FnOnce(&Keypair) -> B) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            Default::default(),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3_600)))
        .build()
}

type Attacker = Swarm<request_response::Behaviour<Bytes>>;

/// Connects to `victim` and speaks `protocol`.
async fn attacker(victim: &Multiaddr, protocol: &str) -> Attacker {
    attacker_with(Bytes::default(), victim, protocol).await
}

async fn attacker_with(codec: Bytes, victim: &Multiaddr, protocol: &str) -> Attacker {
    let protocol = StreamProtocol::try_from_owned(protocol.to_owned()).unwrap();
    let mut swarm = swarm(|_| {
        request_response::Behaviour::with_codec(
            codec,
            [(protocol, ProtocolSupport::Outbound)],
            request_response::Config::default(),
        )
    });
    swarm.dial(victim.clone()).unwrap();
    wait(&mut swarm, |event| {
        matches!(event, SwarmEvent::ConnectionEstablished { .. })
    })
    .await;
    swarm
}

async fn wait<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    mut wanted: impl FnMut(&SwarmEvent<B::ToSwarm>) -> bool,
) {
    let waiting = async { while !wanted(&swarm.select_next_some().await) {} };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

fn count(node: &Node, misdeed: Misdeed) -> u64 {
    let label = MisdeedLabel {
        kind: misdeed.name().to_owned(),
    };
    node.handle.metrics().misdeeds.get_or_create(&label).get()
}

/// Sends `bytes` again and again until the victim closes the connection, and makes sure that every
/// message was counted and that there is no way back.
async fn until_shut_out(protocol: &str, bytes: Vec<u8>, misdeed: Misdeed, times: u64) {
    let mut victim = start(loopback()).await;
    let address = victim.address();
    let mut attacker = attacker(&address, protocol).await;
    let id = *attacker.local_peer_id();
    let peer = victim.id();
    attacker.behaviour_mut().send_request(&peer, bytes.clone());
    wait(&mut attacker, |event| match event {
        SwarmEvent::Behaviour(_) => true,
        SwarmEvent::ConnectionClosed { .. } => panic!("closed after the first"),
        _ => false,
    })
    .await;
    assert_eq!(count(&victim, misdeed), 1);
    let mut more = 1;
    attacker.behaviour_mut().send_request(&peer, bytes.clone());
    loop {
        let event = tokio::time::timeout(PATIENCE, attacker.select_next_some())
            .await
            .unwrap();
        match event {
            SwarmEvent::Behaviour(_) => {
                more += 1;
                assert!(more < 2 * times, "{} goes on and on", misdeed.name());
                attacker.behaviour_mut().send_request(&peer, bytes.clone());
            }
            SwarmEvent::ConnectionClosed { .. } => break,
            _ => {}
        }
    }
    assert_eq!(count(&victim, misdeed), times);
    victim
        .until("the end of it", |log| {
            !connected(log, id)
                && log.iter().any(|event| {
                    matches!(event, NetEvent::ShutOut { peer, misdeed: m } if *peer == id && *m == misdeed)
                })
        })
        .await;
    assert!(
        !victim
            .log
            .iter()
            .any(|event| matches!(event, NetEvent::Request { .. } | NetEvent::Advert { .. })),
        "nothing of it reached the node"
    );
    // A new connection is closed as soon as the peer is known.
    let _ = attacker.dial(address);
    let mut established = 0;
    wait(&mut attacker, |event| match event {
        SwarmEvent::ConnectionEstablished { .. } => {
            established += 1;
            false
        }
        SwarmEvent::ConnectionClosed { .. } => true,
        SwarmEvent::OutgoingConnectionError { error, .. } => {
            !matches!(error, DialError::DialPeerConditionFalse(_))
        }
        _ => false,
    })
    .await;
    assert!(established <= 1);
}

fn task_protocol() -> String {
    format!("/p2pnode/{NETWORK}/task/1")
}

#[tokio::test]
async fn garbage_is_refused_and_finally_not_listened_to() {
    until_shut_out(&task_protocol(), vec![0xff; 64], Misdeed::Garbage, 10).await;
}

#[tokio::test]
async fn a_message_with_a_tail_is_garbage() {
    let mut bytes =
        p2pnode_protocol::codec::encode(&p2pnode_protocol::message::TaskRequest::Goodbye, 100)
            .unwrap();
    bytes.push(0);
    until_shut_out(&task_protocol(), bytes, Misdeed::Garbage, 10).await;
}

#[tokio::test]
async fn oversize_is_refused_and_finally_not_listened_to() {
    let bytes = vec![0; MAX_MESSAGE_BYTES + 1];
    until_shut_out(&task_protocol(), bytes, Misdeed::Oversize, 5).await;
}

#[tokio::test]
async fn requests_that_never_end_keep_nobody_else_out() {
    let mut victim = start(loopback()).await;
    let stalling = Bytes { stalls: true };
    let mut attacker = attacker_with(stalling, &victim.address(), &task_protocol()).await;
    for _ in 0..100 {
        let part = vec![0; 100 << 10];
        attacker.behaviour_mut().send_request(&victim.id(), part);
    }
    let attack = tokio::spawn(async move { while attacker.next().await.is_some() {} });
    let honest = start_beside(&victim, loopback()).await;
    victim.until_connected(honest.id()).await;
    let job = JobId([7; 8]);
    let jobs = vec![Renewal { job, epoch: 0 }; 20_000];
    let (request, peer) = (TaskRequest::Heartbeat { jobs }, victim.id());
    let serve = async {
        let (_, id, _) = victim.next_request().await;
        victim
            .handle
            .respond(id, &TaskResponse::Done)
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(honest.handle.request(peer, &request), serve);
    assert_eq!(answer, Ok(TaskResponse::Done));
    attack.abort();
}

#[tokio::test]
async fn garbage_in_place_of_an_advert() {
    let protocol = format!("/p2pnode/{NETWORK}/advert/1");
    until_shut_out(&protocol, vec![0xff; 64], Misdeed::Garbage, 10).await;
}

#[tokio::test]
async fn an_unknown_version_is_not_spoken() {
    let victim = start(loopback()).await;
    let protocol = format!("/p2pnode/{NETWORK}/task/99");
    let mut attacker = attacker(&victim.address(), &protocol).await;
    attacker.behaviour_mut().send_request(&victim.id(), vec![1]);
    wait(&mut attacker, |event| {
        matches!(
            event,
            SwarmEvent::Behaviour(request_response::Event::OutboundFailure {
                error: request_response::OutboundFailure::UnsupportedProtocols,
                ..
            })
        )
    })
    .await;
}

#[derive(NetworkBehaviour)]
struct Stranger {
    identify: identify::Behaviour,
    requests: request_response::Behaviour<Bytes>,
}

#[tokio::test]
async fn who_says_that_he_speaks_only_another_version_is_sent_away() {
    let mut victim = start(loopback()).await;
    let protocol = StreamProtocol::try_from_owned(format!("/p2pnode/{NETWORK}/task/99")).unwrap();
    let mut stranger = swarm(|key| Stranger {
        identify: identify::Behaviour::new(identify::Config::new("/x/1".into(), key.public())),
        requests: request_response::Behaviour::new(
            [(protocol, ProtocolSupport::Full)],
            request_response::Config::default(),
        ),
    });
    let id = *stranger.local_peer_id();
    stranger.dial(victim.address()).unwrap();
    wait(&mut stranger, |event| {
        matches!(event, SwarmEvent::ConnectionClosed { .. })
    })
    .await;
    assert_eq!(count(&victim, Misdeed::UnknownVersion), 1);
    victim
        .until("it to be shut out", |log| {
            log.iter()
                .any(|event| matches!(event, NetEvent::ShutOut { peer, .. } if *peer == id))
        })
        .await;
}

#[tokio::test]
async fn what_other_modules_report_counts_too() {
    let (mut a, b) = crate::support::pair().await;
    let id = b.id();
    for _ in 0..5 {
        a.handle.report_misbehaviour(id, Misdeed::WrongChunk).await;
    }
    a.until("the loss", |log| !connected(log, id)).await;
    assert_eq!(count(&a, Misdeed::WrongChunk), 5);
    let goodbye = p2pnode_protocol::message::TaskRequest::Goodbye;
    let answer = a.handle.request(id, &goodbye).await;
    assert_eq!(answer, Err(p2pnode_node::net::CallError::Unreachable));
}

/// Says anything through gossip.
pub struct Gossiper {
    pub key: Keypair,
    pub id: PeerId,
    words: tokio::sync::mpsc::Sender<Vec<u8>>,
}

impl Gossiper {
    pub async fn start(victim: &Multiaddr) -> Self {
        let topic = gossipsub::IdentTopic::new(format!("/p2pnode/{NETWORK}/capacity/1"));
        let mut keep = None;
        let mut swarm = swarm(|key| {
            keep = Some(key.clone());
            gossipsub::Behaviour::<gossipsub::IdentityTransform>::new(
                gossipsub::MessageAuthenticity::Signed(key.clone()),
                gossipsub::Config::default(),
            )
            .unwrap()
        });
        swarm.behaviour_mut().subscribe(&topic).unwrap();
        swarm.dial(victim.clone()).unwrap();
        wait(&mut swarm, |event| {
            matches!(
                event,
                SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })
            )
        })
        .await;
        let id = *swarm.local_peer_id();
        let (words, mut said) = tokio::sync::mpsc::channel::<Vec<u8>>(8);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    word = said.recv() => match word {
                        Some(word) => {
                            let _ = swarm.behaviour_mut().publish(topic.clone(), word);
                        }
                        None => break,
                    },
                    _ = swarm.select_next_some() => {}
                }
            }
        });
        Self {
            key: keep.unwrap(),
            id,
            words,
        }
    }

    pub async fn say(&mut self, word: Vec<u8>) {
        self.words.send(word).await.unwrap();
    }
}

#[tokio::test]
async fn a_liar_is_finally_not_listened_to() {
    let mut victim = start(loopback()).await;
    let mut liar = Gossiper::start(&victim.address()).await;
    let id = liar.id;
    for number in 0..3_u8 {
        liar.say(vec![number; 10]).await;
    }
    let handle = victim.handle.clone();
    victim
        .until("the liar to be gone", |log| {
            log.iter()
                .any(|event| matches!(event, NetEvent::ShutOut { peer, .. } if *peer == id))
        })
        .await;
    eventually("its connection to be closed", || async {
        handle.peers().await.iter().all(|peer| !peer.connected)
    })
    .await;
}
