//! Requests to offer, right and wrong.

#![allow(clippy::unwrap_used)]

use p2pnode_protocol::offer::OnClose;

use super::*;

fn machine() -> Machine {
    Machine {
        cpus: MilliCpus::whole(4),
        memory: Bytes::gib(8),
        free_disk: Bytes::gib(100),
        pids: 16_384,
        gpus: vec![gpu("GPU-a"), gpu("GPU-b")],
        sandboxes: vec!["runsc".into()],
        tells_cpu_temperature: true,
        tells_gpu_temperature: false,
        tells_idleness: true,
    }
}

fn gpu(uuid: &str) -> Gpu {
    Gpu::whole(uuid.into(), "T4".into(), Bytes::gib(16))
}

fn view(terms: &OfferTerms) -> CapacityView {
    CapacityView {
        offering: true,
        total: terms.total.clone(),
        free: terms.total.clone(),
        allow_any: terms.allow_any,
        rules: terms.rules.clone(),
        closed: None,
        away: Vec::new(),
        features: p2pnode_protocol::advert::AdvertFeatures::default(),
        runtimes: Vec::new(),
        running: 0,
        queued: 0,
    }
}

fn first(request: &OfferRequest) -> OfferTerms {
    of(request, None, &OfferRequest::default(), &machine())
        .unwrap()
        .0
}

fn later(request: &OfferRequest, before: &OfferTerms) -> OfferTerms {
    let settings = OfferRequest::default();
    of(request, Some(&view(before)), &settings, &machine())
        .unwrap()
        .0
}

fn faults(request: &OfferRequest) -> Vec<String> {
    let error = of(request, None, &OfferRequest::default(), &machine()).unwrap_err();
    assert_eq!(error.code, ErrorCode::Invalid);
    error.details
}

#[test]
fn by_default_the_machine_stays_usable_and_nothing_is_permitted() {
    let terms = first(&OfferRequest::default());
    assert_eq!(
        terms.total.cpus,
        MilliCpus::whole(3),
        "one CPU is kept back"
    );
    assert_eq!(terms.total.memory, Bytes::gib(6));
    assert_eq!(terms.total.disk, Bytes::gib(50));
    assert_eq!(terms.total.pids, 16_384);
    assert!(terms.total.gpus.is_empty() && !terms.allow_any);
    assert_eq!(terms.rules, p2pnode_protocol::offer::OfferRules::default());
}

#[test]
fn a_first_offer_goes_by_flags_then_settings_then_defaults() {
    let peer = libp2p::identity::Keypair::generate_ed25519()
        .public()
        .to_peer_id();
    let settings = OfferRequest {
        cpus_milli: Some(2_000),
        memory: Some(Bytes::gib(1).0),
        allow: vec![peer.to_string()],
        allow_any: Some(true),
        schedule: Some("sat,sun".into()),
        ..OfferRequest::default()
    };
    let request = OfferRequest {
        memory: Some(Bytes::gib(3).0),
        ..OfferRequest::default()
    };
    let (terms, allow) = of(&request, None, &settings, &machine()).unwrap();
    assert_eq!(terms.total.cpus, MilliCpus::whole(2));
    assert_eq!(terms.total.memory, Bytes::gib(3));
    assert_eq!(terms.total.disk, Bytes::gib(50));
    assert!(terms.allow_any && terms.rules.schedule.is_some());
    assert_eq!(allow, [peer]);
}

#[test]
fn a_later_offer_changes_what_it_names() {
    let before = OfferTerms {
        total: Capacity {
            cpus: MilliCpus::whole(1),
            memory: Bytes::gib(2),
            // More than is free by now.
            disk: Bytes::gib(200),
            pids: 1,
            gpus: Vec::new(),
        },
        allow_any: true,
        rules: first(&OfferRequest {
            schedule: Some("mon".into()),
            max_tasks: Some(3),
            images: Some(vec!["blender:*".into()]),
            on_close: Some(OnClose::Stop),
            runtime: Some("runsc".into()),
            ..OfferRequest::default()
        })
        .rules,
    };
    let terms = later(
        &OfferRequest {
            memory: Some(Bytes::gib(4).0),
            max_cpu_c: Some(80),
            ..OfferRequest::default()
        },
        &before,
    );
    assert_eq!(terms.total.cpus, MilliCpus::whole(1));
    assert_eq!(terms.total.memory, Bytes::gib(4));
    assert_eq!(terms.total.disk, Bytes::gib(100));
    assert!(terms.allow_any);
    assert_eq!(terms.rules.max_tasks, Some(3));
    assert_eq!(terms.rules.on_close, OnClose::Stop);
    assert_eq!(terms.rules.max_cpu_c, Some(80));
    let taken_away = later(
        &OfferRequest {
            allow_any: Some(false),
            schedule: Some("always".into()),
            max_tasks: Some(0),
            max_cpu_c: Some(0),
            images: Some(Vec::new()),
            runtime: Some("default".into()),
            on_close: Some(OnClose::Finish),
            ..OfferRequest::default()
        },
        &terms,
    );
    assert!(!taken_away.allow_any);
    assert_eq!(
        taken_away.rules,
        p2pnode_protocol::offer::OfferRules::default()
    );
}

#[test]
fn a_part_of_the_machine_takes_the_place_of_amounts() {
    let half = OfferRequest {
        percent: Some(50),
        ..OfferRequest::default()
    };
    let terms = first(&half);
    assert_eq!(terms.total.cpus, MilliCpus::whole(2));
    assert_eq!(terms.total.memory, Bytes::gib(4));
    assert_eq!(terms.total.disk, Bytes::gib(50));
    let all = first(&OfferRequest {
        percent: Some(100),
        ..OfferRequest::default()
    });
    assert_eq!(all.total.cpus, MilliCpus::whole(4));
    assert_eq!(later(&half, &all).total.memory, Bytes::gib(4));
    let mixed = OfferRequest {
        cpus_milli: Some(1_000),
        ..half
    };
    assert_eq!(later(&mixed, &all).total.cpus, MilliCpus::whole(1));
    let settings = OfferRequest {
        cpus_milli: Some(3_000),
        ..OfferRequest::default()
    };
    let asked = OfferRequest {
        percent: Some(25),
        ..OfferRequest::default()
    };
    let (terms, _) = of(&asked, None, &settings, &machine()).unwrap();
    assert_eq!(
        terms.total.cpus,
        MilliCpus::whole(1),
        "what is asked for now weighs more"
    );
    assert!(
        faults(&OfferRequest {
            percent: Some(0),
            ..OfferRequest::default()
        })[0]
            .contains("1 to 100")
    );
}

#[test]
fn only_gpus_that_were_named_are_offered() {
    let named = |text: &str| OfferRequest {
        gpus: Some(text.into()),
        ..OfferRequest::default()
    };
    let uuids = |terms: &OfferTerms| -> Vec<String> {
        terms
            .total
            .gpus
            .iter()
            .map(|gpu| gpu.uuid.clone())
            .collect()
    };
    assert_eq!(uuids(&first(&named("1"))), ["GPU-a"]);
    assert_eq!(uuids(&first(&named("all"))), ["GPU-a", "GPU-b"]);
    let second = first(&named(" GPU-b,gpu-B"));
    assert_eq!(uuids(&second), ["GPU-b"]);
    assert!(!second.total.gpus[0].shared);
    let shared = later(
        &OfferRequest {
            share_gpus: Some(true),
            ..OfferRequest::default()
        },
        &second,
    );
    assert_eq!(uuids(&shared), ["GPU-b"]);
    assert!(shared.total.gpus[0].shared);
    // It stays so, and by its name, when other things change.
    let again = later(
        &OfferRequest {
            memory: Some(1 << 30),
            ..OfferRequest::default()
        },
        &shared,
    );
    assert_eq!(again.total.gpus, shared.total.gpus);
    assert!(uuids(&later(&named("0"), &shared)).is_empty());
    assert!(faults(&named("3"))[0].contains("it has 2: GPU-a (T4, 16 GiB)"));
    assert!(faults(&named("GPU-x"))[0].contains("none of this machine's GPUs"));
    assert!(faults(&named(","))[0].contains("names none"));
    let without = Machine {
        gpus: Vec::new(),
        ..machine()
    };
    let error = of(&named("all"), None, &OfferRequest::default(), &without).unwrap_err();
    assert!(error.message.contains("NVML"));
}

#[test]
fn everything_wrong_is_told_at_once() {
    let request = OfferRequest {
        cpus_milli: Some(64_000),
        memory: Some(1),
        allow: vec!["12D3KooWHfcb".to_owned()],
        schedule: Some("mon 10:00-10:00".into()),
        max_cpu_c: Some(500),
        max_gpu_c: Some(70),
        max_task_ms: Some(5),
        images: Some(vec!["a b".into()]),
        egress: Some(vec!["http://x".into()]),
        runtime: Some("kata".into()),
        name: Some("a\nb".into()),
        labels: Some([("site".to_owned(), "x\ny".to_owned())].into()),
        ..OfferRequest::default()
    };
    let details = faults(&request);
    for words in [
        "more than this machine's 4",
        "at least 6 MiB",
        "12D3KooWHfcb",
        "never opens",
        "500 °C is no limit",
        "does not tell the temperature of its GPU",
        "--max-task-time of 5 ms",
        "`a b` is not a pattern",
        "`http://x` is not a domain",
        "the container engine has runsc",
        "--name",
        "a line's end",
    ] {
        assert!(
            details.iter().any(|line| line.contains(words)),
            "{words}: {details:#?}"
        );
    }
    assert_eq!(details.len(), 12, "{details:#?}");
    let blind = Machine {
        tells_idleness: false,
        ..machine()
    };
    let idle = OfferRequest {
        only_when_idle: Some(true),
        ..OfferRequest::default()
    };
    let error = of(&idle, None, &OfferRequest::default(), &blind).unwrap_err();
    assert!(error.message.contains("Linux and macOS"));
}

#[test]
fn an_offer_can_be_withdrawn() {
    let request = OfferRequest {
        none: true,
        ..OfferRequest::default()
    };
    let (terms, allow) = of(&request, None, &OfferRequest::default(), &machine()).unwrap();
    assert_eq!(terms, OfferTerms::default());
    assert!(allow.is_empty());
}
