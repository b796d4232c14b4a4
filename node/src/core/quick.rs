//! Throwaway core for integration.
#![allow(missing_docs, clippy::all)]
use std::collections::*;
use std::ops::Range;
use std::sync::Arc;
use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::api::*;
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::message::*;
use p2pnode_protocol::task::*;
use p2pnode_protocol::*;
use super::io::*;

pub struct CoreConfig { pub me: PeerId }
impl CoreConfig { pub fn new(me: PeerId) -> Self { Self { me } } }
pub struct CapacityView { pub offering: bool, pub allow_any: bool, pub total: Capacity, pub free: Capacity, pub runtimes: Vec<RuntimeKind>, pub running: u32, pub queued: u32 }

#[derive(Clone, Copy, PartialEq, Debug)]
enum TS { Pending, Out(PeerId, u32, bool), Collecting(PeerId, u32), Done, Failed, Cancelled }
struct Job { plan: Arc<JobPlan>, out: Option<String>, created: Millis, state: JobState, finished: Option<Millis>, tasks: Vec<TS>, attempts: Vec<u32>, fails: Vec<u32>, pending: VecDeque<u32>, peers: BTreeMap<PeerId, u64>, refused: BTreeMap<PeerId, Refusal>, templated: BTreeSet<PeerId>, notes: Vec<String>, no_peer: bool, counts: TaskCounts, usage: JobUsage, inflight: BTreeMap<PeerId, u32>, slots: BTreeMap<PeerId, u32>, calling: BTreeSet<PeerId>, usages: BTreeMap<u32, (Usage, Option<Failure>, PeerId)>, mean_us: f64, waiting_said: bool }
struct Hosted { templates: BTreeMap<u16, (Arc<TaskTemplate>, u8)>, queue: VecDeque<Assignment>, running: BTreeMap<RunKey, (Assignment, Vec<Gpu>, u16)>, outbox: VecDeque<ReportEvent>, first: u64, inflight: Option<(CallId, usize)>, lease: Millis, known: BTreeSet<(u32, u32)>, over: bool }
pub struct Core { me: PeerId, now: Millis, jobs: BTreeMap<JobId, Job>, order: Vec<JobId>, hosted: BTreeMap<HostedJob, Hosted>, adverts: BTreeMap<PeerId, (Advert, Millis)>, connected: BTreeSet<PeerId>, heard: BTreeMap<PeerId, Millis>, gone: BTreeMap<PeerId, Millis>, allowed: BTreeSet<PeerId>, offer: Option<OfferTerms>, free: Capacity, runtimes: Vec<(RuntimeKind, Result<(), String>)>, next_call: CallId, calls: BTreeMap<CallId, Call>, beat: Millis, stopping: bool }
enum Call { Offer(JobId, Vec<(u32, u32)>), Report(HostedJob), Beat, Other }
type E = Vec<Effect>;
impl Core {
    pub fn new(config: CoreConfig, s: Snapshot, now: Millis) -> (Self, Vec<Effect>) {
        let offer = s.offer.clone();
        let free = offer.as_ref().map(|o| o.total.clone()).unwrap_or_default();
        (Self { me: config.me, now, jobs: BTreeMap::new(), order: vec![], hosted: BTreeMap::new(), adverts: BTreeMap::new(), connected: BTreeSet::new(), heard: BTreeMap::new(), gone: BTreeMap::new(), allowed: s.allowed.into_iter().collect(), offer, free, runtimes: vec![], next_call: 0, calls: BTreeMap::new(), beat: now, stopping: false }, vec![])
    }
    pub fn next_deadline(&self) -> Option<Millis> { let mut d = vec![]; if self.jobs.values().any(|j| j.finished.is_none()) { d.push(self.beat + 1000); } d.extend(self.gone.values().map(|t| t + 2000)); if !self.hosted.is_empty() { d.push(self.beat + 1000); } d.into_iter().min() }
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        self.now = now; let mut e = vec![];
        match input {
            Input::Connected(p) => { self.connected.insert(p); self.gone.remove(&p); self.heard.insert(p, now); }
            Input::Disconnected(p) => { self.connected.remove(&p); if self.jobs.values().any(|j| j.inflight.get(&p).copied().unwrap_or(0) > 0) { self.gone.insert(p, now); e.push(Effect::Connect(p)); } }
            Input::Advert { peer, advert } => { self.adverts.insert(peer, (*advert, now)); for j in self.jobs.values_mut() { if matches!(j.refused.get(&peer), Some(r) if true) { j.refused.remove(&peer); } } }
            Input::Request { peer, token, request } => { self.heard.insert(peer, now); let r = self.request(peer, request, &mut e); e.push(Effect::Respond { token, response: r }); }
            Input::Response { peer, call, response } => self.response(peer, call, response, &mut e),
            Input::Submit { job, plan, out } => {
                let n = plan.steps[0].array.task_count() as u32;
                e.push(Effect::Persist(Record::Job { job, plan: plan.clone(), out: out.clone(), created_ms: now }));
                e.push(Effect::Emit(Event::JobCreated { job: job.to_string(), name: plan.name.clone(), tasks: n.into(), out: out.clone() }));
                self.jobs.insert(job, Job { plan, out, created: now, state: JobState::Waiting, finished: None, tasks: vec![TS::Pending; n as usize], attempts: vec![0; n as usize], fails: vec![0; n as usize], pending: (0..n).collect(), peers: BTreeMap::new(), refused: BTreeMap::new(), templated: BTreeSet::new(), notes: vec![], no_peer: false, counts: TaskCounts { total: n.into(), pending: n.into(), ..Default::default() }, usage: JobUsage::default(), inflight: BTreeMap::new(), slots: BTreeMap::new(), calling: BTreeSet::new(), usages: BTreeMap::new(), mean_us: 1e7, waiting_said: false });
                self.order.insert(0, job);
            }
            Input::Cancel(job) => { if let Some(j) = self.jobs.get_mut(&job) { if j.finished.is_none() { j.counts.cancelled = j.counts.pending + j.counts.queued + j.counts.running; j.counts.pending = 0; j.counts.queued = 0; j.counts.running = 0; self.finish(job, JobState::Cancelled, &mut e); } } }
            Input::Offer(t) => { self.free = t.total.clone(); e.push(Effect::Persist(Record::Offer(t.clone()))); self.offer = Some(t); e.push(Effect::Advertise); }
            Input::Allow { peer, allowed } => { if allowed { self.allowed.insert(peer); } else { self.allowed.remove(&peer); } e.push(Effect::Persist(Record::Allowed { peer, allowed })); e.push(Effect::Advertise); }
            Input::Runtimes(r) => { self.runtimes = r; e.push(Effect::Advertise); }
            Input::Stop => { self.stopping = true; for h in self.hosted.values() { for k in h.running.keys() { e.push(Effect::Kill { run: *k, why: Failure::new(FailureKind::ProviderStopping, "the node stops") }); } } }
            Input::Preparing { hosted, step, phase, done, total } => { if let Some(h) = self.hosted.get_mut(&hosted) { h.outbox.push_back(ReportEvent::Preparing { step, phase, done, total }); } }
            Input::Prepared { hosted, step, result } => { if let Some(h) = self.hosted.get_mut(&hosted) { match result { Ok(()) => h.templates.get_mut(&step).unwrap().1 = 2, Err(f) => { h.templates.get_mut(&step).unwrap().1 = 3; for a in std::mem::take(&mut h.queue) { h.outbox.push_back(ReportEvent::Finished { task: TaskRef { step, index: a.index, attempt: a.attempt }, outcome: Outcome::Failed(f.clone()), usage: Usage::default(), outputs: None, log_bytes: 0 }); } } } } }
            Input::Started(k) => { if let Some(h) = self.hosted.get_mut(&HostedJob { submitter: k.submitter, job: k.attempt.task.job }) { let t = k.attempt.task; h.outbox.push_back(ReportEvent::Started(TaskRef { step: t.step, index: t.index, attempt: k.attempt.attempt })); } }
            Input::Ended { run: k, end } => { let hk = HostedJob { submitter: k.submitter, job: k.attempt.task.job }; if let Some(h) = self.hosted.get_mut(&hk) { if let Some((_, gpus, step)) = h.running.remove(&k) { let needs = h.templates[&step].0.resources.clone(); self.free.put_back(&needs, gpus); e.push(Effect::Advertise); let t = k.attempt.task; h.outbox.push_back(ReportEvent::Finished { task: TaskRef { step: t.step, index: t.index, attempt: k.attempt.attempt }, outcome: end.outcome, usage: end.usage, outputs: end.outputs, log_bytes: end.log_bytes }); } if h.over && h.running.is_empty() { self.hosted.remove(&hk); e.push(Effect::Unhost(hk)); } } }
            Input::Collected { attempt, result } => { let job = attempt.task.job; let i = attempt.task.index; let mut coll = None; if let Some(j) = self.jobs.get_mut(&job) { if let TS::Collecting(p, n) = j.tasks[i as usize] { match result { Ok(b) => { j.usage.bytes_received += b; j.tasks[i as usize] = TS::Done; j.counts.running -= 1; j.counts.succeeded += 1; *j.peers.entry(p).or_default() += 1; let u = j.usages.get(&i).map(|u| u.0).unwrap_or_default(); e.push(Effect::Emit(Event::TaskFinished { job: job.to_string(), task: attempt.task.to_string(), attempt: n, peer: p.to_string(), state: TaskState::Succeeded, failure: None, usage: u })); coll = Some((p, TaskRef { step: 0, index: i, attempt: n })); } Err(CollectFailure::Lost(m)) => { tracing::warn!(m, "collect lost"); j.tasks[i as usize] = TS::Pending; j.counts.running -= 1; j.counts.pending += 1; j.pending.push_back(i); } Err(CollectFailure::Local(m)) => { j.notes.push(m); j.tasks[i as usize] = TS::Failed; j.counts.running -= 1; j.counts.failed += 1; } } } } if let Some((p, t)) = coll { let c = self.call(Call::Other); e.push(Effect::Call { peer: p, call: c, request: TaskRequest::Collected { job, tasks: vec![t] } }); } }
            Input::Tick => {}
        }
        self.tick(&mut e); e
    }
    fn call(&mut self, c: Call) -> CallId { self.next_call += 1; self.calls.insert(self.next_call, c); self.next_call }
    fn tick(&mut self, e: &mut E) {
        let now = self.now;
        if self.stopping { if self.hosted.values().all(|h| h.running.is_empty()) { e.push(Effect::Stopped); } return; }
        if now >= self.beat + 1000 { self.beat = now;
            let mut by: BTreeMap<PeerId, Vec<JobId>> = BTreeMap::new();
            for (id, j) in &self.jobs { if j.finished.is_none() { for p in &j.templated { by.entry(*p).or_default().push(*id); } } }
            for (p, jobs) in by { if p != self.me && self.heard.get(&p).is_some_and(|h| now > h + 10000) { self.gone.insert(p, 0); } let c = self.call(Call::Beat); e.push(Effect::Call { peer: p, call: c, request: TaskRequest::Heartbeat { jobs: jobs.into_iter().map(|job| Renewal { job, epoch: 0 }).collect() } }); }
            let dead: Vec<_> = self.hosted.iter().filter(|(k, h)| k.submitter != self.me && now > h.lease + 60000).map(|(k, _)| *k).collect();
            for k in dead { self.unhost(k, e); }
        }
        let lost: Vec<_> = self.gone.iter().filter(|(_, t)| now >= **t + 2000).map(|(p, _)| *p).collect();
        for p in lost { self.gone.remove(&p); self.lose(p, e); }
        self.schedule(e); self.run_host(e); self.report(e); self.check_done(e);
    }
    fn lose(&mut self, p: PeerId, e: &mut E) {
        self.adverts.remove(&p);
        for (id, j) in &mut self.jobs { if j.finished.is_some() { continue; } let mut n = 0;
            for i in 0..j.tasks.len() { match j.tasks[i] { TS::Out(q, _, started) if q == p => { n += 1; if started { j.counts.running -= 1 } else { j.counts.queued -= 1 } } TS::Collecting(q, _) if q == p => { n += 1; j.counts.running -= 1; } _ => continue } j.tasks[i] = TS::Pending; j.counts.pending += 1; j.counts.moved += 1; j.pending.push_front(i as u32); e.push(Effect::Emit(Event::TaskMoved { job: id.to_string(), task: TaskKey { job: *id, step: 0, index: i as u32 }.to_string(), peer: p.to_string() })); }
            j.inflight.remove(&p); j.templated.remove(&p); j.calling.remove(&p);
            if n > 0 { e.push(Effect::Emit(Event::PeerLost { job: id.to_string(), peer: p.to_string(), tasks: n })); } }
    }
    fn fit_one(&self, plan: &JobPlan, p: &PeerId, a: &Advert) -> Result<u32, String> {
        let t = &plan.steps[0].template;
        if !plan.placement.peers.is_empty() && !plan.placement.peers.contains(p) { return Err("not named".into()); }
        if !a.runtimes.contains(&t.program.runtime()) { return Err(format!("no {} runtime", t.program.runtime())); }
        a.total.check(&t.resources).map_err(|s| s.to_string())?;
        Ok(a.total.slots(&t.resources, 1024))
    }
    pub fn fit(&self, plan: &JobPlan) -> Vec<(PeerId, Result<u32, String>)> { self.adverts.iter().map(|(p, (a, _))| (*p, self.fit_one(plan, p, a))).collect() }
    fn my_advert(&self) -> Option<Advert> { let o = self.offer.as_ref()?; Some(Advert { network: String::new(), name: String::new(), issued_ms: 0, ttl_ms: 0, total: o.total.clone(), free: self.free.clone(), runtimes: self.capacity().runtimes, labels: BTreeMap::new(), images: vec![], running: 0, queued: 0 }) }
    fn schedule(&mut self, e: &mut E) {
        let mine = self.my_advert();
        let ids: Vec<_> = self.jobs.iter().filter(|(_, j)| j.finished.is_none()).map(|(i, _)| *i).collect();
        for id in ids {
            let mut cands: Vec<(PeerId, u32)> = vec![];
            { let j = &self.jobs[&id]; for (p, (a, _)) in &self.adverts { if j.refused.contains_key(p) || j.calling.contains(p) || *p == self.me || self.gone.contains_key(p) { continue; } if let Ok(s) = self.fit_one(&j.plan, p, a) { cands.push((*p, s)); } } if let Some(a) = &mine { if !j.refused.contains_key(&self.me) && !j.calling.contains(&self.me) { if let Ok(s) = self.fit_one(&j.plan, &self.me, a) { cands.push((self.me, s)); } } } }
            for (p, s) in cands {
                let j = self.jobs.get_mut(&id).unwrap();
                let slots = *j.slots.get(&p).unwrap_or(&s);
                let depth = (1e6 / j.mean_us.max(1.0)).clamp(1.0, 2048.0) as u32;
                let want = (slots.max(1) * depth).min(2048);
                let have = *j.inflight.get(&p).unwrap_or(&0);
                if have >= want || (have > 0 && have * 2 > want && want > 8) { continue; }
                let mut tasks = vec![]; let mut refs = vec![];
                while (tasks.len() as u32) < want - have { let Some(i) = j.pending.pop_front() else { break }; if j.tasks[i as usize] != TS::Pending { continue; } j.attempts[i as usize] += 1; let n = j.attempts[i as usize]; tasks.push(j.plan.steps[0].assignment(i, n).unwrap()); refs.push((i, n)); j.tasks[i as usize] = TS::Out(p, n, false); j.counts.pending -= 1; j.counts.queued += 1; }
                if tasks.is_empty() { continue; }
                *j.inflight.entry(p).or_default() += tasks.len() as u32; j.calling.insert(p);
                let template = if j.templated.insert(p) { Some(Box::new(j.plan.steps[0].template.clone())) } else { None };
                e.push(Effect::Persist(Record::Dispatched { job: id, peer: p, tasks: refs.iter().map(|(i, n)| TaskRef { step: 0, index: *i, attempt: *n }).collect() }));
                let c = self.call(Call::Offer(id, refs)); e.push(Effect::Call { peer: p, call: c, request: TaskRequest::Offer(Offer { job: id, step: 0, template, tasks }) });
            }
        }
    }
    fn response(&mut self, peer: PeerId, call: CallId, r: Result<TaskResponse, CallFailure>, e: &mut E) {
        let Some(c) = self.calls.remove(&call) else { return };
        if r.is_ok() { self.heard.insert(peer, self.now); }
        match c {
            Call::Offer(id, refs) => { let Some(j) = self.jobs.get_mut(&id) else { return }; j.calling.remove(&peer);
                let (acc, refusal, slots) = match r { Ok(TaskResponse::Offer(o)) => (o.accepted, o.refusal, o.slots), _ => { j.templated.remove(&peer); (0, None, 0) } };
                if acc > 0 { j.state = JobState::Running; j.slots.insert(peer, slots.max(1)); }
                if acc == 0 { j.templated.remove(&peer); }
                e.push(Effect::Emit(Event::PeerAnswered { job: id.to_string(), peer: peer.to_string(), accepted: acc, message: refusal.as_ref().map(|r| r.to_string()), refusal: refusal.clone() }));
                if let Some(rf) = refusal { if !rf.is_passing() { j.refused.insert(peer, rf); } }
                for (i, n) in refs.into_iter().skip(acc as usize) { if j.tasks[i as usize] == TS::Out(peer, n, false) { j.tasks[i as usize] = TS::Pending; j.counts.queued -= 1; j.counts.pending += 1; j.pending.push_back(i); *j.inflight.entry(peer).or_default() -= 1; } }
            }
            Call::Report(k) => { if let Some(h) = self.hosted.get_mut(&k) { if let Some((_, n)) = h.inflight.take() { match r { Ok(TaskResponse::Reported { .. }) => { h.outbox.drain(..n); h.first += n as u64; h.lease = self.now; } Ok(TaskResponse::UnknownJob) => { self.unhost(k, e); } _ => {} } } } }
            _ => {}
        }
    }
    fn request(&mut self, peer: PeerId, r: TaskRequest, e: &mut E) -> TaskResponse {
        match r {
            TaskRequest::Offer(o) => TaskResponse::Offer(self.offered(peer, o, e)),
            TaskRequest::Heartbeat { jobs } => { let mut unknown = vec![]; for Renewal { job, .. } in jobs { match self.hosted.get_mut(&HostedJob { submitter: peer, job }) { Some(h) => h.lease = self.now, None => unknown.push(job) } } TaskResponse::Heartbeat { unknown } }
            TaskRequest::Cancel { job, .. } | TaskRequest::Release { job } => { self.unhost(HostedJob { submitter: peer, job }, e); TaskResponse::Done }
            TaskRequest::Collected { job, tasks } => { for t in tasks { e.push(Effect::DropOutputs(RunKey { submitter: peer, attempt: AttemptKey { task: TaskKey { job, step: t.step, index: t.index }, attempt: t.attempt } })); } TaskResponse::Done }
            TaskRequest::Goodbye => { self.lose(peer, e); TaskResponse::Done }
            TaskRequest::Report(rep) => self.reported(peer, rep, e),
        }
    }
    fn unhost(&mut self, k: HostedJob, e: &mut E) { if let Some(h) = self.hosted.get_mut(&k) { h.over = true; h.queue.clear(); for r in h.running.keys() { e.push(Effect::Kill { run: *r, why: Failure::new(FailureKind::Cancelled, "cancelled") }); } if h.running.is_empty() { self.hosted.remove(&k); e.push(Effect::Unhost(k)); } } }
    fn offered(&mut self, peer: PeerId, o: Offer, e: &mut E) -> OfferReply {
        let no = |r| OfferReply { accepted: 0, refusal: Some(r), slots: 0, epoch: 0 };
        let Some(terms) = &self.offer else { return no(Refusal::NotOffering) };
        if !(peer == self.me || terms.allow_any || self.allowed.contains(&peer)) { return no(Refusal::NotAllowed { submitter: peer.to_string() }); }
        let k = HostedJob { submitter: peer, job: o.job };
        if !self.hosted.contains_key(&k) { let Some(t) = o.template else { return no(Refusal::TemplateNeeded) }; let t: Arc<TaskTemplate> = Arc::new(*t);
            if let Err(s) = terms.total.check(&t.resources) { return no(Refusal::TooSmall { message: s.to_string() }); }
            e.push(Effect::Prepare { hosted: k, template: t.clone() });
            self.hosted.insert(k, Hosted { templates: [(t.step, (t, 1))].into(), queue: VecDeque::new(), running: BTreeMap::new(), outbox: VecDeque::new(), first: 1, inflight: None, lease: self.now, known: BTreeSet::new(), over: false }); }
        let total = terms.total.clone();
        let h = self.hosted.get_mut(&k).unwrap(); h.lease = self.now;
        if h.over { return no(Refusal::Full); }
        let slots = total.slots(&h.templates[&o.step].0.resources, 1024);
        let n = o.tasks.len() as u32; for t in o.tasks { if h.known.insert((t.index, t.attempt)) { h.queue.push_back(t); } }
        OfferReply { accepted: n, refusal: None, slots, epoch: 1 }
    }
    fn run_host(&mut self, e: &mut E) {
        for (k, h) in &mut self.hosted { while let Some(a) = h.queue.front() { let _ = a; let Some((t, st)) = h.templates.values().next().cloned() else { break }; if st != 2 { break; } let Ok(gpus) = self.free.take(&t.resources) else { break }; let a = h.queue.pop_front().unwrap(); let run = RunKey { submitter: k.submitter, attempt: AttemptKey { task: TaskKey { job: k.job, step: t.step, index: a.index }, attempt: a.attempt } }; h.running.insert(run, (a.clone(), gpus.clone(), t.step)); e.push(Effect::Run { run, template: t, assignment: a, gpus }); e.push(Effect::Advertise); } }
    }
    fn report(&mut self, e: &mut E) {
        let ks: Vec<_> = self.hosted.iter().filter(|(_, h)| h.inflight.is_none() && !h.outbox.is_empty() && !h.over).map(|(k, _)| *k).collect();
        for k in ks { let c = self.call(Call::Report(k)); let h = self.hosted.get_mut(&k).unwrap(); let n = h.outbox.len().min(2048); let events: Vec<_> = h.outbox.iter().take(n).cloned().collect(); h.inflight = Some((c, n)); e.push(Effect::Call { peer: k.submitter, call: c, request: TaskRequest::Report(Report { job: k.job, first: h.first, events, slots: 1 }) }); }
    }
    fn reported(&mut self, peer: PeerId, rep: Report, e: &mut E) -> TaskResponse {
        let through = rep.first + rep.events.len() as u64 - 1;
        let Some(j) = self.jobs.get_mut(&rep.job) else { return TaskResponse::UnknownJob };
        if j.finished.is_some() { return TaskResponse::UnknownJob; }
        let js = rep.job.to_string(); let ps = peer.to_string();
        for ev in rep.events { match ev {
            ReportEvent::Preparing { phase, done, total, .. } => e.push(Effect::Emit(Event::Preparing { job: js.clone(), peer: ps.clone(), phase, done, total })),
            ReportEvent::Started(t) => if j.tasks[t.index as usize] == TS::Out(peer, t.attempt, false) { j.tasks[t.index as usize] = TS::Out(peer, t.attempt, true); j.counts.queued -= 1; j.counts.running += 1; e.push(Effect::Emit(Event::TaskStarted { job: js.clone(), task: TaskKey { job: rep.job, step: 0, index: t.index }.to_string(), attempt: t.attempt, peer: ps.clone() })); }
            ReportEvent::Finished { task: t, outcome, usage, outputs, log_bytes } => { let i = t.index as usize; match j.tasks.get(i) { Some(TS::Out(p, n, _)) if *p == peer && *n == t.attempt => {} _ => continue }
                if let TS::Out(_, _, false) = j.tasks[i] { j.counts.queued -= 1; j.counts.running += 1; }
                *j.inflight.entry(peer).or_default() -= 1; j.mean_us = j.mean_us * 0.9 + usage.wall_us as f64 * 0.1; if j.mean_us > 9e6 { j.mean_us = usage.wall_us as f64 } j.usage.cpu_ms += usage.cpu_us / 1000; j.usage.task_ms += usage.wall_us / 1000;
                let key = TaskKey { job: rep.job, step: 0, index: t.index };
                match outcome { Outcome::Succeeded if outputs.is_none() && log_bytes == 0 => { j.tasks[i] = TS::Done; j.counts.running -= 1; j.counts.succeeded += 1; *j.peers.entry(peer).or_default() += 1; e.push(Effect::Persist(Record::TaskEnded { job: rep.job, task: t, peer, outcome: Outcome::Succeeded, usage, outputs, log_bytes, collected: true, last: true })); e.push(Effect::Emit(Event::TaskFinished { job: js.clone(), task: key.to_string(), attempt: t.attempt, peer: ps.clone(), state: TaskState::Succeeded, failure: None, usage })); }
                    Outcome::Succeeded => { j.tasks[i] = TS::Collecting(peer, t.attempt); j.usages.insert(t.index, (usage, None, peer)); e.push(Effect::Collect { peer, attempt: AttemptKey { task: key, attempt: t.attempt }, outputs, log_bytes, out: j.out.clone() }); }
                    Outcome::Failed(f) => { j.counts.running -= 1; if f.kind.is_tasks_fault() { j.fails[i] += 1; } let again = j.fails[i] <= j.plan.policy.retries && (f.kind.is_tasks_fault() || j.attempts[i] < 20); let st = if again { j.tasks[i] = TS::Pending; j.counts.pending += 1; j.pending.push_back(t.index); TaskState::Pending } else { j.tasks[i] = TS::Failed; j.counts.failed += 1; if j.notes.len() < 20 { j.notes.push(f.message.clone()); } TaskState::Failed }; j.usages.insert(t.index, (usage, Some(f.clone()), peer)); e.push(Effect::Emit(Event::TaskFinished { job: js.clone(), task: key.to_string(), attempt: t.attempt, peer: ps.clone(), state: st, failure: Some(f), usage })); } } }
        } }
        TaskResponse::Reported { through }
    }
    fn check_done(&mut self, e: &mut E) {
        let ids: Vec<_> = self.jobs.iter().filter(|(_, j)| j.finished.is_none()).map(|(i, _)| *i).collect();
        for id in ids { let j = &self.jobs[&id]; if j.counts.succeeded + j.counts.failed == j.counts.total { let s = if j.counts.failed > 0 { JobState::Failed } else { JobState::Succeeded }; self.finish(id, s, e); }
            else if j.state == JobState::Waiting && self.now > j.created + j.plan.policy.wait_for_peers_ms { let notes: Vec<_> = j.refused.iter().map(|(p, r)| format!("{p}: {r}")).chain(self.fit(&j.plan).into_iter().filter_map(|(p, r)| r.err().map(|r| format!("{p}: {r}")))).collect(); let j = self.jobs.get_mut(&id).unwrap(); j.no_peer = true; j.notes = notes; self.finish(id, JobState::Failed, e); } }
    }
    fn finish(&mut self, id: JobId, state: JobState, e: &mut E) {
        let now = self.now; let j = self.jobs.get_mut(&id).unwrap(); j.state = state; j.finished = Some(now);
        let peers: Vec<_> = j.templated.iter().copied().collect();
        e.push(Effect::Persist(Record::JobEnded { job: id, state, finished_ms: now, notes: j.notes.clone() })); e.push(Effect::JobOver(id));
        let info = self.job(id).unwrap();
        e.push(Effect::Emit(Event::JobFinished { job: info.job, state, tasks: info.tasks, peers: info.peers, usage: info.usage, wall_ms: now - info.created_ms, out: info.out, notes: info.notes, no_peer: info.no_peer }));
        for p in peers { let c = self.call(Call::Other); e.push(Effect::Call { peer: p, call: c, request: TaskRequest::Release { job: id } }); }
    }
    pub fn job_ids(&self) -> Vec<JobId> { self.order.clone() }
    pub fn jobs(&self) -> Vec<JobInfo> { self.order.iter().filter_map(|i| self.job(*i)).collect() }
    pub fn job(&self, id: JobId) -> Option<JobInfo> { let j = self.jobs.get(&id)?; Some(JobInfo { job: id.to_string(), name: j.plan.name.clone(), state: j.state, created_ms: j.created, finished_ms: j.finished, tasks: j.counts, peers: j.peers.iter().map(|(p, n)| (p.to_string(), *n)).collect(), out: j.out.clone(), usage: j.usage, notes: j.notes.clone(), no_peer: j.no_peer }) }
    pub fn tasks(&self, id: JobId, r: Range<u32>) -> Vec<TaskInfo> { let Some(j) = self.jobs.get(&id) else { return vec![] }; (r.start as usize..(r.end as usize).min(j.tasks.len())).map(|i| { let (state, peer) = match j.tasks[i] { TS::Pending => (TaskState::Pending, None), TS::Out(p, _, false) => (TaskState::Queued, Some(p)), TS::Out(p, _, true) => (TaskState::Running, Some(p)), TS::Collecting(p, _) => (TaskState::Collecting, Some(p)), TS::Done => (TaskState::Succeeded, None), TS::Failed => (TaskState::Failed, None), TS::Cancelled => (TaskState::Cancelled, None) }; TaskInfo { task: TaskKey { job: id, step: 0, index: i as u32 }.to_string(), state, attempt: j.attempts[i], peer: peer.map(|p| p.to_string()), values: BTreeMap::new(), failure: j.usages.get(&(i as u32)).and_then(|u| u.1.clone()), usage: None } }).collect() }
    pub fn allowed_peers(&self) -> Vec<PeerId> { self.allowed.iter().copied().collect() }
    pub fn open_tasks(&self) -> u64 { self.jobs.values().filter(|j| j.finished.is_none()).map(|j| j.counts.total - j.counts.succeeded - j.counts.failed).sum() }
    pub fn peer_name(&self, p: &PeerId) -> Option<&str> { self.adverts.get(p).map(|a| a.0.name.as_str()) }
    pub fn known_peers(&self) -> Vec<(PeerId, PeerInfo)> { self.adverts.iter().map(|(p, (a, seen))| (*p, PeerInfo { peer: p.to_string(), name: a.name.clone(), addresses: vec![], capacity: Some(a.total.clone()), free: Some(a.free.clone()), executors: a.runtimes.clone(), labels: a.labels.clone(), rtt_ms: None, allowed: self.allowed.contains(p), connected: false, last_seen_ms: *seen })).collect() }
    pub fn capacity(&self) -> CapacityView { CapacityView { offering: self.offer.is_some(), allow_any: self.offer.as_ref().is_some_and(|o| o.allow_any), total: self.offer.as_ref().map(|o| o.total.clone()).unwrap_or_default(), free: if self.offer.is_some() { self.free.clone() } else { Capacity::default() }, runtimes: self.runtimes.iter().filter(|r| r.1.is_ok()).map(|r| r.0).collect(), running: self.hosted.values().map(|h| h.running.len() as u32).sum(), queued: self.hosted.values().map(|h| h.queue.len() as u32).sum() } }
}
