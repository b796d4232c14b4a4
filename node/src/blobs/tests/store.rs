//! The store: quota, eviction, pins, restarts, damage.

use p2pnode_protocol::Digest;
use proptest::prelude::*;

use super::*;

/// Of the size that a file of its own is made for.
fn large(seed: u64) -> Vec<u8> {
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
    // Room for ten of 25 blocks each.
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
    let files = snapshot(&dir.path().join("blobs/chunks"))
        .values()
        .filter(|thing| **thing != Thing::Folder)
        .count();
    assert_eq!(files, 10, "evicted files are gone from the disk");
}

#[test]
fn what_does_not_fit_beside_the_pinned_is_an_error_that_says_so() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes(2 * 102_400));
    store.put(owner(), &large(0)).unwrap();
    store.put(owner(), &large(1)).unwrap();
    let error = store.put(owner(), &large(2)).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }));
    assert!(error.to_string().contains("raise the quota"), "{error}");
    assert!(store.check_room(1).is_err());
    // Pinned by two: both must let go.
    store.pin(other_owner(), [Digest::of(&large(0))]);
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
    let on_disk: u64 = std::fs::read_dir(dir.path().join("blobs/packs"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".pack"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert_eq!(on_disk, store.usage().used.0);
    drop(store);
    let again = store_in(dir.path(), quota);
    assert_eq!(again.usage().used.0, on_disk);
    store_reads_kept(&again);
}

fn store_reads_kept(store: &BlobStore) {
    for seed in (0..10_000).step_by(10) {
        let bytes = noise(seed, 1_000);
        assert_eq!(store.read(&Digest::of(&bytes)).unwrap(), Some(bytes));
    }
}

#[test]
fn pins_permit_by_job_and_end_by_owner_or_job() {
    let (_dir, store) = fresh();
    let digest = Digest::of(b"x");
    let scope = PinScope::Own(JOB);
    store.pin(attempt(1), [digest]);
    store.pin(attempt(2), [digest, digest]);
    assert!(store.permits(scope, &digest));
    assert!(!store.permits(PinScope::Own(JobId(*b"otherjob")), &digest));
    store.unpin(attempt(1));
    assert!(store.permits(scope, &digest));
    store.unpin(attempt(2));
    assert!(!store.permits(scope, &digest));
    store.pin(attempt(1), [digest]);
    store.pin(other_owner(), [digest]);
    store.unpin_scope(scope);
    assert!(!store.permits(scope, &digest));
    assert!(store.permits(other_owner().scope, &digest));
}

#[test]
fn leftovers_of_a_crash_are_removed_and_a_torn_pack_is_read_as_far_as_it_goes() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes::gib(1));
    let first = store.put(owner(), b"first").unwrap();
    let second = store.put(owner(), b"second").unwrap();
    drop(store);
    let blobs = dir.path().join("blobs");
    std::fs::write(blobs.join("new/17"), b"half").unwrap();
    let pack = blobs.join("packs/00000000.pack");
    let whole = std::fs::metadata(&pack).unwrap().len();
    let file = std::fs::File::options().write(true).open(&pack).unwrap();
    file.set_len(whole - 1).unwrap();

    for _ in 0..2 {
        let store = store_in(dir.path(), Bytes::gib(1));
        assert!(snapshot(&blobs.join("new")).is_empty());
        assert_eq!(store.read(&first).unwrap(), Some(b"first".to_vec()));
        assert_eq!(store.read(&second).unwrap(), None);
        // The next life's pack is another one, so this does not follow the torn record.
        let third = store.put(owner(), b"third").unwrap();
        assert_eq!(store.read(&third).unwrap(), Some(b"third".to_vec()));
    }
}

#[test]
fn damage_by_a_loss_of_power_is_met_before_it_spreads() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes::gib(1));
    let digests: Vec<Digest> = (0..4)
        .map(|seed| store.put(owner(), &large(seed)).unwrap())
        .collect();
    let small = store.put(owner(), b"a small one").unwrap();
    drop(store);
    let blobs = dir.path().join("blobs");
    let path = |digest: &Digest| {
        let hex = digest.to_string();
        blobs.join("chunks").join(&hex[..2]).join(&hex)
    };
    std::fs::write(path(&digests[0]), b"").unwrap();
    std::fs::write(path(&digests[1]), b"short").unwrap();
    let mut other = large(2);
    other[50_000] ^= 1;
    std::fs::write(path(&digests[2]), other).unwrap();
    let pack = blobs.join("packs/00000000.pack");
    let mut bytes = std::fs::read(&pack).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&pack, bytes).unwrap();

    let store = store_in(dir.path(), Bytes::gib(1));
    for digest in digests[..3].iter().chain([&small]) {
        assert_eq!(store.read(digest).unwrap(), None);
        assert!(!store.contains(digest), "so that it is fetched again");
    }
    assert_eq!(store.read(&digests[3]).unwrap(), Some(large(3)));
    store.put(owner(), &large(2)).unwrap();
    assert_eq!(store.read(&digests[2]).unwrap(), Some(large(2)));
    // A file that is removed while the node runs.
    std::fs::remove_file(path(&digests[3])).unwrap();
    assert_eq!(store.read(&digests[3]).unwrap(), None);
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

/// Lengths on both sides of what is packed.
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
                        let digests = seeds.iter().map(|seed| Digest::of(&object(*seed)));
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
