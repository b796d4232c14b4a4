//! The history on a real file.

use std::path::PathBuf;
use std::time::Instant;

use p2pnode_protocol::api::UsageBy;
use rusqlite::Connection;
use tempfile::TempDir;

use super::tidy::DAY_MS;
use super::*;
use crate::store::Store;

const DAY: u64 = 20_000 * DAY_MS;

struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        drop(Store::open(&path).unwrap());
        Self {
            _folder: folder,
            path,
        }
    }

    fn history(&self) -> History {
        History::new(self.path.clone())
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    /// Writes all of it in one transaction, as the writer's thread does.
    fn write(&self, past: &[Past]) {
        let connection = self.connect();
        let mut writing = Writing::prepare(&connection).unwrap();
        let transaction = connection.unchecked_transaction().unwrap();
        writing.write(past.iter()).unwrap();
        transaction.commit().unwrap();
    }
}

fn peer(number: u8) -> PeerId {
    let pair = libp2p::identity::Keypair::ed25519_from_bytes([number; 32]).unwrap();
    pair.public().to_peer_id()
}

/// An attempt of task `index` that ended at `ended_ms` and took `took_ms`.
fn past(job: u8, index: u32, ended_ms: u64, took_ms: u64) -> Past {
    Past {
        peer: peer(job),
        job: JobId([job; 8]),
        name: format!("job {job}"),
        program: "busybox:1".into(),
        task: Some(TaskRef {
            step: 0,
            index,
            attempt: 1,
        }),
        tasks: 1,
        started_ms: ended_ms - took_ms,
        ended_ms,
        outcome: "succeeded",
        message: None,
        spent: Spent {
            wall_us: took_ms * 1_000,
            cpu_us: took_ms * 500,
            gpu_us: 7,
            memory_mib_us: took_ms * 64,
            memory_peak: u64::from(index),
            network_bytes: 3,
            output_bytes: 5,
            energy_mj: index.is_multiple_of(2).then_some(2),
        },
    }
}

fn all() -> Query {
    Query {
        limit: 1_000,
        ..Query::default()
    }
}

#[test]
fn short_attempts_share_a_row_and_long_ones_have_their_own() {
    let place = Place::new();
    let mut killed = past(1, 9, DAY + 5_000, 10);
    killed.outcome = "killed";
    killed.message = Some("killed by the owner".into());
    let mut rows: Vec<Past> = (0..5)
        .map(|index| past(1, index, DAY + 1_000, 10))
        .collect();
    rows.push(killed);
    rows.push(past(1, 7, DAY + 9_000, 1_500));
    rows.push(past(1, 8, DAY + 9_000, 1_500));
    place.write(&rows);
    // Another batch of the same minute.
    place.write(&[past(1, 5, DAY + 2_000, 10)]);
    let page = place.history().page(&all()).unwrap();
    assert_eq!(page.len(), 4, "{page:#?}");
    assert_eq!((page[0].past.task, page[1].past.tasks), (rows[7].task, 1));
    assert_eq!(page[2].outcome, "killed");
    assert_eq!(page[2].past.message.as_deref(), Some("killed by the owner"));
    assert!(page[2].past.task.is_some(), "it stands for one");
    let folded = &page[3].past;
    assert_eq!((folded.tasks, folded.task), (6, None));
    assert_eq!(
        (folded.started_ms, folded.ended_ms),
        (DAY + 990, DAY + 2_000)
    );
    assert_eq!(
        (folded.spent.cpu_us, folded.spent.energy_mj),
        (30_000, Some(6))
    );
    assert_eq!(folded.spent.memory_peak, 5, "the highest, not the sum");
}

#[test]
fn pages_and_sums_keep_to_what_is_asked_for() {
    let place = Place::new();
    place.write(&[
        past(1, 0, DAY + 2_000, 1_500),
        past(2, 0, DAY + 3_000, 4_000 - 1_000),
        past(2, 1, DAY + DAY_MS + 2_000, 2_000),
    ]);
    let history = place.history();
    let count = |query: Query| history.page(&query).unwrap().len();
    let of = |peer| Query {
        peer: Some(peer),
        ..all()
    };
    assert_eq!((count(of(peer(2))), count(of(peer(9)))), (2, 0));
    let job = Query {
        job: Some("0101".into()),
        ..all()
    };
    assert_eq!(count(job), 1);
    let later = Query {
        since_ms: DAY + 2_500,
        ..all()
    };
    assert_eq!(count(later.clone()), 2);
    let newest = history.page(&Query { limit: 1, ..all() }).unwrap();
    let before = Query {
        before: Some(newest[0].number),
        ..all()
    };
    assert_eq!(count(before), 2);

    let sums = history.sums(UsageBy::Peer, &all()).unwrap();
    assert_eq!(sums.rows.len(), 2);
    assert_eq!(sums.rows[0].peer, Some(peer(2)), "most CPU time first");
    assert_eq!(sums.rows[0].tasks["succeeded"], 2);
    assert_eq!(sums.total.spent.wall_us, 6_500_000);
    let days = history.sums(UsageBy::Day, &all()).unwrap().rows;
    assert_eq!(days.len(), 2);
    assert_eq!((days[0].day, days[1].day), (Some(20_001), Some(20_000)));
    assert_eq!(days[1].tasks["succeeded"], 2);
    let jobs = history.sums(UsageBy::Job, &later).unwrap().rows;
    assert_eq!(jobs.len(), 2, "of sums, the whole day counts");
    assert_eq!(jobs[0].name, "job 2");
    let nobody = history.sums(UsageBy::Peer, &of(peer(9))).unwrap();
    assert!(nobody.rows.is_empty() && nobody.total == Sum::default());
}

#[test]
fn what_leaves_the_history_stays_in_the_sums() {
    let place = Place::new();
    let old: Vec<Past> = (0..30)
        .map(|index| past(1, index, DAY + u64::from(index) * 3_000 + 2_000, 1_500))
        .collect();
    place.write(&old);
    let history = place.history();
    let reports =
        || [UsageBy::Peer, UsageBy::Job, UsageBy::Day].map(|by| history.sums(by, &all()).unwrap());
    let before = reports();
    // Too many: all but the newest ten go, twice.
    let connection = place.connect();
    let mut tidy = Tidy::prepare(&connection).unwrap();
    tidy.look(10, 1_000).unwrap();
    tidy.look(10, 1_000).unwrap();
    assert_eq!(history.page(&all()).unwrap().len(), 10);
    assert_eq!(reports(), before);
    // Too old: the next write takes the rest.
    drop(tidy);
    place.write(&[past(2, 0, DAY + KEPT_MS + 10 * DAY_MS, 1_500)]);
    assert_eq!(history.page(&all()).unwrap().len(), 1);
    let after = reports();
    assert_eq!(after[0].rows.len(), 2);
    let mine = after[0].rows.iter().find(|sum| sum.peer == Some(peer(1)));
    assert_eq!(mine, before[0].rows.first());
}

#[test]
fn sums_do_not_grow_without_end() {
    let place = Place::new();
    let rows: Vec<Past> = (0..20)
        .map(|day| past(1, 0, DAY + day * DAY_MS + 2_000, 1_500))
        .collect();
    place.write(&rows);
    let connection = place.connect();
    let mut tidy = Tidy::prepare(&connection).unwrap();
    tidy.look(2, 5).unwrap();
    let days = place.history().sums(UsageBy::Day, &all()).unwrap().rows;
    assert_eq!(days.len(), 7, "two days of rows and five of sums");
    assert_eq!(days[0].day, Some(20_019));
}

#[test]
fn numbers_beyond_all_measure_do_not_stop_the_node() {
    let place = Place::new();
    let mut huge = past(1, 0, DAY + 100, 1);
    huge.name = "x".repeat(100_000);
    huge.tasks = u64::MAX;
    huge.spent = Spent {
        wall_us: u64::MAX,
        cpu_us: u64::MAX,
        gpu_us: u64::MAX,
        memory_mib_us: u64::MAX,
        memory_peak: u64::MAX,
        network_bytes: u64::MAX,
        output_bytes: u64::MAX,
        energy_mj: Some(u64::MAX),
    };
    for _ in 0..3 {
        place.write(std::slice::from_ref(&huge));
    }
    let page = place.history().page(&all()).unwrap();
    assert_eq!((page.len(), page[0].past.name.len()), (1, MAX_TEXT));
    let connection = place.connect();
    let mut tidy = Tidy::prepare(&connection).unwrap();
    tidy.look(0, 10).unwrap();
    place.write(&[huge]);
    tidy.look(0, 10).unwrap();
    let sums = place.history().sums(UsageBy::Job, &all()).unwrap();
    assert!(sums.total.spent.cpu_us >= CEILING as u64 / 2, "{sums:?}");
}

#[test]
fn ten_thousand_ends_cost_little() {
    let place = Place::new();
    let connection = place.connect();
    connection
        .pragma_update(None, "synchronous", "NORMAL")
        .unwrap();
    let mut writing = Writing::prepare(&connection).unwrap();
    let (short, long) = (past(1, 0, DAY, 0), past(1, 0, DAY + 2_000, 2_000));
    let begun = Instant::now();
    // As the driver hands them in: a row for each batch of a hundred, every batch a transaction.
    for _ in 0..100 {
        let mut row = short.clone();
        for _ in 1..100 {
            row.fold(&short);
        }
        let transaction = connection.unchecked_transaction().unwrap();
        writing.write([&row].into_iter()).unwrap();
        transaction.commit().unwrap();
    }
    println!("10,000 short ends in 100 batches: {:?}", begun.elapsed());
    let begun = Instant::now();
    let transaction = connection.unchecked_transaction().unwrap();
    let rows = std::iter::repeat_n(&long, 10_000);
    writing.write(rows).unwrap();
    transaction.commit().unwrap();
    println!("10,000 long ends in one: {:?}", begun.elapsed());
    let sums = place.history().sums(UsageBy::Job, &all()).unwrap();
    assert_eq!(sums.total.tasks["succeeded"], 20_000);
}
