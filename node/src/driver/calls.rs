//! Effects on peers: calls, answers, connections.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use p2pnode_protocol::PeerId;
use p2pnode_protocol::job::Login;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};
use tokio::sync::mpsc;

use super::actor::Internal;
use super::logins;
use crate::core::io::{Breach, CallFailure, CallId, Input, RequestToken};
use crate::net::{CallError, Misdeed};
use crate::networks::{AskId, Networks};

/// When a heartbeat has no answer after this time, it is sent once more (1.5 s): the slowest satellite's
/// round trip is over, and the last of [`BEATS`] leaves while the peer does not count as lost yet.
const BEAT_AGAIN: Duration = Duration::from_millis(1_500);

/// How often one heartbeat is sent, at most: 4, the first after 3 s of silence and the last after 7.5 s of
/// the 10 s in which a peer may be silent.
const BEATS: u32 = 4;

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
            let response = ask(&net, peer, &request).await.map_err(call_failure);
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

/// Asks a peer. When it is connected in several ways one of them may have died without a word, and libp2p
/// sends each request on the next, dead or not; so a heartbeat is repeated, for a peer must not count as lost
/// while a good connection to it stands.
async fn ask(
    net: &Networks,
    peer: PeerId,
    request: &TaskRequest,
) -> Result<TaskResponse, CallError> {
    let is_beat = matches!(request, TaskRequest::Heartbeat { .. });
    if !is_beat || net.links(peer).await.len() < 2 {
        return net.request(peer, request).await;
    }
    first_answer(BEAT_AGAIN, || net.request(peer, request)).await
}

/// The first answer to what is asked [`BEATS`] times, each time after a while without any; the failure when
/// all that were under way failed.
async fn first_answer<T, E, F: Future<Output = Result<T, E>>>(
    again: Duration,
    ask: impl Fn() -> F,
) -> Result<T, E> {
    let mut left = BEATS - 1;
    let mut asked = FuturesUnordered::from_iter([ask()]);
    loop {
        tokio::select! {
            Some(answer) = asked.next() => match answer {
                Err(failure) if asked.is_empty() => return Err(failure),
                Err(_) => {}
                answer => return answer,
            },
            () = tokio::time::sleep(again), if left > 0 => {
                left -= 1;
                asked.push(ask());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What came of asking, where the `dead` first ones never have an answer, and how often it was asked.
    async fn asked(dead: u32, answer: Result<u32, u32>) -> (Option<Result<u32, u32>>, u32) {
        let count = Cell::new(0);
        let ask = || {
            count.set(count.get() + 1);
            let number = count.get();
            async move {
                if number <= dead {
                    std::future::pending::<()>().await;
                }
                answer
            }
        };
        let again = Duration::from_millis(5);
        let limit = Duration::from_secs(2);
        let answered = tokio::time::timeout(limit, first_answer(again, ask)).await;
        (answered.ok(), count.get())
    }

    #[tokio::test]
    async fn what_has_no_answer_on_one_way_is_asked_on_the_next() {
        assert_eq!(asked(0, Ok(7)).await, (Some(Ok(7)), 1));
        assert_eq!(asked(1, Ok(7)).await, (Some(Ok(7)), 2));
        assert_eq!(
            asked(BEATS, Ok(7)).await,
            (None, BEATS),
            "no more than that"
        );
    }

    #[tokio::test]
    async fn a_failure_counts_when_nothing_else_is_under_way() {
        assert_eq!(asked(0, Err(3)).await, (Some(Err(3)), 1));
        let waits = (None, BEATS);
        assert_eq!(
            asked(1, Err(3)).await,
            waits,
            "the first may have an answer still"
        );
    }
}
