//! What the owner asks: commands from the API, as inputs or as answers.

use std::sync::Arc;

use p2pnode_executor::host::{self, HostInfo};
use p2pnode_protocol::api::{
    CreateJob, ErrorCode, Event, NodeStatus, OfferRequest, OfferStatus, PeerFit, PeerInfo,
    RuntimeStatus,
};
use p2pnode_protocol::{Bytes, Capacity, JobId, MilliCpus, PeerId};
use tokio::sync::{broadcast, mpsc};

use super::actor::{Driver, Internal};
use super::loghub::LogHub;
use super::submitting::Submitter;
use crate::command::{Answer, Command, CommandError};
use crate::config::Config;
use crate::core::Core;
use crate::core::io::{Input, Millis, OfferTerms};
use crate::home::Home;
use crate::net::NetHandle;

/// Facts about this node that its status shows.
pub(super) struct About {
    pub(super) me: PeerId,
    pub(super) name: String,
    pub(super) network: String,
    pub(super) data_dir: String,
    pub(super) started_ms: Millis,
}

impl About {
    pub(super) fn of(me: PeerId, config: &Config, home: &Home, started_ms: Millis) -> Self {
        Self {
            me,
            name: config.name.clone(),
            network: config.network.clone(),
            data_dir: home.dir().path().display().to_string(),
            started_ms,
        }
    }
}

/// Answers commands; changes nothing but through inputs.
pub(super) struct Owner {
    pub(super) about: About,
    pub(super) net: NetHandle,
    pub(super) host: HostInfo,
    pub(super) work_root: std::path::PathBuf,
    pub(super) hub: LogHub,
    pub(super) submitter: Submitter,
    pub(super) internal: mpsc::Sender<Internal>,
    pub(super) events: broadcast::Sender<Arc<Event>>,
    pub(super) runtimes: Vec<RuntimeStatus>,
}

impl Driver {
    /// Does what the owner asks.
    pub(super) fn on_command(&mut self, command: Command, inputs: &mut Vec<Input>) {
        match command {
            Command::View(question) => question(&self.core),
            Command::Submit { job, answer } => self.owner.submit(*job, answer),
            Command::Fit { job, answer } => self.fit(&job, answer),
            Command::Cancel { job, answer } => self.after(Input::Cancel(job), answer, inputs),
            Command::Offer { request, answer } => self.offer(&request, answer, inputs),
            Command::Allow {
                peer,
                allowed,
                answer,
            } => {
                self.after(Input::Allow { peer, allowed }, answer, inputs);
            }
            Command::Status { answer } => self.owner.status(&self.core, answer),
            Command::Peers { answer } => self.owner.peers(&self.core, answer),
            Command::Logs {
                job,
                task,
                from,
                answer,
            } => self.owner.logs(job, task, from, answer),
            Command::Stop => inputs.push(Input::Stop),
        }
    }

    /// Answers once what the input changes is on disk.
    fn after(&mut self, input: Input, answer: Answer<()>, inputs: &mut Vec<Input>) {
        inputs.push(input);
        self.then.push(Box::new(move || give(answer, Ok(()))));
    }

    fn offer(&mut self, request: &OfferRequest, answer: Answer<()>, inputs: &mut Vec<Input>) {
        match self.owner.terms(request) {
            Ok((terms, allow)) => {
                inputs.extend(allow.into_iter().map(|peer| Input::Allow {
                    peer,
                    allowed: true,
                }));
                self.after(Input::Offer(terms), answer, inputs);
            }
            Err(error) => give(answer, Err(error)),
        }
    }

    fn fit(&self, job: &CreateJob, answer: Answer<Vec<PeerFit>>) {
        let fitted = super::submitting::plan_without_blobs(job).map(|plan| {
            let names = |peer: &PeerId| self.core.peer_name(peer).unwrap_or_default().to_owned();
            let fits = self.core.fit(&plan).into_iter().map(|(peer, fit)| PeerFit {
                name: names(&peer),
                peer: peer.to_string(),
                slots: *fit.as_ref().unwrap_or(&0),
                reason: fit.err(),
            });
            fits.collect()
        });
        give(answer, fitted);
    }
}

/// Answers an asker, who may have gone away.
fn give<T>(answer: Answer<T>, said: Result<T, CommandError>) {
    let _gone = answer.send(said);
}

impl Owner {
    pub(super) fn set_runtimes(&mut self, runtimes: Vec<RuntimeStatus>) {
        self.runtimes = runtimes;
    }

    fn submit(&self, job: CreateJob, answer: Answer<crate::command::Submitted>) {
        // Subscribed before the job exists, so that the asker misses none of its events.
        let events = self.events.subscribe();
        let (submitter, internal) = (self.submitter.clone(), self.internal.clone());
        tokio::spawn(async move {
            match submitter.prepare(job).await {
                Ok((id, input)) => {
                    let submitted = crate::command::Submitted { job: id, events };
                    let then = Box::new(move || give(answer, Ok(submitted)));
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

    /// What `request` offers, and whom it allows.
    ///
    /// What is left out gets a default that leaves the host usable: all CPUs but one, three quarters
    /// of the memory, half of the free disk, no GPU.
    fn terms(&self, request: &OfferRequest) -> Result<(OfferTerms, Vec<PeerId>), CommandError> {
        let invalid = |message: String| CommandError::new(ErrorCode::Invalid, message);
        let allow = request
            .allow
            .iter()
            .map(|text| {
                text.parse().map_err(|_| {
                    invalid(format!(
                        "`{text}` is not a peer id; `p2pnode id` prints a node's own"
                    ))
                })
            })
            .collect::<Result<Vec<PeerId>, _>>()?;
        let whole = MilliCpus::whole(1).0;
        let cpus = MilliCpus(
            request
                .cpus_milli
                .unwrap_or(self.host.cpus.0.saturating_sub(whole).max(whole)),
        );
        let memory = Bytes(request.memory.unwrap_or(self.host.memory.0 / 4 * 3));
        let free_disk = host::free_disk(&self.work_root).unwrap_or_default();
        let disk = Bytes(request.disk.unwrap_or(free_disk.0 / 2));
        let gpus = usize::from(request.gpus.unwrap_or(0));
        if cpus.0 == 0 || memory.0 == 0 {
            return Err(invalid(
                "an offer needs at least some CPU and memory; to offer nothing, run: p2pnode stop"
                    .into(),
            ));
        }
        if cpus > self.host.cpus {
            return Err(invalid(format!(
                "--cpus {cpus} is more than this machine's {}",
                self.host.cpus
            )));
        }
        if memory > self.host.memory {
            return Err(invalid(format!(
                "--memory {memory} is more than this machine's {}",
                self.host.memory
            )));
        }
        if disk > free_disk {
            return Err(invalid(format!(
                "--disk {disk} is more than the {free_disk} that are free"
            )));
        }
        let Some(gpus) = self.host.gpus.get(..gpus) else {
            return Err(invalid(format!(
                "--gpus {gpus} is more than the {} that this machine shows; GPUs are found through NVIDIA's driver library (NVML)",
                self.host.gpus.len()
            )));
        };
        let total = Capacity {
            cpus,
            memory,
            disk,
            gpus: gpus.to_vec(),
        };
        Ok((
            OfferTerms {
                total,
                allow_any: request.allow_any,
            },
            allow,
        ))
    }

    fn status(&self, core: &Core, answer: Answer<NodeStatus>) {
        let capacity = core.capacity();
        let offer = capacity.offering.then(|| OfferStatus {
            total: capacity.total,
            free: capacity.free,
            allow_any: capacity.allow_any,
            runtimes: self.runtimes.clone(),
            running: capacity.running,
            queued: capacity.queued,
        });
        let peers_known = core.known_peers().len() as u32;
        let own_tasks_open = core.open_tasks();
        let About {
            me,
            name,
            network,
            data_dir,
            started_ms,
        } = &self.about;
        let (peer, name, network) = (me.to_string(), name.clone(), network.clone());
        let (data_dir, started_ms) = (data_dir.clone(), *started_ms);
        let net = self.net.clone();
        tokio::spawn(async move {
            let peers = net.peers().await;
            let status = NodeStatus {
                peer,
                name,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                network,
                listen: net
                    .listen_addresses()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                external: net
                    .external_addresses()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                started_ms,
                data_dir,
                peers_connected: peers.iter().filter(|peer| peer.connected).count() as u32,
                peers_known,
                offer,
                own_tasks_open,
                memory: host::process_memory().0,
            };
            give(answer, Ok(status));
        });
    }

    fn peers(&self, core: &Core, answer: Answer<Vec<PeerInfo>>) {
        let me = self.about.me;
        let mut infos: std::collections::BTreeMap<PeerId, PeerInfo> = core
            .known_peers()
            .into_iter()
            .map(|info| (info.0, info.1))
            .collect();
        let allowed: std::collections::BTreeSet<PeerId> =
            core.allowed_peers().into_iter().collect();
        let net = self.net.clone();
        tokio::spawn(async move {
            for seen in net.peers().await {
                let info = infos.entry(seen.peer).or_insert_with(|| PeerInfo {
                    peer: seen.peer.to_string(),
                    name: String::new(),
                    addresses: Vec::new(),
                    capacity: None,
                    free: None,
                    executors: Vec::new(),
                    labels: std::collections::BTreeMap::new(),
                    rtt_ms: None,
                    allowed: allowed.contains(&seen.peer),
                    connected: false,
                    last_seen_ms: seen.last_seen_ms,
                });
                info.addresses = seen.addresses.iter().map(ToString::to_string).collect();
                info.rtt_ms = seen.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0);
                info.connected = seen.connected;
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
