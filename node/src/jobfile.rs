//! Stand-in for integration.
#![allow(missing_docs)]
use std::path::{Path, PathBuf};
use p2pnode_protocol::job::file::*;
use p2pnode_protocol::job::*;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::*;
use p2pnode_protocol::Digest;
pub struct ResolvedJob { job: JobFile, name: String, sources: Vec<PathBuf>, array: Array, per: Vec<Vec<usize>>, shared: Vec<Option<usize>> }
pub fn resolve(job: &JobFile, folder: &Path) -> Result<ResolvedJob, JobFileErrors> {
    let mut faults = vec![]; let mut sources = vec![];
    let array = Array { keys: job.keys.iter().map(|k| ArrayKey { name: k.name.clone(), values: match &k.values { ValuesSpec::Known(v) => v.clone(), ValuesSpec::Lines(w) => Values::List(std::fs::read_to_string(folder.join(&w.text)).unwrap_or_default().lines().map(str::to_owned).collect()) } }).collect(), chunk: if job.whole_chunks { job.chunk } else { None } };
    if let ProgramSpec::Wasm(w) = &job.program { let p = folder.join(&w.text); if !p.exists() { faults.push(w.fault("missing")); } sources.push(p); }
    let (mut per, mut shared) = (vec![], vec![]);
    for i in &job.inputs { if i.per_task { let mut list = vec![]; for t in 0..array.task_count() { let mut s = i.source.text.clone(); for (k, v) in array.keys.iter().zip(array.values(t).unwrap()) { s = s.replace(&format!("{{{}}}", k.name), &v[0]); } let p = folder.join(&s); if !p.exists() { faults.push(i.source.fault(format!("{s} is missing"))); } sources.push(p); list.push(sources.len() - 1); } per.push(list); shared.push(None); } else { let p = folder.join(&i.source.text); if !p.exists() { faults.push(i.source.fault("missing")); } sources.push(p); shared.push(Some(sources.len() - 1)); } }
    if !faults.is_empty() { return Err(JobFileErrors::of(&job.file, faults)); }
    Ok(ResolvedJob { name: job.name_in(&folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()), job: job.clone(), sources, array, per, shared })
}
impl ResolvedJob {
    pub fn name(&self) -> &str { &self.name }
    pub fn task_count(&self) -> u64 { self.array.task_count() }
    pub fn sources(&self) -> &[PathBuf] { &self.sources }
    pub fn plan(&self, blobs: &[BlobRef]) -> JobPlan {
        let none = BlobRef { digest: Digest::of(b""), manifest_bytes: 0, content_bytes: 0 };
        let mut n = 0;
        let inputs = self.job.inputs.iter().zip(&self.shared).map(|(i, s)| InputBinding { path: i.path.text.clone(), source: match s { Some(s) => InputSource::Shared(blobs[*s]), None => { n += 1; InputSource::PerTask(n - 1) } } }).collect();
        let module = if matches!(self.job.program, ProgramSpec::Wasm(_)) { blobs[0] } else { none };
        JobPlan { name: self.name.clone(), steps: vec![StepPlan { template: self.job.template(self.name.clone(), module, inputs), array: self.array.clone(), per_task_inputs: self.per.iter().map(|l| l.iter().map(|i| blobs[*i]).collect()).collect(), needs: vec![] }], placement: self.job.placement.clone(), policy: Policy { retries: self.job.policy.retries, wait_for_peers_ms: self.job.policy.wait_for_peers_ms, hand_out: None } }
    }
}
