//! Effects on peers: calls, answers, connections.

use std::collections::HashMap;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::job::Login;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};
use tokio::sync::mpsc;

use super::actor::Internal;
use super::logins;
use crate::core::io::{Breach, CallFailure, CallId, Input, RequestToken};
use crate::net::{CallError, Misdeed};
use crate::networks::{AskId, Networks};

/// Where the answer to a request goes.
enum Origin {
    Peer(AskId),
    /// This node asked itself.
    Own(CallId),
}

/// Requests under way in both directions. Their number is bounded by the net's limit on inbound
/// requests and by the core's on calls.
pub(super) struct Calls {
    net: Networks,
    internal: mpsc::Sender<Internal>,
    waiting: HashMap<RequestToken, Origin>,
    next_token: RequestToken,
}

impl Calls {
    pub(super) fn new(net: Networks, internal: mpsc::Sender<Internal>) -> Self {
        Self {
            net,
            internal,
            waiting: HashMap::new(),
            next_token: 0,
        }
    }

    /// A token for a request of a peer.
    pub(super) fn token_for(&mut self, inbound: AskId) -> RequestToken {
        self.token(Origin::Peer(inbound))
    }

    /// A token for a call of this node to itself.
    pub(super) fn token_for_own(&mut self, call: CallId) -> RequestToken {
        self.token(Origin::Own(call))
    }

    fn token(&mut self, origin: Origin) -> RequestToken {
        self.next_token += 1;
        self.waiting.insert(self.next_token, origin);
        self.next_token
    }

    /// Asks a peer; the answer comes back as an input.
    pub(super) fn call(&self, peer: PeerId, call: CallId, request: TaskRequest) {
        let (net, internal) = (self.net.clone(), self.internal.clone());
        tokio::spawn(async move {
            let response = net.request(peer, &request).await.map_err(call_failure);
            let input = Input::Response {
                peer,
                call,
                response,
            };
            // The driver is gone only when the node stops.
            let _stopping = internal.send(Internal::Input(input)).await;
        });
    }

    /// Has the loop make a call once the credentials that go with it are read.
    pub(super) fn attach(
        &self,
        peer: PeerId,
        call: CallId,
        request: TaskRequest,
        image: String,
        login: Login,
    ) {
        let internal = self.internal.clone();
        tokio::spawn(async move {
            let request = logins::attach(request, image, login).await;
            let call = Internal::Call {
                peer,
                call,
                request,
            };
            // The driver is gone only when the node stops.
            let _stopping = internal.send(call).await;
        });
    }

    /// Counts a breach against a peer.
    pub(super) fn blame(&self, peer: PeerId, breach: Breach) {
        let misdeed = match breach {
            Breach::TooLong => Misdeed::Oversize,
            Breach::OutOfPlace => Misdeed::OutOfPlace,
        };
        let net = self.net.clone();
        tokio::spawn(async move { net.report_misbehaviour(peer, misdeed).await });
    }

    /// Answers a request. When this node had asked itself, the answer is returned instead.
    pub(super) fn respond(
        &mut self,
        token: RequestToken,
        response: TaskResponse,
    ) -> Option<(CallId, TaskResponse)> {
        match self.waiting.remove(&token) {
            Some(Origin::Peer(inbound)) => {
                let net = self.net.clone();
                tokio::spawn(async move {
                    if let Err(error) = net.respond(inbound, &response).await {
                        tracing::debug!(%error, "a request stays unanswered");
                    }
                });
                None
            }
            Some(Origin::Own(call)) => Some((call, response)),
            None => {
                tracing::error!(token, "an answer to a request that nobody made");
                None
            }
        }
    }

    pub(super) fn connect(&self, peer: PeerId) {
        let net = self.net.clone();
        tokio::spawn(async move { net.connect(peer).await });
    }

    pub(super) fn find_providers(&self) {
        let net = self.net.clone();
        tokio::spawn(async move { net.find_providers().await });
    }
}

/// What the core needs to know of it.
const fn call_failure(error: CallError) -> CallFailure {
    match error {
        CallError::Unreachable | CallError::TooMany | CallError::Stopped => {
            CallFailure::Unreachable
        }
        CallError::TimedOut => CallFailure::TimedOut,
        CallError::Protocol | CallError::TooLarge => CallFailure::Protocol,
    }
}
