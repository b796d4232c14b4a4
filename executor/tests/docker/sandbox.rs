//! What a task sees, and can't do, from inside.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use p2pnode_protocol::task::FailureKind;

use crate::contract::{Act, Ended, Trial, clean};
use crate::subject::DockerSubject;

/// A trial that runs `script` instead of its act.
pub fn trial<'a>(subject: &'a DockerSubject, script: &str) -> Trial<'a> {
    let mut trial = Trial::new(subject, Act::Exit(0));
    trial.task.command = DockerSubject::shell(script);
    trial
}

async fn shell(subject: &DockerSubject, script: &str) -> String {
    let ended = trial(subject, script).run().await;
    ended.expect_success();
    String::from_utf8(ended.stdout).unwrap()
}

pub fn failure_text(ended: &Ended) -> String {
    ended.end.result.clone().unwrap_err().message
}

/// The uid that tasks have when these tests run as this user.
pub fn task_uid() -> u32 {
    let own = rustix::process::getuid();
    if own.is_root() { 65_534 } else { own.as_raw() }
}

#[tokio::test]
#[ignore = "needs docker"]
async fn it_has_no_privileges() {
    let subject = DockerSubject::new().await;
    let status = shell(&subject, "cat /proc/self/status").await;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("Seccomp:"), ["2"]);
    assert_eq!(field("Uid:"), vec![task_uid().to_string(); 4]);
    assert_ne!(task_uid(), 0);
    assert_eq!(field("Groups:").len(), 1, "its own group only");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn it_has_no_network_but_loopback() {
    let subject = DockerSubject::new().await;
    let routes = "tail -n +2 /proc/net/route; grep -v ' lo$' /proc/net/ipv6_route";
    let seen = shell(&subject, &format!("ls /sys/class/net; {routes}; true")).await;
    assert_eq!(seen, "lo\n", "an interface or a route beside loopback");
    // The host's names and name servers are unknown, its own are not.
    let seen = shell(
        &subject,
        "hostname; cat /etc/hosts; cat /etc/resolv.conf; true",
    )
    .await;
    let names =
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 p2pnode\n";
    assert_eq!(seen, format!("p2pnode\n{names}"));
    let up = shell(&subject, "ifconfig lo").await;
    assert!(up.contains("127.0.0.1") && up.contains("UP"), "{up}");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn it_sees_only_its_own_processes() {
    let subject = DockerSubject::new().await;
    // The init process, the shell and what counts them.
    let count: usize = shell(&subject, "ls -d /proc/[0-9]* | wc -l")
        .await
        .trim()
        .parse()
        .unwrap();
    assert!(count <= 4, "{count}");
    let name = shell(&subject, "cat /proc/1/comm").await;
    assert!(name.contains("init"), "{name}");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn it_writes_nowhere_else() {
    let subject = DockerSubject::new().await;
    let script = "for f in /x /etc/x /bin/x /root/x /var/x /dev/x /proc/sys/kernel/hostname \
                  /proc/sysrq-trigger /sys/x /sys/fs/cgroup/x /etc/hosts /etc/resolv.conf; do \
                  (echo 1 > $f) 2>/dev/null && echo wrote $f; done; \
                  echo 1 > /tmp/x && echo 1 > $PWD/x && echo 1 > /dev/shm/x && pwd";
    assert_eq!(shell(&subject, script).await, "/work\n");
    // Programs may be put into the scratch, but nothing there can raise privileges.
    let script = "cp /bin/busybox /tmp && chmod 4755 /tmp/busybox && /tmp/busybox id -u; grep ' /tmp ' /proc/mounts";
    let seen = shell(&subject, script).await;
    assert!(seen.starts_with(&format!("{}\n", task_uid())), "{seen}");
    assert!(seen.contains("nosuid") && seen.contains("nodev"), "{seen}");
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn no_path_of_the_host_is_mounted_but_its_own() {
    let subject = DockerSubject::new().await;
    let trial = trial(&subject, "cat /proc/self/mountinfo");
    let ended = trial.run().await;
    let mounts = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
    let engines_own = [
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/hosts",
        "/sbin/docker-init",
        "/dev/init",
    ];
    let virtual_kinds = [
        "proc", "tmpfs", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay",
    ];
    let mut from_disk = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let kind = fields[fields.iter().position(|field| *field == "-").unwrap() + 1];
        if !virtual_kinds.contains(&kind) && !engines_own.contains(&fields[4]) {
            from_disk.push((fields[3], fields[4]));
        }
    }
    assert_eq!(from_disk.len(), 1, "{mounts}");
    let (source, target) = from_disk[0];
    assert_eq!(target, "/work");
    // The source is relative to its file system, of which the path here may be a part.
    let dir = trial.work_dir().canonicalize().unwrap();
    assert!(
        dir.ends_with(Path::new(source).strip_prefix("/").unwrap()),
        "{source} {dir:?}"
    );
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn outputs_are_the_tasks_and_readable_here() {
    let subject = DockerSubject::new().await;
    let trial = trial(
        &subject,
        "mkdir d && echo 1 > d/f && chmod 400 d/f && echo 2 >> given/in",
    );
    std::fs::create_dir(trial.work_dir().join("given")).unwrap();
    std::fs::write(trial.work_dir().join("given/in"), b"").unwrap();
    trial.run().await.expect_success();
    let file = trial.work_dir().join("d/f");
    assert_eq!(std::fs::metadata(&file).unwrap().uid(), task_uid());
    assert_eq!(std::fs::read(&file).unwrap(), b"1\n");
    assert_eq!(
        std::fs::read(trial.work_dir().join("given/in")).unwrap(),
        b"2\n"
    );
    clean(&subject).await;
}

#[tokio::test]
#[ignore = "needs docker"]
async fn root_inside_still_has_no_privileges() {
    let subject = DockerSubject::new().await;
    let mut trial = trial(
        &subject,
        "id -u; grep CapEff /proc/self/status; echo 1 > $PWD/x; echo 1 > /x",
    );
    trial.task.root = true;
    let ended = trial.run().await;
    if !rustix::process::getuid().is_root() {
        assert_eq!(ended.failure(), FailureKind::Host);
        return;
    }
    assert_eq!(
        ended.failure(),
        FailureKind::Exit(1),
        "the root is read-only"
    );
    assert_eq!(ended.stdout, b"0\nCapEff:\t0000000000000000\n");
    assert!(trial.work_dir().join("x").exists());
    clean(&subject).await;
}
