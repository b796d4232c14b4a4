//! What the core itself costs: many tasks that do nothing, a perfect network, no disk.
//!
//! Prints a figure and asserts none: machines differ. `cargo test --release -p p2pnode-node --test sim
//! throughput -- --nocapture`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use p2pnode_node::core::io::{Effect, Input, OfferTerms, RunEnd, Snapshot};
use p2pnode_node::core::{Core, CoreConfig};
use p2pnode_protocol::api::JobState;
use p2pnode_protocol::task::{Outcome, RuntimeKind, Usage};

use crate::fixture;

/// A submitter and two providers in one loop; returns how many messages went between them.
#[expect(
    clippy::too_many_lines,
    reason = "both sides of one exchange, read top to bottom"
)]
fn run(tasks: u64) -> u64 {
    let now = 1_000_000;
    let mut queue: VecDeque<(usize, Input)> = VecDeque::new();
    let mut cores: Vec<Core> = (0..3)
        .map(|number| {
            Core::new(
                CoreConfig::new(fixture::peer(number)),
                Snapshot::default(),
                now,
            )
            .0
        })
        .collect();
    for provider in [1, 2] {
        queue.push_back((provider, Input::Runtimes(vec![(RuntimeKind::Wasm, Ok(()))])));
        let terms = OfferTerms {
            total: fixture::capacity(1),
            allow_any: true,
        };
        queue.push_back((provider, Input::Offer(terms)));
        queue.push_back((0, Input::Connected(fixture::peer(provider))));
        queue.push_back((provider, Input::Connected(fixture::peer(0))));
    }
    let step = fixture::step(fixture::template(0, 1, 1_000), tasks, Vec::new());
    let submit = Input::Submit {
        job: fixture::job_id(1),
        plan: Arc::new(fixture::plan(vec![step], 0, 1_000)),
        out: None,
    };
    let mut submit = Some(submit);
    let mut asked: Vec<(usize, u64)> = Vec::new();
    let mut calls = 0;
    while let Some((number, input)) = queue.pop_front() {
        for effect in cores[number].handle(now, input) {
            match effect {
                Effect::Call {
                    peer,
                    call,
                    request,
                } => {
                    calls += 1;
                    let to = (0..3).find(|to| fixture::peer(*to) == peer).unwrap();
                    asked.push((number, call));
                    let token = asked.len() as u64 - 1;
                    let peer = fixture::peer(number);
                    queue.push_back((
                        to,
                        Input::Request {
                            peer,
                            token,
                            request,
                        },
                    ));
                }
                Effect::Respond { token, response } => {
                    let (to, call) = asked[token as usize];
                    let peer = fixture::peer(number);
                    let response = Ok(response);
                    queue.push_back((
                        to,
                        Input::Response {
                            peer,
                            call,
                            response,
                        },
                    ));
                }
                Effect::Prepare { hosted, template } => {
                    let step = template.step;
                    let result = Ok(());
                    queue.push_back((
                        number,
                        Input::Prepared {
                            hosted,
                            step,
                            result,
                        },
                    ));
                }
                Effect::Run { run, .. } => {
                    let end = RunEnd {
                        outcome: Outcome::Succeeded,
                        usage: Usage {
                            wall_us: 20,
                            cpu_us: 20,
                            memory_peak: 0,
                        },
                        outputs: None,
                        log_bytes: 0,
                    };
                    queue.push_back((number, Input::Started(run)));
                    queue.push_back((number, Input::Ended { run, end }));
                }
                _ => {}
            }
        }
        if queue.is_empty()
            && let Some(submit) = submit.take()
        {
            for provider in [1, 2] {
                let view = cores[provider].capacity();
                let advert = Box::new(fixture::advert(provider, view, now));
                queue.push_back((
                    0,
                    Input::Advert {
                        peer: fixture::peer(provider),
                        advert,
                    },
                ));
            }
            queue.push_back((0, submit));
        }
    }
    let info = cores[0].job(fixture::job_id(1)).unwrap();
    assert_eq!(info.state, JobState::Succeeded, "{info:?}");
    assert_eq!(info.tasks.succeeded, tasks);
    calls
}

#[test]
fn throughput_of_tasks_that_do_nothing() {
    for tasks in [10_000, 200_000] {
        let begun = Instant::now();
        let calls = run(tasks);
        eprintln!(
            "{tasks} tasks, all three cores: {:?}, {calls} calls",
            begun.elapsed()
        );
    }
}
