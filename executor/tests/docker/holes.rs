//! Every line of the sandbox taken out in turn.
//!
//! For each there is something that a hostile task does, which fails in the sandbox as it is and
//! succeeds in one without that line. So the test that a line holds cannot pass for another reason.
//! Containers are made from the very body that the runtime sends to the engine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum};
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptionsBuilder, StartContainerOptions,
    WaitContainerOptions,
};
use futures::StreamExt;
use p2pnode_executor::TaskRun;
use p2pnode_executor::docker::container::{NOBODY, Sandbox, create_body};
use p2pnode_protocol::{Bytes, MilliCpus};
use tokio::net::TcpListener;

use crate::contract::{Act, Trial, clean, within};
use crate::subject::{DockerSubject, IMAGE, fresh_incarnation};

/// What a hostile task is given beside its script.
struct Bench {
    subject: DockerSubject,
    dir: tempfile::TempDir,
    /// The image; one with a program that is setuid root.
    image: String,
}

/// One line of the sandbox.
struct Line {
    name: &'static str,
    /// Ends with 0 when it got what it should not.
    hostile: String,
    /// Whether the task is root: what holds even then.
    root: bool,
    /// Takes the line out.
    hole: fn(&mut ContainerCreateBody, &mut HostConfig),
}

fn line(
    name: &'static str,
    root: bool,
    hostile: impl Into<String>,
    hole: fn(&mut ContainerCreateBody, &mut HostConfig),
) -> Line {
    Line {
        name,
        hostile: hostile.into(),
        root,
        hole,
    }
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        std::fs::write(dir.path().join("hosts"), b"127.0.0.1 localhost\n").unwrap();
        for name in ["work", "hosts"] {
            std::os::unix::fs::chown(
                dir.path().join(name),
                Some(NOBODY.0).filter(|_| name == "work"),
                None,
            )
            .unwrap();
        }
        let image = setuid_image(dir.path());
        Self {
            subject: DockerSubject::new().await,
            dir,
            image,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn body(&self, line: &Line) -> ContainerCreateBody {
        let mut trial = Trial::new(&self.subject, Act::Exit(0));
        trial.task.command = DockerSubject::shell(&line.hostile);
        trial.task.work_dir = self.at("work");
        trial.task.resources.memory = Bytes::mib(32);
        trial.task.resources.pids = 8;
        trial.task.resources.cpus = MilliCpus(500);
        let task: &TaskRun = &trial.task;
        let hosts = self.at("hosts").display().to_string();
        let owner = format!("{}:{}", self.subject.node, self.subject.incarnation);
        let sandbox = Sandbox {
            image: &self.image,
            volumes: &[],
            owner: &owner,
            hosts: &hosts,
            user: if line.root { (0, 0) } else { NOBODY },
            file_size: 4 << 20,
            runtime: None,
        };
        create_body(task, &sandbox).unwrap()
    }

    /// The exit code of a container made of `body`.
    async fn run(&self, body: ContainerCreateBody) -> i64 {
        let engine = &self.subject.engine;
        let created = engine.create_container(None::<CreateContainerOptions>, body);
        let id = created.await.unwrap().id;
        let started = engine.start_container(&id, None::<StartContainerOptions>);
        let ended = match started.await {
            Ok(()) => {
                let mut waiting = engine.wait_container(&id, None::<WaitContainerOptions>);
                within(waiting.next()).await.unwrap()
            }
            Err(error) => Err(error),
        };
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        engine.remove_container(&id, Some(options)).await.unwrap();
        for file in std::fs::read_dir(self.at("work")).unwrap().flatten() {
            std::fs::remove_file(file.path()).unwrap();
        }
        match ended {
            Ok(ended) => ended.status_code,
            Err(bollard::errors::Error::DockerContainerWaitError { code, .. }) => code,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mut remove = std::process::Command::new("docker");
        let _ = remove
            .args(["image", "rm", "--force", &self.image])
            .output();
    }
}

/// A program that ends with 0 when its effective user is root, without a word to any library: Linux
/// on x86-64. (busybox gives such rights up before it does anything.)
fn euid_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // mov eax, geteuid; syscall; mov edi, eax; mov eax, exit; syscall. 65534 comes out as 254.
    let code = [
        0xb8, 0x6b, 0, 0, 0, 0x0f, 0x05, 0x89, 0xc7, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05,
    ];
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let halves =
        |file: &mut Vec<u8>, all: &[u16]| all.iter().for_each(|n| file.extend(n.to_le_bytes()));
    let words =
        |file: &mut Vec<u8>, all: &[u32]| all.iter().for_each(|n| file.extend(n.to_le_bytes()));
    let longs =
        |file: &mut Vec<u8>, all: &[u64]| all.iter().for_each(|n| file.extend(n.to_le_bytes()));
    // An executable for x86-64; entry, where the program header is, no sections.
    halves(&mut file, &[2, 0x3e]);
    words(&mut file, &[1]);
    longs(&mut file, &[BASE + HEADERS, 64, 0]);
    words(&mut file, &[0]);
    halves(&mut file, &[64, 56, 1, 0, 0, 0]);
    // Load all of the file, to be read and executed.
    words(&mut file, &[1, 5]);
    longs(&mut file, &[0, BASE, BASE, size, size, 0x1000]);
    file.extend(code);
    file
}

/// The test image with `/bin/euid`, setuid root, in it.
fn setuid_image(dir: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let program = dir.join("euid");
    std::fs::write(&program, euid_program()).unwrap();
    let mode = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(&program, mode).unwrap();
    let name = format!("p2pnode-test-setuid:{}", fresh_incarnation());
    let script = "id=$(docker create --network none \"$1\") && docker cp \"$2\" $id:/bin/euid \
                  && docker commit \"$id\" \"$3\" && docker rm \"$id\"";
    let made = std::process::Command::new("sh")
        .args(["-ec", script, "sh", IMAGE])
        .arg(&program)
        .arg(&name)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    name
}

fn ulimit(host: &mut HostConfig, name: &str, limit: i64) {
    for one in host.ulimits.iter_mut().flatten() {
        if one.name.as_deref() == Some(name) {
            (one.soft, one.hard) = (Some(limit), Some(limit));
        }
    }
}

fn reach(port: u16) -> Vec<Line> {
    let own_pid = std::process::id();
    vec![
        line(
            "network",
            false,
            format!("nc -w 2 127.0.0.1 {port} < /dev/null"),
            |body, host| {
                body.network_disabled = None;
                host.network_mode = Some("host".into());
            },
        ),
        line(
            "process ids",
            false,
            format!("test -e /proc/{own_pid}"),
            |_, host| host.pid_mode = Some("host".into()),
        ),
        line(
            "shared memory",
            false,
            format!("test -e /dev/shm/p2pnode-test-{own_pid}"),
            |_, host| host.ipc_mode = Some("host".into()),
        ),
        line(
            "control groups' names",
            false,
            "grep -q '[0-9a-f]\\{64\\}' /proc/self/cgroup",
            |_, host| host.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::HOST),
        ),
    ]
}

fn rights() -> Vec<Line> {
    vec![
        line("capabilities", true, "mknod device b 7 0", |_, host| {
            host.cap_drop = None
        }),
        line(
            "capabilities of others' files",
            true,
            "echo x > x; chown 1:1 x",
            |_, host| host.cap_drop = None,
        ),
        line("no-new-privileges", false, "/bin/euid", |_, host| {
            host.security_opt = None;
        }),
        line("seccomp", false, "unshare -U true", |_, host| {
            host.security_opt = Some(vec![
                "no-new-privileges".into(),
                "seccomp=unconfined".into(),
            ]);
        }),
        line("user", false, "test $(id -u) = 0", |body, _| {
            body.user = Some("0:0".into());
        }),
        line(
            "capabilities of the host's",
            true,
            "mount -t tmpfs none /tmp",
            |_, host| {
                host.cap_drop = None;
                host.cap_add = Some(vec!["SYS_ADMIN".into()]);
            },
        ),
    ]
}

fn writes() -> Vec<Line> {
    vec![
        line("read-only root", true, "echo x > /bin/x", |_, host| {
            host.readonly_rootfs = Some(false);
        }),
        line(
            "the table of names",
            true,
            "echo 6.6.6.6 localhost >> /etc/hosts",
            |_, host| {
                let mounts = host.mounts.as_mut().unwrap();
                mounts[1].read_only = Some(false);
            },
        ),
        line(
            "set-user-id in scratch",
            false,
            "grep ' /tmp ' /proc/mounts | grep -qv nosuid",
            |_, host| host.tmpfs = tmpfs("rw,exec,suid,mode=1777,size=16777216"),
        ),
        line(
            "size of scratch",
            false,
            "dd if=/dev/zero of=/tmp/a bs=1M count=3 && cp /tmp/a /tmp/b && cp /tmp/a /tmp/c \
             && cp /tmp/a /tmp/d && cp /tmp/a /tmp/e && cp /tmp/a /tmp/f",
            |_, host| {
                host.tmpfs = tmpfs("rw,exec,nosuid,nodev,mode=1777,size=100m");
            },
        ),
        line(
            "size of shared memory",
            false,
            "test $(df -k /dev/shm | awk 'NR>1 {print $2}') -gt 16384",
            |_, host| host.shm_size = Some(64 << 20),
        ),
    ]
}

fn tmpfs(options: &str) -> Option<HashMap<String, String>> {
    Some([("/tmp".to_owned(), options.to_owned())].into())
}

fn amounts() -> Vec<Line> {
    vec![
        line(
            "memory",
            false,
            "dd if=/dev/zero of=/dev/null bs=100M count=1",
            |_, host| {
                host.memory = None;
                host.memory_swap = None;
            },
        ),
        line(
            "processes",
            false,
            "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done",
            |_, host| host.pids_limit = None,
        ),
        line(
            "size of a file",
            false,
            "dd if=/dev/zero of=big bs=1M count=8",
            |_, host| ulimit(host, "fsize", -1),
        ),
        line("open files", false, "ulimit -n 5000", |_, host| {
            ulimit(host, "nofile", 8_192);
        }),
        line("core dumps", false, "ulimit -c 1", |_, host| {
            ulimit(host, "core", -1);
        }),
        line(
            "who is killed first",
            false,
            "test $(cat /proc/self/oom_score_adj) -lt 500",
            |_, host| host.oom_score_adj = None,
        ),
        line(
            "CPU",
            false,
            "q=$(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cut -d' ' -f1 /sys/fs/cgroup/cpu.max); \
             test $q = -1 -o $q = max",
            |_, host| host.cpu_quota = None,
        ),
    ]
}

/// The other half of the table: a figure or a name that hostile tasks cannot test by doing is in the
/// unit tests of `container`, field by field.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn every_line_holds_what_comes_through_without_it() {
    if !rustix::process::getuid().is_root() {
        eprintln!("not tested: holes take root");
        return;
    }
    let bench = Bench::new().await;
    // A service and a segment of the host's own.
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    let serve = tokio::spawn(async move { while service.accept().await.is_ok() {} });
    let shared = PathBuf::from(format!("/dev/shm/p2pnode-test-{}", std::process::id()));
    std::fs::write(&shared, b"the host's").unwrap();
    let mut wrong = Vec::new();
    for line in reach(port)
        .into_iter()
        .chain(rights())
        .chain(writes())
        .chain(amounts())
    {
        let body = bench.body(&line);
        let held = bench.run(body.clone()).await;
        let mut open = body;
        let mut host = open.host_config.take().unwrap();
        (line.hole)(&mut open, &mut host);
        open.host_config = Some(host);
        let through = bench.run(open).await;
        eprintln!("{}: {held} in the sandbox, {through} without", line.name);
        if held == 0 || through != 0 {
            wrong.push((line.name, held, through));
        }
    }
    std::fs::remove_file(shared).unwrap();
    serve.abort();
    assert_eq!(wrong, [], "(line, exit in the sandbox, exit without)");
    clean(&bench.subject).await;
}
