//! Many tasks in a warm container, and tasks that go over their disk.

use crate::bench::{containers_of, failure, hosted, pair_on, shell, small_job, succeed};
use crate::harness::{Lab, eventually};

/// Twenty tasks with an output each.
fn many(isolation: &str) -> String {
    let line =
        "test ! -e out/old && mkdir -p out && echo {n} > out/{n}.txt && touch out/old && hostname";
    let task = format!("{}\nisolation = {isolation:?}", shell(line));
    small_job(
        &task,
        "[array]\nn = \"1-20\"\n[outputs]\npaths = [\"out/{n}.txt\"]",
    )
}

#[test]
#[ignore = "needs docker"]
fn tasks_that_share_warm_containers_have_folders_and_outputs_of_their_own() {
    let lab = Lab::new();
    let (provider, _mine) = pair_on(&lab, &[]);
    let ended = succeed(&lab, &lab.job("warm", &many("job"), &[]));
    let mut hosts = std::collections::BTreeSet::new();
    for n in 1..=20 {
        let made = std::fs::read_to_string(ended.out.join(format!("out/{n}.txt"))).unwrap();
        assert_eq!(made, format!("{n}\n"));
        hosts.insert(ended.log_of(n - 1));
    }
    // One CPU is two slots of a half.
    assert!(hosts.len() <= 2, "{hosts:?}");
    eventually("no container is left", || {
        containers_of(&provider.id).is_empty().then_some(())
    });
}

#[test]
#[ignore = "needs docker"]
fn a_killed_provider_leaves_no_warm_container() {
    let lab = Lab::new();
    let (mut provider, _mine) = pair_on(&lab, &[]);
    let task = format!("{}\nisolation = \"job\"", shell("echo begun; sleep 600"));
    let job = lab.job("warm", &small_job(&task, "[array]\nn = \"1-2\""), &[]);
    let args = ["submit", job.to_str().unwrap(), "--detach"];
    assert!(lab.run("me", &args).status.success());
    hosted(&lab, "a task runs", |task| task["state"] == "running");
    eventually("both containers run", || {
        (containers_of(&provider.id).len() == 2).then_some(())
    });
    provider.kill();
    eventually("no container is left", || {
        containers_of(&provider.id).is_empty().then_some(())
    });
}

/// Writes files of 1 MiB until something stops it.
const HOSTILE: &str =
    "i=0; while true; do dd if=/dev/zero of=f$i bs=1048576 count=1 2>/dev/null; i=$((i+1)); done";

fn mounts_below(path: &std::path::Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = mounts
        .lines()
        .filter(|line| line.contains(path.to_str().unwrap()));
    below.map(str::to_owned).collect()
}

#[test]
#[ignore = "needs docker"]
fn a_task_that_fills_its_disk_ends_so() {
    let lab = Lab::new();
    let (_provider, _mine) = pair_on(&lab, &[]);
    let job = small_job(&shell(HOSTILE), "[policy]\nretries = 0\ntimeout = \"50s\"");
    let failed = failure(&lab.submit("me", &lab.job("full", &job, &[]), &[]));
    assert_eq!(failed["failure"]["kind"], "disk_full", "{failed}");
}

#[test]
#[ignore = "needs docker"]
fn a_hard_disk_is_never_overrun_and_nothing_stays_mounted() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("provider")).unwrap();
    let config = "[docker]\nhard_disk = true\n";
    std::fs::write(lab.path("provider").join("config.toml"), config).unwrap();
    let (_provider, _mine) = pair_on(&lab, &[]);
    let root = std::fs::canonicalize(lab.root.path()).unwrap();
    // The shell sees that there is no room, and says how much there was.
    let line = "dd if=/dev/zero of=f bs=1048576 count=60 2>/dev/null; dd if=/dev/zero of=g bs=1048576 count=60; sync; \
                cat f g | wc -c; exit 1";
    let job = small_job(&shell(line), "[policy]\nretries = 0\ntimeout = \"50s\"");
    let ended = lab.submit("me", &lab.job("full", &job, &[]), &[]);
    let failed = failure(&ended);
    let log = ended.log_of(0);
    assert_eq!(failed["failure"]["kind"], "disk_full", "{failed}: {log}");
    let most = log.lines().last().unwrap().trim().parse::<u64>().unwrap();
    assert!(most > 32 << 20 && most <= 64 << 20, "{log}");
    eventually("nothing is mounted", || {
        mounts_below(&root).is_empty().then_some(())
    });

    // And outputs come back from such a disk.
    let good = lab.job(
        "good",
        &small_job(
            &shell("mkdir -p out; echo made > out/it"),
            "[outputs]\npaths = [\"out/it\"]",
        ),
        &[],
    );
    let ended = succeed(&lab, &good);
    assert_eq!(
        std::fs::read_to_string(ended.out.join("out/it")).unwrap(),
        "made\n"
    );
    eventually("nothing is mounted", || {
        mounts_below(&root).is_empty().then_some(())
    });
}
