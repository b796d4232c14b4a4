//! Files of a task are reached with the rights of its user, and no others.

use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use p2pnode_executor::inside::{FileChange, Files};

use super::files::{get, kind, put, visit};
use super::{KINDS, blind, open_with, root};
use crate::contract::clean;
use crate::sandbox::task_uid;
use crate::subject::DockerSubject;

/// Something on the host that no task may read, and its path as a way up from anywhere.
fn secret(dir: &Path) -> (String, String) {
    let path = dir.join("secret");
    std::fs::write(&path, b"the host's").unwrap();
    // Nothing but the walls is to keep a task from it.
    for (path, mode) in [(&*path, 0o644), (dir, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = path.canonicalize().unwrap().display().to_string();
    let up = format!("{}{path}", "/..".repeat(20));
    (path, up)
}

/// `path` is a file of the host's, and `up` the same by a way up.
fn nothing_leads_out(files: &dyn Files, path: &str, up: &str) {
    // The host's files are not there, by whatever way.
    let beside = path.rsplit_once('/').unwrap().0.to_owned();
    for way in [path, up, "absolute", "up", "../..", &beside] {
        assert!(get(files, way).is_err(), "{way}");
    }
    // A link that leads up leads to the container's own files.
    let names = get(files, "names").unwrap();
    assert!(
        names.starts_with(b"root:x:0:0:root:/:/bin/sh"),
        "the container's own"
    );
    assert_eq!(files.real_path(b"root/../../..").unwrap(), b"/");
    assert!(
        files
            .list(b"root", 1_000)
            .unwrap()
            .contains(&b"work".to_vec())
    );
}

/// Others' files, and what is read-only.
fn rights_are_the_tasks(files: &dyn Files) {
    // Others' files stay theirs.
    assert_eq!(kind(get(files, "theirs")), ErrorKind::PermissionDenied);
    let open = FileChange {
        mode: Some(0o666),
        ..FileChange::default()
    };
    assert_eq!(
        kind(files.change(b"theirs", open)),
        ErrorKind::PermissionDenied
    );
    // What is read-only for the task is so here.
    for way in ["/etc/x", "/etc/passwd", "/x", "/bin/sh", "names"] {
        let kind = kind(put(files, way, b"x"));
        let expected = [ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied];
        assert!(expected.contains(&kind), "{way}: {kind}");
    }
    assert!(files.make_dir(b"/etc/d", 0o777).is_err());
    assert!(files.remove_file(b"/etc/passwd").is_err());
    assert!(files.rename(b"/etc/passwd", b"/tmp/p", true).is_err());
}

/// Devices and pipes.
fn nothing_but_files_opens(files: &dyn Files) {
    // Nothing but files is opened, and nobody waits for a pipe.
    for way in ["pipe", "null", "/dev/zero", "/dev/pts/ptmx", "/dev/tty"] {
        assert_eq!(kind(get(files, way)), ErrorKind::PermissionDenied, "{way}");
        assert_eq!(
            kind(put(files, way, b"x")),
            ErrorKind::PermissionDenied,
            "{way}"
        );
    }
}

/// Files of the kernel, which would tell this thread about the host, and not about the task.
fn nothing_of_the_kernels_opens(files: &dyn Files) {
    for way in [
        "magic/etc/hostname",
        "/proc/sys/kernel/hostname",
        "/proc/1/environ",
        "/proc/1/mem",
        "/sys/kernel/mm",
    ] {
        assert!(get(files, way).is_err(), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn nothing_leads_out_and_nobody_has_more_rights_than_the_task() {
    if !root() {
        return;
    }
    for (subject, seen) in [(DockerSubject::new().await, true), (blind().await, false)] {
        nothing_leads_out_of(&subject, seen).await;
        clean(&subject).await;
    }
}

/// `seen`: the files are reached from this host.
async fn nothing_leads_out_of(subject: &DockerSubject, seen: bool) {
    for isolation in KINDS {
        let wait =
            "mkfifo pipe; ln -s /dev/null null; ln -s /proc/1/root magic; echo ready; sleep 100000";
        let task = open_with(subject, isolation, wait, |trial| {
            let (path, up) = secret(trial.dir.path());
            let work = trial.work_dir();
            symlink(&path, work.join("absolute")).unwrap();
            symlink(&up, work.join("up")).unwrap();
            symlink("/", work.join("root")).unwrap();
            // Somebody else's, which has two names and so was not given to the task.
            std::fs::write(work.join("theirs"), b"root's").unwrap();
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(work.join("theirs"), private).unwrap();
            std::fs::hard_link(work.join("theirs"), trial.dir.path().join("kept")).unwrap();
            symlink("/etc/passwd", work.join("names")).unwrap();
        })
        .await;
        let (path, up) = secret(task.trial.dir.path());
        visit(&task, move |files| {
            nothing_leads_out(files, &path, &up);
            rights_are_the_tasks(files);
            nothing_but_files_opens(files);
            // Who asks from within is told about the task.
            if seen {
                nothing_of_the_kernels_opens(files);
            }
        })
        .await;
        assert_eq!(
            std::fs::read(task.trial.dir.path().join("kept")).unwrap(),
            b"root's"
        );
        task.close().await;
    }
}

/// The kernel's own word on the thread.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn the_thread_has_the_tasks_rights_and_no_capability() {
    let subject = DockerSubject::new().await;
    if !root() {
        return;
    }
    for task_root in [false, true] {
        let task = open_with(&subject, KINDS[0], super::WAIT, |trial| {
            trial.task.root = task_root;
        })
        .await;
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let status = visit(&task, |files| {
            files.stat(b".", true).unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        })
        .await;
        let uid = if task_root { 0 } else { task_uid() };
        assert!(
            status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")),
            "{status}"
        );
        assert!(status.contains("Groups:\t \n"), "{status}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(
                status.contains(&format!("{set}:\t0000000000000000\n")),
                "{status}"
            );
        }
        // Nobody else has lost anything.
        let after = std::fs::read_to_string("/proc/self/status").unwrap();
        let caps = |status: &str| {
            let lines = status
                .lines()
                .filter(|line| line.starts_with("Cap") || line.starts_with("Uid"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(caps(&own), caps(&after));
        task.close().await;
    }
    clean(&subject).await;
}
