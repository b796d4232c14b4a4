//! Whatever is encoded is decoded to the same: random values of the types with the most parts.

use p2pnode_protocol::codec;
use p2pnode_protocol::manifest::{BlobRef, ChunkRef, Entry, EntryKind, Manifest};
use p2pnode_protocol::message::{Offer, Report, ReportEvent, TaskRef, TaskRequest};
use p2pnode_protocol::stream::{BlobWant, LogFrame};
use p2pnode_protocol::task::{Assignment, Failure, Outcome, Stream, TaskTemplate, Usage};
use p2pnode_protocol::{Bytes, Digest, JobId, MilliCpus};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::parts::{FAILURES, template};

/// Larger than any value these strategies make, in bytes.
const LIMIT: usize = 1 << 20;

fn same<T>(value: &T) -> Result<(), TestCaseError>
where
    T: bincode::Encode + bincode::Decode<()> + PartialEq + std::fmt::Debug,
{
    let bytes = codec::encode(value, LIMIT).unwrap();
    let again: T = codec::decode(&bytes, LIMIT).unwrap();
    prop_assert_eq!(&again, value);
    Ok(())
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn job() -> impl Strategy<Value = JobId> {
    any::<[u8; 8]>().prop_map(JobId)
}

fn blob() -> impl Strategy<Value = BlobRef> {
    (digest(), any::<u64>(), any::<u64>()).prop_map(|(digest, manifest_bytes, content_bytes)| {
        BlobRef {
            digest,
            manifest_bytes,
            content_bytes,
        }
    })
}

fn task() -> impl Strategy<Value = TaskRef> {
    (any::<u16>(), any::<u32>(), any::<u32>()).prop_map(|(step, index, attempt)| TaskRef {
        step,
        index,
        attempt,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let failure = (prop::sample::select(FAILURES.to_vec()), ".{0,40}")
        .prop_map(|(kind, message)| Outcome::Failed(Failure::new(kind, message)));
    prop_oneof![Just(Outcome::Succeeded), failure]
}

fn event() -> impl Strategy<Value = ReportEvent> {
    let numbers = (any::<[u64; 4]>(), option::of(any::<u64>()));
    let usage = numbers.prop_map(|([wall, cpu, memory, network], energy_mj)| Usage {
        wall_us: wall,
        cpu_us: cpu,
        memory_peak: memory,
        network_bytes: network,
        energy_mj,
    });
    let finished = (task(), outcome(), usage, option::of(blob()), any::<u64>()).prop_map(
        |(task, outcome, usage, outputs, log_bytes)| ReportEvent::Finished {
            task,
            outcome,
            usage,
            outputs,
            log_bytes,
        },
    );
    prop_oneof![task().prop_map(ReportEvent::Started), finished]
}

fn some_template() -> impl Strategy<Value = TaskTemplate> {
    (
        vec(".{0,12}", 0..4),
        vec(("[A-Z]{1,8}", ".{0,8}"), 0..4),
        any::<u32>(),
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(|(command, env, cpus, memory, root)| {
            let mut template = template();
            template.command = command;
            template.env = env;
            template.resources.cpus = MilliCpus(cpus);
            template.resources.memory = Bytes(memory);
            template.root = root;
            template
        })
}

fn assignment() -> impl Strategy<Value = Assignment> {
    let values = vec(vec(".{0,8}", 0..3), 0..3);
    (any::<u32>(), any::<u32>(), values, vec(blob(), 0..3)).prop_map(
        |(index, attempt, values, inputs)| Assignment {
            index,
            attempt,
            values,
            inputs,
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let chunk = (digest(), any::<u32>()).prop_map(|(digest, bytes)| ChunkRef { digest, bytes });
    let kind = prop_oneof![
        Just(EntryKind::Folder),
        (any::<bool>(), vec(chunk, 0..4))
            .prop_map(|(executable, chunks)| EntryKind::File { executable, chunks }),
        vec(any::<u8>(), 0..8).prop_map(|target| EntryKind::Symlink { target }),
    ];
    (vec(any::<u8>(), 0..20), kind).prop_map(|(path, kind)| Entry { path, kind })
}

proptest! {
    #![proptest_config(crate::cases(48))]

    #[test]
    fn offers(
        job in job(),
        template in option::of(some_template()),
        tasks in vec(assignment(), 0..6),
    ) {
        let template = template.map(Box::new);
        same(&TaskRequest::Offer(Offer { job, step: 0, template, tasks, login: None }))?;
    }

    #[test]
    fn reports(job in job(), first in any::<u64>(), events in vec(event(), 0..8)) {
        same(&TaskRequest::Report(Report { job, first, events, slots: 3 }))?;
    }

    #[test]
    fn manifests(entries in vec(entry(), 0..8)) {
        same(&Manifest { entries })?;
    }

    #[test]
    fn frames(
        job in job(),
        digests in vec(digest(), 0..8),
        offset in any::<u64>(),
        bytes in vec(any::<u8>(), 0..64),
    ) {
        same(&BlobWant { job, digests })?;
        same(&LogFrame { step: 1, index: 2, attempt: 3, stream: Stream::Stderr, offset, bytes })?;
    }
}
