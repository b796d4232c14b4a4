//! Whether an offer is taken: the checks in order, each with a refusal that a person can act on.
//!
//! First what concerns the node, then the submitter, then the offer as a message, then what its tasks
//! need, last how much is taken already. A refusal never depends on anything that the submitter could
//! not be told.

use p2pnode_protocol::job::input_list_bytes;
use p2pnode_protocol::job::limits::{MAX_INPUT_LIST_BYTES, MAX_INPUTS};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::{MAX_BATCH, Offer, Refusal, TaskRef};
use p2pnode_protocol::task::{
    Assignment, InputSource, NetworkMode, Program, RuntimeKind, TaskTemplate,
};
use p2pnode_protocol::{Bytes, PeerId};

use super::access::{Change, Standing};
use super::job::{Attempt, Killed, Phase, Queued};
use super::{Host, wishes};
use crate::core::config::CoreConfig;
use crate::core::desk::Cx;
use crate::core::io::{HostedJob, Millis, Record, RuntimeFeatures};
use crate::core::peers::offers;
use crate::core::sizes;

/// Steps of one job, at most: templates are bounded in bytes too, this bounds empty ones.
const MAX_STEPS: usize = 64;

/// GPUs that one task may ask for, at most; beyond, no machine is meant.
const MAX_GPUS: u16 = 64;

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::Invalid {
        message: message.into(),
    }
}

impl Host {
    /// Whether `peer` may run tasks here.
    pub(in crate::core) fn allows(&self, config: &CoreConfig, now: Millis, peer: &PeerId) -> bool {
        *peer == config.me
            || match self.access.standing(peer, now) {
                Standing::Granted => true,
                Standing::Unnamed => self.allows_unnamed(peer),
                // Who was denied, or has used up what was allowed, is not everybody.
                Standing::UsedUp | Standing::Expired | Standing::Denied => false,
            }
    }

    /// Whether nothing of `peer` may stay here.
    pub(super) fn denies(&self, config: &CoreConfig, now: Millis, peer: &PeerId) -> bool {
        *peer != config.me
            && match self.access.standing(peer, now) {
                Standing::Denied => true,
                Standing::Unnamed => !self.allows_unnamed(peer),
                Standing::Granted | Standing::UsedUp | Standing::Expired => false,
            }
    }

    /// Whether a peer of which the owner has said nothing may run tasks here.
    fn allows_unnamed(&self, peer: &PeerId) -> bool {
        self.members.contains(peer) || self.terms.as_ref().is_some_and(|terms| terms.allow_any)
    }

    /// How many tasks more a submitter may bring.
    pub(super) fn tasks_left(&self, cx: &Cx, submitter: &PeerId) -> u64 {
        if *submitter == cx.config.me {
            return u64::MAX;
        }
        let grant = self.access.grant(submitter, cx.now);
        grant.and_then(|grant| grant.tasks).unwrap_or(u64::MAX)
    }

    /// Keeps for the owner to see what a peer asked for that may not run tasks here.
    pub(super) fn note_request(&mut self, cx: &mut Cx, peer: PeerId, offer: &Offer) {
        let Some(template) = offer.template.as_deref() else {
            return;
        };
        if template.check().is_err() {
            return;
        }
        for change in self.access.ask(cx.now, peer, offer, template) {
            let (peer, request) = match change {
                Change::Requested(peer, request) => {
                    tracing::info!(%peer, job = request.name, program = request.program, "asks to run tasks here; p2pnode requests");
                    (peer, Some(request))
                }
                Change::Gone(peer) => (peer, None),
            };
            cx.persist(Record::Requested { peer, request });
        }
    }

    /// Whether any task of this offer can be taken, whatever else is going on here.
    pub(super) fn admit(&self, cx: &Cx, hosted: HostedJob, offer: &Offer) -> Result<(), Refusal> {
        if self.stopping {
            return Err(Refusal::Stopping);
        }
        if self
            .terms
            .as_ref()
            .is_none_or(|terms| !offers(&terms.total))
        {
            return Err(Refusal::NotOffering);
        }
        if !self.allows(cx.config, cx.now, &hosted.submitter) {
            let standing = self.access.standing(&hosted.submitter, cx.now);
            tracing::debug!(peer = %hosted.submitter, ?standing, "refused");
            return Err(Refusal::NotAllowed {
                submitter: hosted.submitter.to_base58(),
            });
        }
        if hosted.submitter != cx.config.me
            && let Some(why) = self.gate.closed()
        {
            return Err(Refusal::Closed {
                message: why.to_owned(),
            });
        }
        // Of a job that is here some tasks may be taken already, see `take_in`.
        if self.draining && !self.jobs.contains_key(&hosted) {
            return Err(Refusal::Draining);
        }
        if offer.tasks.is_empty() || offer.tasks.len() > MAX_BATCH {
            let count = offer.tasks.len();
            return Err(invalid(format!(
                "{count} tasks; 1 to {MAX_BATCH} are allowed"
            )));
        }
        let step = self
            .jobs
            .get(&hosted)
            .and_then(|job| job.steps.get(&offer.step));
        let template = match (step, offer.template.as_deref()) {
            (Some(known), Some(sent)) if *known.template != *sent => {
                return Err(invalid("another template than before for the same step"));
            }
            (Some(known), _) => known.template.as_ref(),
            (None, Some(sent)) => {
                self.admit_template(cx, hosted, offer, sent)?;
                sent
            }
            (None, None) => return Err(Refusal::TemplateNeeded),
        };
        self.admit_needs(template)?;
        if hosted.submitter != cx.config.me {
            self.admit_wishes(cx, &hosted.submitter, template)?;
        }
        offer.tasks.iter().try_for_each(|task| {
            admit_task(template, task).and_then(|()| admit_lists(template, task))
        })
    }

    /// Whether another job, or another step, is taken on.
    fn admit_template(
        &self,
        cx: &Cx,
        hosted: HostedJob,
        offer: &Offer,
        template: &TaskTemplate,
    ) -> Result<(), Refusal> {
        let config = &cx.config.host;
        if template.step != offer.step {
            return Err(invalid("the template is of another step"));
        }
        if template.resources.gpus.count > MAX_GPUS {
            return Err(invalid(format!(
                "{} GPUs for one task",
                template.resources.gpus.count
            )));
        }
        // Also that it needs something: what needs nothing would fit any number of times.
        template
            .check()
            .map_err(|fault| invalid(fault.to_string()))?;
        let known = self.jobs.get(&hosted);
        let bytes: usize = known.map_or(0, |job| {
            let steps = job.steps.values();
            steps.map(|step| sizes::template(&step.template)).sum()
        });
        if bytes + sizes::template(template) > config.max_template_bytes {
            let most = config.max_template_bytes;
            return Err(invalid(format!(
                "the job's templates are more than {most} bytes"
            )));
        }
        match known {
            Some(job) if job.steps.len() >= MAX_STEPS => {
                Err(invalid(format!("more than {MAX_STEPS} steps")))
            }
            Some(_) => Ok(()),
            None => {
                let of_submitter = self.jobs_of(&hosted.submitter).count();
                let full = of_submitter >= config.max_jobs_by_submitter
                    || self.jobs.len() >= config.max_jobs;
                if full { Err(Refusal::Full) } else { Ok(()) }
            }
        }
    }

    /// Whether this machine could ever run such a task.
    fn admit_needs(&self, template: &TaskTemplate) -> Result<(), Refusal> {
        let runtime = template.program.runtime();
        let no_runtime = |message| Refusal::NoRuntime {
            runtime: runtime.to_string(),
            message,
        };
        let features = self.runtime(runtime).map_err(no_runtime)?;
        if let Some(wanted) = &template.sandbox
            && !features.sandboxes.contains(wanted)
        {
            let has = features.sandboxes.join(", ");
            return Err(no_runtime(format!(
                "the job insists on the OCI runtime {wanted} (task.runtime), and its engine has {}",
                if has.is_empty() { "none by name" } else { &has }
            )));
        }
        if matches!(template.network, NetworkMode::Egress { .. }) {
            let way = features.egress.as_ref();
            let why = way.map_or_else(|| Err("this runtime has none".to_owned()), Clone::clone);
            why.map_err(|why| {
                no_runtime(format!("the job needs a way out (network.mode): {why}"))
            })?;
        }
        let total = self.ledger.total();
        total
            .check(&template.resources)
            .map_err(|short| Refusal::TooSmall {
                message: short.to_string(),
            })?;
        if let Some((key, blob)) = brought(&template.program)
            && blob.content_bytes > total.disk.0
        {
            let (size, disk) = (Bytes(blob.content_bytes), total.disk);
            return Err(Refusal::TooSmall {
                message: format!(
                    "what the job brings to run ({key}) is {size}, and {disk} of disk are offered"
                ),
            });
        }
        Ok(())
    }

    /// Whether the owner lets another's job have what it asks for.
    fn admit_wishes(
        &self,
        cx: &Cx,
        submitter: &PeerId,
        template: &TaskTemplate,
    ) -> Result<(), Refusal> {
        let rules = self.terms.as_ref().map(|terms| &terms.rules);
        let Some(rules) = rules else {
            return Err(Refusal::NotOffering);
        };
        let granted = self.access.grant(submitter, cx.now);
        wishes::check(rules, granted, template).map_err(|message| Refusal::NotPermitted { message })
    }

    fn runtime(&self, runtime: RuntimeKind) -> Result<&RuntimeFeatures, String> {
        match self.runtimes.as_ref().and_then(|known| known.get(&runtime)) {
            Some(Ok(features)) => Ok(features),
            Some(Err(message)) => Err(message.clone()),
            None => Err("this node was built without it".to_owned()),
        }
    }

    /// Queues what there is room for, from the first task on; returns how many were taken. Those that
    /// are here already count as taken.
    pub(super) fn take_in(&mut self, cx: &Cx, hosted: HostedJob, offer: Offer) -> u32 {
        let config = &cx.config.host;
        let left = self.tasks_left(cx, &hosted.submitter);
        let mut fresh = 0;
        let of_submitter = self.jobs_of(&hosted.submitter);
        let (mut queued, mut bytes, mut attempts) =
            of_submitter.fold((0, 0, 0), |(queued, bytes, attempts), job| {
                (
                    queued + job.queued,
                    bytes + job.queued_bytes,
                    attempts + job.attempts.len(),
                )
            });
        let mut all: usize = self.jobs.values().map(|job| job.attempts.len()).sum();
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return 0;
        };
        let mut taken = 0;
        for assignment in offer.tasks {
            let task = TaskRef {
                step: offer.step,
                index: assignment.index,
                attempt: assignment.attempt,
            };
            if let Some(known) = job.attempts.get_mut(&task) {
                // Wanted again: if it was being killed, its submitter has to hear of its end.
                if let Attempt::Running { killed, .. } = known {
                    *killed = Killed::No;
                }
            } else {
                let size = sizes::assignment(&assignment);
                let full = self.draining
                    || fresh >= left
                    || queued >= config.max_queued_by_submitter
                    || self.queued >= config.max_queued
                    || attempts >= config.max_attempts_by_submitter
                    || all >= config.max_attempts
                    || (bytes + size > config.max_queued_bytes && queued > 0);
                if full {
                    break;
                }
                fresh += 1;
                queued += 1;
                bytes += size;
                attempts += 1;
                all += 1;
                self.queued += 1;
                let waiting = Queued {
                    task,
                    assignment,
                    bytes: size,
                };
                job.enqueue(offer.step, waiting);
            }
            taken += 1;
        }
        taken
    }

    /// How many tasks run at the same time, at most.
    pub(super) fn max_running(&self, cx: &Cx) -> u32 {
        let rules = self.terms.as_ref().map(|terms| &terms.rules);
        let most = rules.and_then(|rules| rules.max_tasks).unwrap_or(u32::MAX);
        most.min(cx.config.host.max_running)
    }

    /// How many tasks of a step can run here at the same time now.
    pub(super) fn slots(&self, cx: &Cx, hosted: HostedJob, template: &TaskTemplate) -> u32 {
        let running = self.jobs.get(&hosted).map_or(0, |job| match job.phase {
            Phase::Live => job.running,
            Phase::Orphaned { .. } | Phase::Leaving => 0,
        });
        let room = self.max_running(cx).saturating_sub(self.ledger.runs());
        running + self.free().slots(&template.resources, room)
    }
}

/// What a program brings along to be written to this machine's disk, with its key of the job file.
const fn brought(program: &Program) -> Option<(&'static str, BlobRef)> {
    match program {
        Program::Wasm { module } => Some(("task.wasm", *module)),
        Program::Archive { archive } => Some(("task.image-archive", *archive)),
        Program::Build { context, .. } => Some(("task.build", *context)),
        Program::Image { .. } => None,
    }
}

/// Whether an assignment fits its template.
fn admit_task(template: &TaskTemplate, task: &Assignment) -> Result<(), Refusal> {
    if task.attempt == 0 {
        return Err(invalid("attempts are counted from 1"));
    }
    if task.values.len() != template.keys.len() {
        let (values, keys) = (task.values.len(), template.keys.len());
        return Err(invalid(format!("{values} values for {keys} keys")));
    }
    let has_inputs = template.inputs.iter().all(|input| match input.source {
        InputSource::Shared(_) => true,
        InputSource::PerTask(position) => usize::from(position) < task.inputs.len(),
    });
    if has_inputs {
        Ok(())
    } else {
        Err(invalid("an input of the task is missing"))
    }
}

/// Whether what a task's inputs say of themselves is within bounds, before anything of them is fetched.
fn admit_lists(template: &TaskTemplate, task: &Assignment) -> Result<(), Refusal> {
    if task.inputs.len() > MAX_INPUTS {
        let count = task.inputs.len();
        return Err(invalid(format!(
            "{count} inputs of one task; {MAX_INPUTS} are allowed"
        )));
    }
    let bytes = input_list_bytes(template, &task.inputs);
    if bytes > MAX_INPUT_LIST_BYTES {
        return Err(invalid(format!(
            "the lists of files of a task's inputs have {bytes} bytes together; {MAX_INPUT_LIST_BYTES} \
             are allowed: put fewer files into them, or pack them"
        )));
    }
    Ok(())
}
