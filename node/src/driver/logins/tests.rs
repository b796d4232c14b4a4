//! Credentials of offers: where they go, and for how long they stay.

#![allow(clippy::unwrap_used)]

// The core's tests have it, too.
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../../../tests/sim/fixture.rs"]
mod fixture;

use std::path::Path;
use std::sync::Arc;

use p2pnode_protocol::api::JobState;
use p2pnode_protocol::message::MAX_LOGIN_BYTES;
use p2pnode_protocol::task::RuntimeKind;

use super::*;
use crate::core::CoreConfig;
use crate::core::io::{Input, OfferTerms, RuntimeFeatures, StoredJob};

const IMAGE: &str = "registry.invalid/private:1";

fn file(path: &Path) -> Login {
    Login::File {
        username: "me".into(),
        path: path.display().to_string(),
    }
}

/// A plan of a step without credentials and one with.
fn plan(login: &Login) -> JobPlan {
    let mut second = fixture::template(1, 1, 0);
    second.program = Program::Image {
        reference: IMAGE.into(),
    };
    let mut second = fixture::step(second, 3, vec![0]);
    second.login = Some(login.clone());
    let first = fixture::step(fixture::template(0, 1, 0), 3, Vec::new());
    fixture::plan(vec![first, second], 0, 0)
}

fn offer(job: u64, step: u16, login: Option<RegistryLogin>) -> TaskRequest {
    let of = fixture::step(fixture::template(step, 1, 0), 9, Vec::new());
    TaskRequest::Offer(Offer {
        job: fixture::job_id(job),
        step,
        template: Some(Box::new(of.template.clone())),
        tasks: vec![of.assignment(0, 1).unwrap()],
        login,
    })
}

fn login(password: &str) -> RegistryLogin {
    RegistryLogin {
        username: "me".into(),
        password: password.into(),
    }
}

fn hosted(peer: usize, job: u64) -> HostedJob {
    HostedJob {
        submitter: fixture::peer(peer),
        job: fixture::job_id(job),
    }
}

fn brought(request: &TaskRequest) -> Option<&RegistryLogin> {
    match request {
        TaskRequest::Offer(offer) => offer.login.as_ref(),
        _ => None,
    }
}

fn password(logins: &HostedLogins, hosted: HostedJob, step: u16) -> Option<String> {
    logins.of(hosted, step).map(|found| found.password)
}

#[test]
fn only_offers_of_a_step_with_credentials_bring_them_and_only_while_the_job_lives() {
    let source = Login::Docker;
    let mut logins = OwnLogins::default();
    logins.add(fixture::job_id(1), &plan(&source));
    let wanted = Some((IMAGE.to_owned(), source));
    assert_eq!(logins.of(&offer(1, 1, None)), wanted);
    assert_eq!(logins.of(&offer(1, 0, None)), None, "another step");
    assert_eq!(logins.of(&offer(2, 1, None)), None, "another job");
    assert_eq!(
        logins.of(&TaskRequest::Heartbeat { jobs: Vec::new() }),
        None
    );
    logins.remove(fixture::job_id(1));
    assert_eq!(logins.of(&offer(1, 1, None)), None);
}

#[test]
fn a_restarted_node_knows_those_of_jobs_that_are_not_over() {
    let stored = |number, ended| StoredJob {
        job: fixture::job_id(number),
        plan: Arc::new(plan(&Login::Docker)),
        out: None,
        created_ms: 0,
        ended,
        dispatched: Vec::new(),
        ends: Vec::new(),
    };
    let over = Some((JobState::Succeeded, 1, Vec::new()));
    let logins = OwnLogins::restore(&Snapshot {
        jobs: vec![stored(1, None), stored(2, over)],
        ..Snapshot::default()
    });
    assert!(logins.of(&offer(1, 1, None)).is_some());
    assert_eq!(logins.of(&offer(2, 1, None)), None);
}

#[tokio::test]
async fn every_offer_reads_them_anew_and_goes_without_what_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    for token in ["first", "renewed"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        let sent = attach(offer(1, 1, None), IMAGE.into(), file(&path)).await;
        assert_eq!(brought(&sent), Some(&login(token)));
        assert!(!format!("{sent:?}").contains(token), "{sent:?}");
    }
    std::fs::remove_file(&path).unwrap();
    let stale = offer(1, 1, Some(login("stale")));
    let sent = attach(stale, IMAGE.into(), file(&path)).await;
    assert_eq!(sent, offer(1, 1, None));
    // What is no offer stays what it is.
    let beat = TaskRequest::Heartbeat { jobs: Vec::new() };
    assert_eq!(attach(beat.clone(), IMAGE.into(), file(&path)).await, beat);
}

#[test]
fn a_plan_is_checked_for_credentials_that_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let wrong = check(&plan(&file(&path))).unwrap_err();
    assert!(wrong.contains("cannot be read"), "{wrong}");
    std::fs::write(&path, "secret").unwrap();
    assert_eq!(check(&plan(&file(&path))), Ok(()));
}

#[test]
fn what_came_is_taken_out_and_is_for_that_step_of_that_submitters_job_alone() {
    let mut logins = HostedLogins::default();
    let mut request = offer(1, 1, Some(login("secret")));
    logins.take_from(fixture::peer(1), &mut request);
    assert_eq!(request, offer(1, 1, None), "nobody else sees them");
    assert_eq!(password(&logins, hosted(1, 1), 1), Some("secret".into()));
    assert_eq!(password(&logins, hosted(1, 1), 0), None, "another step");
    assert_eq!(password(&logins, hosted(1, 2), 1), None, "another job");
    assert_eq!(password(&logins, hosted(2, 1), 1), None, "another's job");
    // An offer without any does not take away what is known; one with others renews it.
    logins.take_from(fixture::peer(1), &mut offer(1, 1, None));
    assert_eq!(password(&logins, hosted(1, 1), 1), Some("secret".into()));
    logins.take_from(fixture::peer(1), &mut offer(1, 1, Some(login("renewed"))));
    assert_eq!(password(&logins, hosted(1, 1), 1), Some("renewed".into()));
    assert!(!format!("{logins:?}").contains("renewed"), "{logins:?}");
    logins.remove(&hosted(2, 1));
    assert!(logins.of(hosted(1, 1), 1).is_some());
    logins.remove(&hosted(1, 1));
    assert!(logins.of(hosted(1, 1), 1).is_none());
}

#[test]
fn what_is_too_long_or_too_many_is_not_kept() {
    let mut logins = HostedLogins::default();
    let mut request = offer(1, 1, Some(login(&"x".repeat(MAX_LOGIN_BYTES + 1))));
    logins.take_from(fixture::peer(1), &mut request);
    assert_eq!(brought(&request), None, "nor handed on");
    assert!(logins.of(hosted(1, 1), 1).is_none());
    for job in 0..=MAX_KEPT as u64 {
        logins.take_from(fixture::peer(1), &mut offer(job, 1, Some(login("first"))));
    }
    let last = MAX_KEPT as u64;
    assert!(logins.of(hosted(1, last - 1), 1).is_some());
    assert!(logins.of(hosted(1, last), 1).is_none());
    // One that is there already is renewed all the same.
    logins.take_from(fixture::peer(1), &mut offer(0, 1, Some(login("renewed"))));
    assert_eq!(password(&logins, hosted(1, 0), 1), Some("renewed".into()));
}

#[test]
fn what_came_with_a_refused_offer_is_forgotten() {
    let (mut core, _) = Core::new(CoreConfig::new(fixture::peer(0)), Snapshot::default(), 0);
    let features = RuntimeFeatures::default();
    core.handle(0, Input::Runtimes(vec![(RuntimeKind::Wasm, Ok(features))]));
    core.handle(
        0,
        Input::Offer(OfferTerms {
            total: fixture::capacity(4),
            allow_any: false,
            ..OfferTerms::default()
        }),
    );
    let (friend, stranger) = (fixture::peer(1), fixture::peer(2));
    core.handle(
        0,
        Input::Allow {
            peer: friend,
            grant: Some(p2pnode_protocol::offer::Grant::default()),
        },
    );
    let mut logins = HostedLogins::default();
    for (peer, token) in [(friend, 1), (stranger, 2)] {
        let mut request = offer(1, 0, Some(login("secret")));
        logins.take_from(peer, &mut request);
        core.handle(
            0,
            Input::Request {
                peer,
                token,
                request,
            },
        );
    }
    assert!(logins.of(hosted(2, 1), 0).is_some(), "not sifted yet");
    logins.sift(&core);
    assert!(logins.of(hosted(2, 1), 0).is_none());
    assert!(logins.of(hosted(1, 1), 0).is_some());
}
