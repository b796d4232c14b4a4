//! Files of a task: what can be done with them, and until when.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;

use p2pnode_executor::Runtime;
use p2pnode_executor::inside::{FileChange, Files, OpenMode};

use super::{KINDS, WORK, open, open_with, root};
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
pub(super) async fn visit<T: Send + 'static>(
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

pub(super) fn put(files: &dyn Files, path: &str, bytes: &[u8]) -> io::Result<()> {
    files
        .open(path.as_bytes(), WRITE, 0o644)?
        .write_at(0, bytes)
}

pub(super) fn get(files: &dyn Files, path: &str) -> io::Result<Vec<u8>> {
    let file = files.open(path.as_bytes(), READ, 0)?;
    let mut bytes = vec![0; 1_000];
    let count = file.read_at(0, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// The absolute path of a file in the work directory.
fn there(path: &str) -> String {
    format!("{WORK}/{path}")
}

pub(super) fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("it was not refused").kind()
}

/// Reads and writes.
fn contents(files: &dyn Files) {
    put(files, "a", b"0123456789").unwrap();
    assert_eq!(get(files, &there("a")).unwrap(), b"0123456789");
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
}

/// A folder with a link in it.
fn links(files: &dyn Files) {
    files.make_dir(b"d", 0o755).unwrap();
    files.make_link(b"../a", b"d/link").unwrap();
    assert_eq!(files.read_link(b"d/link").unwrap(), b"../a");
    assert_eq!(get(files, "d/link").unwrap(), b"0123xx67!");
    let real = |path: &[u8]| files.real_path(path).unwrap();
    assert_eq!(real(b"d/../d/link"), there("a").into_bytes());
    assert_eq!(real(b"d/none"), there("d/none").into_bytes());
    assert_eq!(real(b"."), WORK.as_bytes());
    assert_eq!(files.real_path(b"/").unwrap(), b"/");
    assert_eq!(
        files.stat(b"d/link", true).unwrap().mode & 0o170_000,
        0o100_000
    );
    assert_eq!(
        files.stat(b"d/link", false).unwrap().mode & 0o170_000,
        0o120_000
    );
}

/// What is known of a file is changed, and its name.
fn changes(files: &dyn Files) {
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
}

/// More than goes at once, and names and bytes that a shell would stumble over.
fn oddities(files: &dyn Files) {
    let odd = "-o 'd\"d $HOME\\0101\n\n";
    let mut bytes: Vec<u8> = (0..700_000_u32)
        .map(|number| (number / 251) as u8)
        .collect();
    bytes.extend_from_slice(b"\n0123456789abcdef 0\n");
    put(files, odd, &bytes).unwrap();
    let file = files.open(odd.as_bytes(), READ, 0).unwrap();
    let mut read = vec![1; bytes.len() + 9];
    assert_eq!(file.read_at(0, &mut read).unwrap(), bytes.len());
    assert!(read[..bytes.len()] == bytes);
    assert_eq!(file.read_at(699_999, &mut read[..1]).unwrap(), 1);
    assert_eq!(read[0], bytes[699_999]);
    assert_eq!(file.read_at(bytes.len() as u64, &mut read).unwrap(), 0);
    let listed = files.list(b".", 100).unwrap();
    assert!(listed.contains(&odd.as_bytes().to_vec()), "{listed:?}");
    assert_eq!(
        files.real_path(odd.as_bytes()).unwrap(),
        there(odd).into_bytes()
    );
    let latin = b"caf\xe9".to_vec();
    files.rename(odd.as_bytes(), &latin, false).unwrap();
    assert_eq!(files.stat(&latin, true).unwrap().size, bytes.len() as u64);
    // What cannot be written leaves the rest as it is.
    let gone = files.open(&latin, WRITE, 0o644).unwrap();
    files.remove_file(&latin).unwrap();
    let _lost_or_not = gone.write_at(0, &bytes);
    assert_eq!(kind(files.stat(&latin, true)), ErrorKind::NotFound);
    assert!(files.stat(b"a\0b", true).is_err());
    assert!(files.stat(&[b'a'; 5_000], true).is_err());
}

/// Names in folders, and names that are none.
fn lists(files: &dyn Files) {
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
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn files_are_read_written_listed_and_changed() {
    if !root() {
        return;
    }
    let plain = Some(DockerSubject::new().await);
    let disks = DockerSubject::with_hard_disks().await;
    for subject in [plain, disks, Some(super::blind().await)] {
        let Some(subject) = subject else { continue };
        files_are_files(&subject).await;
        clean(&subject).await;
    }
}

async fn files_are_files(subject: &DockerSubject) {
    for isolation in KINDS {
        let task = open(subject, isolation).await;
        let work = task.trial.work_dir().to_path_buf();
        visit(&task, |files| {
            oddities(files);
            contents(files);
            links(files);
            changes(files);
            lists(files);
        })
        .await;
        // A disk of its own is somewhere else.
        if !subject.runtime.probe().await.features.hard_disk {
            let file = std::fs::metadata(work.join("b")).unwrap();
            assert_eq!((file.uid(), file.mode() & 0o7777), (task_uid(), 0o750));
        }
        task.close().await;
    }
}

/// The kernel counts what a file in memory takes for whoever writes it, and that is not the task.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn little_goes_into_a_tasks_memory_and_nothing_into_the_kernels() {
    if !root() {
        return;
    }
    let subject = DockerSubject::new().await;
    let task = open(&subject, KINDS[0]).await;
    visit(&task, |files| {
        let piece = vec![7; 1 << 20];
        put(files, "/tmp/small", b"fits").unwrap();
        let mut written = 0;
        while put(files, &format!("/tmp/{written}"), &piece).is_ok() {
            written += 1;
            assert!(written <= 16, "memory without end");
        }
        assert!(written >= 14, "{written} MiB");
        let more = files.open(b"/dev/shm/x", WRITE, 0o600);
        let more = more.and_then(|file| file.write_at(0, &piece));
        assert_eq!(
            kind(more),
            ErrorKind::StorageFull,
            "one account for all of them"
        );
        // The work directory is no memory.
        for number in 0..20 {
            put(files, &format!("large{number}"), &piece).unwrap();
        }
        let change = FileChange {
            mode: Some(0o777),
            ..FileChange::default()
        };
        let changed = files.change(b"/proc/meminfo", change);
        assert_eq!(kind(changed), ErrorKind::PermissionDenied);
        assert!(files.make_dir(b"/proc/sys/x", 0o700).is_err());
    })
    .await;
    task.close().await;
    clean(&subject).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker"]
async fn files_end_with_the_task_and_belong_to_one_thread() {
    if !root() {
        return;
    }
    for subject in [DockerSubject::new().await, super::blind().await] {
        files_end_with_the_task(&subject).await;
        clean(&subject).await;
    }
}

async fn files_end_with_the_task(subject: &DockerSubject) {
    for isolation in KINDS {
        let wait = "echo ready; while [ ! -e go ]; do sleep 0.05; done";
        let task = open_with(subject, isolation, wait, |_| {}).await;
        let mut files = task.inside.files().await.unwrap();
        // Without the task's rights nothing is done.
        assert_eq!(kind(files.stat(b".", true)), ErrorKind::PermissionDenied);
        let (go, ended) = std::sync::mpsc::sync_channel(1);
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
}
