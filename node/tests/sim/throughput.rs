//! What the core itself costs: many tasks that do nothing, a perfect network, no disk.
//!
//! Prints a figure and asserts none, because machines differ:
//! `cargo test --release -p p2pnode-node --test sim throughput -- --nocapture`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use p2pnode_node::core::io::{Effect, Input, OfferTerms, RunEnd, RuntimeFeatures, Snapshot};
use p2pnode_node::core::{Core, CoreConfig};
use p2pnode_protocol::api::JobState;
use p2pnode_protocol::task::{Outcome, RuntimeKind, Usage};

use crate::fixture;

/// The time, which stands still.
const NOW: u64 = 1_000_000;

/// A submitter, number 0, and two providers, with everything they say to one another.
struct Loop {
    cores: Vec<Core>,
    queue: VecDeque<(usize, Input)>,
    /// Who asked, and by which call; the position is the token.
    asked: Vec<(usize, u64)>,
}

impl Loop {
    fn new() -> Self {
        let core = |number| {
            let config = CoreConfig::new(fixture::peer(number));
            Core::new(config, Snapshot::default(), NOW).0
        };
        let mut all = Self {
            cores: (0..3).map(core).collect(),
            queue: VecDeque::new(),
            asked: Vec::new(),
        };
        for provider in [1, 2] {
            let terms = OfferTerms {
                total: fixture::capacity(1),
                allow_any: true,
                ..OfferTerms::default()
            };
            all.say(
                provider,
                Input::Runtimes(vec![(RuntimeKind::Wasm, Ok(RuntimeFeatures::default()))]),
            );
            all.say(provider, Input::Offer(terms));
            all.say(0, Input::Connected(fixture::peer(provider)));
            all.say(provider, Input::Connected(fixture::peer(0)));
        }
        all.run();
        for provider in [1, 2] {
            let view = all.cores[provider].capacity();
            let advert = fixture::advert(provider, view.total, view.free, NOW);
            let (peer, advert) = (fixture::peer(provider), Box::new(advert));
            all.say(0, Input::Advert { peer, advert });
        }
        all
    }

    fn say(&mut self, to: usize, input: Input) {
        self.queue.push_back((to, input));
    }

    fn run(&mut self) {
        while let Some((number, input)) = self.queue.pop_front() {
            for effect in self.cores[number].handle(NOW, input) {
                self.perform(number, effect);
            }
        }
    }

    fn perform(&mut self, number: usize, effect: Effect) {
        match effect {
            Effect::Call {
                peer: to,
                call,
                request,
            } => {
                let to = (0..3).find(|number| fixture::peer(*number) == to).unwrap();
                let token = self.asked.len() as u64;
                self.asked.push((number, call));
                let peer = fixture::peer(number);
                self.say(
                    to,
                    Input::Request {
                        peer,
                        token,
                        request,
                    },
                );
            }
            Effect::Respond { token, response } => {
                let (to, call) = self.asked[token as usize];
                let (peer, response) = (fixture::peer(number), Ok(response));
                self.say(
                    to,
                    Input::Response {
                        peer,
                        call,
                        response,
                    },
                );
            }
            Effect::Prepare {
                hosted,
                template,
                making,
                ..
            } => {
                let (step, result) = (template.step, Ok(()));
                self.say(
                    number,
                    Input::Prepared {
                        hosted,
                        step,
                        making,
                        result,
                    },
                );
            }
            Effect::Run { run, .. } => {
                let usage = Usage {
                    wall_us: 20,
                    cpu_us: 20,
                    ..Usage::default()
                };
                let end = RunEnd {
                    outcome: Outcome::Succeeded,
                    usage,
                    outputs: None,
                    log_bytes: 0,
                };
                self.say(number, Input::Started(run));
                self.say(number, Input::Ended { run, end });
            }
            _ => {}
        }
    }
}

#[test]
fn throughput_of_tasks_that_do_nothing() {
    for tasks in [10_000, 30_000] {
        let mut all = Loop::new();
        let begun = Instant::now();
        let step = fixture::step(fixture::template(0, 1, 1_000), tasks, Vec::new());
        let job = fixture::job_id(1);
        let plan = Arc::new(fixture::plan(vec![step], 0, 1_000));
        let out = None;
        all.say(0, Input::Submit { job, plan, out });
        all.run();
        let info = all.cores[0].job(job).unwrap();
        assert_eq!(info.state, JobState::Succeeded, "{info:?}");
        assert_eq!(info.tasks.succeeded, tasks);
        let (took, calls) = (begun.elapsed(), all.asked.len());
        eprintln!("{tasks} tasks through all three cores: {took:?}, {calls} calls");
    }
}
