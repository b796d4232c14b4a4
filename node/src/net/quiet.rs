//! Handlers of a connection are polled when one of them has something to do, and not for every byte.
//!
//! The swarm polls all handlers of a connection whenever the connection's task runs, which it does for
//! each frame of each stream. With seventeen behaviours that costs more than the frame itself: of a
//! keystroke's way through two nodes it was a fifth. [`Quiet`] stands around all behaviours and gives
//! their handlers a waker that remembers: who has not been woken, and was told nothing, is not polled.
//!
//! [`super::start`] puts it around [`super::behaviour::Behaviour`]. It must change nothing else: whatever
//! comes is handed on.

mod offered;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::handler::{
    ConnectionEvent, FullyNegotiatedInbound, ListenUpgradeError, UpgradeInfoSend,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use self::offered::{Kept, Offered};

/// Names of protocols that handlers accept.
type Accepted<H> = <<H as ConnectionHandler>::InboundProtocol as UpgradeInfoSend>::Info;

/// While the connection's task runs, all handlers are polled so often in any case (1 s): one that had
/// forgotten to say what wakes it would go on by chance without this module, and does so with it.
const SURE: Duration = Duration::from_secs(1);

/// Behaviours whose handlers are polled only when they have something to do.
#[derive(Debug)]
pub(super) struct Quiet<B>(pub(super) B);

impl<B: NetworkBehaviour> NetworkBehaviour for Quiet<B>
where
    Accepted<THandler<B>>: Sync,
{
    type ConnectionHandler = Handler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.0.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let behaviour = &mut self.0;
        let handler = behaviour.handle_established_inbound_connection(id, peer, local, remote);
        handler.map(Handler::new)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let behaviour = &mut self.0;
        behaviour.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let behaviour = &mut self.0;
        let handler =
            behaviour.handle_established_outbound_connection(id, peer, remote, role, port);
        handler.map(Handler::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.0.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.0.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<B::ToSwarm, THandlerInEvent<Self>>> {
        self.0.poll(cx)
    }
}

/// What the handlers inside are woken by.
#[derive(Debug)]
struct Bell {
    /// Somebody inside has something to do.
    rung: AtomicBool,
    /// The connection's task.
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// The handlers of one connection.
pub(super) struct Handler<H: ConnectionHandler> {
    inner: H,
    accepts: Kept<H::InboundProtocol, H::InboundOpenInfo>,
    bell: Arc<Bell>,
    waker: Waker,
    /// When those inside were polled last.
    asked: Instant,
}

impl<H: ConnectionHandler> Handler<H> {
    fn new(inner: H) -> Self {
        let bell = Arc::new(Bell {
            // What is new has to be asked once.
            rung: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        let waker = Waker::from(Arc::clone(&bell));
        Self {
            inner,
            accepts: Kept::default(),
            bell,
            waker,
            asked: Instant::now(),
        }
    }

    /// What it is told may give it something to do; whoever tells it polls it after.
    fn told(&mut self) -> &mut H {
        self.bell.rung.store(true, Ordering::Release);
        self.accepts.forget();
        &mut self.inner
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Handler<H>
where
    Accepted<H>: Sync,
{
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Offered<H::InboundProtocol, H::InboundOpenInfo>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        self.accepts.lend(|| self.inner.listen_protocol())
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<H::OutboundProtocol, H::OutboundOpenInfo, H::ToBehaviour>>
    {
        // Before the question, so that whoever rings after it wakes the task.
        self.bell.task.register(cx.waker());
        let now = Instant::now();
        let is_rung = self.bell.rung.swap(false, Ordering::AcqRel);
        if !is_rung && now - self.asked < SURE {
            return Poll::Pending;
        }
        self.asked = now;
        self.accepts.forget();
        let polled = self.inner.poll(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            // There may be more, and some may not have been asked yet.
            self.bell.rung.store(true, Ordering::Release);
        }
        polled
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<H::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: H::FromBehaviour) {
        self.told().on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            H::OutboundProtocol,
            (),
            H::OutboundOpenInfo,
        >,
    ) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (protocol, info),
                ..
            }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError {
                error: (error, info),
                ..
            }) => ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }),
            ConnectionEvent::FullyNegotiatedOutbound(event) => {
                ConnectionEvent::FullyNegotiatedOutbound(event)
            }
            ConnectionEvent::AddressChange(event) => ConnectionEvent::AddressChange(event),
            ConnectionEvent::DialUpgradeError(event) => ConnectionEvent::DialUpgradeError(event),
            ConnectionEvent::LocalProtocolsChange(event) => {
                ConnectionEvent::LocalProtocolsChange(event)
            }
            ConnectionEvent::RemoteProtocolsChange(event) => {
                ConnectionEvent::RemoteProtocolsChange(event)
            }
            // The library may add kinds; none of these handlers would know one.
            _ => return,
        };
        self.told().on_connection_event(event);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use libp2p::core::upgrade::DeniedUpgrade;

    use super::*;

    /// Counts how often it is polled; says what it was told.
    #[derive(Default)]
    struct Inner {
        polls: usize,
        told: Vec<u8>,
        waker: Option<Waker>,
    }

    impl ConnectionHandler for Inner {
        type FromBehaviour = u8;
        type ToBehaviour = u8;
        type InboundProtocol = DeniedUpgrade;
        type OutboundProtocol = DeniedUpgrade;
        type InboundOpenInfo = ();
        type OutboundOpenInfo = ();

        fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
            SubstreamProtocol::new(DeniedUpgrade, ())
        }

        fn poll(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), u8>> {
            self.polls += 1;
            self.waker = Some(cx.waker().clone());
            match self.told.pop() {
                Some(told) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told)),
                None => Poll::Pending,
            }
        }

        fn on_behaviour_event(&mut self, event: u8) {
            self.told.push(event);
        }

        fn on_connection_event(
            &mut self,
            _: ConnectionEvent<'_, DeniedUpgrade, DeniedUpgrade, (), ()>,
        ) {
        }
    }

    /// How often a connection's task was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_has_nothing_to_do_is_not_polled() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut cx = Context::from_waker(&waker);
        let mut handler = Handler::new(Inner::default());
        let woken = || task.0.load(Ordering::Relaxed);

        for _ in 0..3 {
            assert!(handler.poll(&mut cx).is_pending());
        }
        assert_eq!((handler.inner.polls, woken()), (1, 0));

        // It wakes itself: so does the task, once, and it is polled once.
        let inner = handler.inner.waker.clone().unwrap();
        inner.wake_by_ref();
        inner.wake();
        assert_eq!(woken(), 1);
        for _ in 0..3 {
            assert!(handler.poll(&mut cx).is_pending());
        }
        assert_eq!((handler.inner.polls, woken()), (2, 1));

        // It is told something: it is polled until it has no more to say.
        handler.on_behaviour_event(1);
        handler.on_behaviour_event(2);
        for expected in [2, 1] {
            let said = handler.poll(&mut cx);
            assert!(
                matches!(said, Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(n)) if n == expected)
            );
        }
        for _ in 0..3 {
            assert!(handler.poll(&mut cx).is_pending());
        }
        assert_eq!(handler.inner.polls, 5);
    }

    #[test]
    fn a_task_that_moved_is_the_one_that_is_woken() {
        let tasks = [Arc::new(Task::default()), Arc::new(Task::default())];
        let mut handler = Handler::new(Inner::default());
        for task in &tasks {
            let waker = Waker::from(Arc::clone(task));
            assert!(handler.poll(&mut Context::from_waker(&waker)).is_pending());
        }
        handler.inner.waker.clone().unwrap().wake();
        assert_eq!(tasks.map(|task| task.0.load(Ordering::Relaxed)), [0, 1]);
    }
}
