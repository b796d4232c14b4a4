//! How a node stops: goodbye to everyone concerned, everything killed, and then no more than a few
//! seconds.
//!
//! Its own jobs stay stored and go on when it starts again; what it ran for others goes elsewhere.

use std::collections::BTreeSet;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::TaskRequest;

use super::Core;
use super::desk::{CallKind, Timer};
use super::io::{CallId, Effect, Millis};

/// Where a node is between running and gone.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    under_way: bool,
    overdue: bool,
    over: bool,
    goodbyes: BTreeSet<CallId>,
}

impl Stopping {
    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way
    }

    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn on_goodbye_answered(&mut self, call: CallId) {
        self.goodbyes.remove(&call);
    }

    pub(super) const fn on_deadline(&mut self) {
        self.overdue = true;
    }

    /// Whether the node may end now, `done` telling that nothing runs and nothing is left to say.
    /// True once.
    pub(super) fn ends(&mut self, done: bool) -> bool {
        let ends =
            self.under_way && !self.over && (self.overdue || done && self.goodbyes.is_empty());
        self.over |= ends;
        ends
    }
}

impl Core {
    pub(super) fn on_stop(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if self.stopping.under_way {
            return;
        }
        let (mut cx, parts) = self.cx(now, out);
        parts.stopping.under_way = true;
        parts.host.on_stop(&mut cx);
        let mut told: BTreeSet<PeerId> = parts.host.submitters();
        told.extend(parts.submit.providers());
        told.remove(&cx.config.me);
        for peer in told {
            if parts.peers.is_connected(&peer) {
                let call = cx.call(peer, CallKind::Goodbye, TaskRequest::Goodbye);
                parts.stopping.goodbyes.insert(call);
            }
        }
        let limit = cx.config.stop_ms;
        cx.set(Timer::Stop, now + limit);
        cx.out.push(Effect::Advertise);
        self.refresh_own();
    }
}
