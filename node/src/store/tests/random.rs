//! Random records: what is loaded is what folding the same records gives, however they were
//! grouped, and however often each was stored.

use p2pnode_protocol::api::JobState;
use p2pnode_protocol::id::{AttemptKey, TaskKey};
use p2pnode_protocol::message::ReportEvent;
use p2pnode_protocol::offer::{Grant, OfferRules};
use p2pnode_protocol::units::{Bytes, MilliCpus};
use p2pnode_protocol::{Capacity, Resources};
use proptest::option;
use proptest::prelude::*;

use super::samples::*;
use super::*;
use crate::core::io::{OfferTerms, Requested, RunKey};

fn own_record() -> impl Strategy<Value = Record> {
    let job = 0u64..4;
    prop_oneof![
        job.clone().prop_map(job_record),
        (job.clone(), 0u64..3, prop::collection::vec(0u32..5, 0..4)).prop_map(
            |(job, to, tasks)| Record::Dispatched {
                job: job_id(job),
                peer: peer(to),
                tasks: tasks.into_iter().map(|index| task_ref(index, 1)).collect(),
            }
        ),
        (job.clone(), 0u32..5, 1u32..4, any::<bool>())
            .prop_map(|(job, index, attempt, collected)| ended(job, index, attempt, collected)),
        (job, any::<bool>(), 0u64..9).prop_map(|(job, well, finished_ms)| Record::JobEnded {
            job: job_id(job),
            state: if well {
                JobState::Succeeded
            } else {
                JobState::Cancelled
            },
            finished_ms,
            notes: vec![format!("note {job}")],
        }),
    ]
}

fn hosted_records() -> impl Strategy<Value = Record> {
    let job = 0u64..3;
    prop_oneof![
        (job.clone(), 0u16..3).prop_map(|(job, step)| hosted_record(job, step)),
        // An event's number says which task it is about, as it does in life.
        (job.clone(), 1u64..12).prop_map(|(job, number)| outbox(job, number, number as u32)),
        (job.clone(), 12u64..16).prop_map(|(job, number)| Record::Outbox {
            hosted: hosted(job),
            number,
            event: ReportEvent::Started(task_ref(number as u32, 1)),
        }),
        (job.clone(), 0u64..16).prop_map(|(job, through)| Record::Acknowledged {
            hosted: hosted(job),
            through,
        }),
        (job.clone(), 0u32..12).prop_map(|(job, index)| Record::OutputsDropped(RunKey {
            submitter: peer(job),
            attempt: AttemptKey {
                task: TaskKey {
                    job: job_id(job),
                    step: 0,
                    index,
                },
                attempt: 1,
            },
        })),
        job.prop_map(|job| Record::Unhosted(hosted(job))),
    ]
}

fn grant() -> impl Strategy<Value = Grant> {
    (option::of(0u64..3), option::of(0u64..3)).prop_map(|(tasks, until_ms)| Grant {
        tasks,
        until_ms,
        images: vec!["blender:*".into()],
    })
}

fn owners_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (0u32..9_000, any::<bool>()).prop_map(|(cpus, allow_any)| Record::Offer(OfferTerms {
            total: Capacity {
                cpus: MilliCpus(cpus),
                memory: Bytes(1),
                ..Capacity::default()
            },
            allow_any,
            rules: OfferRules {
                schedule: "sat".parse().ok(),
                ..OfferRules::default()
            },
        })),
        any::<bool>().prop_map(Record::Draining),
        (0u64..4, option::of(grant())).prop_map(|(number, grant)| Record::Allowed {
            peer: peer(number),
            grant,
        }),
        (0u64..4, option::of(0u64..3)).prop_map(|(number, job)| Record::Requested {
            peer: peer(number),
            request: job.map(|job| Requested {
                job: job_id(job),
                name: "asked".into(),
                program: "wasm".into(),
                resources: Resources::default(),
                first_ms: 1,
                last_ms: 2,
            }),
        }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        4 => own_record(),
        4 => hosted_records(),
        1 => owners_record(),
    ]
}

fn folded(records: &[Record]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for record in records {
        snapshot.apply(record.clone());
    }
    // The core numbers events upwards; random ones come in any order, and the database sorts.
    for hosted in &mut snapshot.hosted {
        hosted.outbox.sort_by_key(|(number, _)| *number);
    }
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn loading_equals_folding(
        batches in prop::collection::vec(prop::collection::vec(record(), 0..12), 0..12),
    ) {
        let records: Vec<Record> = batches.iter().flatten().cloned().collect();
        let expected = format!("{:#?}", folded(&records));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();

        let together = place();
        runtime.block_on(store_batches(&together.path, batches));
        prop_assert_eq!(&format!("{:#?}", reopened(&together.path)), &expected);

        let doubled = place();
        let twice = records.iter().map(|record| vec![record.clone(), record.clone()]).collect();
        runtime.block_on(store_batches(&doubled.path, twice));
        prop_assert_eq!(&format!("{:#?}", reopened(&doubled.path)), &expected);
    }
}
