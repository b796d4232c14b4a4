//! A node from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::docker::reaper::ReaperCommand;
use p2pnode_executor::docker::{DockerConfig, DockerRuntime};
use p2pnode_executor::host::HostInfo;
use p2pnode_executor::wasm::{WasmConfig, WasmRuntime, WorkerCommand};
use p2pnode_executor::Runtime;
use p2pnode_protocol::PeerId;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::actor::Driver;
use super::advertising::Advertiser;
use super::calls::Calls;
use super::clock::Clock;
use super::collecting::Collecting;
use super::fetching::Fetcher;
use super::hosting::{HostContext, Hosting};
use super::inbound::Inbound;
use super::loghub::LogHub;
use super::logpipe::LogTarget;
use super::owner::{About, Owner};
use super::probing;
use super::submitting::Submitter;
use crate::api;
use crate::blobs::{self, BlobStore, PinOwner, PinScope};
use crate::command::NodeHandle;
use crate::config::{Config, ConfigError};
use crate::core::io::{Input, Snapshot};
use crate::core::{Core, CoreConfig};
use crate::exec::{Exec, WorkDirs};
use crate::home::{ApiEndpoint, Home, HomeError};
use crate::net::{self, NetConfig, NetError};
use crate::store::{CommitError, JobLogs, LogsError, Store, StoreError};

/// Events that a slow reader may be behind by; at 200 bytes each some 3 MiB.
const EVENT_QUEUE: usize = 16_384;

/// Things said to the loop that may wait. Senders wait when it is full.
const INTERNAL_QUEUE: usize = 1_024;

/// Commands of the owner that may wait.
const COMMAND_QUEUE: usize = 64;

/// How long a node that is told to stop takes at most: every part of it has its own, shorter limit.
const STOP_LIMIT: Duration = Duration::from_secs(9);

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
    #[error("the local API cannot listen on {address}: {source}; choose another with the configuration key `api`")]
    Api {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
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
    api: JoinHandle<std::io::Result<()>>,
    stop_api: CancellationToken,
}

impl Node {
    /// Starts a node on its data directory.
    ///
    /// # Errors
    /// When a part of it cannot start; then nothing of it is left running.
    pub async fn start(home: Home, config: Config, helpers: Helpers) -> Result<Self, NodeError> {
        let keypair = home.identity()?;
        let paths = home.paths().clone();
        let me = keypair.public().to_peer_id();
        let clock = Clock::start();
        let (store, snapshot) = Store::open(&paths.database)?;
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let hub = LogHub::new(JobLogs::open(&paths.logs)?, events.clone());
        let blobs = Arc::new(BlobStore::open(&paths.blobs, config.blob_quota)?);
        pin_what_is_needed(&blobs, &snapshot);

        let mut net_config = NetConfig::new(keypair.clone(), config.network.clone());
        net_config.listen.clone_from(&config.listen);
        net_config.bootstrap.clone_from(&config.bootstrap);
        net_config.mdns = config.mdns;
        net_config.known_peers = known_peers(&store)?;
        let metrics = net_config.metrics.clone();
        let (net, net_events) = net::start(net_config).await?;

        let exec = Exec::new(runtimes(me, &home, helpers));
        exec.remove_leftovers().await;
        let probed = probing::look(&exec).await;

        let (writer, committed) = store.start()?;
        let (internal, internal_queue) = mpsc::channel(INTERNAL_QUEUE);
        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let handle = NodeHandle::new(me, commands, events.clone());

        let listener = TcpListener::bind(config.api)
            .await
            .map_err(|source| NodeError::Api { address: config.api, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| NodeError::Api { address: config.api, source })?;
        let token = home.token()?;
        home.publish_api(address)?;
        let endpoint = ApiEndpoint { addr: address, token, pid: std::process::id() };
        let stop_api = CancellationToken::new();
        let text = super::metrics::text(metrics);
        let serving = api::serve(listener, handle.clone(), endpoint.token.clone(), text, stop_api.clone());
        let api = tokio::spawn(serving);

        let fetcher = Fetcher::new(me, net.clone(), blobs.clone());
        let inbound = Inbound::new(net.clone(), blobs.clone(), hub.clone());
        for job in snapshot.jobs.iter().filter(|job| job.ended.is_none()) {
            inbound.restore(job.job, job.dispatched.iter().map(|(peer, _)| *peer));
        }
        let context = HostContext {
            me,
            exec: exec.clone(),
            dirs: WorkDirs::new(paths.work.clone()),
            blobs: blobs.clone(),
            fetcher: fetcher.clone(),
            log_target: LogTarget { me, net: net.clone(), hub: hub.clone() },
            internal: internal.clone(),
        };
        let mut owner = Owner {
            about: About {
                me,
                name: config.name.clone(),
                network: config.network.clone(),
                data_dir: home.dir().path().display().to_string(),
                started_ms: clock.started_ms(),
            },
            net: net.clone(),
            host: HostInfo::detect(None),
            work_root: paths.work.clone(),
            hub: hub.clone(),
            submitter: Submitter::new(blobs.clone(), paths.jobs.clone()),
            internal: internal.clone(),
            events: events.clone(),
            runtimes: Vec::new(),
        };
        owner.set_runtimes(probed.runtimes.clone());
        let mut advertiser = Advertiser::new(
            net.clone(),
            keypair,
            config.network,
            config.name,
            config.labels,
            clock.now(),
        );
        advertiser.set_images(probed.images.clone());
        let (core, first) = Core::new(CoreConfig::new(me), snapshot, clock.now());
        let own = [Input::Runtimes(probed.working.clone())].into();
        tokio::spawn(probing::keep_looking(exec.clone(), probed, internal.clone()));
        tokio::spawn(super::remembering::remember(net.clone(), writer.clone(), internal.clone()));
        let driver = Driver {
            core,
            clock,
            me,
            writer,
            committed,
            net_events,
            commands: command_queue,
            internal: internal_queue,
            events,
            calls: Calls::new(net.clone(), internal.clone()),
            inbound,
            hosting: Hosting::new(context),
            collecting: Collecting::new(blobs, fetcher, hub, internal),
            advertiser,
            owner,
            own,
            in_flight: 0,
            then: Vec::new(),
            stopped: false,
        };
        let running = tokio::spawn(async move {
            let ended = driver.run(first).await;
            exec.shutdown().await;
            net.shutdown().await;
            ended
        });
        Ok(Self { handle, endpoint, home, running, api, stop_api })
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

    /// Tells the node to stop, and waits until nothing of it runs any more.
    ///
    /// # Errors
    /// Why it had to end before.
    pub async fn stop(self) -> Result<(), NodeError> {
        // It may have ended by itself.
        let _gone = self.handle.stop().await;
        self.wind_up().await
    }

    /// Runs until SIGINT, SIGTERM or [`NodeHandle::stop`], then ends the node.
    ///
    /// # Errors
    /// Why it had to end before.
    pub async fn run_until_signal(mut self) -> Result<(), NodeError> {
        tokio::select! {
            () = signalled() => {
                tracing::info!("stopping: peers are told, containers are removed");
                let _gone = self.handle.stop().await;
            }
            ended = &mut self.running => {
                let ended = ended.unwrap_or(Err(NodeError::Broken));
                self.running = tokio::spawn(async { ended });
            }
        }
        self.wind_up().await
    }

    async fn wind_up(self) -> Result<(), NodeError> {
        let ended = match tokio::time::timeout(STOP_LIMIT, self.running).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(NodeError::Broken),
            Err(_) => {
                tracing::warn!("stopping took longer than {STOP_LIMIT:?}; what is left is removed by the reaper");
                Ok(())
            }
        };
        self.stop_api.cancel();
        if tokio::time::timeout(Duration::from_millis(500), self.api).await.is_err() {
            tracing::debug!("an API connection was cut");
        }
        self.home.withdraw_api()?;
        ended
    }
}

/// SIGINT or SIGTERM.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            tracing::error!(%error, "cannot listen for SIGTERM");
            // SIGINT still works.
            let _interrupted = tokio::signal::ctrl_c().await;
        }
    }
}

fn runtimes(me: PeerId, home: &Home, helpers: Helpers) -> Vec<Arc<dyn Runtime>> {
    let wasm = WasmRuntime::new(WasmConfig::new(helpers.worker, home.paths().work.clone()));
    let docker = DockerRuntime::new(DockerConfig {
        node: me,
        incarnation: format!("{:016x}", rand::random::<u64>()),
        reaper: helpers.reaper,
        socket: None,
    });
    vec![Arc::new(wasm), Arc::new(docker)]
}

fn known_peers(store: &Store) -> Result<Vec<(PeerId, Vec<libp2p::Multiaddr>)>, NodeError> {
    let known = store.known_peers()?.into_iter().map(|known| {
        let addresses = known.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        (known.peer, addresses)
    });
    Ok(known.collect())
}

/// Pins are not stored: what is needed follows from the jobs.
fn pin_what_is_needed(blobs: &BlobStore, snapshot: &Snapshot) {
    for job in snapshot.jobs.iter().filter(|job| job.ended.is_none()) {
        for blob in super::submitting::blobs_of(&job.plan) {
            repin(blobs, PinOwner::job(PinScope::Own(job.job)), blob);
        }
    }
    for hosted in &snapshot.hosted {
        for (_, event) in &hosted.outbox {
            if let Some((run, blob)) = super::hosting::outputs_of(hosted.hosted, event) {
                repin(blobs, run.pin_owner(), blob);
            }
        }
    }
}

fn repin(blobs: &BlobStore, owner: PinOwner, blob: p2pnode_protocol::manifest::BlobRef) {
    match blobs.pin_stored(owner, &blob) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(blob = %blob.digest, "a stored job lacks a part of a blob"),
        Err(error) => tracing::warn!(%error, "a stored job lacks a blob"),
    }
}

