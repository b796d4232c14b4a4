//! One value of every wire type, each variant of each enum among them.

use std::fmt::Debug;

use bincode::{Decode, Encode};
use p2pnode_protocol::Digest;
use p2pnode_protocol::advert::{AdvertAnswer, AdvertHello, MAX_ADVERT_BYTES, SignedAdvert};
use p2pnode_protocol::codec::{self, CodecError};
use p2pnode_protocol::manifest::{ChunkRef, Entry, EntryKind, Manifest};
use p2pnode_protocol::message::{
    MAX_MESSAGE_BYTES, Offer, OfferReply, Phase, Refusal, RegistryLogin, Renewal, Report,
    ReportEvent, TaskRequest, TaskResponse,
};
use p2pnode_protocol::stream::{
    BlobReply, BlobWant, LogAck, LogFrame, LogHello, LogWelcome, MAX_FRAME_BYTES,
};
use p2pnode_protocol::task::{Assignment, Failure, Outcome, Program, Stream, Usage};

use crate::parts::{FAILURES, JOB, TASK, advert, blob, keypair, plan, template};

/// A value's name and bytes, and how to read bytes of its type.
pub struct Sample {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub limit: usize,
    /// Decodes, and encodes what came out.
    pub again: fn(&[u8], usize) -> Result<Vec<u8>, CodecError>,
}

fn again<T: Encode + Decode<()>>(bytes: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    codec::encode(&codec::decode::<T>(bytes, limit)?, limit)
}

fn sample<T>(name: &'static str, value: &T, limit: usize) -> Sample
where
    T: Encode + Decode<()> + PartialEq + Debug,
{
    let bytes = codec::encode(value, limit).unwrap();
    let decoded: T = codec::decode(&bytes, limit).unwrap();
    assert_eq!(&decoded, value, "{name}");
    Sample {
        name,
        bytes,
        limit,
        again: again::<T>,
    }
}

fn requests(samples: &mut Vec<Sample>) {
    let assignment = Assignment {
        index: 300,
        attempt: 2,
        values: vec![vec!["0300".into()]],
        inputs: vec![blob(1)],
    };
    let offer = Offer {
        job: JOB,
        step: 0,
        template: Some(Box::new(template())),
        tasks: vec![assignment],
        login: Some(RegistryLogin {
            username: "me".into(),
            password: "token".into(),
        }),
    };
    let bare = Offer {
        template: None,
        login: None,
        ..offer.clone()
    };
    let mut add = |name, request: TaskRequest| {
        samples.push(sample(name, &request, MAX_MESSAGE_BYTES));
    };
    add("request.offer", TaskRequest::Offer(offer));
    add("request.offer.without_template", TaskRequest::Offer(bare));
    add(
        "request.heartbeat",
        TaskRequest::Heartbeat {
            jobs: vec![Renewal {
                job: JOB,
                epoch: 300,
            }],
        },
    );
    let (job, tasks) = (JOB, None);
    add("request.cancel.all", TaskRequest::Cancel { job, tasks });
    let tasks = Some(vec![TASK]);
    add("request.cancel.some", TaskRequest::Cancel { job, tasks });
    let tasks = vec![TASK];
    add("request.collected", TaskRequest::Collected { job, tasks });
    add("request.release", TaskRequest::Release { job });
    let report = Report {
        job: JOB,
        first: 1_000,
        events: report_events(),
        slots: 4,
    };
    add("request.report", TaskRequest::Report(report));
    add("request.goodbye", TaskRequest::Goodbye);
}

fn report_events() -> Vec<ReportEvent> {
    let usage = Usage {
        wall_us: 2_300_000,
        cpu_us: 1_900_000,
        memory_peak: 34 << 20,
        network_bytes: 70_000,
        energy_mj: Some(41_500),
    };
    let phases = [
        Phase::Fetching,
        Phase::Environment,
        Phase::Pulling,
        Phase::Loading,
        Phase::Building,
        Phase::Ready,
    ];
    let mut events: Vec<_> = phases
        .into_iter()
        .map(|phase| ReportEvent::Preparing {
            step: 0,
            phase,
            done: 5,
            total: 70_000,
        })
        .collect();
    events.push(ReportEvent::Started(TASK));
    events.push(ReportEvent::Finished {
        task: TASK,
        outcome: Outcome::Succeeded,
        usage,
        outputs: Some(blob(9)),
        log_bytes: 12,
    });
    for kind in FAILURES {
        events.push(ReportEvent::Finished {
            task: TASK,
            outcome: Outcome::Failed(Failure::new(kind, "why")),
            usage: Usage::default(),
            outputs: None,
            log_bytes: 0,
        });
    }
    events
}

pub fn refusals() -> Vec<(&'static str, Refusal)> {
    let message = || "why".to_owned();
    vec![
        (
            "response.refusal.not_allowed",
            Refusal::NotAllowed {
                submitter: "12D3".into(),
            },
        ),
        ("response.refusal.not_offering", Refusal::NotOffering),
        (
            "response.refusal.too_small",
            Refusal::TooSmall { message: message() },
        ),
        ("response.refusal.full", Refusal::Full),
        (
            "response.refusal.no_runtime",
            Refusal::NoRuntime {
                runtime: "docker".into(),
                message: message(),
            },
        ),
        ("response.refusal.template_needed", Refusal::TemplateNeeded),
        (
            "response.refusal.not_permitted",
            Refusal::NotPermitted { message: message() },
        ),
        (
            "response.refusal.invalid",
            Refusal::Invalid { message: message() },
        ),
        ("response.refusal.stopping", Refusal::Stopping),
        ("response.refusal.draining", Refusal::Draining),
    ]
}

fn responses(samples: &mut Vec<Sample>) {
    let mut add = |name, response: TaskResponse| {
        samples.push(sample(name, &response, MAX_MESSAGE_BYTES));
    };
    add(
        "response.offer",
        TaskResponse::Offer(OfferReply {
            accepted: 300,
            refusal: None,
            slots: 8,
            epoch: 300,
        }),
    );
    for (name, refusal) in refusals() {
        add(
            name,
            TaskResponse::Offer(OfferReply {
                accepted: 0,
                refusal: Some(refusal),
                slots: 0,
                epoch: 1,
            }),
        );
    }
    add(
        "response.heartbeat",
        TaskResponse::Heartbeat { unknown: vec![JOB] },
    );
    add(
        "response.reported",
        TaskResponse::Reported { through: 1_018 },
    );
    add("response.unknown_job", TaskResponse::UnknownJob);
    add("response.done", TaskResponse::Done);
    add("response.busy", TaskResponse::Busy);
}

fn streams(samples: &mut Vec<Sample>) {
    let want = BlobWant {
        job: JOB,
        digests: vec![Digest::of(b"a"), Digest::of(b"b")],
    };
    samples.push(sample("stream.blob_want", &want, MAX_FRAME_BYTES));
    for (name, bytes) in [
        ("stream.blob_reply.here", Some(70_000)),
        ("stream.blob_reply.absent", None),
    ] {
        samples.push(sample(name, &BlobReply { bytes }, MAX_FRAME_BYTES));
    }
    let hello = LogHello { job: JOB };
    samples.push(sample("stream.log_hello", &hello, MAX_FRAME_BYTES));
    let welcome = LogWelcome { accepted: true };
    samples.push(sample("stream.log_welcome", &welcome, MAX_FRAME_BYTES));
    let ack = LogAck { frames: 300 };
    samples.push(sample("stream.log_ack", &ack, MAX_FRAME_BYTES));
    for (name, stream) in [
        ("stream.log_frame.stdout", Stream::Stdout),
        ("stream.log_frame.stderr", Stream::Stderr),
    ] {
        let frame = LogFrame {
            step: 0,
            index: 300,
            attempt: 2,
            stream,
            offset: 65_536,
            bytes: b"Fra:1 Mem:8M\n".to_vec(),
        };
        samples.push(sample(name, &frame, MAX_FRAME_BYTES));
    }
}

fn manifest() -> Manifest {
    let chunk = |text: &[u8]| ChunkRef {
        digest: Digest::of(text),
        bytes: text.len() as u32,
    };
    let entry = |path: &str, kind| Entry {
        path: path.into(),
        kind,
    };
    let file = EntryKind::File {
        executable: true,
        chunks: vec![chunk(b"one"), chunk(b"three")],
    };
    let target = b"run".to_vec();
    Manifest {
        entries: vec![
            entry("bin", EntryKind::Folder),
            entry("bin/go", EntryKind::Symlink { target }),
            entry("bin/run", file),
        ],
    }
}

/// All samples. Their values never change: what they pin is the format.
pub fn all() -> Vec<Sample> {
    let mut samples = Vec::new();
    requests(&mut samples);
    responses(&mut samples);
    streams(&mut samples);
    let manifest_limit = p2pnode_protocol::manifest::MAX_MANIFEST_BYTES as usize;
    samples.push(sample("manifest", &manifest(), manifest_limit));
    samples.push(sample(
        "advert",
        &advert(1_700_000_000_000),
        MAX_ADVERT_BYTES,
    ));
    let signed: SignedAdvert = advert(1_700_000_000_000).sign(&keypair()).unwrap();
    samples.push(sample("advert.signed", &signed, 2 * MAX_ADVERT_BYTES));
    for (name, mine) in [
        ("advert.hello", Some(signed.clone())),
        ("advert.hello.without_offer", None),
    ] {
        let hello = AdvertHello { mine, want: 64 };
        samples.push(sample(name, &hello, 2 * MAX_ADVERT_BYTES));
    }
    let others = vec![signed.clone(), signed];
    samples.push(sample(
        "advert.answer",
        &AdvertAnswer { others },
        4 * MAX_ADVERT_BYTES,
    ));
    let wasm = Program::Wasm { module: blob(1) };
    samples.push(sample("program.wasm", &wasm, MAX_MESSAGE_BYTES));
    let archive = Program::Archive { archive: blob(1) };
    samples.push(sample("program.archive", &archive, MAX_MESSAGE_BYTES));
    let build = Program::Build {
        context: blob(1),
        dockerfile: "Dockerfile".into(),
    };
    samples.push(sample("program.build", &build, MAX_MESSAGE_BYTES));
    samples.push(sample("plan", &plan(), manifest_limit));
    samples
}
