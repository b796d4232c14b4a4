//! `ssh`, `ssh-config` and `tunnel`: this system's own OpenSSH, joined to a task.
//!
//! For each task there are two small files in the data directory's folder `ssh`: the key that is
//! shown to the task's server, made for the occasion, and the host key that its provider promised.
//! `tunnel` writes both before it hands on the first byte, so that they stand when OpenSSH looks.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use p2pnode_node::home::DataDir;
use p2pnode_protocol::TaskKey;
use p2pnode_protocol::tunnel::{Opened, Purpose};
use p2pnode_tunnel::client::shortcut;
use p2pnode_tunnel::ssh_keys::{self, ClientKey};
use tokio::net::TcpStream;

use super::{joint, names, open};
use crate::args::{Global, SshArgs, TunnelArgs};
use crate::exit::Failure;
use crate::{here, output};

/// The user that tasks' servers know. Any name would do: the key says who it is.
const USER: &str = "task";

/// The files of one task's connections.
struct Files {
    dir: PathBuf,
    host: String,
}

impl Files {
    fn of(global: &Global, host: String) -> Result<Self, Failure> {
        let dir = DataDir::find(global.data_dir.clone()).map_err(here::home_failure)?;
        let dir = std::path::absolute(dir.path().join("ssh"))
            .map_err(|error| Failure::usage(format!("--data-dir: {error}")))?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| unwritable(&dir, &error))?;
        Ok(Self { dir, host })
    }

    fn key(&self) -> PathBuf {
        self.dir.join(format!("{}.key", self.host))
    }

    fn known(&self) -> PathBuf {
        self.dir.join(format!("{}.known", self.host))
    }

    /// The public half of the key, which is made when there is none.
    fn client_key(&self) -> Result<[u8; 32], Failure> {
        let kept = ClientKey::keep(&self.key());
        kept.map(|key| key.public())
            .map_err(|error| Failure::internal(format!("{}: {error}", self.key().display())))
    }

    /// Writes down which key the server will show.
    fn trust(&self, host_key: &[u8; 32]) -> Result<(), Failure> {
        let line = ssh_keys::known_hosts_line(&self.host, host_key)
            .map_err(|error| Failure::internal(error.to_string()))?;
        let line = format!("{line}\n");
        let path = self.known();
        if std::fs::read_to_string(&path).is_ok_and(|known| known == line) {
            return Ok(());
        }
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(line.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|error: io::Error| unwritable(&path, &error))
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::internal(format!("{} cannot be written: {error}", path.display()))
}

/// What OpenSSH is told, as `Keyword value`; tokens such as `%n` stand for the host's name.
fn settings(dir: &Path, host: &str) -> Result<Vec<(&'static str, String)>, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::internal(format!("this program's own file is not found: {error}"))
    })?;
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    // Named in full: OpenSSH may be started where neither the variable nor the directory is the same.
    let data_dir = dir.parent().unwrap_or(dir);
    let mut proxy = format!("{} --data-dir {}", quoted(&program), quoted(data_dir));
    proxy.push_str(&format!(" tunnel --stdio --fdpass '{host}'"));
    Ok(vec![
        ("ProxyCommand", proxy),
        // OpenSSH then speaks to the node itself: no process stands between the two.
        ("ProxyUseFdpass", "yes".to_owned()),
        ("User", USER.to_owned()),
        ("IdentityFile", quoted(&dir.join(format!("{host}.key")))),
        ("IdentitiesOnly", "yes".to_owned()),
        ("PreferredAuthentications", "publickey".to_owned()),
        (
            "UserKnownHostsFile",
            quoted(&dir.join(format!("{host}.known"))),
        ),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        ("HostKeyAlgorithms", "ssh-ed25519".to_owned()),
        ("UpdateHostKeys", "no".to_owned()),
        // The connection may be OpenSSH's own, with nobody else to notice that the provider is gone.
        ("ServerAliveInterval", "15".to_owned()),
        ("ServerAliveCountMax", "4".to_owned()),
        ("ForwardAgent", "no".to_owned()),
        ("ForwardX11", "no".to_owned()),
    ])
}

pub fn ssh_config(global: &Global) -> Result<ExitCode, Failure> {
    let files = Files::of(global, String::new())?;
    output::line(
        "# Tasks of p2pnode, as JOB.p2pnode or JOB.INDEX.p2pnode. These lines, or the Include of a",
    );
    output::line(
        "# file with them, belong to the top of ~/.ssh/config: the first value that ssh finds counts.",
    );
    // Today's last task is another one than yesterday's, whose connection a master would hand out.
    output::line(format!("Host last{0} last.*{0}", names::SUFFIX));
    output::line("    ControlMaster no");
    output::line("    ControlPath none");
    output::line(format!("Host *{}", names::SUFFIX));
    for (keyword, value) in settings(&files.dir, "%n")? {
        output::line(format!("    {keyword} {value}"));
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn ssh(global: &Global, args: &SshArgs) -> Result<ExitCode, Failure> {
    let selector = names::parse(&args.task)?;
    let client = here::must_run_for_jobs(global)?;
    // What is wrong is said here, in one line, and not by OpenSSH in three.
    let way = client.tunnel(&selector, false).await?;
    let task = parse_name(&way.name)?;
    let files = Files::of(global, names::host(&task))?;
    open_ssh(&files, way.stream, &task, false).await?;

    let mut command = Command::new("ssh");
    // The user's own settings are for the user's own servers: this one is whatever the provider runs.
    command.args(["-F", "none"]);
    for (keyword, value) in settings(&files.dir, &files.host)? {
        command.arg("-o").arg(format!("{keyword}={value}"));
    }
    let (flags, words) = split(&args.words);
    command.args(flags).arg(&files.host);
    if words.len() + args.command.len() > 0 {
        command.arg("--").args(words).args(&args.command);
    }
    let error = command.exec();
    Err(match error.kind() {
        io::ErrorKind::NotFound => Failure::usage(
            "there is no `ssh` here: install OpenSSH's client, or use `p2pnode exec -it`",
        ),
        _ => Failure::internal(format!("ssh cannot be started: {error}")),
    })
}

/// Those flags of ssh that a value follows, by ssh(1) of OpenSSH 10.
const WITH_VALUE: &[u8] = b"BDEFIJLOPQRSWbceilmopw";

/// The flags at the beginning, and the command after them.
fn split(words: &[OsString]) -> (&[OsString], &[OsString]) {
    let mut at = 0;
    while let Some(flag) = words
        .get(at)
        .and_then(|word| word.as_bytes().strip_prefix(b"-"))
    {
        // Of several in one word, the first that takes a value takes the rest of the word, if there is any.
        let taking = flag.iter().position(|letter| WITH_VALUE.contains(letter));
        let value_follows = taking.is_some_and(|place| place + 1 == flag.len());
        at += 1 + usize::from(value_follows);
    }
    words.split_at(at.min(words.len()))
}

fn parse_name(name: &str) -> Result<TaskKey, Failure> {
    name.parse()
        .map_err(|_| Failure::internal(format!("the node named a task that is none: {name}")))
}

/// Opens an SSH tunnel, and writes down what its server will show.
async fn open_ssh(
    files: &Files,
    stream: TcpStream,
    task: &TaskKey,
    shortcut: bool,
) -> Result<(Opened, TcpStream), Failure> {
    let purpose = Purpose::Ssh {
        client_key: files.client_key()?,
        shortcut,
    };
    let (opened, stream) = open(stream, task, purpose).await?;
    let host_key = opened
        .host_key
        .ok_or_else(|| Failure::internal("the provider did not say which host key it has"))?;
    files.trust(&host_key)?;
    Ok((opened, stream))
}

pub async fn tunnel(global: &Global, args: &TunnelArgs) -> Result<ExitCode, Failure> {
    let selector = names::parse(&args.task)?;
    let client = here::must_run_for_jobs(global)?;
    let way = client.tunnel(&selector, false).await?;
    let task = parse_name(&way.name)?;
    let broke = |error: io::Error| Failure::internal(format!("the tunnel broke: {error}"));
    let stream = match args.port {
        Some(port) => open(way.stream, &task, Purpose::Tcp { port }).await?.1,
        None => {
            // OpenSSH looks for the files under the name that it was given.
            let host = match args.task.ends_with(names::SUFFIX) {
                true => args.task.clone(),
                false => names::host(&task),
            };
            let files = Files::of(global, host)?;
            // Only OpenSSH is known to look at the host key, as it was told to: of whoever else speaks SSH
            // through this, the tunnel alone proves who answers.
            let may = args.fdpass && joint::waits_for_a_connection();
            let near = way.shortcut.filter(|_| may);
            let (opened, stream) = open_ssh(&files, way.stream, &task, near.is_some()).await?;
            let shortest = shortcut::or_tunnel(stream, &opened, near);
            shortest.await.map_err(broke)?
        }
    };
    joint::join(stream, args.fdpass).map_err(broke)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_flags_and_a_command_as_ssh_reads_them() {
        for (line, flags) in [
            ("", 0),
            ("uname -a", 0),
            ("-v uname", 1),
            ("-p 22 uname", 2),
            ("-tt -oLogLevel=DEBUG -L 80:localhost:80 top -d 1", 4),
            ("-vvL 80:localhost:80 top", 2),
            ("-L80:localhost:80 top", 1),
            ("-L", 1),
        ] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let (left, right) = split(&words);
            assert_eq!(
                (left.len(), right.len()),
                (flags, words.len() - flags),
                "{line}"
            );
        }
    }
}
