//! Bytes from someone who means harm: never a panic, never more memory than they paid for.

use p2pnode_protocol::codec::{self, CodecError};
use p2pnode_protocol::manifest::{Entry, EntryKind, MAX_ENTRIES, MAX_MANIFEST_BYTES, Manifest};
use p2pnode_protocol::message::{
    MAX_BATCH, MAX_MESSAGE_BYTES, Report, ReportEvent, TaskRef, TaskRequest,
};
use proptest::prelude::*;

use crate::memory::peak_of;
use crate::parts::JOB;
use crate::samples::{self, Sample};

/// What a decode of so many bytes may hold at one time: some 40 bytes for each that came, at each of
/// at most three levels of nested collections, a fixed part, and what came out of it.
fn allowed(bytes: usize) -> usize {
    3 * (40 * bytes + (4 << 10))
}

fn decode_within_bounds(sample: &Sample, bytes: &[u8]) {
    let (_either, peak) = peak_of(|| (sample.again)(bytes, sample.limit).is_ok());
    // Peer ids are read through serde, which takes up to 1 MiB on trust; they stand only in plans,
    // which a node reads from its own store.
    let trusted = if sample.name == "plan" { 1 << 20 } else { 0 };
    assert!(
        peak <= allowed(bytes.len()) + trusted,
        "{}: {peak} bytes for {} bytes",
        sample.name,
        bytes.len()
    );
}

/// bincode's variable-length integers: 253 before eight bytes, little endian.
fn length(of: u64) -> Vec<u8> {
    [&[253], of.to_le_bytes().as_slice()].concat()
}

#[test]
fn a_huge_length_is_refused_before_anything_is_allocated() {
    // Heartbeat, then the length of its list.
    for count in [1 << 20, 4_000_000_000, u64::MAX / 16, u64::MAX] {
        let bytes = [vec![1], length(count)].concat();
        let (result, peak) =
            peak_of(|| codec::decode::<TaskRequest>(&bytes, MAX_MESSAGE_BYTES).is_err());
        assert!(result, "{count}");
        assert!(peak < 8 << 10, "{count}: {peak}");
    }
    // Collected, a job, then the length of its list of `TaskRef`.
    let bytes = [vec![3], JOB.0.to_vec(), length(4_000_000_000)].concat();
    let (result, peak) = peak_of(|| codec::decode::<TaskRequest>(&bytes, MAX_MESSAGE_BYTES));
    assert!(matches!(result, Err(CodecError::Malformed(_))));
    assert!(peak < 8 << 10, "{peak}");
}

#[test]
fn a_length_within_the_limit_but_beyond_its_bytes_is_cheap() {
    // 4 MiB that say: here come as many tasks as would fit the whole limit.
    let mut bytes = [vec![3], JOB.0.to_vec(), length(22_000_000)].concat();
    bytes.resize(MAX_MESSAGE_BYTES, 0xff);
    let (result, peak) = peak_of(|| codec::decode::<TaskRequest>(&bytes, MAX_MESSAGE_BYTES));
    assert!(result.is_err());
    assert!(peak <= allowed(bytes.len()), "{peak}");
}

#[test]
fn the_densest_honest_messages_pass() {
    let started = ReportEvent::Started(TaskRef {
        step: 0,
        index: 1,
        attempt: 1,
    });
    let report = TaskRequest::Report(Report {
        job: JOB,
        first: 1,
        events: vec![started; MAX_BATCH],
        slots: 1,
    });
    let bytes = codec::encode(&report, MAX_MESSAGE_BYTES).unwrap();
    assert!(codec::decode::<TaskRequest>(&bytes, MAX_MESSAGE_BYTES).is_ok());

    let entries = (0..100_000u32)
        .map(|index| Entry {
            path: index.to_be_bytes().to_vec(),
            kind: EntryKind::Folder,
        })
        .collect();
    let bytes = codec::encode(&Manifest { entries }, MAX_MANIFEST_BYTES as usize).unwrap();
    assert!(codec::decode::<Manifest>(&bytes, MAX_MANIFEST_BYTES as usize).is_ok());
    // The claim of the largest manifest that may be, at 56 bytes an entry, is under the cap.
    assert!(MAX_ENTRIES * size_of::<Entry>() < 256 << 20);
}

#[test]
fn every_item_of_a_collection_is_worth_the_claim_factor() {
    // The largest items against the fewest bytes that one of them takes.
    assert!(size_of::<ReportEvent>() <= 40 * 4);
    assert!(size_of::<Entry>() <= 40 * 2);
    assert!(size_of::<p2pnode_protocol::task::InputBinding>() <= 40 * 3);
    assert!(size_of::<p2pnode_protocol::task::Assignment>() <= 40 * 4);
    assert!(size_of::<p2pnode_protocol::Gpu>() <= 40 * 3);
    assert!(size_of::<(String, String)>() <= 40 * 2);
    assert!(size_of::<Vec<String>>() <= 40);
}

#[test]
fn trailing_truncated_and_oversize_bytes_are_refused() {
    for sample in samples::all() {
        let more = [sample.bytes.as_slice(), &[0]].concat();
        assert!(
            matches!(
                (sample.again)(&more, sample.limit),
                Err(CodecError::Trailing(1))
            ),
            "{}",
            sample.name
        );
        for length in 0..sample.bytes.len() {
            assert!(
                (sample.again)(&sample.bytes[..length], sample.limit).is_err(),
                "{} cut to {length}",
                sample.name
            );
        }
        let limit = sample.bytes.len() - 1;
        assert!(matches!(
            (sample.again)(&sample.bytes, limit),
            Err(CodecError::TooLarge { .. })
        ));
    }
}

#[test]
fn unknown_variants_are_refused() {
    for tag in [7, 100, 250] {
        assert!(codec::decode::<TaskRequest>(&[tag], MAX_MESSAGE_BYTES).is_err());
    }
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        for sample in samples::all() {
            decode_within_bounds(&sample, &bytes);
        }
    }

    #[test]
    fn damaged_samples_never_panic(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        huge in any::<prop::sample::Index>(),
    ) {
        for sample in samples::all() {
            let mut bytes = sample.bytes.clone();
            for (at, byte) in &places {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            decode_within_bounds(&sample, &bytes);
            // The same with a length of 2^40 somewhere in it.
            let at = huge.index(bytes.len());
            bytes.splice(at..=at, length(1 << 40));
            decode_within_bounds(&sample, &bytes);
        }
    }
}
