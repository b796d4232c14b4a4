//! Files of a task, reached with the rights of its user.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use p2pnode_executor::inside::{FileChange, Files, OpenMode};

use super::{KINDS, open, open_with, root};
use crate::contract::clean;
use crate::sandbox::task_uid;
use crate::subject::DockerSubject;

const READ: OpenMode = OpenMode {
    read: true,
    write: false,
    append: false,
    create: false,
    truncate: false,
    exclusive: false,
};
const WRITE: OpenMode = OpenMode {
    read: false,
    write: true,
    create: true,
    truncate: true,
    ..READ
};

/// Does something with the files of a task on a thread of its own, as its user.
async fn visit<T: Send + 'static>(
    task: &super::Open<'_>,
    work: impl FnOnce(&dyn Files) -> T + Send + 'static,
) -> T {
    let mut files = task.inside.files().await.unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let visitor = std::thread::spawn(move || {
        files.settle().unwrap();
        let done = work(&*files);
        tell.send(done).ok().unwrap();
    });
    let done = told.await;
    visitor.join().expect("see the panic above");
    done.unwrap()
}

fn put(files: &dyn Files, path: &str, bytes: &[u8]) -> io::Result<()> {
    files
        .open(path.as_bytes(), WRITE, 0o644)?
        .write_at(0, bytes)
}

fn get(files: &dyn Files, path: &str) -> io::Result<Vec<u8>> {
    let file = files.open(path.as_bytes(), READ, 0)?;
    let mut bytes = vec![0; 1_000];
    let count = file.read_at(0, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("it was not refused").kind()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn files_are_read_written_listed_and_changed() {
    let subject = DockerSubject::new().await;
    if !root() {
        return;
    }
    for isolation in KINDS {
        let task = open(&subject, isolation).await;
        let work = task.trial.work_dir().to_path_buf();
        visit(&task, |files| {
            put(files, "a", b"0123456789").unwrap();
            assert_eq!(get(files, "/work/a").unwrap(), b"0123456789");
            let file = files
                .open(
                    b"a",
                    OpenMode {
                        write: true,
                        ..READ
                    },
                    0,
                )
                .unwrap();
            file.write_at(4, b"xx").unwrap();
            file.change(FileChange {
                size: Some(8),
                ..FileChange::default()
            })
            .unwrap();
            assert_eq!(file.stat().unwrap().size, 8);
            let append = OpenMode {
                append: true,
                ..READ
            };
            files
                .open(b"a", append, 0)
                .unwrap()
                .write_at(0, b"!")
                .unwrap();
            assert_eq!(get(files, "a").unwrap(), b"0123xx67!");
            let exclusive = OpenMode {
                exclusive: true,
                ..WRITE
            };
            assert_eq!(
                kind(files.open(b"a", exclusive, 0o600)),
                ErrorKind::AlreadyExists
            );
            assert_eq!(kind(files.open(b"none", READ, 0)), ErrorKind::NotFound);
            files.make_dir(b"d", 0o755).unwrap();
            files.make_link(b"../a", b"d/link").unwrap();
            assert_eq!(files.read_link(b"d/link").unwrap(), b"../a");
            assert_eq!(get(files, "d/link").unwrap(), b"0123xx67!");
            assert_eq!(files.real_path(b"d/../d/link").unwrap(), b"/work/a");
            assert_eq!(files.real_path(b"d/none").unwrap(), b"/work/d/none");
            assert_eq!(files.real_path(b".").unwrap(), b"/work");
            assert_eq!(files.real_path(b"/").unwrap(), b"/");
            assert_eq!(
                files.stat(b"d/link", true).unwrap().mode & 0o170_000,
                0o100_000
            );
            assert_eq!(
                files.stat(b"d/link", false).unwrap().mode & 0o170_000,
                0o120_000
            );
            let change = FileChange {
                mode: Some(0o6750),
                size: Some(2),
                times: Some((1_000_000_000, 1_100_000_000)),
            };
            files.change(b"a", change).unwrap();
            let stat = files.stat(b"a", true).unwrap();
            assert_eq!((stat.mode, stat.size), (0o100_750, 2), "no rights are lent");
            assert_eq!((stat.atime, stat.mtime), (1_000_000_000, 1_100_000_000));
            assert_eq!(stat.uid, task_uid());
            put(files, "b", b"b").unwrap();
            assert_eq!(
                kind(files.rename(b"a", b"b", false)),
                ErrorKind::AlreadyExists
            );
            files.rename(b"a", b"d/c", false).unwrap();
            files.rename(b"d/c", b"b", true).unwrap();
            assert_eq!(get(files, "b").unwrap(), b"01");
            assert_eq!(kind(files.remove_dir(b"d")), ErrorKind::DirectoryNotEmpty);
            files.remove_file(b"d/link").unwrap();
            files.remove_dir(b"d").unwrap();
            assert!(
                files.open(b"/work", READ, 0).is_err(),
                "a folder is no file"
            );
            for index in 0..20 {
                put(files, &format!("/tmp/{index}"), b"").unwrap();
            }
            assert_eq!(files.list(b"/tmp", 100).unwrap().len(), 20);
            assert_eq!(files.list(b"/tmp", 7).unwrap().len(), 7);
            assert_eq!(files.list(b".", 100).unwrap(), [b"b"]);
            for path in [&b"/"[..], b".", b"..", b"", b"x/.."] {
                assert!(files.remove_dir(path).is_err() && files.make_dir(path, 0o700).is_err());
            }
        })
        .await;
        let file = std::fs::metadata(work.join("b")).unwrap();
        assert_eq!((file.uid(), file.mode() & 0o7777), (task_uid(), 0o750));
        task.close().await;
    }
    clean(&subject).await;
}

/// Something on the host that no task may read, and its path as a way up from anywhere.
fn secret(dir: &Path) -> (String, String) {
    let path = dir.join("secret");
    std::fs::write(&path, b"the host's").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let path = path.canonicalize().unwrap().display().to_string();
    let up = format!("{}{path}", "/..".repeat(20));
    (path, up)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn nothing_leads_out_and_nobody_has_more_rights_than_the_task() {
    let subject = DockerSubject::new().await;
    if !root() {
        return;
    }
    for isolation in KINDS {
        let wait =
            "mkfifo pipe; ln -s /dev/null null; ln -s /proc/1/root magic; echo ready; sleep 100000";
        let task = open_with(&subject, isolation, wait, |trial| {
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
            // The host's files are not there, by whatever way.
            let beside = path.rsplit_once('/').unwrap().0.to_owned();
            for way in [
                &*path,
                &*up,
                "absolute",
                "up",
                "../..",
                &beside,
                "magic/etc/hostname",
            ] {
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
            // Nothing but files is opened, and nobody waits for a pipe.
            for way in ["pipe", "null", "/dev/zero", "/dev/pts/ptmx", "/dev/tty"] {
                assert_eq!(kind(get(files, way)), ErrorKind::PermissionDenied, "{way}");
                assert_eq!(
                    kind(put(files, way, b"x")),
                    ErrorKind::PermissionDenied,
                    "{way}"
                );
            }
            // The kernel's files would tell this thread about the host.
            for way in [
                "/proc/sys/kernel/hostname",
                "/proc/1/environ",
                "/proc/1/mem",
                "/sys/kernel/mm",
            ] {
                assert!(get(files, way).is_err(), "{way}");
            }
        })
        .await;
        assert_eq!(
            std::fs::read(task.trial.dir.path().join("kept")).unwrap(),
            b"root's"
        );
        task.close().await;
    }
    clean(&subject).await;
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn files_end_with_the_task_and_belong_to_one_thread() {
    let subject = DockerSubject::new().await;
    if !root() {
        return;
    }
    for isolation in KINDS {
        let wait = "echo ready; while [ ! -e go ]; do sleep 0.05; done";
        let task = open_with(&subject, isolation, wait, |_| {}).await;
        let mut files = task.inside.files().await.unwrap();
        // Without the task's rights nothing is done.
        assert_eq!(kind(files.stat(b".", true)), ErrorKind::PermissionDenied);
        let (go, ended) = std::sync::mpsc::channel();
        let visitor = std::thread::spawn(move || {
            files.settle().unwrap();
            assert!(files.settle().is_err(), "once is enough");
            let file = files.open(b"kept", WRITE, 0o644).unwrap();
            put(&*files, "go", b"").unwrap();
            ended.recv().unwrap();
            assert_eq!(kind(file.write_at(0, b"late")), ErrorKind::BrokenPipe);
            assert_eq!(kind(file.read_at(0, &mut [0])), ErrorKind::BrokenPipe);
            assert_eq!(kind(files.stat(b".", true)), ErrorKind::BrokenPipe);
            assert_eq!(kind(put(&*files, "late", b"")), ErrorKind::BrokenPipe);
        });
        task.running.finish().await.expect_success();
        go.send(()).unwrap();
        visitor.join().unwrap();
        assert_eq!(
            std::fs::read(task.trial.work_dir().join("kept")).unwrap(),
            b""
        );
    }
    clean(&subject).await;
}
