//! What the owner asks: commands from the API, as inputs or as answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use p2pnode_executor::host::sensors::Readings;
use p2pnode_executor::host::{self, HostInfo};
use p2pnode_protocol::api::{
    CreateJob, ErrorCode, Event, NodeStatus, OfferRequest, OfferStatus, PeerFit, PeerInfo,
    RuntimeStatus,
};
use p2pnode_protocol::offer::Grant;
use p2pnode_protocol::task::RuntimeKind;
use p2pnode_protocol::{JobId, PeerId};
use tokio::sync::{broadcast, mpsc};

use super::actor::{Driver, Internal};
use super::assembly::Parts;
use super::loghub::LogHub;
use super::probing::Probed;
use super::reaching::{self, add_seen, network_status};
use super::submitting::{self, Submitter};
use super::terms::{self, Machine};
use crate::command::{Answer, Command, CommandError, NodeHandle};
use crate::core::Core;
use crate::core::io::{Input, Millis};
use crate::net::RelayPolicy;
use crate::networks::Networks;

/// Facts about this node that its status shows.
pub(super) struct About {
    pub(super) me: PeerId,
    pub(super) name: String,
    pub(super) data_dir: String,
    /// How much it relays for others.
    pub(super) relay: RelayPolicy,
    pub(super) started_ms: Millis,
    /// What is offered when neither the owner nor the present offer says.
    pub(super) offer: OfferRequest,
    /// How long a job waits for a first peer when it does not say.
    pub(super) wait_for_peers: Duration,
}

impl About {
    pub(super) fn of(parts: &Parts<'_>, started_ms: Millis) -> Self {
        let config = &parts.config;
        Self {
            me: parts.me,
            name: config.name.clone(),
            relay: config.relay,
            data_dir: parts.home.dir().path().display().to_string(),
            started_ms,
            offer: config.offer.clone(),
            wait_for_peers: config.wait_for_peers,
        }
    }
}

/// Answers commands; changes nothing but through inputs.
pub(super) struct Owner {
    pub(super) about: About,
    pub(super) net: Networks,
    pub(super) host: HostInfo,
    pub(super) work_root: std::path::PathBuf,
    pub(super) hub: LogHub,
    pub(super) submitter: Submitter,
    pub(super) internal: mpsc::Sender<Internal>,
    pub(super) events: broadcast::Sender<Arc<Event>>,
    pub(super) runtimes: Vec<RuntimeStatus>,
    /// OCI runtimes that the container engine has by name.
    pub(super) sandboxes: Vec<String>,
    /// What the sensors said when the node started: which there are.
    pub(super) readings: Readings,
    /// Runtimes that can freeze tasks.
    pub(super) freezing: BTreeSet<RuntimeKind>,
}

impl Driver {
    /// Does what the owner asks.
    pub(super) fn on_command(&mut self, command: Command, inputs: &mut Vec<Input>) {
        match command {
            Command::View(question) => question(&self.core),
            Command::Submit { job, answer } => self.owner.submit(*job, answer),
            Command::Cancel { job, answer } => self.after(Input::Cancel(job), answer, inputs),
            Command::Offer { request, answer } => self.offer(&request, answer, inputs),
            Command::Allow {
                peer,
                grant,
                answer,
            } => {
                self.after(Input::Allow { peer, grant }, answer, inputs);
            }
            Command::Status { answer } => self.owner.status(self.clock.now(), &self.core, answer),
            Command::Peers { answer } => {
                let now = self.clock.now();
                self.owner.peers(now, &self.core, answer);
            }
            Command::Logs {
                job,
                task,
                from,
                answer,
            } => self.owner.logs(job, task, from, answer),
            Command::Owner(command) => self.on_owner_command(command, inputs),
            Command::Reach(command) => reaching::on_command(command, &self.owner.net),
            Command::Stop => inputs.push(Input::Stop),
        }
    }

    /// Answers once what the input changes is on disk.
    fn after(&mut self, input: Input, answer: Answer<()>, inputs: &mut Vec<Input>) {
        inputs.push(input);
        self.then.push(Box::new(move || give(answer, Ok(()))));
    }

    fn offer(&mut self, request: &OfferRequest, answer: Answer<()>, inputs: &mut Vec<Input>) {
        let present = self.core.capacity();
        let present = present.offering.then_some(&present);
        let machine = self.owner.machine();
        match terms::of(request, present, &self.owner.about.offer, &machine) {
            Ok((terms, allow)) => {
                // Whoever is allowed already keeps the limits that were set.
                let (known, now) = (self.core.allowed_peers(), self.clock.now());
                let may = |peer: &PeerId| known.get(peer).is_some_and(|grant| !grant.is_spent(now));
                let fresh = allow.into_iter().filter(|peer| !may(peer));
                inputs.extend(fresh.map(|peer| Input::Allow {
                    peer,
                    grant: Some(Grant::default()),
                }));
                self.conditions.on_offer(self.clock.now());
                self.after(Input::Offer(terms), answer, inputs);
            }
            Err(error) => give(answer, Err(error)),
        }
    }
}

impl NodeHandle {
    /// Says which peers could run a job, without running it: one entry for each that is known or named.
    ///
    /// The job file is read on a thread of its own, since it may name a million files; the core sees
    /// the plan only.
    ///
    /// # Errors
    /// What is wrong with the job file, or that the node is stopping.
    pub async fn fit(&self, job: CreateJob) -> Result<Vec<PeerFit>, CommandError> {
        let planning = tokio::task::spawn_blocking(move || submitting::plan_without_blobs(&job));
        let interrupted = |_| CommandError::new(ErrorCode::Internal, "reading was interrupted");
        let plan = Arc::new(planning.await.map_err(interrupted)??);
        let asked = plan.clone();
        self.view(move |core| {
            let fits = core.fit(&asked).into_iter().map(|(peer, fit)| PeerFit {
                name: core.peer_name(&peer).unwrap_or_default().to_owned(),
                peer: peer.to_string(),
                slots: *fit.as_ref().unwrap_or(&0),
                reason: fit.err(),
            });
            fits.collect()
        })
        .await
    }
}

/// Answers an asker, who may have gone away.
pub(super) fn give<T>(answer: Answer<T>, said: Result<T, CommandError>) {
    let _gone = answer.send(said);
}

impl Owner {
    pub(super) fn set_runtimes(&mut self, probed: &Probed) {
        self.runtimes.clone_from(&probed.runtimes);
        self.sandboxes = probed.sandboxes();
        self.freezing.clone_from(&probed.freezing);
    }

    /// Whether tasks of this runtime can be frozen.
    pub(super) fn can_freeze(&self, runtime: RuntimeKind) -> bool {
        self.freezing.contains(&runtime)
    }

    fn submit(&self, job: CreateJob, answer: Answer<crate::command::Submitted>) {
        // Subscribed before the job exists, so that the asker misses none of its events.
        let events = self.events.subscribe();
        let (submitter, internal) = (self.submitter.clone(), self.internal.clone());
        tokio::spawn(async move {
            match submitter.prepare(job).await {
                // Interrupted while the inputs were read: nobody would know of the job.
                Ok((id, _)) if answer.is_closed() => submitter.discard(id),
                Ok((id, input)) => {
                    let submitted = crate::command::Submitted { job: id, events };
                    let cancel = internal.clone();
                    let then = Box::new(move || {
                        if answer.send(Ok(submitted)).is_err() {
                            // Nobody knows of the job, so nobody could end it.
                            let cancelled = Internal::Input(Input::Cancel(id));
                            tokio::spawn(async move { cancel.send(cancelled).await });
                        }
                    });
                    let stored = Internal::Stored {
                        inputs: vec![input],
                        then,
                    };
                    // The driver is gone only when the node stops; the asker then sees that too.
                    let _stopping = internal.send(stored).await;
                }
                Err(error) => give(answer, Err(error)),
            }
        });
    }

    /// What the machine has, for an offer to stay within.
    fn machine(&self) -> Machine {
        let readings = &self.readings;
        Machine {
            cpus: self.host.cpus,
            memory: self.host.memory,
            free_disk: host::free_disk(&self.work_root).unwrap_or_default(),
            pids: self.host.pids / 2,
            gpus: self.host.gpus.clone(),
            sandboxes: self.sandboxes.clone(),
            tells_cpu_temperature: readings.cpu_temperature_c.is_some(),
            tells_gpu_temperature: readings.gpus.iter().any(|gpu| gpu.temperature_c.is_some()),
            // The machine's load is told from the second reading on.
            tells_idleness: readings.user_idle.is_some() || cfg!(target_os = "linux"),
        }
    }

    fn status(&self, now: Millis, core: &Core, answer: Answer<NodeStatus>) {
        let capacity = core.capacity();
        let offer = capacity.offering.then(|| OfferStatus {
            total: capacity.total,
            free: capacity.free,
            allow_any: capacity.allow_any,
            rules: capacity.rules,
            closed: capacity.closed,
            allowed: core.allowed_by_name(now).map(ToString::to_string).collect(),
            requests: core.requests().len() as u32,
            runtimes: self.runtimes.clone(),
            running: capacity.running,
            queued: capacity.queued,
        });
        let peers_known = core.peers_known();
        let own_tasks_open = core.open_tasks();
        let draining = core.is_draining();
        let About {
            me,
            name,
            data_dir,
            started_ms,
            ..
        } = &self.about;
        let (peer, name) = (me.to_string(), name.clone());
        let (data_dir, started_ms) = (data_dir.clone(), *started_ms);
        let relay = self.about.relay;
        let net = self.net.clone();
        tokio::spawn(async move {
            let networks = network_status(net.members(), relay).await;
            let seen = net.peers().await.into_iter();
            let connected = seen.filter(|(_, peer)| peer.connected);
            let connected: BTreeSet<PeerId> = connected.map(|(_, peer)| peer.peer).collect();
            let status = NodeStatus {
                peer,
                name,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                networks,
                started_ms,
                data_dir,
                peers_connected: connected.len() as u32,
                peers_known,
                offer,
                own_tasks_open,
                draining,
                adverts: net.metrics().advert_times(),
                memory: host::process_memory().0,
            };
            give(answer, Ok(status));
        });
    }

    fn peers(&self, now: Millis, core: &Core, answer: Answer<Vec<PeerInfo>>) {
        let me = self.about.me;
        let mut infos: std::collections::BTreeMap<PeerId, PeerInfo> = core
            .known_peers(now)
            .into_iter()
            .map(|info| (info.0, info.1))
            .collect();
        let allowed: std::collections::BTreeSet<PeerId> =
            core.allowed_by_name(now).copied().collect();
        let net = self.net.clone();
        tokio::spawn(async move {
            for (network, seen) in net.peers().await {
                let info = infos.entry(seen.peer).or_insert_with(|| PeerInfo {
                    peer: seen.peer.to_string(),
                    name: String::new(),
                    networks: Vec::new(),
                    addresses: Vec::new(),
                    capacity: None,
                    free: None,
                    executors: Vec::new(),
                    labels: std::collections::BTreeMap::new(),
                    rtt_ms: None,
                    allowed: allowed.contains(&seen.peer),
                    closed: None,
                    away: Vec::new(),
                    connected: false,
                    relayed: false,
                    last_seen_ms: seen.last_seen_ms,
                });
                add_seen(info, network, &seen);
            }
            infos.remove(&me);
            give(answer, Ok(infos.into_values().collect()));
        });
    }

    fn logs(
        &self,
        job: JobId,
        task: Option<u32>,
        from: u64,
        answer: Answer<crate::command::LogPage>,
    ) {
        let hub = self.hub.clone();
        tokio::task::spawn_blocking(move || {
            let page = hub
                .page(job, task, from)
                .map_err(|error| CommandError::new(ErrorCode::Internal, error.to_string()));
            give(answer, page);
        });
    }
}
