//! Who may write what.

use p2pnode_protocol::message::{OfferReply, Refusal};
use p2pnode_protocol::task::{Assignment, Outcome, Stream, Usage};

use super::*;

const JOB: JobId = JobId([7; 8]);

fn offer(indices: std::ops::Range<u32>) -> Offer {
    let assignment = |index| Assignment {
        index,
        attempt: 1,
        values: Vec::new(),
        inputs: Vec::new(),
    };
    Offer {
        job: JOB,
        step: 0,
        template: None,
        tasks: indices.map(assignment).collect(),
        login: None,
    }
}

fn answer(accepted: u32) -> Result<TaskResponse, CallFailure> {
    Ok(TaskResponse::Offer(OfferReply {
        accepted,
        refusal: Some(Refusal::Full),
        slots: 1,
        epoch: 1,
    }))
}

fn frame(index: u32, offset: u64, length: usize) -> LogFrame {
    LogFrame {
        step: 0,
        index,
        attempt: 1,
        stream: Stream::Stdout,
        offset,
        bytes: vec![b'x'; length],
    }
}

fn finished(indices: std::ops::Range<u32>, log_bytes: u64) -> Report {
    let end = |index| ReportEvent::Finished {
        task: TaskRef {
            step: 0,
            index,
            attempt: 1,
        },
        outcome: Outcome::Succeeded,
        usage: Usage::default(),
        outputs: None,
        log_bytes,
    };
    Report {
        job: JOB,
        first: 1,
        events: indices.map(end).collect(),
        slots: 1,
    }
}

/// Attempts that are kept of all jobs.
fn kept(holders: &Holders) -> usize {
    let table = holders.lock();
    let holders = table.jobs.values().flat_map(|job| job.holders.values());
    holders
        .map(|holder| holder.out.len() + holder.trailing.len())
        .sum()
}

#[test]
fn a_peer_writes_only_what_it_was_given_and_only_once() {
    let (holders, mine, other) = (Holders::default(), PeerId::random(), PeerId::random());
    holders.on_offer(mine, 1, &offer(0..2));
    holders.on_offer(other, 2, &offer(2..3));
    let judge = |peer: &PeerId, frame: LogFrame| holders.judge(JOB, peer, &frame);
    assert_eq!(judge(&mine, frame(0, 0, 10)), Verdict::Take);
    assert_eq!(judge(&mine, frame(0, 0, 10)), Verdict::Drop, "a repeat");
    assert_eq!(judge(&mine, frame(0, 10, 10)), Verdict::Take);
    assert_eq!(judge(&mine, frame(2, 0, 10)), Verdict::Drop, "another's");
    assert_eq!(judge(&mine, frame(9, 0, 10)), Verdict::Drop, "nobody's");
    let later = LogFrame {
        attempt: 2,
        ..frame(0, 0, 10)
    };
    assert_eq!(judge(&mine, later), Verdict::Drop, "another attempt");
    assert_eq!(judge(&other, frame(2, 0, 10)), Verdict::Take, "untouched");
    assert_eq!(judge(&PeerId::random(), frame(0, 20, 1)), Verdict::Gone);
    holders.on_job_over(JOB);
    assert_eq!(judge(&mine, frame(1, 0, 10)), Verdict::Gone);
}

#[test]
fn a_refusal_of_what_runs_already_changes_nothing() {
    let (holders, peer) = (Holders::default(), PeerId::random());
    holders.on_offer(peer, 1, &offer(0..2));
    holders.on_answer(1, &answer(2));
    assert_eq!(holders.judge(JOB, &peer, &frame(0, 0, 10)), Verdict::Take);
    // It was away, and what it has is offered to it again, with one that was never answered.
    holders.on_offer(peer, 2, &offer(0..3));
    holders.on_answer(2, &Err(CallFailure::TimedOut));
    holders.on_offer(peer, 3, &offer(0..3));
    holders.on_answer(3, &answer(1));
    assert!(holders.is_provider(JOB, &peer));
    let judge = |frame| holders.judge(JOB, &peer, &frame);
    assert_eq!(judge(frame(0, 10, 10)), Verdict::Take);
    assert_eq!(judge(frame(1, 0, 10)), Verdict::Take);
    assert_eq!(judge(frame(2, 0, 10)), Verdict::Drop, "it never had it");
}

#[test]
fn what_is_cancelled_is_forgotten() {
    let (holders, peer) = (Holders::default(), PeerId::random());
    holders.on_offer(peer, 1, &offer(0..3));
    holders.on_answer(1, &answer(3));
    holders.on_report(peer, &finished(1..2, 10));
    let gone = [0, 1].map(|index| TaskRef {
        step: 0,
        index,
        attempt: 1,
    });
    holders.on_cancel(&PeerId::random(), JOB, &gone);
    assert_eq!(kept(&holders), 3, "another's");
    holders.on_cancel(&peer, JOB, &gone);
    assert_eq!(kept(&holders), 1);
    assert_eq!(holders.judge(JOB, &peer, &frame(0, 0, 10)), Verdict::Drop);
    assert_eq!(holders.judge(JOB, &peer, &frame(2, 0, 10)), Verdict::Take);
}

#[test]
fn a_refusal_ends_what_the_offer_permitted() {
    let (holders, peer) = (Holders::default(), PeerId::random());
    holders.on_offer(peer, 1, &offer(0..3));
    assert!(
        holders.is_provider(JOB, &peer),
        "it fetches before it answers"
    );
    holders.on_answer(1, &answer(1));
    assert!(holders.is_provider(JOB, &peer));
    assert_eq!(holders.judge(JOB, &peer, &frame(1, 0, 1)), Verdict::Drop);
    assert_eq!(holders.judge(JOB, &peer, &frame(0, 0, 1)), Verdict::Take);
    holders.on_report(peer, &finished(0..1, 1));
    holders.on_offer(peer, 2, &offer(3..4));
    holders.on_answer(2, &answer(0));
    assert!(!holders.is_provider(JOB, &peer));
    assert_eq!(holders.judge(JOB, &peer, &frame(3, 0, 1)), Verdict::Gone);
    // No answer is no refusal.
    holders.on_offer(peer, 3, &offer(4..5));
    holders.on_answer(3, &Err(CallFailure::TimedOut));
    assert_eq!(holders.judge(JOB, &peer, &frame(4, 0, 1)), Verdict::Take);
}

#[test]
fn attempts_are_kept_until_their_log_is_complete() {
    let (holders, peer) = (Holders::default(), PeerId::random());
    for batch in 0..500 {
        let tasks = batch * 2_000..(batch + 1) * 2_000;
        holders.on_offer(peer, 1, &offer(tasks.clone()));
        holders.on_report(peer, &finished(tasks, 0));
    }
    assert_eq!(kept(&holders), 0, "a million tasks without a word");
    holders.on_offer(peer, 1, &offer(0..1));
    holders.on_report(peer, &finished(0..1, 20));
    assert_eq!(holders.judge(JOB, &peer, &frame(0, 0, 10)), Verdict::Take);
    assert_eq!(kept(&holders), 1);
    assert_eq!(holders.judge(JOB, &peer, &frame(0, 10, 10)), Verdict::Take);
    assert_eq!(kept(&holders), 0);
    // A peer that reports nothing, and one that reports logs that never come.
    for batch in 0..20 {
        holders.on_offer(peer, 1, &offer(batch * 2_000..(batch + 1) * 2_000));
    }
    assert_eq!(kept(&holders), MAX_OUT);
    holders.on_report(peer, &finished(0..40_000, u64::MAX));
    assert_eq!(kept(&holders), MAX_OUT);
}

#[test]
fn no_provider_fills_the_log_alone() {
    let (holders, greedy, modest) = (Holders::default(), PeerId::random(), PeerId::random());
    holders.on_offer(greedy, 1, &offer(0..1));
    holders.on_offer(modest, 2, &offer(1..2));
    let length = 64 << 10;
    let mut written = 0;
    while holders.judge(JOB, &greedy, &frame(0, written, length)) == Verdict::Take {
        written += length as u64;
    }
    assert!(holders.is_spent(JOB, &greedy));
    assert!(written <= MAX_JOB_LOG_BYTES / 2);
    assert!(written > MAX_JOB_LOG_BYTES / 2 - MAX_JOB_LOG_BYTES / 100);
    let verdict = holders.judge(JOB, &modest, &frame(1, 0, length));
    assert_eq!(verdict, Verdict::Take);
    assert!(!holders.is_spent(JOB, &modest));
}

#[test]
fn a_restart_knows_what_is_out() {
    let (holders, me, peer) = (Holders::default(), PeerId::random(), PeerId::random());
    let task = |index| TaskRef {
        step: 0,
        index,
        attempt: 1,
    };
    let end = |index, collected| StoredEnd {
        task: task(index),
        peer,
        outcome: Outcome::Succeeded,
        usage: Usage::default(),
        outputs: None,
        log_bytes: 10,
        collected,
        last: collected,
    };
    let dispatched = [(peer, (0..3).map(task).collect()), (me, vec![task(3)])];
    holders.restore(&me, JOB, &dispatched, &[end(0, true), end(1, false)]);
    let judge = |index| holders.judge(JOB, &peer, &frame(index, 0, 10));
    assert_eq!(judge(0), Verdict::Drop, "it is collected");
    assert_eq!(judge(1), Verdict::Take, "its log may be missing");
    assert_eq!(judge(2), Verdict::Take, "it runs");
    assert_eq!(judge(3), Verdict::Drop, "it is not the peer's");
    assert!(!holders.is_provider(JOB, &me));
}
