//! `demo`: three providers on this machine render an animation together.
//!
//! The providers are child processes of this program with data directories of their own. The
//! submitting node runs in this process; like two of the providers it knows one address only, the
//! first provider's, and finds the others through the DHT.

mod pictures;
mod providers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use p2pnode_protocol::api::{
    CreateJob, Event, JobState, JobUsage, PeerInfo, TaskCounts, TaskState,
};
use serde::Serialize;

use self::providers::Providers;
use crate::args::{DemoArgs, Global, NodeFlags};
use crate::client::{Client, EventStream};
use crate::exit::Failure;
use crate::{here, output};

/// The example job, embedded so that the binary alone can run the demo.
const JOB_TOML: &str = include_str!("../../../../docs/examples/pathtracer/job.toml");
const SCENE: &[u8] = include_bytes!("../../../../docs/examples/pathtracer/scene.txt");
const TRACER: &[u8] = include_bytes!("../../../../docs/examples/pathtracer/tracer.wasm");

/// Providers started.
const PROVIDERS: usize = 3;

/// Longest wait until all providers are known: on loopback it takes well under a second.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(15);

/// How often discovery is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What the demo did.
#[derive(Debug, Serialize)]
struct Summary {
    frames: u64,
    frames_by_peer: BTreeMap<String, u64>,
    discovery_ms: u64,
    wall_ms: u64,
    cpu_ms: u64,
    bytes_moved: u64,
    out: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    killed_peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks_moved: Option<u64>,
}

pub async fn demo(global: &Global, args: &DemoArgs) -> Result<ExitCode, Failure> {
    let io = |what: &str, error: std::io::Error| Failure::internal(format!("{what}: {error}"));
    let scratch = tempfile::Builder::new()
        .prefix("p2pnode-demo-")
        .tempdir()
        .map_err(|error| io("no temporary folder", error))?;
    std::fs::create_dir_all(&args.out).map_err(|error| {
        let out = args.out.display();
        Failure::usage(match args.out.is_file() {
            true => format!("{out} is a file; choose another folder with --out"),
            false => format!("{out} cannot be made: {error}; choose another folder with --out"),
        })
    })?;
    let home = scratch.path().join("submitter");
    let own = Global {
        data_dir: Some(home),
        ..global.clone()
    };
    let me = here::peer_id(&own)?;
    let say = |text: String| {
        if !global.json {
            output::note(text);
        }
    };

    say(format!("starting {PROVIDERS} providers on this machine"));
    let mut providers = Providers::start(scratch.path(), PROVIDERS, &me.to_string()).await?;
    let ended = render(&own, args, scratch.path(), &mut providers, &say).await;
    providers.stop().await;
    let summary = ended?;
    if global.json {
        output::line_json(&summary);
    } else {
        print(&summary, &providers);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the submitting node, the job on it, and makes the pictures.
async fn render(
    own: &Global,
    args: &DemoArgs,
    scratch: &Path,
    providers: &mut Providers,
    say: &impl Fn(String),
) -> Result<Summary, Failure> {
    let flags = NodeFlags {
        listen: vec![providers::LISTEN.to_owned()],
        bootstrap: vec![providers.bootstrap().to_owned()],
        no_mdns: true,
        name: Some("submitter".to_owned()),
        ..NodeFlags::default()
    };
    let began = Instant::now();
    let node = here::start(own, here::config(own, &flags)?).await?;
    let client = Client::new(node.endpoint().clone());
    let rendered = async {
        discover(&client, providers).await?;
        let discovery_ms = began.elapsed().as_millis() as u64;
        say(format!(
            "found {PROVIDERS} providers through the DHT in {discovery_ms} ms"
        ));
        let request = job(scratch, &args.out)?;
        let events = client.events(Method::POST, "/jobs", &request).await?;
        let mut watch = Watch::new(providers, args.kill_one, !own.json);
        watch
            .run_to_end(events)
            .await
            .map(|end| (discovery_ms, end, watch.killed))
    }
    .await;
    node.stop().await.map_err(here::node_failure)?;
    let (discovery_ms, end, killed) = rendered?;
    let frames = pictures::make(&args.out)?;
    Ok(Summary {
        frames,
        frames_by_peer: end.peers,
        discovery_ms,
        wall_ms: end.wall_ms,
        cpu_ms: end.usage.cpu_ms,
        bytes_moved: end.usage.bytes_sent + end.usage.bytes_received,
        out: args.out.clone(),
        tasks_moved: killed.is_some().then_some(end.tasks.moved),
        killed_peer: killed,
    })
}

/// Waits until the adverts of all providers are known.
async fn discover(client: &Client, providers: &Providers) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let peers: Vec<PeerInfo> = client.get("/peers").await?;
        let found = providers
            .ids()
            .filter(|id| {
                peers.iter().any(|peer| {
                    peer.peer == **id
                        && peer.capacity.as_ref().is_some_and(|total| total.cpus.0 > 0)
                })
            })
            .count();
        if found == PROVIDERS {
            return Ok(());
        }
        if began.elapsed() > DISCOVERY_LIMIT {
            return Err(Failure::nobody(format!(
                "found {found} of {PROVIDERS} providers in {DISCOVERY_LIMIT:?}"
            )));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Lays out the example job and asks for it.
fn job(scratch: &Path, out: &Path) -> Result<CreateJob, Failure> {
    let folder = scratch.join("job");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes);
    std::fs::create_dir_all(&folder)
        .and_then(|()| write("scene.txt", SCENE))
        .and_then(|()| write("tracer.wasm", TRACER))
        .map_err(|error| Failure::internal(format!("{}: {error}", folder.display())))?;
    let out = std::path::absolute(out).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(CreateJob {
        toml: JOB_TOML.to_owned(),
        folder: folder.to_string_lossy().into_owned(),
        file: "job.toml".to_owned(),
        peers: Vec::new(),
        out: Some(out.to_string_lossy().into_owned()),
        out_parent: None,
        wait_for_peers_ms: None,
    })
}

/// What the job's last event says.
struct End {
    tasks: TaskCounts,
    peers: BTreeMap<String, u64>,
    usage: JobUsage,
    wall_ms: u64,
}

/// Shows who renders what, and kills a provider in mid-render when asked to.
struct Watch<'a> {
    providers: &'a mut Providers,
    kill: bool,
    killed: Option<String>,
    total: u64,
    done: u64,
    bars: Option<BTreeMap<String, ProgressBar>>,
    plain: bool,
}

impl<'a> Watch<'a> {
    fn new(providers: &'a mut Providers, kill: bool, show: bool) -> Self {
        let bars = (show && output::is_interactive()).then(|| {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{prefix:12} {bar:24} {pos:>3} frames  {msg}");
            let bar = |(id, name): (&String, &String)| {
                let bar = all.add(ProgressBar::new(1)).with_prefix(name.clone());
                if let Ok(style) = &style {
                    bar.set_style(style.clone());
                }
                bar.tick();
                (id.clone(), bar)
            };
            providers.named().map(bar).collect()
        });
        let plain = show && bars.is_none();
        Self {
            providers,
            kill,
            killed: None,
            total: 0,
            done: 0,
            bars,
            plain,
        }
    }

    async fn run_to_end(&mut self, mut events: EventStream) -> Result<End, Failure> {
        while let Some(event) = events.next().await? {
            if let Event::JobFinished {
                state,
                tasks,
                peers,
                usage,
                wall_ms,
                notes,
                ..
            } = event
            {
                for bar in self.bars.iter().flat_map(BTreeMap::values) {
                    bar.abandon();
                }
                if state == JobState::Succeeded {
                    return Ok(End {
                        tasks,
                        peers,
                        usage,
                        wall_ms,
                    });
                }
                return Err(Failure::internal("the demo's job failed").with_details(notes));
            }
            self.show(&event).await?;
        }
        Err(Failure::internal("the demo's node ended before its job"))
    }

    async fn show(&mut self, event: &Event) -> Result<(), Failure> {
        match event {
            Event::JobCreated { tasks, .. } => {
                self.total = *tasks;
                for bar in self.bars.iter().flat_map(BTreeMap::values) {
                    bar.set_length(*tasks);
                }
            }
            Event::TaskStarted { peer, task, .. } => {
                self.kill_in_mid_render(peer).await?;
                if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.get(peer)) {
                    let index = task.rsplit('/').next().unwrap_or_default();
                    bar.set_message(format!("renders task {index}"));
                }
            }
            Event::TaskFinished {
                peer,
                state: TaskState::Succeeded,
                ..
            } => {
                self.done += 1;
                if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.get(peer)) {
                    bar.inc(1);
                }
                if self.plain {
                    let name = self.providers.name_of(peer);
                    output::note(format!("frame {} of {} by {name}", self.done, self.total));
                }
            }
            Event::PeerLost { peer, tasks, .. } => {
                let name = self.providers.name_of(peer);
                if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.get(peer)) {
                    bar.abandon_with_message(format!("lost, {tasks} tasks move"));
                }
                if self.plain {
                    output::note(format!("{name} is lost, {tasks} tasks move to the others"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Kills the provider that just began a task, once a quarter of the frames are there.
    async fn kill_in_mid_render(&mut self, peer: &str) -> Result<(), Failure> {
        if !self.kill || self.killed.is_some() || self.done * 4 < self.total {
            return Ok(());
        }
        self.providers.kill(peer).await?;
        self.killed = Some(peer.to_owned());
        if self.plain {
            output::note(format!("killed {} (SIGKILL)", self.providers.name_of(peer)));
        }
        Ok(())
    }
}

fn print(summary: &Summary, providers: &Providers) {
    output::line(format!(
        "{} frames in {:.1} s",
        summary.frames,
        summary.wall_ms as f64 / 1_000.0
    ));
    for (peer, frames) in &summary.frames_by_peer {
        output::line(format!(
            "  {:12} {frames} frames  {peer}",
            providers.name_of(peer)
        ));
    }
    output::line(format!("discovery   {} ms", summary.discovery_ms));
    output::line(format!(
        "CPU time    {:.1} s",
        summary.cpu_ms as f64 / 1_000.0
    ));
    output::line(format!(
        "bytes moved {}",
        p2pnode_protocol::Bytes(summary.bytes_moved)
    ));
    if let (Some(peer), Some(moved)) = (&summary.killed_peer, summary.tasks_moved) {
        output::line(format!(
            "killed      {} in mid-render, {moved} tasks moved",
            providers.name_of(peer)
        ));
    }
    let out = summary.out.display();
    output::line(format!(
        "look at     {out}/animation.png, {out}/contact-sheet.png, {out}/frames/"
    ));
}
