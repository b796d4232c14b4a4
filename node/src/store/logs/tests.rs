//! Logs as the driver uses them, on real files.

use p2pnode_protocol::task::Stream;

use super::*;

const JOB: JobId = JobId([7; 8]);

fn task(index: TaskIndex, attempt: u32) -> TaskRef {
    TaskRef {
        step: 0,
        index,
        attempt,
    }
}

fn frame(index: TaskIndex, offset: u64, text: &str) -> LogFrame {
    LogFrame {
        step: 0,
        index,
        attempt: 1,
        stream: Stream::Stdout,
        offset,
        bytes: text.into(),
    }
}

fn text(frames: &[LogFrame]) -> String {
    let bytes: Vec<u8> = frames.iter().flat_map(|f| f.bytes.clone()).collect();
    String::from_utf8(bytes).unwrap()
}

fn read_all(logs: &JobLogs, filter: Option<TaskFilter>) -> String {
    let page = logs
        .read(JOB, filter, LogPosition::default(), usize::MAX)
        .unwrap();
    assert!(page.at_end);
    text(&page.frames)
}

#[test]
fn each_byte_is_kept_once_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    assert_eq!(logs.append(JOB, frame(1, 0, "abc")).unwrap().len(), 1);
    assert!(logs.append(JOB, frame(1, 0, "abc")).unwrap().is_empty());
    assert!(logs.append(JOB, frame(1, 1, "b")).unwrap().is_empty());
    assert!(logs.append(JOB, frame(1, 9, "")).unwrap().is_empty());
    drop(logs);

    let logs = JobLogs::open(folder.path()).unwrap();
    assert_eq!(logs.received(JOB, task(1, 1)).unwrap(), 3);
    // A frame cut otherwise than before: only what is new of it counts.
    let new = logs.append(JOB, frame(1, 2, "cdef")).unwrap();
    assert_eq!((new[0].offset, text(&new).as_str()), (3, "def"));
    // A gap, then what fills it, over both edges.
    logs.append(JOB, frame(1, 8, "i")).unwrap();
    let new = logs.append(JOB, frame(1, 4, "efghijk")).unwrap();
    assert_eq!(text(&new), "ghjk");
    assert_eq!(logs.received(JOB, task(1, 1)).unwrap(), 11);
    assert_eq!(logs.received(JOB, task(1, 2)).unwrap(), 0);
    assert_eq!(logs.received(JobId([8; 8]), task(1, 1)).unwrap(), 0);
    assert_eq!(read_all(&logs, None), "abcdefighjk");
}

#[test]
fn readers_page_follow_and_filter() {
    let folder = tempfile::tempdir().unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    for at in 0..100 {
        logs.append(JOB, frame(at % 3, u64::from(at / 3) * 2, "x\n"))
            .unwrap();
    }
    let only = TaskFilter { step: 0, index: 1 };
    let mut position = LogPosition::default();
    let mut seen = 0;
    loop {
        let page = logs.read(JOB, Some(only), position, 5).unwrap();
        assert!(page.frames.len() <= 3);
        assert!(page.frames.iter().all(|frame| frame.index == 1));
        seen += page.frames.len();
        position = page.next;
        if page.at_end {
            break;
        }
    }
    assert_eq!(seen, 33);
    // The position at the end is where a follower goes on, even after a restart.
    drop(logs);
    let logs = JobLogs::open(folder.path()).unwrap();
    assert_eq!(logs.read(JOB, None, position, 100).unwrap().frames.len(), 0);
    logs.append(JOB, frame(2, 900, "later")).unwrap();
    let page = logs.read(JOB, None, position, 100).unwrap();
    assert_eq!(text(&page.frames), "later");
    // A frame is never cut, whatever the limit.
    assert_eq!(
        text(&logs.read(JOB, None, position, 0).unwrap().frames),
        "later"
    );
}

#[test]
fn made_up_positions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    logs.append(JOB, frame(1, 0, &"y".repeat(100))).unwrap();
    for position in [13, 40, 1 << 40] {
        let read = logs.read(JOB, None, LogPosition(position), 10);
        assert!(matches!(read, Err(LogsError::BadPosition(_))), "{position}");
    }
}

#[test]
fn what_a_crash_cut_off_is_dropped_and_can_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{JOB}.log"));
    let whole = {
        let logs = JobLogs::open(folder.path()).unwrap();
        logs.append(JOB, frame(1, 0, "first ")).unwrap();
        logs.append(JOB, frame(1, 6, "second")).unwrap();
        fs::read(&path).unwrap()
    };
    let second_entry = whole.len() - 6 - format::HEADER_BYTES;
    for length in second_entry + 1..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let logs = JobLogs::open(folder.path()).unwrap();
        assert_eq!(logs.received(JOB, task(1, 1)).unwrap(), 6, "{length}");
        assert_eq!(logs.append(JOB, frame(1, 6, "second")).unwrap().len(), 1);
        assert_eq!(read_all(&logs, None), "first second");
    }
    // The system wrote the length but not the bytes.
    let mut zeroed = whole[..second_entry].to_vec();
    zeroed.resize(whole.len(), 0);
    fs::write(&path, zeroed).unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    assert_eq!(read_all(&logs, None), "first ");
    // Not even the first line was whole.
    fs::write(&path, &format::MAGIC[..5]).unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    assert_eq!(logs.append(JOB, frame(1, 0, "x")).unwrap().len(), 1);
    drop(logs);
    let logs = JobLogs::open(folder.path()).unwrap();
    assert_eq!(read_all(&logs, None), "x");
}

#[test]
fn a_file_of_another_kind_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{JOB}.log"));
    fs::write(&path, "a diary, not a log").unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    let refused = logs.append(JOB, frame(1, 0, "x"));
    assert!(matches!(refused, Err(LogsError::NotALog { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "a diary, not a log");
}

#[test]
fn a_full_log_says_so_and_waits_for_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 12 + 2 * (format::HEADER_BYTES as u64 + 10);
    let logs = JobLogs::with_limit(folder.path(), limit).unwrap();
    let ten = "0123456789";
    assert_eq!(logs.append(JOB, frame(1, 0, ten)).unwrap().len(), 1);
    assert_eq!(logs.append(JOB, frame(1, 10, ten)).unwrap().len(), 1);
    assert!(!logs.read(JOB, None, LogPosition(0), 99).unwrap().truncated);
    assert!(logs.append(JOB, frame(1, 20, "x")).unwrap().is_empty());
    for _ in 0..2 {
        let logs = JobLogs::with_limit(folder.path(), limit).unwrap();
        assert!(logs.append(JOB, frame(2, 0, "x")).unwrap().is_empty());
        assert_eq!(logs.received(JOB, task(2, 1)).unwrap(), u64::MAX);
        let page = logs.read(JOB, None, LogPosition(0), 99).unwrap();
        assert!(page.truncated && page.at_end);
        assert_eq!(page.frames.len(), 2);
    }
}

#[test]
fn frames_that_break_the_rules_are_the_senders_fault() {
    let folder = tempfile::tempdir().unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    let huge = "x".repeat(p2pnode_protocol::stream::MAX_LOG_BYTES + 1);
    for bad in [frame(1, u64::MAX, "xx"), frame(1, 0, &huge)] {
        let refused = logs.append(JOB, bad);
        assert!(matches!(refused, Err(LogsError::BadFrame { .. })));
    }
    assert_eq!(logs.received(JOB, task(1, 1)).unwrap(), 0);
}

#[test]
fn few_handles_serve_many_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    let job = |number: usize| JobId((number as u64).to_be_bytes());
    for round in 0..2 {
        for number in 0..MAX_OPEN * 2 {
            logs.append(job(number), frame(0, round, "x")).unwrap();
        }
    }
    assert!(lock(&logs.open).logs.len() <= MAX_OPEN);
    for number in 0..MAX_OPEN * 2 {
        assert_eq!(logs.received(job(number), task(0, 1)).unwrap(), 2);
    }
    let kept = BTreeSet::from([job(1)]);
    logs.keep_only(&kept).unwrap();
    assert_eq!(logs.received(job(1), task(0, 1)).unwrap(), 2);
    assert_eq!(logs.received(job(2), task(0, 1)).unwrap(), 0);
    logs.remove(job(1)).unwrap();
    logs.remove(job(1)).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn writers_and_readers_at_once_see_whole_entries() {
    let folder = tempfile::tempdir().unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    const LINES: u64 = 500;
    std::thread::scope(|scope| {
        for index in 0..2 {
            let logs = &logs;
            scope.spawn(move || {
                for line in 0..LINES {
                    logs.append(JOB, frame(index, line * 4, "abc\n")).unwrap();
                }
            });
        }
        let (mut position, mut lines) = (LogPosition::default(), 0);
        while lines < 2 * LINES as usize {
            let page = logs.read(JOB, None, position, 1 << 16).unwrap();
            assert!(page.frames.iter().all(|frame| frame.bytes == b"abc\n"));
            lines += page.frames.len();
            position = page.next;
        }
    });
}

#[test]
fn ten_thousand_tasks_with_a_line_each_are_cheap() {
    let folder = tempfile::tempdir().unwrap();
    let logs = JobLogs::open(folder.path()).unwrap();
    let started = std::time::Instant::now();
    for index in 0..10_000 {
        logs.append(JOB, frame(index, 0, "hello from a task\n"))
            .unwrap();
    }
    let appended = started.elapsed();
    let logs = JobLogs::open(folder.path()).unwrap();
    let started = std::time::Instant::now();
    assert_eq!(logs.received(JOB, task(9_999, 1)).unwrap(), 18);
    let scanned = started.elapsed();
    println!("10,000 lines: appended in {appended:?}, found again in {scanned:?}");
    // Generous: this is to notice a cost that grows with the log, not to measure the machine.
    assert!(appended.as_secs() < 5 && scanned.as_secs() < 5);
}
