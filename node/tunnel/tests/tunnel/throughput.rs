//! How fast `scp` is through the server of a task, beside a real `sshd`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::rig::{Rig, SshWay};

/// 256 MiB: seconds, even through a slow cipher.
const BYTES: u64 = 256 << 20;

async fn timed(mut command: Command) -> Duration {
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).status().await.unwrap();
    assert!(status.success());
    begun.elapsed()
}

fn rate(took: Duration) -> f64 {
    BYTES as f64 / f64::from(1 << 20) / took.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for release builds; needs openssh-server"]
async fn scp_beside_sshd() {
    let rig = Rig::new();
    let way = SshWay::new(&rig).await;
    let file = rig.outside("file");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(BYTES)
        .unwrap();
    let mut report = String::new();
    for (name, up) in [("up", true), ("down", false)] {
        let mut scp = way.program("scp");
        scp.args(["-s", "-q"]);
        if up {
            scp.arg(&file).arg("task:copy");
        } else {
            scp.arg("task:copy").arg(rig.outside("back"));
        }
        let ours = timed(scp).await;
        let theirs = timed(beside(&rig, up)).await;
        report += &format!(
            "scp {name}: {:.0} MiB/s, sshd {:.0} MiB/s, ratio {:.2}\n",
            rate(ours),
            rate(theirs),
            rate(ours) / rate(theirs)
        );
    }
    std::fs::write(std::env::temp_dir().join("p2pnode-scp-throughput"), &report).unwrap();
    assert_eq!(rig.inside("copy").metadata().unwrap().len(), BYTES);
}

/// The same copy through a `sshd` of its own, started for one connection.
fn beside(rig: &Rig, up: bool) -> Command {
    let host_key = rig.outside("sshd-key");
    if !host_key.exists() {
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&host_key)
            .status()
            .unwrap();
        assert!(made.success());
        let public = std::process::Command::new("ssh-keygen")
            .arg("-y")
            .arg("-f")
            .arg(rig.outside("key"))
            .output()
            .unwrap();
        std::fs::write(rig.outside("authorized"), public.stdout).unwrap();
    }
    let proxy = format!(
        "/usr/sbin/sshd -i -f /dev/null -h {} -o AuthorizedKeysFile={} -o StrictModes=no \
         -o UsePAM=no -o PermitRootLogin=yes -o Subsystem='sftp internal-sftp'",
        host_key.display(),
        rig.outside("authorized").display()
    );
    let mut scp = Command::new("scp");
    scp.args([
        "-s",
        "-q",
        "-F",
        "/dev/null",
        "-o",
        "StrictHostKeyChecking=no",
    ])
    .args([
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
        "-i",
    ])
    .arg(rig.outside("key"))
    .arg("-o")
    .arg(format!("ProxyCommand={proxy}"))
    .kill_on_drop(true);
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    let there = |name: &str| format!("{user}@sshd:{}", rig.inside(name).display());
    if up {
        scp.arg(rig.outside("file")).arg(there("theirs"));
    } else {
        scp.arg(there("theirs")).arg(rig.outside("theirs-back"));
    }
    scp
}
