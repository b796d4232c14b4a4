//! The store on real files.

mod formats;
mod random;
mod samples;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use p2pnode_protocol::api::JobState;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::core::io::Record;
use samples::{ended, finished, hosted, job_id, job_record, outbox, peer, task_ref};

struct Place {
    _folder: TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    Place {
        _folder: folder,
        path,
    }
}

/// Stores each batch through the writer and waits until all are handed on.
async fn store_batches(path: &Path, batches: Vec<Vec<Record>>) {
    let (store, _) = Store::open(path).unwrap();
    let (writer, mut committed) = store.start::<usize>().unwrap();
    let count = batches.len();
    let sender = tokio::spawn(async move {
        for (number, records) in batches.into_iter().enumerate() {
            writer.commit(records, number).await.unwrap();
        }
    });
    for expected in 0..count {
        assert_eq!(committed.recv().await.unwrap().unwrap(), expected);
    }
    sender.await.unwrap();
    assert!(committed.recv().await.is_none());
}

fn reopened(path: &Path) -> Snapshot {
    Store::open(path).unwrap().1
}

#[tokio::test]
async fn batches_come_out_in_order_and_only_once_they_are_stored() {
    let place = place();
    let (store, empty) = Store::open(&place.path).unwrap();
    assert!(empty.jobs.is_empty() && empty.hosted.is_empty() && empty.offer.is_none());
    let (writer, mut committed) = store.start::<u64>().unwrap();
    // A second connection sees what is committed, and nothing else.
    let witness = Connection::open(&place.path).unwrap();
    for number in 0..50 {
        let records = if number % 2 == 0 {
            vec![job_record(number)]
        } else {
            Vec::new()
        };
        writer.try_commit(records, number).unwrap();
    }
    for expected in 0..50 {
        assert_eq!(committed.recv().await.unwrap().unwrap(), expected);
        let stored: i64 = witness
            .query_row("SELECT count(*) FROM jobs", [], |row| row.get(0))
            .unwrap();
        assert!(
            stored as u64 > expected / 2,
            "{expected} came with {stored} jobs"
        );
    }
    drop(writer);
    assert!(committed.recv().await.is_none());
    assert_eq!(reopened(&place.path).jobs.len(), 25);
}

#[tokio::test]
async fn what_was_handed_on_survives_a_killed_process() {
    let place = place();
    let (store, _) = Store::open(&place.path).unwrap();
    let (writer, mut committed) = store.start::<()>().unwrap();
    writer.commit(finished(1), ()).await.unwrap();
    committed.recv().await.unwrap().unwrap();
    // What the system has of the files now is what a kill would leave.
    let left = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-wal"] {
        fs::copy(place.path.with_file_name(name), left.path().join(name)).unwrap();
    }
    let snapshot = reopened(&left.path().join("state.db"));
    assert_eq!(snapshot.jobs.len(), 1);
    assert_eq!(snapshot.jobs[0].ends.len(), 1);
    assert!(snapshot.jobs[0].ended.is_some());
    drop(writer);
    assert!(committed.recv().await.is_none());
}

#[tokio::test]
async fn a_full_queue_refuses_and_room_tells() {
    let place = place();
    let (store, _) = Store::open(&place.path).unwrap();
    let (writer, mut committed) = store.start::<()>().unwrap();
    // Nobody receives: the thread fills its side, then ours fills.
    let limit = Instant::now() + Duration::from_secs(30);
    let mut taken = 0;
    while taken < 3 * QUEUE && Instant::now() < limit {
        if writer.room() > 0 {
            writer.try_commit(Vec::new(), ()).unwrap();
            taken += 1;
        } else {
            match writer.try_commit(Vec::new(), ()) {
                Err(error) => assert_eq!(error, CommitError::Full),
                // The thread took one in between.
                Ok(()) => taken += 1,
            }
            if taken >= 2 * QUEUE {
                break;
            }
            std::thread::yield_now();
        }
    }
    assert!((2 * QUEUE..=3 * QUEUE).contains(&taken), "{taken}");
    drop(writer);
    for _ in 0..taken {
        committed.recv().await.unwrap().unwrap();
    }
    assert!(committed.recv().await.is_none());
}

#[tokio::test]
async fn a_database_error_is_handed_on_and_ends_the_writer() {
    let place = place();
    let (store, _) = Store::open(&place.path).unwrap();
    let (writer, mut committed) = store.start::<u8>().unwrap();
    writer.commit(vec![job_record(1)], 1).await.unwrap();
    assert_eq!(committed.recv().await.unwrap().unwrap(), 1);
    // Somebody breaks the database under the node.
    let vandal = Connection::open(&place.path).unwrap();
    vandal.execute_batch("DROP TABLE dispatched").unwrap();
    let record = Record::Dispatched {
        job: job_id(1),
        peer: peer(1),
        tasks: vec![task_ref(0, 1)],
    };
    writer.commit(vec![record], 2).await.unwrap();
    let failed = committed.recv().await.unwrap();
    assert!(
        matches!(failed, Err(StoreError::Write { .. })),
        "{failed:?}"
    );
    assert!(committed.recv().await.is_none());
    assert_eq!(writer.try_commit(Vec::new(), 3), Err(CommitError::Closed));
    assert_eq!(writer.commit(Vec::new(), 3).await, Err(CommitError::Closed));
}

#[tokio::test]
async fn numbers_that_no_honest_peer_sends_do_not_stop_the_node() {
    let place = place();
    let through = u64::MAX;
    let records = vec![
        finished(0).remove(0),
        samples::hosted_record(0, 0),
        outbox(0, 3, 0),
        Record::Acknowledged {
            hosted: hosted(0),
            through,
        },
    ];
    store_batches(&place.path, vec![records]).await;
    let snapshot = reopened(&place.path);
    assert_eq!(snapshot.hosted[0].acknowledged, i64::MAX as u64);
    assert!(snapshot.hosted[0].outbox.is_empty());
}

#[tokio::test]
async fn finished_jobs_beyond_the_newest_thousand_go_with_their_rows() {
    let place = place();
    let open = job_record(u64::MAX);
    let mut batches = vec![vec![open]];
    batches.extend((0..KEPT_JOBS as u64 + 5).map(finished));
    store_batches(&place.path, batches).await;
    let snapshot = reopened(&place.path);
    assert_eq!(snapshot.jobs.len(), KEPT_JOBS + 1);
    assert_eq!(snapshot.jobs[0].job, job_id(u64::MAX));
    assert_eq!(snapshot.jobs[1].job, job_id(5));
    let connection = Connection::open(&place.path).unwrap();
    for table in ["ends", "dispatched"] {
        let sql = format!("SELECT count(DISTINCT job) FROM {table}");
        let jobs: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(jobs, KEPT_JOBS as i64, "{table}");
    }
}

#[test]
fn a_database_of_a_newer_version_is_refused() {
    let place = place();
    drop(Store::open(&place.path).unwrap());
    let connection = Connection::open(&place.path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let refused = Store::open(&place.path).unwrap_err();
    assert!(
        matches!(refused, StoreError::Newer { found: 99, .. }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("newer p2pnode"), "{refused}");
}

#[test]
fn what_is_not_a_database_is_refused_and_left_alone() {
    let place = place();
    let text = "This is a shopping list and not a database. ".repeat(40);
    fs::write(&place.path, &text).unwrap();
    let refused = Store::open(&place.path).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    assert!(refused.to_string().contains("move it"), "{refused}");
    assert_eq!(fs::read_to_string(&place.path).unwrap(), text);
}

#[tokio::test]
async fn damaged_rows_are_told_and_not_skipped() {
    for damage in [
        "UPDATE jobs SET plan = x'ff'",
        "UPDATE jobs SET id = x'00'",
        "UPDATE jobs SET state = 77",
        "UPDATE ends SET job = 1000",
        "UPDATE ends SET attempt = -1",
        "UPDATE dispatched SET peer = x'00'",
        "UPDATE outbox SET event = x'0000000000000000'",
        "UPDATE templates SET template = x''",
    ] {
        let place = place();
        let mut records = finished(1);
        records.extend([samples::hosted_record(1, 0), outbox(1, 1, 0)]);
        store_batches(&place.path, vec![records]).await;
        let connection = Connection::open(&place.path).unwrap();
        assert!(connection.execute(damage, []).unwrap() > 0, "{damage}");
        drop(connection);
        let refused = Store::open(&place.path).unwrap_err();
        assert!(
            matches!(refused, StoreError::Corrupt { .. }),
            "{damage}: {refused:?}"
        );
    }
}

#[test]
fn the_largest_plans_are_refused_before_they_are_accepted() {
    let mut plan = samples::plan();
    check_plan(&plan).unwrap();
    plan.steps[0].array.keys[0].values =
        p2pnode_protocol::job::Values::List(vec!["x".repeat(MAX_VALUE_BYTES)]);
    let refused = check_plan(&plan).unwrap_err();
    assert!(refused.to_string().contains("plan"), "{refused}");
}

#[test]
fn a_folder_that_is_not_there_is_told() {
    let place = place();
    let path = place.path.join("not/there.db");
    let refused = Store::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Create { .. }), "{refused:?}");
}

#[test]
fn the_database_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    let (mut store, _) = Store::open(&place.path).unwrap();
    store.remember_peers(&[]).unwrap();
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let mode = fs::metadata(place.path.with_file_name(name)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn peers_are_remembered_newest_first_and_not_without_end() {
    let place = place();
    let (mut store, _) = Store::open(&place.path).unwrap();
    let remembered = |number: u64, last_seen_ms| RememberedPeer {
        network: "main".into(),
        peer: peer(number),
        addresses: vec![format!("/ip4/127.0.0.1/tcp/{number}")],
        last_seen_ms,
    };
    let many: Vec<_> = (0..KEPT_PEERS as u64 + 10)
        .map(|number| remembered(number, 1_000 + number))
        .collect();
    store.remember_peers(&many).unwrap();
    // Another network's are counted by themselves, though a peer is the same.
    let elsewhere = RememberedPeer {
        network: "lab".into(),
        ..remembered(1, 1)
    };
    store
        .remember_peers(std::slice::from_ref(&elsewhere))
        .unwrap();
    // An older sighting changes nothing, a newer one does.
    store.remember_peers(&[remembered(500, 1)]).unwrap();
    let mut moved = remembered(10, 9_000);
    moved.addresses = vec!["/dns/a/tcp/1".into(); KEPT_ADDRESSES + 4];
    let (writer, mut committed) = store.start::<()>().unwrap();
    writer.remember_peers(vec![moved.clone()]);
    drop(writer);
    assert!(committed.recv().await.is_none());
    let (store, _) = Store::open(&place.path).unwrap();
    let mut known = store.known_peers().unwrap();
    assert_eq!(known.pop(), Some(elsewhere));
    assert_eq!(known.len(), KEPT_PEERS);
    moved.addresses.truncate(KEPT_ADDRESSES);
    assert_eq!(known[0], moved);
    assert_eq!(known[1], remembered(521, 1_521));
    assert!(known.contains(&remembered(500, 1_500)));
    assert!(!known.contains(&remembered(9, 1_009)));
}

#[tokio::test]
async fn ten_thousand_tasks_are_stored_in_a_moment() {
    let place = place();
    let mut batches = vec![vec![job_record(1), samples::hosted_record(1, 0)]];
    // As two providers of one busy node make them: one record of each kind a task.
    for task in 0..10_000u32 {
        let number = u64::from(task) + 1;
        let mut records = vec![
            Record::Dispatched {
                job: job_id(1),
                peer: peer(2),
                tasks: vec![task_ref(task, 1)],
            },
            outbox(1, number, task),
            ended(1, task, 1, true),
        ];
        if task % 20 == 19 {
            records.push(Record::Acknowledged {
                hosted: hosted(1),
                through: number,
            });
        }
        batches.push(records);
    }
    batches.push(vec![Record::JobEnded {
        job: job_id(1),
        state: JobState::Succeeded,
        finished_ms: 1,
        notes: Vec::new(),
    }]);
    let started = Instant::now();
    store_batches(&place.path, batches).await;
    let stored = started.elapsed();
    let started = Instant::now();
    let snapshot = reopened(&place.path);
    let loaded = started.elapsed();
    println!("10,000 tasks: stored in {stored:?}, loaded in {loaded:?}");
    assert_eq!(snapshot.jobs[0].ends.len(), 10_000);
    assert_eq!(snapshot.jobs[0].dispatched.len(), 10_000);
    assert_eq!(snapshot.hosted[0].kept.len(), 10_000);
    assert!(snapshot.hosted[0].outbox.is_empty());
    // The requirement is 0.3 s, measured in release on an idle machine (see docs/benchmarks.md);
    // here other tests run beside it, without optimisation.
    assert!(stored.as_secs() < 10, "{stored:?}");
}
