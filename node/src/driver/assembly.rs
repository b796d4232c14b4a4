//! The parts of a node, from what its data directory holds to a driver that can run.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use libp2p::identity::Keypair;
use p2pnode_executor::host::HostInfo;
use p2pnode_executor::host::sensors::Sensors;

use p2pnode_protocol::api::Event;
use p2pnode_protocol::{JobId, PeerId};

use super::actor::{Driver, Internal};
use super::advertising::Advertiser;
use super::calls::Calls;
use super::clock::Clock;
use super::collecting::Collecting;
use super::conditions::Watch;
use super::diskroom::DiskRoom;
use super::fetching::Fetcher;
use super::history::PastBook;
use super::hosting::{HostContext, Hosting};
use super::inbound::Inbound;
use super::loghub::LogHub;
use super::logins::OwnLogins;
use super::logpipe::LogTarget;
use super::meter::Meter;
use super::metrics::Watcher;
use super::node::NodeError;
use super::owner::{About, Owner};
use super::submitting::Submitter;
use super::turns::Turns;
use super::{probing, remembering};
use tokio::sync::{broadcast, mpsc};

use crate::blobs::{self, BlobStore, PinOwner, PinScope};
use crate::command::Command;
use crate::config::Config;
use crate::core::io::{Effect, Input, Snapshot};
use crate::core::{Core, CoreConfig};
use crate::exec::{Exec, WorkDirs};
use crate::home::{Home, Paths};
use crate::networks::{NetworkEvents, Networks};
use crate::store::{Claims, JobLogs, Store};
use crate::tunnels::{Doors, Tunnels};

/// Events that a slow reader may be behind by; at 200 bytes each some 3 MiB, 32 MiB when all of them
/// are log texts.
const EVENT_QUEUE: usize = 16_384;

/// Things said to the loop that may wait. Senders wait when it is full.
const INTERNAL_QUEUE: usize = 1_024;

/// What a node finds in its data directory.
pub(super) struct State {
    pub(super) store: Store,
    snapshot: Snapshot,
    pub(super) blobs: Arc<BlobStore>,
    claims: Arc<Claims>,
    hub: LogHub,
    pub(super) events: broadcast::Sender<Arc<Event>>,
}

impl State {
    pub(super) fn open(paths: &Paths, config: &Config) -> Result<Self, NodeError> {
        let (store, snapshot) = Store::open(&paths.database)?;
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let logs = JobLogs::open(&paths.logs)?;
        logs.keep_only(&snapshot.jobs.iter().map(|job| job.job).collect())?;
        let hub = LogHub::new(logs, events.clone());
        let blobs = Arc::new(BlobStore::open(&paths.blobs, config.blob_quota)?);
        pin_what_is_needed(&blobs, &snapshot);
        let running = snapshot.jobs.iter().filter(|job| job.ended.is_none());
        let running: Vec<JobId> = running.map(|job| job.job).collect();
        let claims = Arc::new(Claims::open(&paths.claims, &running)?);
        let outs = unfinished_outs(&snapshot);
        tokio::task::spawn_blocking(move || sweep_outputs(&outs));
        Ok(Self {
            store,
            claims,
            snapshot,
            blobs,
            hub,
            events,
        })
    }
}

/// What the driver is made of, beside the state.
pub(super) struct Parts<'a> {
    pub(super) me: PeerId,
    pub(super) keypair: Keypair,
    pub(super) net: Networks,
    pub(super) exec: Exec,
    pub(super) home: &'a Home,
    pub(super) config: Config,
    /// Members of private networks that this node is in, as earlier lives knew them.
    pub(super) members: Vec<PeerId>,
    pub(super) meter: Meter,
    pub(super) watcher: Watcher,
    pub(super) doors: Doors,
    pub(super) tunnels: Tunnels,
}

impl Parts<'_> {
    pub(super) async fn assemble(
        self,
        state: State,
        net_events: NetworkEvents,
        commands: mpsc::Receiver<Command>,
    ) -> Result<(Driver, Vec<Effect>), NodeError> {
        let clock = Clock::start();
        let history = state.store.history();
        let (writer, committed) = state.store.start()?;
        let (internal, internal_queue) = mpsc::channel(INTERNAL_QUEUE);
        let probed = probing::look(&self.exec).await;
        let core_config = self.core_config();
        let about = About::of(&self, clock.started_ms());
        let links = Links {
            me: self.me,
            fetcher: Fetcher::new(self.net.clone(), state.blobs.clone()),
            net: self.net,
            blobs: state.blobs,
            hub: state.hub,
            events: state.events,
            meter: self.meter,
            doors: self.doors,
            tunnels: self.tunnels,
            internal,
        };
        let inbound = links.inbound(&state.snapshot);
        let hosting = links.hosting(self.exec.clone(), self.home.paths());
        let owner = links.owner(about, self.home.paths(), &probed);
        let now = clock.now();
        let conditions = Watch::new(owner.host.cpus, links.internal.clone(), now);
        let mut advertiser = Advertiser::new(links.net.clone(), self.keypair, self.config, now);
        advertiser.set_images(probed.images.clone());
        let own_logins = OwnLogins::restore(&state.snapshot);
        let (core, first) = Core::new(core_config, state.snapshot, now);
        let own = first_inputs(self.members, &probed);
        let (net, internal) = (links.net.clone(), links.internal.clone());
        tokio::spawn(probing::keep_looking(self.exec, probed, internal.clone()));
        let remembering = remembering::remember(net.clone(), writer.clone(), internal.clone());
        tokio::spawn(remembering);
        let driver = Driver {
            core,
            clock,
            me: self.me,
            writer,
            committed,
            net_events,
            commands,
            internal: internal_queue,
            events: links.events,
            calls: Calls::new(net, internal.clone()),
            inbound,
            hosting,
            collecting: Collecting {
                turns: Turns::default(),
                net: links.net,
                claims: state.claims,
                blobs: links.blobs,
                fetcher: links.fetcher,
                hub: links.hub,
                internal,
            },
            advertiser,
            owner,
            conditions,
            own_logins,
            history,
            past: PastBook::default(),
            watcher: self.watcher,
            own,
            in_flight: 0,
            then: Vec::new(),
            stopped: false,
        };
        Ok((driver, first))
    }

    fn core_config(&self) -> CoreConfig {
        CoreConfig {
            name: self.config.name.clone(),
            labels: self.config.labels.clone(),
            ..CoreConfig::new(self.me)
        }
    }
}

/// What the core is told before anything happens.
fn first_inputs(members: Vec<PeerId>, probed: &probing::Probed) -> VecDeque<Input> {
    let members = members.into_iter().map(Input::Member);
    let all = members.chain([Input::Runtimes(probed.working.clone())]);
    all.collect()
}

/// What several parts of the driver share.
struct Links {
    me: PeerId,
    net: Networks,
    blobs: Arc<BlobStore>,
    fetcher: Fetcher,
    hub: LogHub,
    events: broadcast::Sender<Arc<Event>>,
    meter: Meter,
    doors: Doors,
    tunnels: Tunnels,
    internal: mpsc::Sender<Internal>,
}

impl Links {
    fn inbound(&self, snapshot: &Snapshot) -> Inbound {
        let inbound = Inbound::new(
            self.net.clone(),
            self.blobs.clone(),
            self.hub.clone(),
            self.tunnels.clone(),
            self.internal.clone(),
        );
        for job in snapshot.jobs.iter().filter(|job| job.ended.is_none()) {
            inbound.restore(job.job, &job.dispatched, &job.ends);
        }
        inbound
    }

    fn hosting(&self, exec: Exec, paths: &Paths) -> Hosting {
        Hosting::new(HostContext {
            exec,
            dirs: WorkDirs::new(paths.work.clone()),
            blobs: self.blobs.clone(),
            fetcher: self.fetcher.clone(),
            disk: DiskRoom::default(),
            log_target: LogTarget {
                me: self.me,
                net: self.net.clone(),
                hub: self.hub.clone(),
            },
            meter: self.meter.clone(),
            doors: self.doors.clone(),
            internal: self.internal.clone(),
        })
    }

    fn owner(&self, about: About, paths: &Paths, probed: &probing::Probed) -> Owner {
        Owner {
            net: self.net.clone(),
            host: HostInfo::detect(None),
            work_root: paths.work.clone(),
            hub: self.hub.clone(),
            submitter: Submitter::new(self.blobs.clone(), paths.jobs.clone(), about.wait_for_peers),
            internal: self.internal.clone(),
            events: self.events.clone(),
            runtimes: probed.runtimes.clone(),
            freezing: probed.freezing.clone(),
            sandboxes: probed.sandboxes(),
            readings: Sensors::of_this_machine().read(),
            about,
        }
    }
}

/// Where outputs of jobs go that an earlier life did not end.
fn unfinished_outs(snapshot: &Snapshot) -> Vec<String> {
    let unfinished = snapshot.jobs.iter().filter(|job| job.ended.is_none());
    unfinished.filter_map(|job| job.out.clone()).collect()
}

/// Removes what an earlier life left half written. A start does not wait for it: folders may be large.
fn sweep_outputs(outs: &[String]) {
    for out in outs {
        if let Err(error) = blobs::sweep_leftovers(Path::new(out)) {
            tracing::warn!(out, %error, "half-written outputs may be left");
        }
    }
}

/// Pins are not stored: what is needed follows from the jobs.
fn pin_what_is_needed(blobs: &BlobStore, snapshot: &Snapshot) {
    for job in snapshot.jobs.iter().filter(|job| job.ended.is_none()) {
        for blob in super::submitting::blobs_of(&job.plan) {
            repin(blobs, PinOwner::job(PinScope::Own(job.job)), blob);
        }
    }
    for hosted in &snapshot.hosted {
        for (run, blob) in &hosted.kept {
            repin(blobs, run.pin_owner(), *blob);
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
