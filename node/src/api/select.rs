//! Selectors. Of a job: `last`, its id, or the beginning of it. Of a peer: its id; a long part of either end
//! of it, which fits one peer that is known; or the name of a peer that the owner has allowed already.
//!
//! Peers choose their names themselves, and an id can be made whose end is any few characters: whoever
//! takes the name of the owner's laptop must not be allowed in its place, nor get its jobs.

use std::collections::BTreeMap;

use p2pnode_protocol::api::ErrorCode;
use p2pnode_protocol::{JobId, PeerId, parse_peer};

use super::error::Refused;
use crate::command::{Command, NodeHandle};

/// The most candidates that an ambiguous selector's error lists.
const MAX_CANDIDATES: usize = 10;

/// How the ids of all our peers begin, their keys being ed25519: it selects nobody.
const COMMON_PREFIX: &str = "12D3KooW";

/// The least characters of an id, beyond [`COMMON_PREFIX`], that select a peer: nobody makes 58^10 keys to
/// have one whose id ends like another's.
const MIN_PART: usize = 10;

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

/// A peer that is known.
#[derive(Debug, Default)]
struct Known {
    /// What it calls itself; empty when it does not.
    name: String,
    /// Whether its name is its own as far as the owner is concerned: it is this node, or it was allowed.
    trusted: bool,
}

/// The peers that are known, this node among them, by their ids.
async fn known(node: &NodeHandle) -> Result<BTreeMap<String, Known>, Refused> {
    let infos = node.ask(|answer| Command::Peers { answer }).await?;
    let status = node.ask(|answer| Command::Status { answer }).await?;
    // Allowed peers, and those that asked, need not be known by name.
    let mut known: BTreeMap<String, Known> = node
        .view(|core| {
            let asked = core.requests().keys().map(|peer| (peer, false));
            let said = core.allowed_peers().iter();
            let said = said.map(|(peer, grant)| (peer, !grant.is_denial()));
            let named = asked.chain(said).map(|(peer, trusted)| {
                let name = String::new();
                (peer.to_string(), Known { name, trusted })
            });
            named.collect()
        })
        .await?;
    for info in infos {
        known.entry(info.peer).or_default().name = info.name;
    }
    let own = Known {
        name: status.name,
        trusted: true,
    };
    known.insert(status.peer, own);
    Ok(known)
}

fn choose(selector: &str, known: &BTreeMap<String, Known>) -> Result<PeerId, Refused> {
    let is_part = |id: &str| {
        (selector.len() >= COMMON_PREFIX.len() + MIN_PART && id.starts_with(selector))
            || (selector.len() >= MIN_PART && id.ends_with(selector))
    };
    let is_name = |peer: &Known| !selector.is_empty() && peer.name == selector;
    let fitting: Vec<(&String, &Known)> = known
        .iter()
        .filter(|(id, peer)| (peer.trusted && is_name(peer)) || is_part(id))
        .collect();
    match fitting.as_slice() {
        [(one, _)] => {
            parse_peer(one).map_err(|error| Refused::new(ErrorCode::Internal, error.to_string()))
        }
        [] => Err(nobody(selector, known, is_name)),
        several => Err(Refused::new(
            ErrorCode::Ambiguous,
            format!(
                "`{}` fits {} peers; give the whole id",
                shown(selector),
                several.len()
            ),
        )
        .with_details(listed(several.iter().copied()))),
    }
}

/// At most a line of what was asked for.
fn shown(selector: &str) -> String {
    selector.chars().take(80).collect()
}

fn listed<'a>(peers: impl Iterator<Item = (&'a String, &'a Known)>) -> Vec<String> {
    let shown = peers.take(MAX_CANDIDATES);
    shown
        .map(|(id, peer)| format!("{id} {}", peer.name).trim_end().to_owned())
        .collect()
}

/// Why a selector names nobody, with the ids that may have been meant.
fn nobody(
    selector: &str,
    known: &BTreeMap<String, Known>,
    is_name: impl Fn(&Known) -> bool,
) -> Refused {
    let ends = |id: &str| !selector.is_empty() && id.ends_with(selector);
    let alike: Vec<(&String, &Known)> = known
        .iter()
        .filter(|(id, peer)| is_name(peer) || ends(id) || is_short_head(selector, id))
        .collect();
    let shown = shown(selector);
    if alike.is_empty() {
        return Refused::new(
            ErrorCode::NotFound,
            format!(
                "no known peer has an id that begins or ends with `{shown}`, and none that was allowed \
                 is called so; give a peer that was never met by its whole id, as `p2pnode id` prints it \
                 there (`p2pnode peers` lists those that are known)"
            ),
        );
    }
    Refused::new(
        ErrorCode::Ambiguous,
        format!(
            "`{shown}` names nobody for sure: anyone can take a name, or an id with a short part like \
             another's; compare with what `p2pnode id` prints there, and give the whole id: {}",
            alike
                .iter()
                .take(MAX_CANDIDATES)
                .map(|(id, _)| id.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    )
    .with_details(listed(alike.into_iter()))
}

/// Whether `selector` is the beginning of an id, too short to select it.
fn is_short_head(selector: &str, id: &str) -> bool {
    selector.len() > COMMON_PREFIX.len() && id.starts_with(selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> String {
        let pair = libp2p::identity::Keypair::ed25519_from_bytes([byte; 32]).unwrap();
        pair.public().to_peer_id().to_string()
    }

    fn peer(name: &str, trusted: bool) -> Known {
        Known {
            name: name.to_owned(),
            trusted,
        }
    }

    #[test]
    fn a_peer_is_selected_by_a_long_part_of_its_id_or_as_one_that_was_allowed_by_its_name() {
        let (desk, render) = (key(1), key(2));
        let mut known = BTreeMap::from([
            (desk.clone(), peer("desk", true)),
            (render.clone(), peer("render 1", true)),
        ]);
        known.extend((3..6).map(|byte| (key(byte), peer("twin", true))));
        known.insert(key(7), Known::default());
        let found = |selector: &str| choose(selector, &known).ok().map(|peer| peer.to_string());
        assert_eq!(found(&desk[..18]), Some(desk.clone()));
        assert_eq!(found(&desk[desk.len() - 10..]), Some(desk.clone()));
        assert_eq!(found("render 1"), Some(render));
        let short = [&desk[desk.len() - 9..], &desk[..17]];
        for nobody in ["", "twin", "12D3KooW", "../jobs"].iter().chain(&short) {
            assert_eq!(found(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_name_that_anyone_can_take_selects_nobody_and_the_id_is_told() {
        let (laptop, impostor) = (key(1), key(2));
        let known = BTreeMap::from([
            (laptop.clone(), peer("laptop", false)),
            (impostor.clone(), peer("laptop", false)),
        ]);
        let refused = format!("{:?}", choose("laptop", &known).unwrap_err());
        assert!(
            refused.contains(&laptop) && refused.contains(&impostor),
            "{refused}"
        );
        // The one that was allowed is meant, whoever else takes its name.
        let known = BTreeMap::from([
            (laptop.clone(), peer("laptop", true)),
            (impostor, peer("laptop", false)),
        ]);
        assert_eq!(choose("laptop", &known).unwrap().to_string(), laptop);
        let refused = format!(
            "{:?}",
            choose(&laptop[laptop.len() - 6..], &known).unwrap_err()
        );
        assert!(refused.contains(&laptop), "{refused}");
    }
}
