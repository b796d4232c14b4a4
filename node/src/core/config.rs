//! Every number that the core decides by, with where it comes from.
//!
//! Owned by [`super::Core`]; made once by the driver with [`CoreConfig::new`]. Tests and the
//! simulation change single fields. Nothing here may depend on the machine or the clock.

use std::collections::BTreeMap;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::MAX_BATCH;

use super::io::Millis;

/// What the core needs to know about its node, and its constants.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// This node.
    pub me: PeerId,
    /// What this node calls itself, for those who must know whose owner decided; may be empty.
    pub name: String,
    /// This node's labels, for jobs that place by label.
    pub labels: BTreeMap<String, String>,
    /// As the submitter of jobs.
    pub submit: SubmitConfig,
    /// As a provider.
    pub host: HostConfig,
    /// How long a node that stops waits for its runs to end, in milliseconds: 8 s, because the
    /// program must end within 10 s and the sockets want the rest.
    pub stop_ms: Millis,
    /// Peers that are remembered at most: 4,096 adverts of 8 KiB are 32 MiB.
    pub max_peers: usize,
    /// Least time between two attempts to connect to one peer, in milliseconds: 5 s, the time in which
    /// a dial over QUIC fails.
    pub dial_every_ms: Millis,
    /// Planted bugs, for the simulation's proof that it sees them.
    #[doc(hidden)]
    pub faults: Faults,
}

/// Constants of the submitting side.
#[derive(Debug, Clone)]
pub struct SubmitConfig {
    /// Time between heartbeats to a provider, in milliseconds: 3 s, so that three of them fit into
    /// `silent_ms` and one may be lost.
    pub heartbeat_ms: Millis,
    /// A provider that answered nothing for so long is lost, in milliseconds: the promise of 10 s.
    pub silent_ms: Millis,
    /// A provider whose connection closed has so long to be connected again, in milliseconds: the
    /// promise of 2 s.
    pub redial_ms: Millis,
    /// Work that a provider should have in hand, in milliseconds: 1 s hides any round trip and is
    /// little enough to lose.
    pub ahead_ms: u64,
    /// The least mean run time reckoned with, in microseconds: a WASM task that does nothing takes 7.
    pub least_mean_us: u64,
    /// Tasks ended at one provider whose outputs are not here yet, at most; then it gets no more.
    /// 1,024 keep a collector busy while bounding the provider's disk.
    pub max_collecting: u32,
    /// How long the outputs of a lost provider are waited for at most before their tasks are run anew
    /// elsewhere, in milliseconds: as long as the task ran, and no longer than a lease, 60 s. As long as it lasts the provider keeps everything, most losses are over
    /// by then, and what is finished is worth more than what has to begin again.
    pub collect_ms: Millis,
    /// How often outputs are asked for whose provider is not reached, stands still or breaks off, at most:
    /// 10. Each time several transfers, or a minute of calling the provider, brought nothing, so they will
    /// not come.
    pub collect_tries: u8,
    /// Estimated bytes of one offer, at most: 3 MiB, leaving a quarter of the largest message.
    pub max_offer_bytes: usize,
    /// How often a task may move between providers before it fails for good: 20, so that a task that
    /// kills its hosts stops somewhere.
    pub max_moves: u8,
    /// Failures of the host in a row after which a provider rests from the job: 2, one may be chance.
    pub setbacks: u32,
    /// First rest of a provider that failed, in milliseconds; doubled every time.
    pub rest_ms: Millis,
    /// Longest rest, in milliseconds: 5 minutes, in which a person can mend a machine.
    pub max_rest_ms: Millis,
    /// First rest of a provider whose owner killed a task of the job, in milliseconds: 1 minute, since
    /// an owner who kills a task does not want it back in the next moment; never over `max_rest_ms`.
    pub killed_rest_ms: Millis,
    /// First wait before a full or busy provider is asked again, in milliseconds; doubled every time.
    pub retry_ms: Millis,
    /// Longest such wait, in milliseconds: a heartbeat.
    pub max_retry_ms: Millis,
    /// A refusal that a person must lift is asked about again no sooner than this, and only after a
    /// new advert, in milliseconds; doubled every time up to `max_rest_ms`.
    pub refused_ms: Millis,
    /// An offer without any answer for so long is given up, in milliseconds: 30 s are three of
    /// libp2p's request time limits.
    pub offer_ms: Millis,
    /// A job that ran before and has no provider left waits at least so long, in milliseconds:
    /// 10 minutes, in which a router restarts or a laptop comes back.
    pub stranded_ms: Millis,
    /// Time between looks into the DHT while a job has no provider, and between calls to a lost one,
    /// in milliseconds: a dial takes half of it.
    pub find_ms: Millis,
    /// Least time between two reports of why a job waits, in milliseconds: as fast as one reads.
    pub waiting_ms: Millis,
    /// How long providers are told that a job is over, in milliseconds: a lease, after which they know
    /// by themselves.
    pub release_ms: Millis,
    /// Jobs that are over and still shown, at most (as many as the store keeps).
    pub kept_jobs: usize,
    /// Their tasks together, at most: 2,000,000 of 12 bytes.
    pub kept_tasks: u64,
    /// Failures of one job that are kept with their message: 1,000 of 2 KiB are 2 MiB.
    pub kept_failures: usize,
}

/// Constants of the providing side.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// A submitter that is not heard of for so long is lost, in milliseconds: the promise of 60 s.
    pub lease_ms: Millis,
    /// What is left of its leases when a submitter says goodbye, in milliseconds: 10 s, in which an
    /// owner's restart is over.
    pub goodbye_ms: Millis,
    /// Tasks of one submitter that wait here, at most: two full offers.
    pub max_queued_by_submitter: u32,
    /// Tasks that wait here, at most.
    pub max_queued: u32,
    /// Estimated bytes of one submitter's waiting tasks, at most (16 MiB, four messages).
    pub max_queued_bytes: usize,
    /// Jobs of one submitter, at most.
    pub max_jobs_by_submitter: usize,
    /// Hosted jobs, at most: with `max_template_bytes` each, 256 MiB.
    pub max_jobs: usize,
    /// Attempts of one submitter that wait, run, or are not yet acknowledged or collected, at most:
    /// with the longest messages 16 MiB.
    pub max_attempts_by_submitter: usize,
    /// Such attempts of all submitters, at most: with the longest messages 128 MiB.
    pub max_attempts: usize,
    /// Estimated bytes of one job's templates, at most.
    pub max_template_bytes: usize,
    /// Tasks that run at the same time, at most: what one process can watch.
    pub max_running: u32,
    /// Estimated bytes of one report, at most: 3 MiB, leaving a quarter of the largest message.
    pub max_report_bytes: usize,
    /// First wait before a report is sent again, in milliseconds; doubled every time.
    pub retry_ms: Millis,
    /// Longest such wait, in milliseconds.
    pub max_retry_ms: Millis,
    /// A task that is passed over for so long, because smaller ones fit, is run before any other, in
    /// milliseconds.
    pub passed_over_ms: Millis,
    /// How long outputs are kept at most whatever the job asks for, in milliseconds: a day.
    pub max_keep_ms: Millis,
}

/// Bugs that the simulation plants to show that it catches them. All off in every real node.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// The ledger forgets to take.
    pub slot_given_twice: bool,
    /// The attempt's number is not looked at.
    pub stale_attempt_accepted: bool,
}

impl CoreConfig {
    /// The constants that nodes run with.
    #[must_use]
    pub fn new(me: PeerId) -> Self {
        Self {
            me,
            name: String::new(),
            labels: BTreeMap::new(),
            submit: SubmitConfig::default(),
            host: HostConfig::default(),
            stop_ms: 8_000,
            max_peers: 4_096,
            dial_every_ms: 5_000,
            faults: Faults::default(),
        }
    }
}

impl Default for SubmitConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 3_000,
            silent_ms: 10_000,
            redial_ms: 2_000,
            ahead_ms: 1_000,
            least_mean_us: 5,
            max_collecting: 1_024,
            collect_ms: 60_000,
            collect_tries: 10,
            max_offer_bytes: 3 << 20,
            max_moves: 20,
            setbacks: 2,
            rest_ms: 5_000,
            max_rest_ms: 300_000,
            killed_rest_ms: 60_000,
            retry_ms: 100,
            max_retry_ms: 3_000,
            refused_ms: 2_000,
            offer_ms: 30_000,
            stranded_ms: 600_000,
            find_ms: 10_000,
            waiting_ms: 1_000,
            release_ms: 60_000,
            kept_jobs: 1_000,
            kept_tasks: 2_000_000,
            kept_failures: 1_000,
        }
    }
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            lease_ms: 60_000,
            goodbye_ms: 10_000,
            max_queued_by_submitter: 2 * MAX_BATCH as u32,
            max_queued: 8 * MAX_BATCH as u32,
            max_queued_bytes: 16 << 20,
            max_jobs_by_submitter: 64,
            max_jobs: 256,
            max_attempts_by_submitter: 4 * MAX_BATCH,
            max_attempts: 32 * MAX_BATCH,
            max_template_bytes: 1 << 20,
            max_running: 1_024,
            max_report_bytes: 3 << 20,
            retry_ms: 200,
            max_retry_ms: 10_000,
            passed_over_ms: 60_000,
            max_keep_ms: 86_400_000,
        }
    }
}

/// `first` doubled `times` times, at most `most`.
pub(super) fn doubled(first: Millis, times: u32, most: Millis) -> Millis {
    first.saturating_mul(1 << times.min(20)).min(most)
}
