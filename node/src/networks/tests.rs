//! Nodes in several networks of this process's memory.
#![allow(clippy::unwrap_used)]

use libp2p::identity::Keypair;
use libp2p::pnet::PreSharedKey;
use p2pnode_protocol::JobId;

use super::*;
use crate::net::ReachConfig;

/// Nothing here takes a second on an idle machine; this is for a busy one.
const PATIENCE: Duration = Duration::from_secs(60);

const MAIN: &str = "main";
const LAB: &str = "lab";

struct Node {
    networks: Networks,
    events: NetworkEvents,
}

impl Node {
    /// A node in the networks named, beside others of them. `lab` is a private one.
    async fn new(names: &[&str], beside: &[&Self]) -> Self {
        Self::of(names, beside, |key, name| NetConfig::in_memory(key, name)).await
    }

    /// The same with real ports.
    async fn on_loopback(names: &[&str], beside: &[&Self]) -> Self {
        Self::of(names, beside, |key, name| NetConfig {
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            mdns: false,
            reach: ReachConfig::none(),
            ..NetConfig::new(key, name)
        })
        .await
    }

    async fn of(
        names: &[&str],
        beside: &[&Self],
        config: impl Fn(Keypair, &str) -> NetConfig,
    ) -> Self {
        let key = Keypair::generate_ed25519();
        let configs = names.iter().map(|name| {
            let all = beside.iter().flat_map(|node| node.networks.members());
            let same = all.filter(|member| member.name() == *name);
            NetConfig {
                bootstrap: same.flat_map(|m| m.net().listen_addresses()).collect(),
                psk: (*name == LAB).then(|| PreSharedKey::new([7; 32])),
                ..config(key.clone(), name)
            }
        });
        let (networks, events) = start_all(configs.collect()).await.unwrap();
        Self { networks, events }
    }

    fn id(&self) -> PeerId {
        self.networks.local_peer_id()
    }

    /// The next event that is one of these.
    async fn until(&mut self, wanted: impl Fn(&NetworkEvent) -> bool) -> NetworkEvent {
        let waiting = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap()
    }

    async fn connected(&mut self, peer: PeerId) {
        self.until(|event| matches!(event, NetworkEvent::Connected(other) if *other == peer))
            .await;
    }

    /// Answers the next request, and hands out all that happens before.
    async fn answer(&mut self, expected: PeerId) {
        let asked = |event: &NetworkEvent| matches!(event, NetworkEvent::Request { .. });
        let NetworkEvent::Request { peer, id, .. } = self.until(asked).await else {
            panic!("no request")
        };
        assert_eq!(peer, expected);
        let done = TaskResponse::Done;
        self.networks.respond(id, &done).await.unwrap();
    }
}

fn release() -> TaskRequest {
    TaskRequest::Release { job: JobId([1; 8]) }
}

/// `a` asks `b`, while both learn what happens.
async fn ask(a: &mut Node, b: &mut Node) {
    let (networks, to, from) = (a.networks.clone(), b.id(), a.id());
    let asking = tokio::spawn(async move { networks.request(to, &release()).await });
    b.answer(from).await;
    let answered = asking.await.unwrap();
    assert!(matches!(answered, Ok(TaskResponse::Done)), "{answered:?}");
}

#[tokio::test]
async fn every_peer_is_spoken_to_in_its_own_network() {
    let mut ours = Node::new(&[MAIN, LAB], &[]).await;
    let mut public = Node::new(&[MAIN], &[&ours]).await;
    let mut member = Node::new(&[LAB], &[&ours]).await;
    let (first, second) = (public.id(), member.id());
    let (mut seen, mut members) = (Vec::new(), Vec::new());
    while seen.len() < 2 {
        match ours.events.recv().await.unwrap() {
            NetworkEvent::Connected(peer) => {
                assert_eq!(members.contains(&peer), peer == second, "told before");
                seen.push(peer);
            }
            NetworkEvent::Member(peer) => members.push(peer),
            _ => {}
        }
    }
    assert_eq!(members, [second], "who has the key, and nobody else");
    ask(&mut ours, &mut public).await;
    ask(&mut ours, &mut member).await;
    ask(&mut member, &mut ours).await;
    let peers = ours.networks.peers().await;
    let mut peers: Vec<_> = peers
        .iter()
        .map(|(name, seen)| (*name, seen.peer))
        .collect();
    peers.sort();
    assert_eq!(peers, [(LAB, second), (MAIN, first)]);
    let links = ours.networks.links(second).await;
    assert!(links.iter().all(|(name, _)| *name == LAB) && links.iter().any(|(_, l)| l.chosen));
    // Those in different networks see nothing of one another.
    assert!(
        public
            .networks
            .peers()
            .await
            .iter()
            .all(|(_, seen)| seen.peer != second)
    );
}

#[tokio::test]
async fn a_peer_in_several_networks_is_one_peer() {
    let mut ours = Node::new(&[MAIN, LAB], &[]).await;
    let mut theirs = Node::new(&[MAIN, LAB], &[&ours]).await;
    let (me, peer) = (ours.id(), theirs.id());
    ours.connected(peer).await;
    theirs.connected(me).await;
    let both = async {
        while ours.networks.shared.presence.places(&peer).len() < 2 {
            let event = ours.events.recv().await.unwrap();
            assert!(
                !matches!(event, NetworkEvent::Connected(_)),
                "it was already"
            );
        }
    };
    tokio::time::timeout(PATIENCE, both).await.unwrap();
    ask(&mut ours, &mut theirs).await;
    let links = ours.networks.links(peer).await;
    let chosen: Vec<&str> = links.iter().filter(|l| l.1.chosen).map(|l| l.0).collect();
    assert!(
        links.iter().any(|(name, _)| *name == LAB) && chosen == [MAIN],
        "{links:?}"
    );
    // One way ends: what went there may be lost, and the other way is there.
    theirs.networks.members()[0].net().shutdown().await;
    let lost = |event: &NetworkEvent| matches!(event, NetworkEvent::Disconnected(_));
    ours.until(lost).await;
    let next = ours.events.recv().await.unwrap();
    assert!(
        matches!(next, NetworkEvent::Connected(back) if back == peer),
        "{next:?}"
    );
    ask(&mut ours, &mut theirs).await;
    ask(&mut theirs, &mut ours).await;
    theirs.networks.shutdown().await;
    ours.until(lost).await;
    assert!(!ours.networks.shared.presence.is_connected(&peer));
}

#[tokio::test]
async fn a_peer_that_is_known_nowhere_is_looked_for_in_every_network() {
    let mut ours = Node::new(&[MAIN, LAB], &[]).await;
    let mut between = Node::new(&[LAB], &[&ours]).await;
    between.connected(ours.id()).await;
    let mut far = Node::new(&[LAB], &[&between]).await;
    far.connected(between.id()).await;
    let (networks, to, from) = (ours.networks.clone(), far.id(), ours.id());
    let asking = tokio::spawn(async move { networks.request(to, &release()).await });
    // What happens has to be heard for a peer to be known.
    let listening = tokio::spawn(async move { while ours.events.recv().await.is_some() {} });
    let idling = tokio::spawn(async move { while between.events.recv().await.is_some() {} });
    far.answer(from).await;
    assert!(matches!(asking.await.unwrap(), Ok(TaskResponse::Done)));
    listening.abort();
    idling.abort();
}

#[tokio::test]
async fn who_is_in_a_private_network_is_not_reached_beside_it() {
    let open = Node::on_loopback(&[MAIN], &[]).await;
    let hidden = Node::on_loopback(&[LAB], &[]).await;
    let both = Node::on_loopback(&[MAIN, LAB], &[&open, &hidden]).await;
    let mut mine = Node::on_loopback(&[MAIN, LAB], &[&open, &hidden, &both]).await;
    let (networks, them) = (mine.networks.clone(), [open.id(), hidden.id(), both.id()]);
    let told = async {
        loop {
            let _event = mine.events.recv().await;
        }
    };
    let looking = async {
        let links = async |peer| networks.links(peer).await.len();
        while links(them[0]).await < 1 || links(them[1]).await < 1 || links(them[2]).await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It listens for TCP, and nothing else stands in the way.
        while networks.tcp_address(them[0]).await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The node is told of a connection a moment after it stands.
        while networks.shared.presence.places(&them[2]).len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = told => {}
        looked = tokio::time::timeout(PATIENCE, looking) => looked.unwrap(),
    }
    let nets = mine.networks.members();
    let by_itself = nets[0].net().tcp_address(them[2]).await;
    assert!(by_itself.is_some(), "the case is none");
    assert_eq!(mine.networks.tcp_address(them[1]).await, None);
    assert_eq!(mine.networks.tcp_address(them[2]).await, None);
}
