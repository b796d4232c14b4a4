//! The store: quota, eviction, pins, restarts.

use p2pnode_protocol::manifest::ChunkRef;
use p2pnode_protocol::{Digest, PeerId};
use proptest::prelude::*;

use super::*;

/// As long as a short chunk.
pub(super) fn large(seed: u64) -> Vec<u8> {
    noise(seed, 100_000)
}

fn other_owner() -> PinOwner {
    PinOwner::job(PinScope::Own(JobId(*b"otherjob")))
}

/// Stores without keeping.
fn put_idle(store: &BlobStore, bytes: &[u8]) -> Digest {
    let digest = store.put(other_owner(), bytes).unwrap();
    store.unpin(other_owner());
    digest
}

/// Length of all packs, in bytes.
fn on_disk(dir: &Path) -> u64 {
    std::fs::read_dir(dir.join("blobs/packs"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".pack"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum()
}

#[test]
fn what_is_put_is_read_again_also_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let objects: Vec<Vec<u8>> = [0, 1, 65_535, 65_536, 300_000]
        .map(|length| noise(length as u64, length))
        .to_vec();
    let store = store_in(dir.path(), Bytes::gib(1));
    let digests: Vec<Digest> = objects
        .iter()
        .map(|bytes| store.put(owner(), bytes).unwrap())
        .collect();
    let used = store.usage();
    drop(store);
    let again = store_in(dir.path(), Bytes::gib(1));
    assert_eq!(again.usage().used, used.used);
    assert_eq!(again.usage().objects, 5);
    for (digest, bytes) in digests.iter().zip(&objects) {
        assert_eq!(again.read(digest).unwrap().as_ref(), Some(bytes));
    }
    assert_eq!(again.read(&Digest::of(b"never")).unwrap(), None);
}

#[test]
fn the_same_bytes_are_stored_once() {
    let (_dir, store) = fresh();
    for bytes in [large(1), b"small".to_vec()] {
        store.put(owner(), &bytes).unwrap();
        let used = store.usage();
        store.put(other_owner(), &bytes).unwrap();
        assert_eq!(store.usage().used, used.used);
    }
}

#[test]
fn least_recently_used_goes_first_and_pinned_never() {
    let dir = TempDir::new().unwrap();
    // Room for ten, with their heads.
    let store = store_in(dir.path(), Bytes(10 * 102_400));
    let kept = store.put(owner(), &large(0)).unwrap();
    let idle: Vec<Digest> = (1..10).map(|seed| put_idle(&store, &large(seed))).collect();
    // The first idle one is used again, so the second is the oldest.
    assert!(store.read(&idle[0]).unwrap().is_some());
    put_idle(&store, &large(10));
    assert!(!store.contains(&idle[1]));
    for seed in 11..40 {
        put_idle(&store, &large(seed));
        let usage = store.usage();
        assert!(usage.used <= usage.quota);
    }
    assert!(store.contains(&kept));
    assert_eq!(store.usage().objects, 10);
    assert_eq!(on_disk(dir.path()), store.usage().used.0);
}

#[test]
fn what_does_not_fit_beside_the_pinned_is_an_error_that_says_so() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes(2 * 100_036));
    store.put(owner(), &large(0)).unwrap();
    store.put(owner(), &large(1)).unwrap();
    let error = store.put(owner(), &large(2)).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }));
    assert!(error.to_string().contains("raise the quota"), "{error}");
    assert!(store.check_room(1).is_err());
    // Pinned by two: both must let go.
    store.pin(other_owner(), [named(Digest::of(&large(0)))]);
    store.unpin(owner());
    store.put(owner(), &large(2)).unwrap();
    assert!(store.contains(&Digest::of(&large(0))));
    assert!(!store.contains(&Digest::of(&large(1))));
}

#[test]
fn small_objects_are_evicted_and_their_space_won_back() {
    let dir = TempDir::new().unwrap();
    let quota = Bytes::mib(4);
    let store = store_in(dir.path(), quota);
    // One in ten is kept: every pack holds some that must survive its rewriting.
    for seed in 0..20_000 {
        let bytes = noise(seed, 1_000);
        if seed % 10 == 0 && seed < 10_000 {
            store.put(attempt(seed as u32), &bytes).unwrap();
        } else {
            put_idle(&store, &bytes);
        }
        let usage = store.usage();
        assert!(usage.used <= quota, "{usage:?}");
    }
    for seed in (0..10_000).step_by(10) {
        let bytes = noise(seed, 1_000);
        assert_eq!(
            store.read(&Digest::of(&bytes)).unwrap(),
            Some(bytes),
            "{seed}"
        );
    }
    let used = store.usage().used;
    assert_eq!(on_disk(dir.path()), used.0);
    drop(store);
    let again = store_in(dir.path(), quota);
    assert_eq!(again.usage().used, used);
    store_reads_kept(&again);
}

fn store_reads_kept(store: &BlobStore) {
    for seed in (0..10_000).step_by(10) {
        let bytes = noise(seed, 1_000);
        assert_eq!(store.read(&Digest::of(&bytes)).unwrap(), Some(bytes));
    }
}

/// A chunk whose length is of no matter.
const fn named(digest: Digest) -> ChunkRef {
    ChunkRef { digest, bytes: 1 }
}

#[test]
fn no_submitter_has_more_than_a_quarter_of_the_quota() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes(400));
    let (one, other) = (PeerId::random(), PeerId::random());
    let job = |peer, job| PinOwner::job(PinScope::Hosted(peer, JobId([job; 8])));
    let chunk = |first: u8, bytes| ChunkRef {
        digest: Digest([first; 32]),
        bytes,
    };
    let pin = |owner, chunks: &[ChunkRef]| store.pin_within_share(owner, || chunks.to_vec());
    pin(job(one, 1), &[chunk(1, 60), chunk(1, 60), chunk(2, 30)]).unwrap();
    // What another job of it has already counts once.
    pin(job(one, 2), &[chunk(1, 60), chunk(3, 10)]).unwrap();
    let error = pin(job(one, 3), &[chunk(1, 60), chunk(4, 1)]).unwrap_err();
    assert!(matches!(error, StoreError::Share { .. }), "{error}");
    assert!(error.to_string().contains("quarter"), "{error}");
    assert!(
        !store.permits(job(one, 3).scope, &Digest([1; 32])),
        "nothing of it"
    );
    pin(job(other, 1), &[chunk(4, 100)]).unwrap();
    pin(owner(), &[chunk(5, 400)]).unwrap();
    store.unpin_scope(job(one, 1).scope);
    assert!(
        pin(job(one, 3), &[chunk(4, 31)]).is_err(),
        "the other job has 70"
    );
    pin(job(one, 3), &[chunk(4, 30)]).unwrap();
    store.unpin(job(one, 2));
    store.unpin_scope(job(one, 3).scope);
    pin(job(one, 4), &[chunk(6, 100)]).unwrap();
}

#[test]
fn pins_permit_by_job_and_end_by_owner_or_job() {
    let (_dir, store) = fresh();
    let digest = Digest::of(b"x");
    let scope = PinScope::Own(JOB);
    store.pin(attempt(1), [named(digest)]);
    store.pin(attempt(2), [named(digest), named(digest)]);
    assert!(store.permits(scope, &digest));
    assert!(!store.permits(PinScope::Own(JobId(*b"otherjob")), &digest));
    store.unpin(attempt(1));
    assert!(store.permits(scope, &digest));
    store.unpin(attempt(2));
    assert!(!store.permits(scope, &digest));
    store.pin(attempt(1), [named(digest)]);
    store.pin(other_owner(), [named(digest)]);
    store.unpin_scope(scope);
    assert!(!store.permits(scope, &digest));
    assert!(store.permits(other_owner().scope, &digest));
}

#[test]
fn what_was_used_last_stays_longest_also_over_a_restart() {
    let dir = TempDir::new().unwrap();
    // Room for five, each in a pack of its own.
    let quota = Bytes(5 * 100_036);
    let store = store_in(dir.path(), quota);
    let digests: Vec<Digest> = (0..5).map(|seed| put_idle(&store, &large(seed))).collect();
    drop(store);
    let packs = dir.path().join("blobs/packs");
    for entry in std::fs::read_dir(packs).unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
        file.set_modified(yesterday).unwrap();
    }
    let store = store_in(dir.path(), quota);
    assert!(store.read(&digests[0]).unwrap().is_some());
    drop(store);
    let store = store_in(dir.path(), quota);
    put_idle(&store, &large(9));
    assert!(store.contains(&digests[0]));
    let others = digests[1..].iter().filter(|digest| store.contains(digest));
    assert_eq!(others.count(), 3);
}

#[test]
fn objects_that_were_stored_together_go_without_being_rewritten() {
    let dir = TempDir::new().unwrap();
    let quota = Bytes::mib(64);
    // Each pack takes some ten.
    let store = store_in(dir.path(), quota);
    let pinned_then_free = |job: u8| {
        let owner = PinOwner::job(PinScope::Own(JobId([job; 8])));
        for seed in 0..200 {
            store
                .put(owner, &noise(u64::from(job) << 32 | seed, 100_000))
                .unwrap();
        }
        store.unpin_scope(owner.scope);
    };
    for job in 0..20 {
        pinned_then_free(job);
        let usage = store.usage();
        assert!(usage.used <= quota, "{usage:?}");
        // Nothing dead but in the pack that is being evicted and the one that is being written.
        assert!(usage.objects * 100_036 + 2 * 1_200_000 > usage.used.0);
        assert!(job < 4 || usage.objects > 600, "{usage:?}");
    }
}

#[test]
fn many_threads_agree() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes::mib(2));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..300 {
                    // Threads share half of their objects.
                    let seed = if round % 2 == 0 {
                        round
                    } else {
                        thread << 32 | round
                    };
                    let length = if round % 3 == 0 { 70_000 } else { 2_000 };
                    let bytes = noise(seed, length);
                    let owner = attempt(thread as u32);
                    let digest = store.put(owner, &bytes).unwrap();
                    assert_eq!(store.read(&digest).unwrap(), Some(bytes));
                    store.unpin(owner);
                }
            });
        }
    });
    let usage = store.usage();
    assert!(usage.used <= usage.quota);
    assert_eq!(usage.pinned, Bytes(0));
    drop(store);
    assert_eq!(store_in(dir.path(), Bytes::mib(2)).usage().used, usage.used);
}

/// One thing that is done to the store.
#[derive(Debug, Clone)]
enum Step {
    Put { seed: u64, pin: Option<u32> },
    Read(u64),
    Unpin(u32),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..40u64, proptest::option::of(0..4u32)).prop_map(|(seed, pin)| Step::Put { seed, pin }),
        4 => (0..40u64).prop_map(Step::Read),
        2 => (0..4u32).prop_map(Step::Unpin),
        1 => Just(Step::Restart),
    ]
}

/// Short and long ones.
fn object(seed: u64) -> Vec<u8> {
    noise(
        seed,
        if seed.is_multiple_of(3) {
            70_000
        } else {
            9_000
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is done: what is pinned stays, what is read is right, the quota holds, and the accounts
    /// are those that the next start finds.
    #[test]
    fn any_history_keeps_its_promises(steps in proptest::collection::vec(step(), 1..120)) {
        let dir = TempDir::new().unwrap();
        let quota = Bytes(1_500_000);
        let mut store = store_in(dir.path(), quota);
        let mut pinned: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put { seed, pin } => {
                    match pin {
                        Some(index) => match store.put(attempt(index), &object(seed)) {
                            Ok(_) => pinned.entry(index).or_default().push(seed),
                            Err(StoreError::Full { .. }) => {}
                            Err(error) => panic!("{error}"),
                        },
                        None => {
                            let _ = store.put(other_owner(), &object(seed));
                            store.unpin(other_owner());
                        }
                    }
                }
                Step::Read(seed) => {
                    let bytes = object(seed);
                    let read = store.read(&Digest::of(&bytes)).unwrap();
                    prop_assert!(read.is_none_or(|read| read == bytes));
                }
                Step::Unpin(index) => {
                    pinned.remove(&index);
                    store.unpin(attempt(index));
                }
                Step::Restart => {
                    let used = store.usage().used;
                    drop(store);
                    store = store_in(dir.path(), quota);
                    prop_assert_eq!(store.usage().used, used);
                    for (index, seeds) in &pinned {
                        let digests = seeds.iter().map(|seed| named(Digest::of(&object(*seed))));
                        store.pin(attempt(*index), digests);
                    }
                }
            }
            prop_assert!(store.usage().used <= quota);
            for seed in pinned.values().flatten() {
                prop_assert!(store.contains(&Digest::of(&object(*seed))));
            }
        }
        for seed in pinned.values().flatten() {
            let bytes = object(*seed);
            prop_assert_eq!(store.read(&Digest::of(&bytes)).unwrap(), Some(bytes));
        }
    }
}
