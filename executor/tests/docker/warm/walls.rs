//! The walls of containers that wait, and what makes one unfit for another task.

use std::collections::BTreeSet;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::NetworkMode;

use super::{Job, with_rooms};
use crate::contract::{Act, Trial, clean};
use crate::subject::DockerSubject;

/// What stands in a container that is neither the engine's own nor in memory: where, and how.
fn from_disk(table: &str) -> BTreeSet<(String, bool)> {
    let engines_own = ["/etc/resolv.conf", "/etc/hostname"];
    let virtual_kinds = [
        "proc", "tmpfs", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay",
    ];
    let mut found = BTreeSet::new();
    for line in table.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let kind = fields[fields.iter().position(|field| *field == "-").unwrap() + 1];
        if !virtual_kinds.contains(&kind) && !engines_own.contains(&fields[4]) {
            let read_only = fields[5].split(',').any(|option| option == "ro");
            found.insert((fields[4].to_owned(), read_only));
        }
    }
    found
}

/// The work directory, and what is the same for all: the table of names, and the program that waits.
fn allowed() -> BTreeSet<(String, bool)> {
    [
        ("/work", false),
        ("/etc/hosts", true),
        ("/.p2pnode-pause", true),
    ]
    .map(|(at, read_only)| (at.to_owned(), read_only))
    .into()
}

fn with_way_out(trial: &mut Trial<'_>) {
    trial.task.network = NetworkMode::Egress {
        domains: vec!["site.test".into()],
    };
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_container_that_waits_has_no_mount_but_these() {
    with_rooms(async |job: Job<'_>| {
        let look = "cat /proc/self/mountinfo";
        assert_eq!(from_disk(&job.text(look).await), allowed());
        // With a way out, also for a task that shares with nobody.
        for isolation in [
            p2pnode_protocol::task::Isolation::Job,
            p2pnode_protocol::task::Isolation::Task,
        ] {
            let mut trial = job.trial(look);
            trial.task.isolation = isolation;
            with_way_out(&mut trial);
            let ended = job.start(&trial).finish().await;
            let table = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
            assert_eq!(from_disk(&table), allowed(), "{isolation:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn message_queues_are_taken_away_and_too_many_files_cost_the_room() {
    with_rooms(async |job: Job<'_>| {
        let find = "find /tmp /dev/shm /dev/mqueue -mindepth 1 | wc -l";
        let left = job.text(": > /dev/mqueue/queue; ls /dev/mqueue").await;
        assert_eq!(left, "queue\n");
        let room = job.room().await;
        assert_eq!(job.text(find).await.trim(), "0");
        assert_eq!(job.room().await, room);
        // One more than is cleared away.
        let many = "cd /tmp; i=0; while [ $i -le 10000 ]; do : > $i; i=$((i+1)); done; echo done";
        assert_eq!(job.text(many).await, "done\n");
        assert_eq!(job.text(find).await.trim(), "0");
        assert_ne!(job.room().await, room, "the container was not replaced");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn a_way_out_and_a_disk_of_its_own_go_together() {
    let Some(subject) = DockerSubject::with_hard_disks().await else {
        return;
    };
    let limit = Bytes::mib(16);
    let mut trial = Trial::new(&subject, Act::Exit(0));
    trial.task.command = DockerSubject::shell(
        "echo $http_proxy; dd if=/dev/zero of=big bs=65536 2>/dev/null; wc -c < big",
    );
    trial.task.resources.disk = limit;
    with_way_out(&mut trial);
    let environment = trial.prepare().await;
    let ended = trial.run().await;
    let text = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
    let (proxy, big) = text.trim().split_once('\n').unwrap();
    assert!(proxy.contains(":3128"), "{proxy}");
    let big: u64 = big.parse().unwrap();
    assert!((limit.0 / 2..=limit.0).contains(&big), "{big}");
    environment.release(trial.work_dir()).await;
    clean(&subject).await;
}
