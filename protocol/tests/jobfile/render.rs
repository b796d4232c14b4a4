//! One task made ready, from honest and from hostile parts.

use p2pnode_protocol::job::pattern::check_pattern;
use p2pnode_protocol::job::{FormError, OutputPattern, RenderError, render};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::{
    Assignment, InputBinding, InputSource, Isolation, NetworkMode, Program, TaskTemplate,
};
use p2pnode_protocol::{Digest, JobId, MilliCpus, Resources};
use proptest::prelude::*;

const JOB: JobId = JobId([0x3f, 9, 0xa1, 0xc2, 0xd4, 0xe5, 0xf6, 7]);

fn blob(of: u8) -> BlobRef {
    BlobRef {
        digest: Digest([of; 32]),
        manifest_bytes: 1,
        content_bytes: 1,
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn template() -> TaskTemplate {
    TaskTemplate {
        name: "robot".into(),
        step: 0,
        program: Program::Image {
            reference: "blender:4".into(),
        },
        command: owned(&[
            "blender",
            "-s",
            "{frame.first}",
            "-e",
            "{frame.last}",
            "{scene}",
        ]),
        env: vec![("FRAMES".into(), "{frame.list}".into())],
        keys: owned(&["scene", "frame"]),
        resources: Resources::default(),
        inputs: vec![
            InputBinding {
                path: "{scene}.blend".into(),
                source: InputSource::PerTask(0),
            },
            InputBinding {
                path: "lib".into(),
                source: InputSource::Shared(blob(1)),
            },
        ],
        outputs: owned(&["out/{frame}.png", "log/{index}/*.txt"]),
        allow_empty_outputs: false,
        timeout_ms: 0,
        stall_ms: 0,
        prepare_timeout_ms: 1_000,
        keep_ms: 0,
        network: NetworkMode::None,
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
    }
}

fn assignment() -> Assignment {
    Assignment {
        index: 5,
        attempt: 1,
        values: vec![owned(&["forest"]), owned(&["3", "4"])],
        inputs: vec![blob(2)],
    }
}

#[test]
fn all_blanks_of_a_task_are_filled() {
    let task = render(&template(), &assignment(), JOB).unwrap();
    assert_eq!(task.command, ["blender", "-s", "3", "-e", "4", "forest"]);
    let env: Vec<_> = task
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        env,
        [
            ("FRAMES", "3,4"),
            ("P2PNODE_SCENE", "forest"),
            ("P2PNODE_FRAME", "3,4"),
            ("P2PNODE_JOB", "3f09a1c2d4e5f607"),
            ("P2PNODE_TASK", "3f09a1c2d4e5f607/5"),
            ("P2PNODE_INDEX", "5"),
        ]
    );
    assert_eq!(task.inputs[0].path, "forest.blend");
    assert_eq!(
        (task.inputs[0].blob, task.inputs[1].blob),
        (blob(2), blob(1))
    );
    let globs: Vec<_> = task.outputs.iter().map(|o| o.glob.as_str()).collect();
    assert_eq!(globs, ["out/3.png", "out/4.png", "log/5/*.txt"]);
    assert_eq!(
        task.folders().into_iter().collect::<Vec<_>>(),
        ["log/5", "out"]
    );
}

fn refused(change: impl FnOnce(&mut TaskTemplate)) -> FormError {
    let mut template = template();
    change(&mut template);
    template.check().unwrap_err()
}

#[test]
fn hostile_templates_are_refused() {
    type Change = fn(&mut TaskTemplate);
    let changes: [Change; 20] = [
        |t| t.name = "../x".into(),
        |t| {
            t.program = Program::Image {
                reference: "-v".into(),
            }
        },
        |t| t.command = vec![String::new()],
        |t| t.command = vec!["a\0".into()],
        |t| t.command = vec!["x".into(); 5_000],
        |t| t.command = vec!["x".repeat(2 << 20)],
        |t| t.command = vec!["{nothing}".into()],
        |t| t.env = vec![("A=B".into(), String::new())],
        |t| t.env = vec![("P2PNODE_JOB".into(), String::new())],
        |t| t.env = vec![("A".into(), "1".into()), ("A".into(), "2".into())],
        |t| t.keys = vec!["frame".into(), "FRAME".into()],
        |t| t.keys = vec!["frame".into(), "a-b".into()],
        |t| t.keys = (0..100).map(|n| format!("k{n}")).collect(),
        |t| t.resources.cpus = MilliCpus(0),
        |t| t.inputs[1].path = "../lib".into(),
        |t| t.inputs = vec![t.inputs[1].clone(); 2_000],
        |t| t.outputs = vec!["../x".into()],
        |t| t.outputs = vec!["[".into()],
        |t| t.outputs = vec!["x".into(); 1_000],
        |t| t.timeout_ms = u64::MAX,
    ];
    for change in changes {
        refused(change);
    }
    assert_eq!(
        refused(|t| t.resources.cpus = MilliCpus(0)).to_string(),
        "resources.cpus: 0 is too little: ask for 0.01 or more"
    );
    assert_eq!(
        refused(|t| t.command = vec!["{x}".into()]).to_string(),
        "`{x}`: `{x}` is not an array key: declare it under [array], or write {{x}} for literal braces"
    );
}

fn broken(change: impl FnOnce(&mut TaskTemplate, &mut Assignment)) -> RenderError {
    let (mut template, mut assignment) = (template(), assignment());
    change(&mut template, &mut assignment);
    render(&template, &assignment, JOB).unwrap_err()
}

#[test]
fn hostile_assignments_are_refused() {
    type Change = fn(&mut TaskTemplate, &mut Assignment);
    let shape: [Change; 6] = [
        |_, a| a.values.clear(),
        |_, a| a.values.push(owned(&["x"])),
        |_, a| a.values[0].clear(),
        |_, a| a.values[0][0] = "\0".into(),
        |_, a| a.values[1] = vec!["x".repeat(1_000); 100],
        |_, a| a.inputs.clear(),
    ];
    for change in shape {
        assert!(matches!(broken(change), RenderError::Assignment(_)));
    }
    for value in ["/etc/passwd", "a/../../b", "./x", "a//b"] {
        let error = broken(|_, a| a.values[0] = owned(&[value]));
        assert!(matches!(error, RenderError::InputPath(_)), "{value}");
    }
    let error = broken(|t, a| {
        t.inputs[0].path = "{scene}/x".into();
        a.values[0] = owned(&[".."]);
    });
    assert_eq!(error, RenderError::InputPath("../x".into()));
    let error = broken(|t, a| {
        t.inputs[0].path = "{scene}".into();
        a.values[0] = owned(&["lib/x"]);
    });
    assert_eq!(error, RenderError::InputTwice("lib/x".into()));
    let error = broken(|_, a| a.values[1] = owned(&["../../x"]));
    assert!(matches!(error, RenderError::Pattern(_)), "{error}");
}

#[test]
fn what_blows_up_is_stopped() {
    // Each blank names a long list: written out it would be gigabytes.
    let long = |a: &mut Assignment| a.values[1] = owned(&["x"; 30_000]);
    let error = broken(|t, a| {
        t.command = vec!["{frame.list}".repeat(1_000)];
        long(a);
    });
    assert!(matches!(error, RenderError::Fill { .. }), "{error}");
    let error = broken(|t, a| {
        t.command = vec!["{frame.list}".into(); 1_000];
        long(a);
    });
    assert_eq!(error, RenderError::CommandTooLong);
    let error = broken(|t, a| {
        t.outputs = vec!["{frame}".into(); 200];
        long(a);
    });
    assert_eq!(error, RenderError::TooManyPatterns);
    let error = broken(|t, _| t.command = owned(&["{frame}"]));
    assert_eq!(
        error.to_string(),
        "`{frame}` cannot be filled in: the task has several values for array key 1: write .first, .last or .list"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..Default::default()
    })]

    /// Whatever the texts are: no panic, and what is accepted stays below the work directory.
    #[test]
    fn nothing_leaves_the_work_directory(
        path in "[a./{}*]{0,8}(\\{scene\\})?[a./]{0,4}",
        pattern in "[a./{}*\\[]{0,8}(\\{frame\\})?[a./]{0,4}",
        value in "[a./*\\[{}\\\\]{0,6}",
    ) {
        let mut template = template();
        template.inputs[0].path = path;
        template.outputs = vec![pattern];
        let mut assignment = assignment();
        assignment.values = vec![vec![value.clone()], vec![value]];
        if let Ok(task) = render(&template, &assignment, JOB) {
            let inside = |path: &str| {
                !path.starts_with('/') && path.split('/').all(|name| name != ".." && name != ".")
            };
            prop_assert!(task.inputs.iter().all(|input| inside(&input.path)));
            prop_assert!(task.folders().into_iter().all(inside));
            let valid = |output: &OutputPattern| check_pattern(&output.glob).is_ok();
            prop_assert!(task.outputs.iter().all(valid));
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]a-z\"'={}.,0-9\n :-]{0,120}") {
        let _either = p2pnode_protocol::job::JobFile::parse(&text, "job.toml");
        let wrapped = format!("task.image = 'a'\n[array]\nf = \"{text}\"");
        let _either = p2pnode_protocol::job::JobFile::parse(&wrapped, "job.toml");
        let wrapped = format!("task.image = 'a'\narray.f = '1-3'\noutputs.paths = [\"{text}\"]");
        let _either = p2pnode_protocol::job::JobFile::parse(&wrapped, "job.toml");
    }
}
