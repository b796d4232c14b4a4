//! What a crash, a loss of power or a bad disk leaves of the store.

use p2pnode_protocol::Digest;

use super::store::large;
use super::*;

#[test]
fn a_torn_pack_is_read_as_far_as_it_goes() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes::gib(1));
    let first = store.put(owner(), b"first").unwrap();
    let second = store.put(owner(), b"second").unwrap();
    drop(store);
    let pack = dir.path().join("blobs/packs/00000000.pack");
    let whole = std::fs::metadata(&pack).unwrap().len();
    let file = std::fs::File::options().write(true).open(&pack).unwrap();
    file.set_len(whole - 1).unwrap();

    for _ in 0..2 {
        let store = store_in(dir.path(), Bytes::gib(1));
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
    let digests: Vec<Digest> = (0..5)
        .map(|seed| store.put(owner(), &large(seed)).unwrap())
        .collect();
    drop(store);
    let path = dir.path().join("blobs/packs/00000000.pack");
    let mut pack = std::fs::read(&path).unwrap();
    let record = pack.len() / 5;
    // One changed; zeros from the middle of the fourth on, the head of the fifth included.
    pack[record + 50_000] ^= 1;
    pack[3 * record + 50_000..].fill(0);
    std::fs::write(&path, &pack).unwrap();

    let store = store_in(dir.path(), Bytes::gib(1));
    assert_eq!(store.usage().objects, 4);
    for lost in [1, 3, 4] {
        assert_eq!(store.read(&digests[lost]).unwrap(), None);
        assert!(
            !store.contains(&digests[lost]),
            "so that it is fetched again"
        );
    }
    for kept in [0, 2] {
        let bytes = large(kept as u64);
        assert_eq!(store.read(&digests[kept]).unwrap(), Some(bytes));
    }
    store.put(owner(), &large(1)).unwrap();
    assert_eq!(store.read(&digests[1]).unwrap(), Some(large(1)));
    // A pack that is cut or removed while the node runs.
    std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|pack| pack.set_len(2 * record as u64))
        .unwrap();
    assert_eq!(store.read(&digests[2]).unwrap(), None);
    assert_eq!(store.read(&digests[0]).unwrap(), Some(large(0)));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(store.read(&digests[0]).unwrap(), None);
}

#[test]
fn nothing_more_is_written_to_a_pack_that_was_removed() {
    let dir = TempDir::new().unwrap();
    let store = store_in(dir.path(), Bytes::gib(1));
    let first = store.put(owner(), &large(1)).unwrap();
    std::fs::remove_file(dir.path().join("blobs/packs/00000000.pack")).unwrap();
    assert_eq!(store.read(&first).unwrap(), None);
    for seed in [1, 2] {
        let digest = store.put(owner(), &large(seed)).unwrap();
        assert_eq!(store.read(&digest).unwrap(), Some(large(seed)));
    }
}

#[test]
fn what_is_checked_again_is_not_taken_on_trust() {
    let (dir, store) = fresh();
    let input = dir.path().join("input");
    std::fs::write(&input, noise(1, 3_000_000)).unwrap();
    let (_, manifest) = ingest(&store, &input).unwrap();
    let path = dir.path().join("blobs/packs/00000000.pack");
    let mut pack = std::fs::read(&path).unwrap();
    let length = pack.len();
    for at in [1_000, length / 2, length - 200_000] {
        pack[at] ^= 1;
    }
    std::fs::write(&path, pack).unwrap();
    assert!(store.missing(&manifest).is_empty());
    store.recheck(&manifest).unwrap();
    let missing = store.missing(&manifest).len();
    assert!((2..=3).contains(&missing), "{missing}");
}
