//! All hostile tasks at once, beside an honest one and a container that is none of ours.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerStateStatusEnum};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use p2pnode_executor::host::process_memory;
use p2pnode_protocol::{Bytes, MilliCpus};

use crate::contract::{Subject, Trial, clean};
use crate::sandbox::trial;
use crate::subject::{DockerSubject, IMAGE};

/// What each does, for as long as it is let. `CANARY` is a folder of the host's.
const HOSTILE: [(&str, &str); 16] = [
    ("forks", "b() { b | b & }; b; sleep 1000"),
    ("takes memory", "exec tail /dev/zero"),
    (
        "fills scratch",
        "dd if=/dev/zero of=/tmp/x bs=1M; dd if=/dev/zero of=/dev/shm/x bs=1M; sleep 1000",
    ),
    ("fills its disk", "exec dd if=/dev/zero of=big bs=65536"),
    (
        "fills its disk with files",
        "i=0; while :; do i=$((i+1)); : > f$i; done",
    ),
    (
        "digs folders",
        "while mkdir d && cd d; do :; done; sleep 1000",
    ),
    (
        "writes 10 GB to stdout",
        "exec head -c 10000000000 /dev/zero",
    ),
    (
        "writes for ever to both",
        "while :; do echo out; echo err >&2; done",
    ),
    (
        "ignores signals",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
    ),
    (
        "leaves orphans",
        "while :; do (setsid sleep 1000 &); sleep 0.01; done",
    ),
    ("spins", "while :; do :; done"),
    (
        "writes elsewhere",
        "for f in CANARY/a CANARY/new /etc/x /x /proc/sysrq-trigger /sys/x ../../..CANARY/a; \
        do echo 6 > $f; done; sleep 1000",
    ),
    (
        "links out",
        "ln -s CANARY all; ln -s CANARY/a a; ln CANARY/a hard; echo 6 > a; echo 6 > all/a; \
        rm -rf all/; chmod 777 a; mv all/a b; sleep 1000",
    ),
    (
        "makes devices",
        "mknod d b 254 0; mknod z c 1 1; dd if=/dev/zero of=d; cat /dev/mem; sleep 1000",
    ),
    (
        "raises itself",
        "mount -t tmpfs x /tmp; unshare -U true; chroot / true; su -c id; \
        cp /bin/busybox s; chmod 6777 s; ./s su; kill -9 -1; sleep 1000",
    ),
    (
        "reaches out",
        "nc -w 1 127.0.0.1 22; nc -w 1 169.254.169.254 80; ping -c 1 8.8.8.8; \
        ls /var/run/docker.sock; sleep 1000",
    ),
];

/// How long they have. Enough for all to be at their worst; none ends by itself in it.
const LOOSE: Duration = Duration::from_secs(8);

/// Everything about the files below `dir` that a task could have changed.
fn picture(dir: &Path) -> BTreeMap<PathBuf, (u32, u32, u64, i64, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            if meta.is_dir() {
                folders.push(path.clone());
            }
            let facts = (
                meta.mode(),
                meta.uid(),
                meta.nlink(),
                meta.mtime_nsec(),
                content,
            );
            seen.insert(path, facts);
        }
    }
    seen
}

/// A folder of the host's, open to everybody who can reach it.
fn canary() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("below")).unwrap();
    for name in ["a", "below/b", "below/c"] {
        std::fs::write(at(name), name).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o666)).unwrap();
    }
    for folder in [dir.path(), &at("below")] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    dir
}

/// A container that p2pnode knows nothing of. Returns its id.
async fn foreign(subject: &DockerSubject) -> String {
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(DockerSubject::shell("exec sleep 100000")),
        network_disabled: Some(true),
        ..ContainerCreateBody::default()
    };
    let created = subject
        .engine
        .create_container(None::<CreateContainerOptions>, body);
    let id = created.await.unwrap().id;
    let start = subject
        .engine
        .start_container(&id, None::<StartContainerOptions>);
    start.await.unwrap();
    id
}

async fn is_running(subject: &DockerSubject, id: &str) -> bool {
    let inspected = subject
        .engine
        .inspect_container(id, None::<InspectContainerOptions>)
        .await;
    inspected.unwrap().state.unwrap().status == Some(ContainerStateStatusEnum::RUNNING)
}

fn let_loose<'a>(subject: &'a DockerSubject, canary: &Path) -> Vec<Trial<'a>> {
    let canary = canary.display().to_string();
    let trials = HOSTILE.map(|(_, script)| {
        let mut hostile = trial(subject, &script.replace("CANARY", &canary));
        hostile.task.resources.memory = Bytes::mib(48);
        hostile.task.resources.cpus = MilliCpus(250);
        hostile.task.resources.disk = Bytes::mib(48);
        hostile.task.resources.pids = 32;
        hostile.task.timeout = LOOSE;
        hostile
    });
    trials.into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn all_hostile_tasks_at_once_harm_nobody() {
    let subject = DockerSubject::new().await;
    let canary = canary();
    let before = picture(canary.path());
    let stranger = foreign(&subject).await;
    let memory = process_memory().0;

    let mut honest = trial(
        &subject,
        "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i >> out; sleep 0.2; done; wc -l < out",
    );
    honest.task.timeout = Duration::from_secs(120);
    let honest_runs = honest.start().await;
    let hostile = let_loose(&subject, canary.path());
    let mut running = Vec::new();
    for one in &hostile {
        running.push(one.start().await);
    }
    let mut ends = Vec::new();
    for (one, (name, _)) in running.into_iter().zip(HOSTILE) {
        // Output is read and thrown away, as a node does whose submitter wants none.
        let mut log = one.log;
        let drain = tokio::spawn(async move { while log.recv().await.is_some() {} });
        ends.push((name, drain, one.end));
    }
    for (name, drain, end) in ends {
        let end = end.await.unwrap();
        eprintln!("{name}: {:?}", end.result);
        assert!(end.result.is_err(), "`{name}` ended well");
        drain.await.unwrap();
    }
    assert_eq!(honest_runs.finish().await.expect_success().stdout, b"40\n");
    let grown = process_memory().0.saturating_sub(memory);
    assert!(grown < 128 << 20, "{grown} bytes of this process");

    assert!(
        picture(canary.path()) == before,
        "the host's files were changed"
    );
    assert!(is_running(&subject, &stranger).await);
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    let removed = subject
        .engine
        .remove_container(&stranger, Some(options))
        .await;
    removed.unwrap();
    for one in &hostile {
        // The node removes the directory; nothing holds it, however deep it is.
        let mut remove = std::process::Command::new("rm");
        let removed = remove.arg("-rf").arg(one.dir.path()).status();
        assert!(removed.unwrap().success() && !one.dir.path().exists());
    }
    clean(&subject).await;
    assert_eq!(subject.leftovers().await, [] as [String; 0]);
}
