//! A node from its start to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use p2pnode_executor::Runtime;
use p2pnode_executor::docker::reaper::ReaperCommand;
use p2pnode_executor::docker::{DockerConfig, DockerRuntime};

use p2pnode_executor::wasm::{WasmConfig, WasmRuntime, WorkerCommand};
use p2pnode_protocol::PeerId;

use super::assembly::{Parts, State};
use super::membership::Membership;
use super::meter::Meter;
use super::metrics::Metrics;
use crate::api::{self, MetricsText};
use crate::blobs;
use crate::command::{Command, NodeHandle};
use crate::config::{Config, ConfigError};
use crate::exec::Exec;
use crate::home::{ApiEndpoint, Home, HomeError};
use crate::net::NetError;
use crate::networks;
use crate::store::{CommitError, LogsError, StoreError};
use crate::tunnels::{Doors, Tunnels};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Commands of the owner that may wait.
const COMMAND_QUEUE: usize = 64;

/// Connections that ask for a shortcut and wait to be looked at; that takes no time, and those that find no
/// room go another way.
const SHORTCUT_QUEUE: usize = 64;

/// How long a node that is told to stop takes at most, whoever told it: the core gives itself 8 s, and
/// the program must end within 10.
const STOP_LIMIT: Duration = Duration::from_secs(9);

/// How long connections of the local API have to end after that.
const API_LIMIT: Duration = Duration::from_millis(300);

/// Programs that the node starts beside itself.
#[derive(Debug, Clone)]
pub struct Helpers {
    /// Runs WASM modules.
    pub worker: WorkerCommand,
    /// Removes containers when the node dies.
    pub reaper: ReaperCommand,
}

/// A node that cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database's writer.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The database closed before the node did.
    #[error("the database closed by itself")]
    StoreClosed,
    /// Logs of jobs.
    #[error(transparent)]
    Logs(#[from] LogsError),
    /// The blob store.
    #[error(transparent)]
    Blobs(#[from] blobs::StoreError),
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The local API's address.
    #[error(
        "the local API cannot listen on {address}: {source}; choose another with the settings `api.address` and `api.port`"
    )]
    Api {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address for scrapes.
    #[error(
        "the metrics cannot be served on {address}: {source}; choose another with the setting `metrics`"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The network ended before the node did.
    #[error(
        "the network ended by itself; start the node again, and report this as a bug, with the log's last lines"
    )]
    NetworkEnded,
    /// The loop ended by a fault of its own.
    #[error("the node's loop broke; this is a bug, please report it")]
    Broken,
}

/// A running node.
pub struct Node {
    handle: NodeHandle,
    endpoint: ApiEndpoint,
    home: Home,
    running: JoinHandle<Result<(), NodeError>>,
    api: JoinHandle<io::Result<()>>,
    stop_api: CancellationToken,
}

impl Node {
    /// Starts a node on its data directory.
    ///
    /// # Errors
    /// When a part of it cannot start; then nothing of it is left running.
    pub async fn start(home: Home, config: Config, helpers: Helpers) -> Result<Self, NodeError> {
        let keypair = home.identity()?;
        let me = keypair.public().to_peer_id();
        let state = State::open(home.paths(), &config)?;
        let mut membership = Membership::of(&keypair, &config, home.dir(), &state.store)?;
        let metrics = Metrics::new(&membership.metrics);
        let (shortcuts, asked_for) = mpsc::channel(SHORTCUT_QUEUE);
        for network in &mut membership.networks {
            network.shortcuts = config.shortcuts.then(|| shortcuts.clone());
        }
        let (net, net_events) = networks::start_all(membership.networks).await?;
        let exec = Exec::new(runtimes(me, &home, &config, helpers));
        exec.remove_leftovers().await;
        home.clear_work();

        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let handle = NodeHandle::new(me, commands, state.events.clone());
        let stop_api = CancellationToken::new();
        let (meter, watcher) = (Meter::new(), metrics.watcher());
        let text = metrics.text(handle.clone(), state.blobs.clone(), meter.clone());
        serve_scrapes(config.metrics, text.clone(), &stop_api).await?;
        let doors = Doors::default();
        let secret = host_key_secret(&keypair);
        let tunnels = Tunnels::new(net.clone(), doors.clone(), secret, config.shortcuts);
        tokio::spawn(tunnels.clone().take_shortcuts(asked_for));
        let api = Api {
            handle: handle.clone(),
            tunnels: tunnels.clone(),
            text,
        };
        let (endpoint, api) = api.serve(&home, config.api, &stop_api).await?;

        let parts = Parts {
            me,
            keypair,
            net: net.clone(),
            exec: exec.clone(),
            home: &home,
            config,
            members: membership.members,
            meter,
            watcher,
            doors,
            tunnels,
        };
        let (driver, first) = parts.assemble(state, net_events, command_queue).await?;
        let stopping = handle.stopping().clone();
        let running = tokio::spawn(async move {
            let ended = driver.run(first).await;
            // Its end by a fault is as much to be wound up as one that was asked for.
            stopping.cancel();
            exec.shutdown().await;
            net.shutdown().await;
            ended
        });
        Ok(Self {
            handle,
            endpoint,
            home,
            running,
            api,
            stop_api,
        })
    }

    /// The door to this node.
    #[must_use]
    pub const fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Its local API.
    #[must_use]
    pub const fn endpoint(&self) -> &ApiEndpoint {
        &self.endpoint
    }

    /// Returns when the node is asked to stop ([`NodeHandle::ask_to_stop`], `p2pnode stop`) or ended by
    /// a fault. Whoever runs a node waits for it, and then calls [`Node::stop`].
    pub fn stop_asked(&self) -> impl Future<Output = ()> + Send + 'static {
        self.handle.stopping().clone().cancelled_owned()
    }

    /// Tells the node to stop, and waits until nothing of it runs any more: 10 s at most.
    ///
    /// # Errors
    /// Why it had to end before.
    pub async fn stop(self) -> Result<(), NodeError> {
        tracing::info!("stopping: peers are told, containers are removed");
        self.handle.ask_to_stop();
        let stopping = async {
            // It may have ended by itself.
            let _gone = self.handle.send(Command::Stop).await;
            self.running.await
        };
        let ended = match tokio::time::timeout(STOP_LIMIT, stopping).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(NodeError::Broken),
            Err(_) => {
                tracing::warn!(
                    "stopping took longer than {STOP_LIMIT:?}; what is left is removed by the reaper"
                );
                Ok(())
            }
        };
        self.stop_api.cancel();
        if tokio::time::timeout(API_LIMIT, self.api).await.is_err() {
            tracing::debug!("an API connection was cut");
        }
        self.home.withdraw_api()?;
        ended
    }
}

/// What the local API is made of.
struct Api {
    handle: NodeHandle,
    tunnels: Tunnels,
    text: MetricsText,
}

impl Api {
    async fn serve(
        self,
        home: &Home,
        address: SocketAddr,
        stop: &CancellationToken,
    ) -> Result<(ApiEndpoint, JoinHandle<io::Result<()>>), NodeError> {
        let wrong = |source| NodeError::Api { address, source };
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        let addr = listener.local_addr().map_err(wrong)?;
        let token = home.token()?;
        let pid = std::process::id();
        let Self {
            handle,
            tunnels,
            text,
        } = self;
        let serving = api::serve(listener, handle, tunnels, token.clone(), text, stop.clone());
        let api = tokio::spawn(serving);
        home.publish_api(addr)?;
        Ok((ApiEndpoint { addr, token, pid }, api))
    }
}

/// The secret that host keys of tasks follow from: this node's own, and the same in every life of it.
fn host_key_secret(keypair: &Keypair) -> [u8; 32] {
    let secret = keypair.clone().try_into_ed25519();
    let secret = secret.map_or_else(
        // There is no other kind of identity here.
        |_| rand::random::<[u8; 32]>().to_vec(),
        |pair| pair.secret().as_ref().to_vec(),
    );
    blake3::derive_key("p2pnode 2026 host keys of tasks", &secret)
}

/// Serves the metrics to other machines, when the owner wants that.
async fn serve_scrapes(
    address: Option<SocketAddr>,
    text: MetricsText,
    stop: &CancellationToken,
) -> Result<(), NodeError> {
    let Some(address) = address else {
        return Ok(());
    };
    let wrong = |source| NodeError::Metrics { address, source };
    let listener = TcpListener::bind(address).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    tracing::info!("metrics are served to everybody at http://{bound}/metrics");
    tokio::spawn(api::serve_metrics(listener, text, stop.clone()));
    Ok(())
}

fn runtimes(me: PeerId, home: &Home, config: &Config, helpers: Helpers) -> Vec<Arc<dyn Runtime>> {
    let wasm = WasmRuntime::new(WasmConfig::new(helpers.worker, home.paths().work.clone()));
    let docker = DockerRuntime::new(DockerConfig {
        node: me,
        incarnation: format!("{:016x}", rand::random::<u64>()),
        reaper: helpers.reaper,
        socket: config.docker_socket.clone(),
        // The owner's choice comes with each run.
        sandbox: None,
        hard_disk: config.hard_disk,
        image_cache: config.image_cache,
        dir: home.dir().path().join("engine"),
    });
    vec![Arc::new(wasm), Arc::new(docker)]
}
