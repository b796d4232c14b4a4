//! The reaper: a process of its own that removes the node's containers, and what else it has in the
//! engine, when the node dies.
//!
//! The node holds the writing end of a pipe, the reaper the reading end. However the node ends, the
//! kernel closes its end, and the reaper wakes: [`Reaper`] is the node's side, [`run`] the process.
//! It is the only thing that stands between a SIGKILL of the node and a stranger's container that
//! runs on, so it must depend on nothing that dies with the node: it has its own process group,
//! ignores the signals that end a terminal's processes, and holds none of the node's files.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::{engine, remove};

/// What the node writes before it closes the pipe when it has removed all its containers itself.
const ALL_REMOVED: &[u8] = b"all removed\n";

/// The reaper ends when no container of the node's has been there for this long: a container whose
/// creation the engine had begun when the node died appears within about a second.
const QUIET: Duration = Duration::from_secs(5);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// How long an engine that does not answer is waited for: a restart of the engine, or of the machine's
/// Docker package, takes less.
const ENGINE_PATIENCE: Duration = Duration::from_secs(600);

/// How long the node waits for its dismissed reaper, so that it leaves no process behind.
const FAREWELL: Duration = Duration::from_secs(5);

/// How to start the reaper: the binary that calls [`run`], and what to put before its own arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaperCommand {
    /// The program, usually the node's own.
    pub program: PathBuf,
    /// Arguments that make it the reaper, such as `reaper`.
    pub args: Vec<OsString>,
}

impl ReaperCommand {
    /// This very program with the one argument `verb`.
    ///
    /// # Errors
    /// When the system does not tell which program this is.
    pub fn this_program(verb: impl AsRef<OsStr>) -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            args: vec![verb.as_ref().to_owned()],
        })
    }
}

/// The node's side: starts the process with the first container, and again should it have died.
#[derive(Debug)]
pub(super) struct Reaper {
    command: ReaperCommand,
    label: String,
    /// The runtime's folder.
    dir: PathBuf,
    /// One for every engine that has had containers of ours: nearly always one.
    processes: Mutex<Vec<Process>>,
}

#[derive(Debug)]
struct Process {
    engine_address: String,
    child: Child,
    pipe: ChildStdin,
}

impl Reaper {
    /// `label`: the value of `p2pnode.node` of the containers to remove; `dir`: the runtime's folder,
    /// in which tasks' disks are.
    pub(super) fn new(command: ReaperCommand, label: String, dir: PathBuf) -> Self {
        Self {
            command,
            label,
            dir,
            processes: Mutex::default(),
        }
    }

    /// Makes sure that it runs. Call it before every container.
    ///
    /// # Errors
    /// When the program can't be started; then no container may be.
    pub(super) async fn ensure(&self, engine_address: &str) -> io::Result<()> {
        let mut processes = self.processes.lock().await;
        let known = processes
            .iter()
            .position(|process| process.engine_address == engine_address);
        if let Some(known) = known {
            match processes[known].child.try_wait()? {
                None => return Ok(()),
                Some(status) => tracing::warn!(%status, "the reaper ended; starting it again"),
            }
            processes.swap_remove(known);
        }
        processes.push(self.start(engine_address)?);
        Ok(())
    }

    fn start(&self, engine_address: &str) -> io::Result<Process> {
        let mut child = Command::new(&self.command.program)
            .args(&self.command.args)
            .arg(engine_address)
            .arg(&self.label)
            .arg(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // It must not keep a file system busy, nor be hit by what is meant for the node.
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(false)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        tracing::debug!(pid = child.id(), "reaper started");
        Ok(Process {
            engine_address: engine_address.to_owned(),
            child,
            pipe,
        })
    }

    /// Sends it home when all containers are gone; otherwise leaves the rest to it.
    pub(super) async fn dismiss(&self, all_removed: bool) {
        let processes = std::mem::take(&mut *self.processes.lock().await);
        for Process {
            mut child,
            mut pipe,
            ..
        } in processes
        {
            if !all_removed {
                continue;
            }
            // It may have died already; then there is nobody to tell.
            let _ = pipe.write_all(ALL_REMOVED).await;
            drop(pipe);
            if timeout(FAREWELL, child.wait()).await.is_err() {
                tracing::warn!("the reaper takes its time to end; it is left to itself");
            }
        }
    }
}

/// The process itself: the hidden verb `reaper` of the binary. `args` are the engine's address,
/// the value of `p2pnode.node` and the runtime's folder, as [`DockerRuntime`](super::DockerRuntime) passes them; the pipe to
/// the node is its standard input. Returns when no container of the node's is left.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let [address, label, dir] = &args[..] else {
        return ExitCode::from(2);
    };
    let (address, label) = (address.to_string_lossy(), label.to_string_lossy());
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return ExitCode::FAILURE;
    };
    // Held to the end: while a handler stands, the signal's default of ending the process does not.
    let handlers = {
        let _entered = runtime.enter();
        [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::quit(),
        ]
        .map(signal)
    };
    let farewell = wait_for_the_node(io::stdin().lock());
    let gone = runtime.block_on(remove_all(
        &address,
        &label,
        Path::new(dir),
        farewell == ALL_REMOVED,
    ));
    drop(handlers);
    if gone {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Reads until the node closes its end, and returns what it said.
fn wait_for_the_node(mut pipe: impl Read) -> Vec<u8> {
    let mut said = Vec::new();
    let mut buffer = [0; 64];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return said,
            Ok(count) => {
                said.extend_from_slice(&buffer[..count]);
                // More than the one message is nonsense; keep no more of it than tells so.
                said.truncate(ALL_REMOVED.len() + 1);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return said,
        }
    }
}

/// Removes what carries `label` until nothing has been there for [`QUIET`], or, when the node says
/// that it has done so itself, once. False when the engine could not be asked.
async fn remove_all(address: &str, label: &str, dir: &Path, once: bool) -> bool {
    let started = Instant::now();
    let mut quiet_since = None;
    loop {
        let found = match engine::dial(address).await {
            Ok(docker) => remove::sweep(&docker, address, dir, |of| of == label)
                .await
                .ok(),
            Err(_) => None,
        };
        match found {
            Some(_) if once => return true,
            Some(0) => {
                let since = *quiet_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= QUIET {
                    return true;
                }
            }
            Some(_) => quiet_since = None,
            // Its containers' processes died with it, or live on: only asking tells.
            None => {
                quiet_since = None;
                if once || started.elapsed() > ENGINE_PATIENCE {
                    return false;
                }
            }
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hears_the_farewell_and_the_silence() {
        assert_eq!(wait_for_the_node(ALL_REMOVED), ALL_REMOVED);
        assert_eq!(wait_for_the_node(&b""[..]), b"");
        assert_ne!(wait_for_the_node(&[b'x'; 1_000][..]), ALL_REMOVED);
    }

    #[test]
    fn it_wants_its_three_arguments() {
        let code = |args: &[&str]| format!("{:?}", run(args.iter().map(OsString::from)));
        let usage = format!("{:?}", ExitCode::from(2));
        assert_eq!(code(&[]), usage);
        assert_eq!(code(&["a", "b"]), usage);
        assert_eq!(code(&["a", "b", "c", "d"]), usage);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told() {
        let command = ReaperCommand {
            program: "/no/such/program".into(),
            args: Vec::new(),
        };
        let reaper = Reaper::new(command, "label".into(), "/no/such/folder".into());
        let error = reaper.ensure("/no/such.sock").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn it_is_started_again_when_it_died_and_dismissed_when_done() {
        // A stand-in that ends at once, then one that ends with its standard input.
        let mut command = ReaperCommand {
            program: "/bin/sh".into(),
            args: ["-c", "exit 0"].map(OsString::from).into(),
        };
        let mut reaper = Reaper::new(command.clone(), "label".into(), "/no/such/folder".into());
        reaper.ensure("address").await.unwrap();
        let first = {
            let mut processes = reaper.processes.lock().await;
            let pid = processes[0].child.id().unwrap();
            processes[0].child.wait().await.unwrap();
            pid
        };
        command.args[1] = "cat".into();
        reaper.command = command;
        reaper.ensure("address").await.unwrap();
        let pids = async || {
            let processes = reaper.processes.lock().await;
            let pids = processes.iter().map(|process| process.child.id().unwrap());
            pids.collect::<Vec<_>>()
        };
        let second = pids().await;
        assert_ne!(second, [first]);
        reaper.ensure("address").await.unwrap();
        assert_eq!(pids().await, second);
        // Another engine has a reaper of its own.
        reaper.ensure("elsewhere").await.unwrap();
        assert_eq!(pids().await.len(), 2);
        reaper.dismiss(true).await;
        assert!(reaper.processes.lock().await.is_empty());
    }
}
