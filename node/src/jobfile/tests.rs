//! Job files against a real folder.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use p2pnode_protocol::job::JobFile;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::{InputSource, Program};
use p2pnode_protocol::{Digest, JobId};
use tempfile::TempDir;

use super::{ResolvedJob, load, resolve};

const MODULE: &[u8] = b"\0asm\x01\0\0\0";

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::Builder::new().prefix("robot-").tempdir().unwrap();
    for (path, bytes) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn ok(text: &str, folder: &Path) -> ResolvedJob {
    load(text, "job.toml", folder).unwrap_or_else(|errors| panic!("{errors}"))
}

fn faults(text: &str, folder: &TempDir) -> Vec<String> {
    let errors = load(text, "job.toml", folder.path()).unwrap_err();
    let here = folder.path().display().to_string();
    errors
        .lines()
        .iter()
        .map(|line| line.replace("job.toml:", "").replace(&here, "HERE"))
        .collect()
}

fn blob(of: usize) -> BlobRef {
    BlobRef {
        digest: Digest([of as u8; 32]),
        manifest_bytes: 1,
        content_bytes: 1,
    }
}

fn blobs(job: &ResolvedJob) -> Vec<BlobRef> {
    (0..job.sources().len()).map(blob).collect()
}

#[test]
fn each_source_is_stored_once_and_the_plan_names_its_blob() {
    let folder = folder(&[
        ("tracer.wasm", MODULE),
        ("data/a", b"1"),
        ("tiles/1.png", b"1"),
        ("tiles/2.png", b"2"),
    ]);
    let text = "name = 'tiles'
[task]
wasm = 'tracer.wasm'
command = ['tracer', '{tile}']
[array]
tile = [1, 2, 2]
chunk = 2
[inputs]
data = './data'
again = './data'
'{tile}.png' = 'tiles/{tile}.png'
self = 'tracer.wasm'
[policy]
retries = 7
";
    let job = ok(text, folder.path());
    let names: Vec<_> = job
        .sources()
        .iter()
        .map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["tracer.wasm", "data", "tiles/1.png", "tiles/2.png"]);
    let plan = job.plan(&blobs(&job));
    assert_eq!((plan.name.as_str(), plan.policy.retries), ("tiles", 7));
    assert_eq!(plan.policy.hand_out, Some(2));
    let step = &plan.steps[0];
    assert_eq!(step.template.program, Program::Wasm { module: blob(0) });
    let sources: Vec<_> = step.template.inputs.iter().map(|i| i.source).collect();
    assert_eq!(
        sources,
        [
            InputSource::Shared(blob(1)),
            InputSource::Shared(blob(1)),
            InputSource::PerTask(0),
            InputSource::Shared(blob(0)),
        ]
    );
    assert_eq!(step.per_task_inputs, [[blob(2), blob(3), blob(3)]]);
    assert_eq!(step.template.check(), Ok(()));
    let assignment = step.assignment(2, 1).unwrap();
    let task = p2pnode_protocol::job::render(&step.template, &assignment, JobId([0; 8])).unwrap();
    assert_eq!(task.inputs[2].path, "2.png");
    assert_eq!(task.inputs[2].blob, blob(3));
}

#[test]
fn a_chunk_that_is_one_process_is_one_task() {
    let folder = folder(&[]);
    let text =
        "task.image = 'a'\ntask.command = ['x', '{f.first}']\narray = { f = '1-10', chunk = 4 }";
    let job = ok(text, folder.path());
    assert_eq!(job.task_count(), 3);
    assert_eq!(job.plan(&[]).policy.hand_out, None);
    assert!(job.name().starts_with("robot-"));
}

#[test]
fn lines_are_values() {
    let folder = folder(&[("frames.txt", b"a\r\n\nb b\nc")]);
    let text = "task.image = 'a'\narray.f = { lines = 'frames.txt' }\n[outputs]\npaths = ['{f}']";
    let job = ok(text, folder.path());
    let plan = job.plan(&[]);
    assert_eq!(job.task_count(), 3);
    assert_eq!(
        plan.steps[0].assignment(1, 1).unwrap().values,
        [["b b".to_owned()]]
    );
    fs::write(folder.path().join("frames.txt"), "a\na\n").unwrap();
    assert_eq!(
        faults(text, &folder),
        [
            "4: outputs.paths: task 1 (f = a): would write `a`, and so would task 0: make the paths differ, for example with {index}"
        ]
    );
}

#[test]
fn what_is_wrong_on_the_disk_is_told_beside_what_is_wrong_with_the_text() {
    let folder = folder(&[
        ("one.png", b""),
        ("a.wasm", b"\x7fELF0000"),
        ("bad.txt", b"a\n\xff\n"),
    ]);
    let text = "nmae = 'x'
[task]
wasm = 'a.wasm'
[array]
frame = '1-9'
[inputs]
scene = './scene.blend'
home = '~/x'
good = 'one.png'
'{frame}.png' = 'tiles/{frame}.png'
";
    assert_eq!(
        faults(text, &folder),
        [
            "1: nmae: unknown key: did you mean `name`?",
            "3: task.wasm: `a.wasm` is not a WASM module: build the program for wasm32-wasip1",
            "7: inputs.scene: `./scene.blend` does not exist: correct the path, which is taken from HERE",
            "8: inputs.home: `~/x` does not exist: `~` means nothing here, write the whole path",
            "10: inputs.\"{frame}.png\": task 0: `tiles/1.png` does not exist: correct the path, which is taken from HERE",
            "10: inputs.\"{frame}.png\": task 1: `tiles/2.png` does not exist: correct the path, which is taken from HERE",
            "10: inputs.\"{frame}.png\": task 2: `tiles/3.png` does not exist: correct the path, which is taken from HERE",
            "10: inputs.\"{frame}.png\": the same for 6 more tasks",
        ]
    );
    assert_eq!(
        faults(
            "task.image = 'a'\narray.f = { lines = 'bad.txt' }\ninputs.x = 'none'",
            &folder
        ),
        [
            "2: array.f.lines: line 2 of `bad.txt` is not UTF-8: save it as UTF-8",
            "3: inputs.x: `none` does not exist: correct the path, which is taken from HERE",
        ]
    );
    assert_eq!(
        faults(
            "task.image = 'a'\narray.f = { lines = 'none.txt' }",
            &folder
        ),
        ["2: array.f.lines: `none.txt` does not exist: correct the path, which is taken from HERE"]
    );
    assert_eq!(faults("= 1", &folder).len(), 1);
}

#[test]
fn too_many_tasks_are_not_looked_up_one_by_one() {
    let folder = folder(&[]);
    let text = "task.wasm = 'x'\narray.f = '0-9000000000000000000'\n[inputs]\na = '{f}'";
    assert_eq!(
        faults(text, &folder),
        [
            "1: task.wasm: `x` does not exist: correct the path, which is taken from HERE",
            "2: array: makes 9000000000000000001 tasks, and a job may have 1000000: take smaller ranges, or split it into several jobs",
        ]
    );
}

#[test]
fn modules_are_looked_into() {
    let folder = folder(&[
        ("component.wasm", b"\0asm\x0d\0\x01\0"),
        ("short.wasm", b"\0as"),
        ("text.wat", b"(module)"),
        ("dir/x", b""),
    ]);
    for (module, expected) in [
        (
            "component.wasm",
            "is a WASM component or of an unknown version: build a module, for example for wasm32-wasip1",
        ),
        (
            "short.wasm",
            "is not a WASM module: build the program for wasm32-wasip1",
        ),
        (
            "text.wat",
            "is the text of a module: compile it, for example with wat2wasm",
        ),
        ("dir", "is a folder: name the module in it"),
        (
            "none.wasm",
            "does not exist: correct the path, which is taken from HERE",
        ),
    ] {
        assert_eq!(
            faults(&format!("task.wasm = '{module}'"), &folder),
            [format!("1: task.wasm: `{module}` {expected}")]
        );
    }
}

#[test]
fn what_is_neither_file_nor_folder_is_refused_without_waiting() {
    let folder = folder(&[]);
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    assert_eq!(
        faults("task.image = 'a'\ninputs.x = 'pipe'", &folder),
        ["2: inputs.x: `pipe` is neither a file nor a folder: only those can travel"]
    );
    assert_eq!(
        faults("task.image = 'a'\narray.x = { lines = 'pipe' }", &folder),
        ["2: array.x.lines: `pipe` is neither a file nor a folder: only those can travel"]
    );
}

#[test]
fn an_unreadable_file_is_said_so() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder(&[("secret", b"x")]);
    let path = folder.path().join("secret");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        // Root reads everything.
        return;
    }
    assert_eq!(
        faults("task.image = 'a'\ninputs.x = 'secret'", &folder),
        ["2: inputs.x: `secret` cannot be read: let your user read it"]
    );
}

#[test]
fn absolute_paths_and_parents_are_the_owners_to_name() {
    let outer = folder(&[("x", b"1"), ("job/y", b"1")]);
    let inner = outer.path().join("job");
    let absolute = outer.path().join("x");
    let text = format!(
        "task.image = 'a'\n[inputs]\na = '../x'\nb = '{}'",
        absolute.display()
    );
    let job = ok(&text, &inner);
    assert_eq!(job.sources()[1], absolute);
    assert_eq!(job.name(), "job");
}

#[test]
fn a_summary_tells_what_would_happen() {
    let folder = folder(&[("data/a", b"123"), ("data/b/c", b"4567")]);
    let text = "task.image = 'debian:12'
task.command = ['echo', '{f}']
array.f = '7-9'
inputs.d = 'data'
outputs.paths = ['out/{f}']";
    let summary = ok(text, folder.path()).summary();
    assert_eq!((summary.tasks, summary.program.as_str()), (3, "debian:12"));
    assert_eq!((summary.inputs[0].files, summary.inputs[0].bytes), (2, 7));
    assert_eq!(summary.first.command, ["echo", "7"]);
    let last = summary.last.unwrap();
    assert_eq!((last.index, last.outputs), (2, vec!["out/9".to_owned()]));
}

#[test]
fn a_file_that_was_parsed_before_resolves_the_same() {
    let folder = folder(&[("x", b"1")]);
    let file = JobFile::parse("task.image = 'a'\ninputs.x = 'x'", "job.toml").unwrap();
    assert_eq!(resolve(&file, folder.path()).unwrap().sources().len(), 1);
    fs::remove_file(folder.path().join("x")).unwrap();
    assert_eq!(resolve(&file, folder.path()).unwrap_err().faults.len(), 1);
}
