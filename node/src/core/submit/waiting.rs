//! Jobs that nobody works on: why, since when, and how long still.
//!
//! A job that no provider ever ran waits as long as its policy says and then fails with `no_peer`; one
//! that ran before and has lost all its providers waits longer (at least
//! [`crate::core::config::SubmitConfig::stranded_ms`]), because its results are worth more than its
//! first tasks and machines come back. When peers took it but none could get its image, more waiting
//! helps little: it ends when the policy's time since the submit is over.

use p2pnode_protocol::api::Event;

use super::job::{Job, MAX_NOTES};
use super::link::Stand;
use super::placement::Unfit;
use super::watch::Watch;
use crate::core::desk::{Cx, Timer};
use crate::core::io::{Effect, Millis};
use crate::core::peers::Peers;

/// Time for other peers to be connected to after the last refusal, in milliseconds.
const LAST_CHANCE_MS: Millis = 2_000;

impl Job {
    /// Sees whether the job waits, says why, and gives up when its time is over. Returns whether it
    /// gave up.
    pub(super) fn on_idle(&mut self, cx: &mut Cx, peers: &mut Peers, watch: &mut Watch) -> bool {
        if self.out_count > 0 {
            self.waiting.since_ms = None;
            cx.clear(Timer::Job(self.id));
            return false;
        }
        let since = match self.waiting.since_ms {
            Some(since) => since,
            None => {
                self.waiting.said_ms = cx.now;
                *self.waiting.since_ms.insert(cx.now)
            }
        };
        let deadline = self.waits_until(cx, since);
        if cx.now >= deadline {
            self.give_up(peers, watch, cx.now.saturating_sub(since));
            return true;
        }
        if cx.now >= self.waiting.find_ms {
            self.waiting.find_ms = cx.now + cx.config.submit.find_ms;
            cx.out.push(Effect::FindProviders);
        }
        let say = self.waiting.said_ms + cx.config.submit.waiting_ms;
        if cx.now >= say {
            self.waiting.said_ms = cx.now;
            self.say_why(cx, peers, watch);
        }
        let say = self.waiting.said_ms + cx.config.submit.waiting_ms;
        cx.set(
            Timer::Job(self.id),
            deadline.min(self.waiting.find_ms).min(say),
        );
        false
    }

    fn no_image(&self) -> bool {
        let mut links = self.links.values();
        links.any(|link| matches!(link.stand, Stand::Refused { no_image: true, .. }))
    }

    fn waits_until(&self, cx: &Cx, since: Millis) -> Millis {
        let wait = self.plan.policy.wait_for_peers_ms;
        if self.served {
            since.saturating_add(wait.max(cx.config.submit.stranded_ms))
        } else if self.no_image() {
            let first = self.created_ms.saturating_add(wait);
            first.max(since + LAST_CHANCE_MS)
        } else {
            since.saturating_add(wait)
        }
    }

    fn say_why(&mut self, cx: &mut Cx, peers: &Peers, watch: &Watch) {
        let reasons = self.reasons(peers, watch);
        if reasons != self.waiting.reasons {
            self.waiting.reasons.clone_from(&reasons);
            cx.emit(Event::JobWaiting {
                job: self.text.clone(),
                reasons,
            });
        }
    }

    fn give_up(&mut self, peers: &Peers, watch: &Watch, waited: Millis) {
        let reasons = self.reasons(peers, watch);
        self.no_peer = !self.no_image() || self.served;
        let seconds = waited / 1_000;
        let summary = if self.served {
            format!("no provider was left for {seconds} s")
        } else if self.no_image() {
            "no peer has the image or could pull it".to_owned()
        } else {
            format!("no peer took a task within {seconds} s")
        };
        let room = MAX_NOTES.saturating_sub(reasons.len() + 1);
        self.notes.truncate(room);
        self.notes.insert(0, summary);
        self.notes.extend(reasons);
        self.notes.truncate(MAX_NOTES);
    }

    /// One line for each peer that is known, saying why it has no task of this job.
    pub(super) fn reasons(&self, peers: &Peers, watch: &Watch) -> Vec<String> {
        let named = &self.plan.placement.peers;
        let candidates: Vec<_> = if named.is_empty() {
            peers.offering().map(|(peer, _)| peer).collect()
        } else {
            named.clone()
        };
        let mut lines: Vec<String> = Vec::new();
        let mut more = 0;
        for peer in candidates {
            let unfit = match self.may_offer(peers, watch, &peer) {
                Ok(()) => continue,
                Err(unfit) => unfit,
            };
            // Peers that offer nothing are most of a large network: only named ones are worth a line.
            if named.is_empty() && matches!(unfit, Unfit::NotOffering) {
                continue;
            }
            if lines.len() + 1 < MAX_NOTES {
                lines.push(format!("{}: {unfit}", peers.spoken(&peer)));
            } else {
                more += 1;
            }
        }
        if more > 0 {
            lines.push(format!("and {more} more peers that do not fit"));
        }
        if lines.is_empty()
            && peers
                .offering()
                .all(|(_, advert)| !crate::core::peers::offers(&advert.total))
        {
            lines.push(
                "no peer that offers capacity is known; run `p2pnode offer` on a machine of this network"
                    .to_owned(),
            );
        }
        lines
    }
}
