//! Credentials for private images: read on the submitter's machine when an offer leaves, kept in the
//! provider's memory for as long as it hosts the job.
//!
//! They are read anew for every offer, so that they are stored nowhere and a token that was renewed
//! counts. What a log could show of them is that there were some.

use std::collections::HashMap;

use p2pnode_executor::Credentials;
use p2pnode_protocol::job::{JobPlan, Login};
use p2pnode_protocol::message::{Offer, RegistryLogin, TaskRequest};
use p2pnode_protocol::task::Program;
use p2pnode_protocol::{JobId, PeerId};

use crate::core::Core;
use crate::core::io::{HostedJob, Snapshot};
use crate::jobfile::login;

/// Jobs whose credentials are kept before it is known that they are hosted. More than a batch of
/// inputs brings; the next offer brings them again.
const MAX_KEPT: usize = 512;

/// Where this node's own jobs have their credentials.
#[derive(Debug, Default)]
pub(super) struct OwnLogins {
    /// The image that they are for, and where they are, by job and step.
    known: HashMap<(JobId, u16), (String, Login)>,
}

impl OwnLogins {
    /// Those of the jobs that a node finds when it starts.
    pub(super) fn restore(snapshot: &Snapshot) -> Self {
        let mut logins = Self::default();
        for job in snapshot.jobs.iter().filter(|job| job.ended.is_none()) {
            logins.add(job.job, &job.plan);
        }
        logins
    }

    /// A job of this node's own begins, or was found when the node started.
    pub(super) fn add(&mut self, job: JobId, plan: &JobPlan) {
        for (step, position) in plan.steps.iter().zip(0..) {
            if let (Some(login), Program::Image { reference }) =
                (&step.login, &step.template.program)
            {
                let image = reference.clone();
                self.known.insert((job, position), (image, login.clone()));
            }
        }
    }

    /// A job is over.
    pub(super) fn remove(&mut self, job: JobId) {
        self.known.retain(|(known, _), _| *known != job);
    }

    /// What an offer has to bring along, when anything.
    pub(super) fn of(&self, request: &TaskRequest) -> Option<(String, Login)> {
        let TaskRequest::Offer(offer) = request else {
            return None;
        };
        self.known.get(&(offer.job, offer.step)).cloned()
    }
}

/// Puts the credentials into an offer. What cannot be read is left out, and the provider says what it
/// lacks.
pub(super) async fn attach(request: TaskRequest, image: String, source: Login) -> TaskRequest {
    let TaskRequest::Offer(offer) = request else {
        return request;
    };
    let reading = tokio::task::spawn_blocking(move || login::read(&source, &image));
    let login = match reading.await {
        Ok(Ok((username, password))) => Some(RegistryLogin { username, password }),
        Ok(Err(why)) => {
            tracing::warn!(job = %offer.job, why, "the credentials for its image cannot be read");
            None
        }
        Err(_) => None,
    };
    TaskRequest::Offer(Offer { login, ..offer })
}

/// Whether a path can be credentials' file; for a job that is only looked at.
pub(super) fn check(plan: &JobPlan) -> Result<(), String> {
    for step in &plan.steps {
        if let (Some(source), Program::Image { reference }) = (&step.login, &step.template.program)
        {
            login::read(source, reference)?;
        }
    }
    Ok(())
}

/// Credentials that submitters sent along, in memory only.
#[derive(Debug, Default)]
pub(super) struct HostedLogins {
    kept: HashMap<(HostedJob, u16), RegistryLogin>,
    /// Whether some came of which it is not known that they are needed.
    fresh: bool,
}

impl HostedLogins {
    /// Takes the credentials out of an offer, before anything else sees it.
    pub(super) fn take_from(&mut self, submitter: PeerId, request: &mut TaskRequest) {
        let TaskRequest::Offer(offer) = request else {
            return;
        };
        let Some(login) = offer.login.take().filter(RegistryLogin::fits) else {
            return;
        };
        let job = offer.job;
        let key = (HostedJob { submitter, job }, offer.step);
        if self.kept.len() < MAX_KEPT || self.kept.contains_key(&key) {
            self.kept.insert(key, login);
            self.fresh = true;
        }
    }

    /// Those of one step.
    pub(super) fn of(&self, hosted: HostedJob, step: u16) -> Option<Credentials> {
        let login = self.kept.get(&(hosted, step))?;
        Some(Credentials {
            username: login.username.clone(),
            password: login.password.clone(),
        })
    }

    /// A job is gone.
    pub(super) fn remove(&mut self, hosted: &HostedJob) {
        self.kept.retain(|(known, _), _| known != hosted);
    }

    /// Keeps those of steps that are hosted: what came with an offer that was refused is forgotten.
    pub(super) fn sift(&mut self, core: &Core) {
        if std::mem::take(&mut self.fresh) {
            self.kept
                .retain(|(job, step), _| core.hosts_step(job, *step));
        }
    }
}

#[cfg(test)]
mod tests;
