//! Images that are built.

use bollard::query_parameters::{ListContainersOptionsBuilder, TagImageOptionsBuilder};
use p2pnode_executor::{ProgramFile, Runtime};
use p2pnode_protocol::task::FailureKind;
use tokio::sync::mpsc;

use crate::bench::{Bench, build_name, id_of, left_of, remove, unique};
use crate::contract::{clean, within};
use crate::subject::IMAGE;

#[tokio::test]
#[ignore = "needs docker"]
async fn a_dockerfile_is_built_once_and_runs() {
    let bench = Bench::new(None).await;
    let dockerfile = format!(
        "ARG BASE={IMAGE}\nFROM $BASE AS first\nARG WHO=nobody\nARG MORE=\"${{WHO}} it's\"\n\
         WORKDIR /made\nRUN echo \"$MORE\" > who && cat /proc/sys/kernel/random/uuid > id \\\n\
         \n # a comment\n && echo more >> who\n\
         FROM {IMAGE}\nENV GREETING=\"hello you\"\nCOPY --from=first /made /made\nADD sub /sub\n\
         RUN [\"/bin/touch\", \"/exec\"]\nRUN test -f /sub/file && test ! -e /.dockerignore\n\
         CMD [\"/bin/false\"]\n"
    );
    let program = bench.context(&dockerfile, &[("sub/file", "text\n")]);
    let name = build_name(&program);
    let (progress, mut steps) = mpsc::channel(1_000);
    let prepare = |progress| bench.subject.runtime.prepare(program.clone(), progress);
    let (progress_too, _) = mpsc::channel(1);
    // Two at once share one build.
    let (one, two) = within(async { tokio::join!(prepare(progress), prepare(progress_too)) }).await;
    let (one, two) = (one.unwrap(), two.unwrap());
    let look = "cat /made/who /sub/file; echo $GREETING; ls /exec; ls -a / | grep -c p2pnode";
    let said = bench.say(&one, &format!("{look}; true")).await;
    assert_eq!(said, "nobody it's\nmore\ntext\nhello you\n/exec\n0\n");
    let id = bench.say(&one, "cat /made/id").await;
    assert_eq!(bench.say(&two, "cat /made/id").await, id);
    let mut last = p2pnode_executor::PrepareProgress::default();
    while let Some(step) = steps.recv().await {
        assert!(
            step.done >= last.done && step.done <= step.total,
            "{step:?}"
        );
        last = step;
    }
    assert_eq!((last.done, last.total), (12, 12));
    // The same content builds nothing, in another life of the node neither.
    let built = id_of(bench.engine(), &name).await;
    let mut bench = bench;
    bench.restart(None);
    assert!(bench.prepare(program).await.is_ok());
    assert_eq!(id_of(bench.engine(), &name).await, built);
    let found = bench.engine().inspect_image(&name).await.unwrap();
    let config = found.config.unwrap();
    assert_eq!(config.cmd.unwrap(), ["/bin/false"]);
    assert!(config.entrypoint.unwrap_or_default().is_empty());
    assert!(!config.env.unwrap().iter().any(|one| one.starts_with("WHO")));
    drop((one, two));
    clean(&bench.subject).await;
    remove(bench.engine(), &name).await;
    assert_eq!(left_of(&bench).await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_step_runs_in_the_tasks_sandbox() {
    let bench = Bench::new(None).await;
    let dockerfile = format!(
        "FROM {IMAGE}\nRUN grep -E '^(Cap(Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/self/status > /status \
         && ls /sys/class/net > /net && id -u > /uid && ulimit -c >> /uid && ls /dev > /dev-list\n\
         RUN cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max > /pids 2>/dev/null; \
         cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes > /memory 2>/dev/null; true\n"
    );
    let program = bench.context(&dockerfile, &[]);
    let name = build_name(&program);
    let environment = bench.prepare(program).await.unwrap();
    let status = bench.say(&environment, "cat /status").await;
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID and SETUID, by their numbers.
    for line in [
        "CapEff:\t00000000000000db",
        "CapBnd:\t00000000000000db",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(bench.say(&environment, "cat /net /uid").await, "lo\n0\n0\n");
    assert_eq!(bench.say(&environment, "cat /pids").await, "65\n");
    assert_eq!(bench.say(&environment, "cat /memory").await, "268435456\n");
    drop(environment);
    clean(&bench.subject).await;
    remove(bench.engine(), &name).await;

    for (step, expected) in [
        ("tail /dev/zero", "its memory limit is 256 MiB"),
        (
            "i=0; while [ $i -lt 200 ]; do sleep 9 & i=$((i+1)); done; wait",
            "an't fork",
        ),
        (
            "dd if=/dev/zero of=/big bs=1048576 count=100",
            "a file larger than its disk limit of 64 MiB",
        ),
        (
            "for i in 1 2 3; do dd if=/dev/zero of=/big$i bs=1048576 count=60; done; sleep 30",
            "disk limit of 64 MiB",
        ),
    ] {
        let program = bench.context(&format!("FROM {IMAGE}\nRUN {step}\n"), &[]);
        let failure = bench.prepare(program).await.err().unwrap();
        assert_eq!(failure.kind, FailureKind::BadProgram, "{failure:?}");
        assert!(
            failure.message.contains(expected),
            "{expected}: {failure:?}"
        );
        assert!(failure.message.contains("line 2, `RUN "), "{failure:?}");
    }
    clean(&bench.subject).await;
    assert_eq!(left_of(&bench).await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn what_cannot_be_built_is_told_and_leaves_nothing() {
    let bench = Bench::new(None).await;
    let owners = id_of(bench.engine(), IMAGE).await.unwrap();
    let by_id = format!("FROM {}\nRUN true", &owners[7..]);
    for (text, kind, expected) in [
        (
            "RUN printf 'one\\n\\033[31mtwo\\n' && exit 3",
            FailureKind::BadProgram,
            "exit code 3:\none\n[31mtwo",
        ),
        (
            "RUN true\nCOPY sub /a\nCOPY missing /b",
            FailureKind::BadProgram,
            "missing",
        ),
        (
            "COPY ../../../etc/shadow /b",
            FailureKind::BadProgram,
            "the build failed",
        ),
        (
            "ADD http://127.0.0.1:1/x /b",
            FailureKind::BadProgram,
            "use COPY",
        ),
        (
            "ARG X=http://127.0.0.1:1/x\nADD $X /b",
            FailureKind::BadProgram,
            "use COPY",
        ),
        ("ADD packed /b", FailureKind::BadProgram, "use COPY"),
        ("EXPOSE nonsense", FailureKind::BadProgram, "nonsense"),
        (
            "COPY --from=localhost:1/none:1 /a /b",
            FailureKind::ImageUnavailable,
            "localhost:1/none:1",
        ),
        ("ONBUILD RUN true", FailureKind::BadProgram, "ONBUILD"),
    ] {
        let dockerfile = format!("FROM {IMAGE}\n{text}\n");
        let mut program = bench.context(&dockerfile, &[("sub/file", "x")]);
        if let ProgramFile::Build { context, .. } = &mut program {
            std::fs::write(context.join("packed"), [0x1f, 0x8b, 8, 0]).unwrap();
        }
        let failure = bench.prepare(program).await.err().unwrap();
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(
            failure.message.contains(expected),
            "{expected}: {failure:?}"
        );
        assert!(!failure.message.contains('\x1b'));
    }
    for dockerfile in [
        by_id.as_str(),
        "FROM p2pnode.invalid/build:00",
        "",
        "nonsense",
    ] {
        let failure = bench
            .prepare(bench.context(dockerfile, &[]))
            .await
            .err()
            .unwrap();
        assert_eq!(failure.kind, FailureKind::BadProgram, "{failure:?}");
    }
    clean(&bench.subject).await;
    assert_eq!(left_of(&bench).await, [""; 0]);
    assert_eq!(id_of(bench.engine(), IMAGE).await.unwrap(), owners);
}

#[tokio::test]
#[ignore = "needs docker"]
async fn nothing_is_learnt_of_what_others_had_made() {
    let bench = Bench::new(None).await;
    let secret = bench.context(&format!("FROM {IMAGE}\nRUN echo secret > /secret\n"), &[]);
    let name = build_name(&secret);
    let environment = bench.prepare(secret).await.unwrap();
    let id = id_of(bench.engine(), &name).await.unwrap();
    for reference in [&name[..], &id, &id[7..15]] {
        let image = ProgramFile::Image {
            reference: reference.to_owned(),
            credentials: None,
            local_registry: true,
        };
        assert!(bench.prepare(image).await.is_err(), "{reference}");
        for text in [
            format!("FROM {reference}\nRUN cat /secret\n"),
            format!("FROM {IMAGE}\nCOPY --from={reference} /secret /x\n"),
        ] {
            assert!(
                bench.prepare(bench.context(&text, &[])).await.is_err(),
                "{text}"
            );
        }
    }
    // Once the owner has named it, it is for all who may run tasks here.
    let tag = unique();
    let options = TagImageOptionsBuilder::new()
        .repo("p2pnode-test-named")
        .tag(&tag)
        .build();
    bench
        .engine()
        .tag_image(&name, Some(options))
        .await
        .unwrap();
    let named = format!("p2pnode-test-named:{tag}");
    let image = ProgramFile::Image {
        reference: named.clone(),
        credentials: None,
        local_registry: true,
    };
    assert!(bench.prepare(image).await.is_ok());
    drop(environment);
    clean(&bench.subject).await;
    remove(bench.engine(), &name).await;
    remove(bench.engine(), &named).await;
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let all = bench.engine().list_containers(Some(options)).await.unwrap();
    assert!(
        !all.iter()
            .any(|one| one.image_id.as_deref() == Some(id.as_str()))
    );
}

#[tokio::test]
#[ignore = "needs docker"]
async fn a_build_as_a_whole_keeps_to_its_disk_limit() {
    let bench = Bench::new(None).await;
    let step = "RUN dd if=/dev/zero of=/$RANDOM bs=1048576 count=40\n";
    let dockerfile = format!("FROM {IMAGE}\n{step}{step}CMD [\"/bin/true\"]\n");
    let failure = bench.prepare(bench.context(&dockerfile, &[])).await;
    let failure = failure.err().unwrap();
    assert_eq!(failure.kind, FailureKind::BadProgram, "{failure:?}");
    assert!(failure.message.contains("grew by 80"), "{failure:?}");
    clean(&bench.subject).await;
    assert_eq!(left_of(&bench).await, [""; 0]);
}
