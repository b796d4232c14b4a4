//! Ways to peers: round trips, connections, and what the DHT knows.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use p2pnode_protocol::api::{
    FindOffers, FoundOffers, PeerEcho, PeerInfo, PeerPath, PeerWhereabouts,
};

use super::error::Refused;
use super::{ApiState, select};
use crate::command::{Command, ReachCommand};

/// Time for offers to come in after the DHT was asked (3 s): a look-up, a dial, and the hello in which a
/// peer says what it offers.
const OFFERS_TIME: Duration = Duration::from_secs(3);

pub(super) async fn ping(
    State(state): State<ApiState>,
    Path(peer): Path<String>,
) -> Result<Json<PeerEcho>, Refused> {
    let peer = select::peer(&state.node, &peer).await?;
    let make = |answer| Command::Reach(ReachCommand::Ping { peer, answer });
    Ok(Json(state.node.ask(make).await?))
}

pub(super) async fn path(
    State(state): State<ApiState>,
    Path(peer): Path<String>,
) -> Result<Json<PeerPath>, Refused> {
    let peer = select::peer(&state.node, &peer).await?;
    let make = |answer| Command::Reach(ReachCommand::Path { peer, answer });
    Ok(Json(state.node.ask(make).await?))
}

pub(super) async fn find(
    State(state): State<ApiState>,
    Path(peer): Path<String>,
) -> Result<Json<PeerWhereabouts>, Refused> {
    let peer = select::peer(&state.node, &peer).await?;
    let make = |answer| Command::Reach(ReachCommand::Find { peer, answer });
    Ok(Json(state.node.ask(make).await?))
}

/// Asks the DHT, gives those who answer the time to say what they offer, and returns all that fit.
pub(super) async fn offers(
    State(state): State<ApiState>,
    Json(wanted): Json<FindOffers>,
) -> Result<Json<FoundOffers>, Refused> {
    let make = |answer| Command::Reach(ReachCommand::FindProviders { answer });
    state.node.ask(make).await?;
    tokio::time::sleep(OFFERS_TIME).await;
    let mut peers = state.node.ask(|answer| Command::Peers { answer }).await?;
    peers.retain(|peer| fits(peer, &wanted));
    Ok(Json(FoundOffers { peers }))
}

fn fits(peer: &PeerInfo, wanted: &FindOffers) -> bool {
    peer.capacity.as_ref().is_some_and(|offered| {
        offered.cpus.0 >= wanted.cpus_milli && offered.gpus.len() >= wanted.gpus as usize
    })
}
