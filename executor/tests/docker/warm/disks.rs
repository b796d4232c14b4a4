//! Disks of their own in containers that tasks share.

use p2pnode_protocol::Bytes;

use super::{WarmSubject, with_rooms_of};
use crate::subject::DockerSubject;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn disks_of_their_own_follow_one_another_too() {
    let Some(subject) = DockerSubject::with_hard_disks().await else {
        return;
    };
    with_rooms_of(WarmSubject(subject), async |mut job| {
        job.model.task.resources.disk = Bytes::mib(8);
        for turn in 0..3 {
            let script = "cat in; echo out > out; dd if=/dev/zero of=big bs=65536 2>/dev/null; \
                      wc -c < big; rm big";
            let trial = job.trial(script);
            std::fs::write(trial.work_dir().join("in"), format!("{turn}\n")).unwrap();
            let ended = job.start(&trial).finish().await;
            let text = String::from_utf8(ended.expect_success().stdout.clone()).unwrap();
            let (first, big) = text.trim().split_once('\n').unwrap();
            assert_eq!(first, turn.to_string());
            let big: u64 = big.parse().unwrap();
            assert!((4 << 20..=9 << 20).contains(&big), "{big}");
            let out = std::fs::read(trial.work_dir().join("out")).unwrap();
            assert_eq!(out, b"out\n");
            job.environment.release(trial.work_dir()).await;
            job.room().await;
        }
    })
    .await;
}
