//! What a task may do, and what a worker process may do.

use std::time::Duration;

use p2pnode_executor::{ProgramFile, Runtime};
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::FailureKind;
use tokio::sync::mpsc;

use crate::bench::{Bench, failure, task};
use crate::programs;

#[tokio::test]
async fn only_the_work_directory_can_be_reached() {
    let bench = Bench::new();
    std::fs::write(bench.root.path().join("secret"), b"x").unwrap();
    let task = bench.task();
    std::fs::create_dir(task.work_dir.join("sub")).unwrap();
    let secret = bench.root.path().join("secret");
    std::os::unix::fs::symlink(&secret, task.work_dir.join("link")).unwrap();
    std::os::unix::fs::symlink("../secret", task.work_dir.join("sub/link")).unwrap();
    std::os::unix::fs::symlink("..", task.work_dir.join("up")).unwrap();
    let module = programs::break_out(&[
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "etc/passwd/../passwd",
        "../../../../../../../../etc/passwd",
        "link",
        "up/secret",
        "up",
        "..",
        "/proc/self/environ",
    ]);
    let (end, _) = bench.run(&module, task.clone()).await;
    assert_eq!(end.result, Ok(()));
    // What is inside can be reached, by both names of the folder: so the above were not denied for
    // another reason. (`sub/link` leads to a file `secret` inside.)
    std::fs::write(task.work_dir.join("secret"), b"x").unwrap();
    for path in ["sub/../secret", "sub/link"] {
        let (end, _) = bench.run(&programs::break_out(&[path]), task.clone()).await;
        assert_eq!(failure(&end).kind, FailureKind::Exit(9), "{path}");
    }
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn traps_and_exit_codes_are_told_apart() {
    let bench = Bench::new();
    let (end, _) = bench
        .run(&programs::start("unreachable"), bench.task())
        .await;
    let trap = failure(&end);
    assert_eq!(trap.kind, FailureKind::Exit(134));
    assert!(trap.message.contains("unreachable"), "{}", trap.message);
    for code in [1, 125, 126, 200, 255] {
        let (end, _) = bench.run(&programs::exit(code), bench.task()).await;
        assert_eq!(failure(&end).kind, FailureKind::Exit(code as i32));
    }
    let deep = "(func $deep (call $deep)) (func (export \"_start\") (call $deep))";
    let (end, _) = bench.run(&programs::module(deep), bench.task()).await;
    let message = &failure(&end).message;
    assert!(message.contains("stack"), "{message}");
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn modules_that_cannot_be_run_are_refused() {
    let bench = Bench::new();
    for (module, words) in [
        (b"garbage".to_vec(), "not a WASM module"),
        (Vec::new(), "empty"),
        (b"\0asm\x0d\0\x01\0".to_vec(), "component"),
        (wat::parse_str("(module)").unwrap(), "_start"),
    ] {
        let Err(failure) = bench.try_prepare(&module).await else {
            panic!("was prepared: {words}");
        };
        assert_eq!(failure.kind, FailureKind::BadProgram);
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    let (progress, _) = mpsc::channel(1);
    let image = ProgramFile::Image {
        reference: "debian".into(),
        credentials: None,
        local_registry: true,
    };
    assert!(bench.runtime.prepare(image, progress).await.is_err());
    // The worker is none the worse for it.
    let (end, _) = bench.run(&programs::noop(), bench.task()).await;
    assert_eq!(end.result, Ok(()));
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn a_module_that_needs_too_much_memory_says_so() {
    let bench = Bench::new();
    let module =
        wat::parse_str("(module (memory (export \"memory\") 1024) (func (export \"_start\")))")
            .unwrap();
    let mut task = bench.task();
    task.resources.memory = Bytes::mib(32);
    let (end, _) = bench.run(&module, task).await;
    assert_eq!(failure(&end).kind, FailureKind::OutOfMemory);
    let mut task = bench.task();
    task.resources.memory = Bytes::mib(64);
    let (end, _) = bench.run(&module, task).await;
    assert_eq!(end.result, Ok(()));
    assert_eq!(end.usage.memory_peak, Bytes::mib(64).0);
    bench.runtime.shutdown().await;
}

#[tokio::test]
async fn tasks_that_no_worker_can_run_fail_with_reasons() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    let (end, _) = bench.run(&programs::noop(), task(outside.path())).await;
    assert_eq!(failure(&end).kind, FailureKind::Host);
    let mut task = bench.task();
    task.command = vec!["x".repeat(2 << 20)];
    let (end, _) = bench.run(&programs::noop(), task).await;
    assert_eq!(failure(&end).kind, FailureKind::BadProgram);
    let mut task = bench.task();
    task.resources.gpus.count = 1;
    let (end, _) = bench.run(&programs::noop(), task).await;
    assert_eq!(failure(&end).kind, FailureKind::BadProgram);
    let mut task = bench.task();
    std::fs::remove_dir(&task.work_dir).unwrap();
    task.command = vec!["noop".into()];
    let (end, _) = bench.run(&programs::noop(), task).await;
    assert_eq!(failure(&end).kind, FailureKind::Host);
    bench.runtime.shutdown().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_worker_process_is_confined() {
    // A file that a careless parent left open for its children.
    let leaked = tempfile::NamedTempFile::new().unwrap();
    let inheritable = rustix::io::dup(&leaked).unwrap();
    rustix::io::fcntl_setfd(&inheritable, rustix::io::FdFlags::empty()).unwrap();

    let bench = Bench::new();
    bench.prepare(&programs::noop()).await;
    let process = format!("/proc/{}", bench.worker().as_raw_nonzero());
    let read = |name: &str| std::fs::read_to_string(format!("{process}/{name}")).unwrap();
    assert_eq!(read("environ"), "");
    let status = read("status");
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap().split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(line("NoNewPrivs:"), "1");
    assert_eq!(line("Seccomp:"), "2");
    let capabilities = u64::from_str_radix(&line("CapEff:"), 16).unwrap();
    // CAP_DAC_OVERRIDE (1) and CAP_FOWNER (3) at most.
    assert_eq!(capabilities & !0b1010, 0, "{capabilities:x}");
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    assert!(core.unwrap().contains(" 0 "), "{limits}");
    for entry in std::fs::read_dir(format!("{process}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        let target = target.to_string_lossy();
        assert!(
            target.starts_with("pipe:") || target.starts_with("/memfd:"),
            "{target}"
        );
    }
    bench.runtime.shutdown().await;
}

/// Landlock holds even where paths do not: a work directory that leads out of the root by a link is
/// no help to a worker. (That such a file can be reached inside is checked above.)
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_cannot_open_files_outside_its_root() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"x").unwrap();
    let link = bench.root.path().join("link");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    let module = programs::break_out(&["secret", "new"]);
    let (end, _) = bench.run(&module, task(&link)).await;
    assert_eq!(end.result, Ok(()));
    assert!(!outside.path().join("new").exists());
    bench.runtime.shutdown().await;
}

/// All tasks share one process's files.
#[tokio::test]
async fn a_task_cannot_take_all_files() {
    let bench = Bench::new();
    let module = programs::module(
        r#"(data (i32.const 1024) "file")
           (func (export "_start") (local $count i32) (local $errno i32)
             (loop $more
               (local.set $errno
                 (call $open (i32.const 3) (i32.const 1024) (i32.const 4) (i32.const 1)))
               (if (i32.eqz (local.get $errno)) (then
                 (local.set $count (i32.add (local.get $count) (i32.const 1)))
                 (br_if $more (i32.lt_u (local.get $count) (i32.const 100000))))))
             ;; Closed ones may be opened again.
             (call $check (call $fd_close (i32.load (i32.const 16))))
             (call $check
               (call $open (i32.const 3) (i32.const 1024) (i32.const 4) (i32.const 1)))
             (call $check (i32.ne (local.get $count) (i32.const 1024)))
             (call $exit (local.get $errno)))"#,
    );
    let (end, _) = bench.run(&module, bench.task()).await;
    // "Too many open files".
    assert_eq!(failure(&end).kind, FailureKind::Exit(33));
    bench.runtime.shutdown().await;
}

/// Files that the guest opens in the place of stdout count like any other.
#[tokio::test]
async fn the_disk_limit_holds_for_moved_descriptors() {
    let bench = Bench::new();
    let module = programs::module(
        r#"(data (i32.const 1024) "big")
           (func (export "_start")
             (call $check (call $fd_close (i32.const 1)))
             (call $check (call $open (i32.const 3) (i32.const 1024) (i32.const 3) (i32.const 1)))
             (call $check (i32.ne (i32.load (i32.const 16)) (i32.const 1)))
             (loop $more
               (call $write (i32.const 1) (i32.const 65536) (i32.const 65536))
               (br $more)))"#,
    );
    let mut task = bench.task();
    task.resources.disk = Bytes::mib(4);
    task.timeout = Duration::from_secs(20);
    let (end, _) = bench.run(&module, task.clone()).await;
    assert_eq!(failure(&end).kind, FailureKind::DiskFull);
    let size = std::fs::metadata(task.work_dir.join("big")).unwrap().len();
    assert!(size <= Bytes::mib(4).0, "{size}");
    bench.runtime.shutdown().await;
}

/// Five times: makes the file `one` of 1.5 MiB, does `then` with it, whose descriptor is `$file`.
fn five_files(then: &str) -> Vec<u8> {
    programs::module(&format!(
        r#"(data (i32.const 1024) "onetwo")
           (func (export "_start") (local $file i32) (local $count i32) (local $part i32)
             ;; Another one stays open all the while, and keeps its name.
             (call $check (call $open (i32.const 3) (i32.const 1027) (i32.const 2) (i32.const 1)))
             (loop $more
               (call $check (call $open (i32.const 3) (i32.const 1024) (i32.const 3) (i32.const 1)))
               (local.set $file (i32.load (i32.const 16)))
               (local.set $part (i32.const 0))
               (loop $parts
                 (call $write (local.get $file) (i32.const 65536) (i32.const 65536))
                 (local.set $part (i32.add (local.get $part) (i32.const 1)))
                 (br_if $parts (i32.lt_u (local.get $part) (i32.const 24))))
               {then}
               (local.set $count (i32.add (local.get $count) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $count) (i32.const 5)))))"#
    ))
}

/// A file that is open takes its place with and without a name.
#[tokio::test]
async fn the_disk_limit_holds_for_files_without_a_name() {
    let bench = Bench::new();
    let close = "(call $check (call $fd_close (local.get $file)))";
    let unlink =
        "(call $check (call $path_unlink_file (i32.const 3) (i32.const 1024) (i32.const 3)))";
    let rename = "(call $check (call $path_rename (i32.const 3) (i32.const 1024) (i32.const 3)
                    (i32.const 3) (i32.const 1027) (i32.const 3)))";
    // Closing what the guest has never opened hides nothing.
    let confuse = "(if (i32.eqz (local.get $count)) (then (drop (call $fd_close (i32.const 0)))))";
    for (then, fits) in [
        (unlink.to_owned(), false),
        (rename.to_owned(), false),
        (format!("{unlink} {confuse}"), false),
        (format!("{unlink} {close}"), true),
        (format!("{rename} {close}"), true),
    ] {
        let mut task = bench.task();
        task.resources.disk = Bytes::mib(4);
        task.timeout = Duration::from_secs(20);
        let (end, _) = bench.run(&five_files(&then), task).await;
        match fits {
            true => assert_eq!(end.result, Ok(()), "{then}"),
            false => assert_eq!(failure(&end).kind, FailureKind::DiskFull, "{then}"),
        }
    }
    bench.runtime.shutdown().await;
}

/// One that does not fit the pool of ready-made memories and tables.
#[tokio::test]
async fn an_unusual_module_runs_as_well() {
    let bench = Bench::new();
    let module = wat::parse_str(
        "(module (memory (export \"memory\") 1) (table 100000 funcref) (func (export \"_start\")))",
    )
    .unwrap();
    let mut task = bench.task();
    let (end, _) = bench.run(&module, task.clone()).await;
    assert_eq!(end.result, Ok(()));
    assert!(end.usage.memory_peak > 100_000, "{:?}", end.usage);
    task.resources.memory = Bytes(200_000);
    let (end, _) = bench.run(&module, task).await;
    assert_eq!(failure(&end).kind, FailureKind::OutOfMemory);
    bench.runtime.shutdown().await;
}
