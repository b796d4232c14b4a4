//! What peers say in words reaches nobody as more than words.

use p2pnode_protocol::message::Refusal;
use p2pnode_protocol::task::{FailureKind, Outcome};
use p2pnode_protocol::text::is_plain;

use super::fixture;
use super::rig::{JOB, Rig, finished, plan, reply, task};
use super::seen::{events, offer};
use crate::core::io::{Effect, Input};

/// Clears the screen, sets the clipboard, and turns what follows around.
const EVIL: &str = "de\u{1b}[2J\u{1b}]52;c;eA==\u{7}s\u{9b}6nk\u{202e}";

fn failed(message: &str) -> Outcome {
    Outcome::Failed(p2pnode_protocol::task::Failure::new(
        FailureKind::Exit(1),
        message,
    ))
}

/// Everything that is shown of events, as the values that clients get.
fn shown(effects: &[Effect]) -> Vec<String> {
    fn texts(value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::String(text) => into.push(text.clone()),
            serde_json::Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
            serde_json::Value::Object(fields) => fields.values().for_each(|item| texts(item, into)),
            _ => {}
        }
    }
    let mut all = Vec::new();
    for event in events(effects) {
        texts(&serde_json::to_value(&event).unwrap(), &mut all);
    }
    all
}

fn obeyed(texts: &[String]) -> Option<&String> {
    let tame = |letter: char| is_plain(letter) || letter == '\n';
    texts.iter().find(|text| !text.chars().all(tame))
}

#[test]
fn adverts_are_tamed_when_they_come() {
    let mut rig = Rig::new();
    rig.connect(1);
    let total = fixture::capacity(1);
    let mut advert = fixture::advert(1, total.clone(), total, rig.now);
    advert.name = EVIL.into();
    advert.labels = [(EVIL.to_owned(), EVIL.to_owned())].into();
    advert.closed = Some(EVIL.into());
    let peer = fixture::peer(1);
    let effects = rig.input(Input::Advert {
        peer,
        advert: Box::new(advert),
    });
    let told = shown(&effects);
    assert!(
        told.iter().any(|text| text.starts_with("de[2J")),
        "{told:?}"
    );
    assert_eq!(obeyed(&told), None);
    let (_, info) = rig.core.known_peers(rig.now).remove(0);
    let seen = serde_json::to_string(&info.labels).unwrap();
    assert_eq!(obeyed(&[info.name, info.closed.unwrap(), seen]), None);
    let name = rig.core.peer_name(&peer).unwrap().to_owned();
    assert_eq!(obeyed(&[name]), None);
}

#[test]
fn refusals_and_failures_are_tamed_when_they_come() {
    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    let message = EVIL.to_owned();
    let refused = Some(Refusal::NotPermitted { message });
    let mut effects = rig.answer(1, first.call, reply(0, refused, 1));
    effects.append(&mut rig.pass(5_000));
    let told = shown(&effects);
    assert!(told.iter().any(|text| text.contains("de[2J")), "{told:?}");
    assert_eq!(obeyed(&told), None);

    let mut rig = Rig::submitter(&[1]);
    let first = offer(&rig.submit(plan(1)));
    rig.take(&first);
    let (_, effects) = rig.report(1, 1, finished(task(0, 1), failed(&format!("{EVIL}\nnext"))));
    let told = shown(&effects);
    assert!(told.iter().any(|text| text.ends_with("\nnext")), "{told:?}");
    assert_eq!(obeyed(&told), None);
    let notes = rig.core.job(fixture::job_id(JOB)).unwrap().notes;
    assert_eq!(obeyed(&notes), None);
}
