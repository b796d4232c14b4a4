//! Verbs about what goes on inside a task.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{NodeFlags, humantime_duration};

/// Being inside a task.
#[derive(Subcommand)]
pub enum InsideVerb {
    /// Run one command on a peer, like `docker run`
    #[command(
        after_help = "Examples:\n  p2pnode run --image debian:12 -- uname -a\n  \
        p2pnode run -it --image pytorch:2 --gpus 1 --peers 12D3KooW... -v ./data:data -- bash\n  \
        p2pnode run -it --image jupyter -p 8888 -- jupyter lab --ip 127.0.0.1\n  \
        p2pnode run --wasm tool.wasm -- --help\n\n\
        The exit code is the command's; 125 when it never ran or the way to it was lost, 124 and 137 when it was ended for its\n\
        time or its memory, 1 when it was ended otherwise or its files do not come back."
    )]
    Run(Box<RunArgs>),
    /// Run a command inside a running task
    #[command(
        after_help = "Examples:\n  p2pnode exec last -- nvidia-smi\n  p2pnode exec -it 3f09/12       # a shell\n\n\
        The exit code is the command's; 125 when it could not be started or the way to it was lost."
    )]
    Exec(ExecArgs),
    /// Copy files into or out of a running task
    #[command(
        after_help = "Examples:\n  p2pnode cp last:out/model.pt .\n  p2pnode cp scene.blend 3f09/12:\n  p2pnode cp ./data last:/tmp/data\n\n\
        Paths in a task are relative to its work directory. Folders are copied whole."
    )]
    Cp {
        /// A path here, or TASK:PATH
        from: String,
        /// A path here, or TASK:PATH
        to: String,
    },
    /// Open a shell in a running task with this system's OpenSSH
    #[command(
        after_help = "Examples:\n  p2pnode ssh last\n  p2pnode ssh 3f09/12 make -j8\n  p2pnode ssh last -L 8888:localhost:8888 -N\n\n\
        What follows the task goes to ssh: its flags first, then a command; `--` before a command that looks like a flag.\n\
        `p2pnode ssh-config` lets plain ssh, scp, rsync and IDEs find tasks by themselves."
    )]
    Ssh(SshArgs),
    /// Print the lines for ~/.ssh/config that let `ssh JOB.INDEX.p2pnode` work
    #[command(
        after_help = "Examples:\n  p2pnode ssh-config > ~/.ssh/p2pnode.conf    # then `Include p2pnode.conf` as the first line of ~/.ssh/config\n  ssh last.p2pnode\n  rsync -a data/ 3f09.12.p2pnode:data/"
    )]
    SshConfig,
    /// Join stdin and stdout to a task: what OpenSSH calls as its ProxyCommand
    #[command(
        after_help = "Examples:\n  p2pnode tunnel --stdio last.p2pnode\n  p2pnode tunnel --stdio last --port 5432"
    )]
    Tunnel(TunnelArgs),
    /// Forward a port of this machine to one in a running task
    #[command(
        after_help = "Examples:\n  p2pnode forward last 8888             # http://127.0.0.1:8888 is the task's port 8888\n  \
        p2pnode forward 3f09/12 5000:8080\n  p2pnode forward last 0.0.0.0:8080:80  # other machines reach it, too\n  p2pnode forward last 5353:53 --udp\n\n\
        The running node keeps the port until `forwards --close`, or the end of the job.\n\
        A server that takes one connection only needs --later: without it one is made to see whether anybody listens."
    )]
    Forward {
        /// The task: JOB or JOB/INDEX
        task: String,
        /// PORT, LOCAL:REMOTE, or ADDRESS:LOCAL:REMOTE; local port 0: any that is free
        ports: String,
        /// UDP in place of TCP
        #[arg(long)]
        udp: bool,
        /// Do not look whether anybody listens on the port yet
        #[arg(long)]
        later: bool,
    },
    /// List the ports that are forwarded into tasks, or close one
    #[command(after_help = "Examples:\n  p2pnode forwards\n  p2pnode forwards --close 2")]
    Forwards {
        /// Close this one
        #[arg(long, value_name = "ID")]
        close: Option<u32>,
    },
}

/// `run`.
#[derive(Args)]
pub struct RunArgs {
    /// Keep stdin open to the command
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long, requires = "interactive")]
    pub tty: bool,
    /// A container image
    #[arg(long, value_name = "IMAGE", required_unless_present = "wasm")]
    pub image: Option<String>,
    /// A WASI module in place of an image
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "interactive"])]
    pub wasm: Option<PathBuf>,
    /// Only on these peers: ids, ten or more characters of their ends, or names of peers allowed here
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// CPUs [default: 1]
    #[arg(long, value_name = "N")]
    pub cpus: Option<f64>,
    /// Memory, such as 4GiB [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Disk for the work directory, such as 10GiB [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<String>,
    /// GPUs, or a part of one such as 0.5
    #[arg(long, value_name = "N")]
    pub gpus: Option<f64>,
    /// A file or folder here that stands in the work directory, `HERE:THERE`; what changed comes back
    /// when the command ends, unless `:ro` follows; repeatable
    #[arg(short, long = "volume", value_name = "HERE:THERE[:ro]")]
    pub volumes: Vec<String>,
    /// Forward a port, as `p2pnode forward` does, for as long as the command runs; repeatable
    #[arg(
        short = 'p',
        long = "publish",
        value_name = "[[ADDRESS:]LOCAL:]REMOTE",
        conflicts_with = "wasm"
    )]
    pub ports: Vec<String>,
    /// A variable of its environment; repeatable
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The job's name [default: run]
    #[arg(long, value_name = "NAME", default_value = "run")]
    pub job_name: String,
    /// A domain that it may reach through the provider's proxy; repeatable
    #[arg(long = "egress", value_name = "DOMAIN")]
    pub egress: Vec<String>,
    /// How long to wait for a peer that fits
    #[arg(long, value_name = "TIME", value_parser = humantime_duration)]
    pub wait_for_peers: Option<Duration>,
    /// Of the node, when none runs yet.
    #[command(flatten)]
    pub node: NodeFlags,
    /// The command and its arguments [default: the image's own]
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// `exec`.
#[derive(Args)]
pub struct ExecArgs {
    /// Keep stdin open to the command
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long, requires = "interactive")]
    pub tty: bool,
    /// A variable of its environment; repeatable
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The task: JOB or JOB/INDEX
    pub task: String,
    /// The command and its arguments [default: a shell]
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// `ssh`.
#[derive(Args)]
pub struct SshArgs {
    /// The task: JOB or JOB/INDEX
    pub task: String,
    /// Flags of ssh, then the command in place of a shell, as ssh has it
    #[arg(allow_hyphen_values = true, num_args = 0..)]
    pub words: Vec<OsString>,
    /// The command, when its first word may be taken for a flag's value
    #[arg(last = true)]
    pub command: Vec<OsString>,
}

/// `tunnel`.
#[derive(Args)]
pub struct TunnelArgs {
    /// Join this process's stdin and stdout; there is no other way yet
    #[arg(long, required = true)]
    pub stdio: bool,
    /// When stdin and stdout are the socket of OpenSSH's ProxyUseFdpass, hand the connection over on it
    #[arg(long)]
    pub fdpass: bool,
    /// To this TCP port in the task, in place of its SSH server
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// The task: JOB, JOB/INDEX, or a name such as JOB.INDEX.p2pnode
    pub task: String,
}
