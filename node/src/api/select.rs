//! Selectors. Of a job: `last`, its id, or the beginning of it. Of a peer: its id, the beginning or the
//! end of it, or its name, when they fit one peer that is known.

use std::collections::BTreeMap;

use p2pnode_protocol::api::ErrorCode;
use p2pnode_protocol::{JobId, PeerId, parse_peer};

use super::error::Refused;
use crate::command::{Command, NodeHandle};

/// The most candidates that an ambiguous selector's error lists.
const MAX_CANDIDATES: usize = 10;

/// How the ids of all our peers begin, their keys being ed25519: it selects nobody.
const COMMON_PREFIX: &str = "12D3KooW";

/// The least characters of an id's end that select a peer: 58^6 ends do not meet by chance.
const MIN_SUFFIX: usize = 6;

/// The job that `selector` names.
pub(super) async fn job(node: &NodeHandle, selector: &str) -> Result<JobId, Refused> {
    // `JOB/INDEX` stands wherever a job is asked for.
    let wanted = selector
        .split('/')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let ids = node.view(|core| core.job_ids()).await?;
    if wanted == "last" {
        return ids.first().copied().ok_or_else(|| {
            Refused::new(
                ErrorCode::NotFound,
                "there are no jobs yet; run: p2pnode submit job.toml",
            )
        });
    }
    if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refused::new(
            ErrorCode::Invalid,
            format!(
                "`{selector}` does not name a job: give its id, the beginning of it, or `last`"
            ),
        ));
    }
    let fitting: Vec<JobId> = ids
        .into_iter()
        .filter(|id| id.to_string().starts_with(&wanted))
        .collect();
    match fitting.as_slice() {
        [one] => Ok(*one),
        [] => Err(Refused::new(
            ErrorCode::NotFound,
            format!("no job begins with `{wanted}`; `p2pnode jobs` lists them"),
        )),
        several => Err(Refused::new(
            ErrorCode::Ambiguous,
            format!(
                "`{wanted}` fits {} jobs; give more of the id",
                several.len()
            ),
        )
        .with_details(
            several
                .iter()
                .take(MAX_CANDIDATES)
                .map(ToString::to_string)
                .collect(),
        )),
    }
}

/// The peers that `selectors` name, as whole ids, in their order.
pub(super) async fn peers(node: &NodeHandle, selectors: &[String]) -> Result<Vec<String>, Refused> {
    let mut found = Vec::with_capacity(selectors.len());
    for selector in selectors {
        found.push(peer(node, selector).await?.to_string());
    }
    Ok(found)
}

/// The peer that `selector` names. A whole id names a peer that was never met, too.
pub(super) async fn peer(node: &NodeHandle, selector: &str) -> Result<PeerId, Refused> {
    let selector = selector.trim();
    if let Ok(peer) = parse_peer(selector) {
        return Ok(peer);
    }
    let known = known(node).await?;
    choose(selector, &known)
}

/// Ids and names of the peers that are known, this node among them.
async fn known(node: &NodeHandle) -> Result<BTreeMap<String, String>, Refused> {
    let infos = node.ask(|answer| Command::Peers { answer }).await?;
    let status = node.ask(|answer| Command::Status { answer }).await?;
    // Allowed peers, and those that asked, need not be known by name.
    let mut known: BTreeMap<String, String> = node
        .view(|core| {
            let peers = core.allowed_peers().keys().chain(core.requests().keys());
            peers
                .map(|peer| (peer.to_string(), String::new()))
                .collect()
        })
        .await?;
    known.extend(infos.into_iter().map(|info| (info.peer, info.name)));
    known.insert(status.peer, status.name);
    Ok(known)
}

fn choose(selector: &str, known: &BTreeMap<String, String>) -> Result<PeerId, Refused> {
    let is_part = |id: &str| {
        (selector.len() > COMMON_PREFIX.len() && id.starts_with(selector))
            || (selector.len() >= MIN_SUFFIX && id.ends_with(selector))
    };
    let fitting: Vec<(&String, &String)> = known
        .iter()
        .filter(|(id, name)| !selector.is_empty() && (*name == selector || is_part(id)))
        .collect();
    match fitting.as_slice() {
        [(one, _)] => {
            parse_peer(one).map_err(|error| Refused::new(ErrorCode::Internal, error.to_string()))
        }
        [] => {
            let shown: String = selector.chars().take(80).collect();
            Err(Refused::new(
                ErrorCode::NotFound,
                format!(
                    "no known peer is called `{shown}` or has an id that begins or ends so; give a peer that was never met by its whole id, as `p2pnode id` prints it there (`p2pnode peers` lists those that are known)"
                ),
            ))
        }
        several => Err(Refused::new(
            ErrorCode::Ambiguous,
            format!(
                "`{selector}` fits {} peers; give more of the id",
                several.len()
            ),
        )
        .with_details(
            several
                .iter()
                .take(MAX_CANDIDATES)
                .map(|(id, name)| format!("{id} {name}").trim_end().to_owned())
                .collect(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_selected_by_either_end_of_its_id_or_by_its_name() {
        let ids: Vec<String> = (0..4).map(|_| PeerId::random().to_string()).collect();
        let key = |byte| {
            let pair = libp2p::identity::Keypair::ed25519_from_bytes([byte; 32]).unwrap();
            pair.public().to_peer_id().to_string()
        };
        let (desk, render) = (key(1), key(2));
        let mut known = BTreeMap::from([
            (desk.clone(), "desk".to_owned()),
            (render.clone(), "render 1".to_owned()),
        ]);
        known.extend(ids.iter().map(|id| (id.clone(), "twin".to_owned())));
        let found = |selector: &str| choose(selector, &known).ok().map(|peer| peer.to_string());
        assert_eq!(found(&desk[..14]), Some(desk.clone()));
        assert_eq!(found(&desk[desk.len() - 8..]), Some(desk.clone()));
        assert_eq!(found("render 1"), Some(render));
        for nobody in ["", "twin", "12D3KooW", &desk[desk.len() - 5..], "../jobs"] {
            assert_eq!(found(nobody), None, "{nobody}");
        }
    }
}
