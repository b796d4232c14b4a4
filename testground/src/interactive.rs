//! Interactive work beside OpenSSH's own server on this machine: the same client, the same measurements,
//! taken in turns.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Node};

/// The image of `docker/test-image.sh`.
const IMAGE: &str = "p2pnode-test:1";

/// Where Debian and others keep the server.
const SSHD: &str = "/usr/sbin/sshd";

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two keys: nobody types faster.
const KEY_PAUSE: Duration = Duration::from_millis(10);

/// One way to be elsewhere: the words before a command.
struct Way {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
}

impl Way {
    fn command(&self, flags: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let (before, host) = self.args.split_at(self.args.len() - 1);
        command.args(before).args(flags).args(host).args(words);
        command
    }
}

/// An SSH server of OpenSSH on loopback; ends when dropped.
struct Server {
    child: Child,
    config: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Server {
    fn start(dir: &Path) -> Result<Self> {
        ensure!(
            Path::new(SSHD).exists(),
            "{SSHD} is missing: install openssh-server"
        );
        std::fs::create_dir_all(dir)?;
        let path = |name: &str| dir.join(name).display().to_string();
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)])
                .status()?;
            ensure!(made.success(), "ssh-keygen failed");
        }
        std::fs::copy(dir.join("user.pub"), dir.join("authorized"))?;
        // Free a moment ago; the server says when it is not any more.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n\
             Subsystem sftp internal-sftp\nMaxStartups 200\nLogLevel ERROR\n",
            path("host"),
            path("authorized")
        );
        std::fs::write(dir.join("sshd_config"), settings)?;
        // The server insists on this folder.
        std::fs::create_dir_all("/run/sshd")?;
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f", &path("sshd_config")])
            .spawn()?;
        let client = format!(
            "Host beside\n HostName 127.0.0.1\n Port {port}\n IdentityFile {}\n IdentitiesOnly yes\n \
             UserKnownHostsFile /dev/null\n StrictHostKeyChecking no\n LogLevel ERROR\n",
            path("user")
        );
        let config = dir.join("client_config");
        std::fs::write(&config, client)?;
        let server = Self { child, config };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(began.elapsed() < LIMIT, "{SSHD} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

/// A task that waits, and its two nodes.
struct Place {
    _nodes: (Node, Node),
    job: String,
    config: PathBuf,
}

impl Place {
    fn start(lab: &Lab) -> Result<Self> {
        let me = lab.id("me")?;
        let provider = lab.provider("provider", &me, None)?;
        let mine = lab.start("me", "join", &[], Some(&provider))?;
        lab.wait_until_known("me", &provider.id)?;
        let toml = format!(
            "[task]\nimage = \"{IMAGE}\"\ncommand = [\"sleep\", \"36000\"]\n\
             [resources]\ncpus = 1\nmemory = \"512MiB\"\ndisk = \"3GiB\"\n"
        );
        let job = lab.job("wait", &toml, &[])?;
        let job = job.to_str().context("a path that is not UTF-8")?;
        let output = lab.run("me", &["submit", job, "--detach"])?;
        let job = String::from_utf8(output.stdout)?.trim().to_owned();
        let began = Instant::now();
        while lab.json("me", &["job", &job])?["tasks"][0]["state"] != "running" {
            ensure!(began.elapsed() < LIMIT, "the task does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let config = lab.path("ssh_config");
        std::fs::write(&config, lab.run("me", &["ssh-config"])?.stdout)?;
        Ok(Self {
            _nodes: (provider, mine),
            job,
            config,
        })
    }
}

/// Measures what a person notices: how long a first command takes, how fast keys come back, how fast
/// files go.
pub fn interactive(lab: &Lab, runs: usize, mib: u64) -> Result<()> {
    let server = Server::start(&lab.path("sshd"))?;
    let place = Place::start(lab)?;
    let host = format!("{}.p2pnode", place.job);
    let words = |config: &Path, host: &str| {
        vec![
            "-F".to_owned(),
            config.display().to_string(),
            host.to_owned(),
        ]
    };
    let ssh = |name, config: &Path, host: &str| Way {
        name,
        program: "ssh".into(),
        args: words(config, host),
    };
    let direct = ssh("sshd on loopback", &server.config, "beside");
    let task = ssh("ssh TASK.p2pnode", &place.config, &host);
    fresh(lab, &place, &[&direct, &task], runs)?;
    echo(lab, &place, &[&direct, &task])?;
    copies(lab, &server, &place, &host, mib)
}

fn fresh(lab: &Lab, place: &Place, ways: &[&Way], runs: usize) -> Result<()> {
    let mut took = vec![Vec::new(); ways.len() + 1];
    for _ in 0..runs {
        for (way, took) in ways.iter().zip(&mut took) {
            took.push(timed(&mut way.command(&[], &["true"]))?);
        }
        let mut verb = lab.command("me", &["ssh", &place.job]);
        took[ways.len()].push(timed(verb.args(["--", "true"]))?);
    }
    let names = ways.iter().map(|way| way.name).chain(["p2pnode ssh TASK"]);
    report("a fresh `true`", names, &mut took);
    Ok(())
}

fn timed(command: &mut Command) -> Result<Duration> {
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(began.elapsed())
}

/// A terminal elsewhere, whose system echoes each key.
struct Keys {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Keys {
    fn open(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut keys = Self {
            stdin: child.stdin.take().context("no stdin")?,
            stdout: child.stdout.take().context("no stdout")?,
            child,
        };
        // The first key may come before the terminal is there.
        std::thread::sleep(Duration::from_secs(1));
        keys.press()?;
        Ok(keys)
    }

    fn press(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.stdin.write_all(b"x")?;
        self.stdin.flush()?;
        let mut back = [0; 1];
        self.stdout.read_exact(&mut back)?;
        Ok(began.elapsed())
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn echo(lab: &Lab, place: &Place, ways: &[&Way]) -> Result<()> {
    let mut keys = Vec::new();
    for way in ways {
        keys.push(Keys::open(&mut way.command(&["-tt"], &["cat"]))?);
    }
    let mut exec = lab.command("me", &["exec", "-it", &place.job]);
    keys.push(Keys::open(exec.args(["--", "cat"]))?);
    let mut took = vec![Vec::new(); keys.len()];
    for _ in 0..300 {
        for (keys, took) in keys.iter_mut().zip(&mut took) {
            took.push(keys.press()?);
            std::thread::sleep(KEY_PAUSE);
        }
    }
    let names = ways.iter().map(|way| way.name).chain(["p2pnode exec -it"]);
    report("a key's echo", names, &mut took);
    Ok(())
}

fn copies(lab: &Lab, server: &Server, place: &Place, host: &str, mib: u64) -> Result<()> {
    let file = lab.path("large");
    let mut random = std::fs::File::open("/dev/urandom")?.take(mib << 20);
    std::io::copy(&mut random, &mut std::fs::File::create(&file)?)?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    let there = lab.path("there");
    let there = there.to_str().context("a path that is not UTF-8")?;
    let scp = |config: &Path, to: String| {
        let mut command = Command::new("scp");
        command.arg("-q").arg("-F").arg(config).args([file, &to]);
        timed(&mut command)
    };
    let mut took = vec![Vec::new(); 3];
    for _ in 0..3 {
        took[0].push(scp(&server.config, format!("beside:{there}"))?);
        took[1].push(scp(&place.config, format!("{host}:large"))?);
        let mut verb = lab.command("me", &["cp", file, &format!("{}:large", place.job)]);
        took[2].push(timed(&mut verb)?);
    }
    let names = ["scp to sshd", "scp to TASK.p2pnode", "p2pnode cp"];
    report(&format!("a copy of {mib} MiB"), names, &mut took);
    Ok(())
}

/// Medians and lower quartiles, and how each is to the first's: on a machine that is not idle the
/// quartile says what the way costs, and the median what others make of it.
fn report<'a>(what: &str, names: impl IntoIterator<Item = &'a str>, took: &mut [Vec<Duration>]) {
    println!("{what}:");
    let mut first = None;
    for (name, took) in names.into_iter().zip(took) {
        took.sort();
        let (median, quartile) = (took[took.len() / 2], took[took.len() / 4]);
        let (first_median, first_quartile) = *first.get_or_insert((median, quartile));
        let ratio = |time: Duration, first: Duration| time.as_secs_f64() / first.as_secs_f64();
        println!(
            "  {name:24} {:9.3} ms median of {}, {:.2} of the first; lower quartile {:.3} ms, {:.2}",
            median.as_secs_f64() * 1e3,
            took.len(),
            ratio(median, first_median),
            quartile.as_secs_f64() * 1e3,
            ratio(quartile, first_quartile),
        );
    }
}
