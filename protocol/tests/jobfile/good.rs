//! Files that are right, and what is read from them.

use p2pnode_protocol::job::file::{FilePolicy, ProgramSpec, ValuesSpec};
use p2pnode_protocol::job::{JobFile, Values};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::task::{InputBinding, InputSource, NetworkMode, Program};
use p2pnode_protocol::{Bytes, Digest, GpuRequest, MilliCpus, Resources};

use crate::job;

const ROBOT: &str = r#"
name = "robot"
[task]
image   = "blender:4"
command = ["blender", "-b", "scene.blend", "-f", "{frame}"]
env     = { OMP_NUM_THREADS = "8", DEBUG = true, LEVEL = 3 }
root    = true
[array]
scene = ["a", "b"]
frame = "1-1200"
chunk = 40
[resources]
cpus = 8
memory = "8GiB"
gpus = { count = 2, memory = "12GiB", model = "RTX*" }
disk = "20GiB"
pids = 64
[inputs]
"scene.blend" = "./scene.blend"
"tiles/{scene}.png" = "tiles/{scene}.png"
[outputs]
paths = ["./out/**", "{scene}/{frame}.png"]
[placement]
peers = ["12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"]
labels = { site = "lab", rack = 7 }
[policy]
retries = 1
timeout = "30m"
stall = "10m"
keep = "0s"
prepare_timeout = "1h 30m"
allow_empty_outputs = true
wait_for_peers = "1m"
[network]
mode = "none"
"#;

#[test]
fn every_key_is_read() {
    let job = job(ROBOT);
    assert_eq!(job.name.as_deref(), Some("robot"));
    assert_eq!(job.program, ProgramSpec::Image("blender:4".into()));
    let resources = Resources {
        cpus: MilliCpus::whole(8),
        memory: Bytes::gib(8),
        disk: Bytes::gib(20),
        gpus: GpuRequest {
            count: 2,
            memory: Some(Bytes::gib(12)),
            model: Some("RTX*".into()),
            ..GpuRequest::default()
        },
        pids: 64,
    };
    assert_eq!(job.resources, resources);
    let policy = FilePolicy {
        retries: 1,
        timeout_ms: 1_800_000,
        stall_ms: 600_000,
        keep_ms: 0,
        prepare_timeout_ms: 5_400_000,
        allow_empty_outputs: true,
        wait_for_peers_ms: Some(60_000),
    };
    assert_eq!(job.policy, policy);
    assert_eq!((job.chunk, job.whole_chunks), (Some(40), false));
    let shared: Vec<_> = job.inputs.iter().map(|input| input.per_task).collect();
    assert_eq!(shared, [false, true]);
    assert_eq!(job.placement.peers.len(), 1);
    assert_eq!(job.placement.labels["rack"], "7");
    let array = job.array(&[]).unwrap();
    assert_eq!(array.task_count(), 2_400);
    assert_eq!(array.chunk, None);
}

#[test]
fn the_template_says_what_the_file_says() {
    let job = job(ROBOT);
    let blob = BlobRef {
        digest: Digest([1; 32]),
        manifest_bytes: 1,
        content_bytes: 1,
    };
    let input = InputBinding {
        path: "scene.blend".into(),
        source: InputSource::Shared(blob),
    };
    let template = job.template("robot".into(), blob, vec![input.clone()]);
    let reference = "blender:4".into();
    assert_eq!(template.program, Program::Image { reference });
    assert_eq!(template.command[4], "{frame}");
    let env = [("OMP_NUM_THREADS", "8"), ("DEBUG", "true"), ("LEVEL", "3")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(template.env, env);
    assert_eq!(template.keys, ["scene", "frame"]);
    assert_eq!(template.outputs, ["out/**", "{scene}/{frame}.png"]);
    assert_eq!(template.inputs, [input]);
    assert!(template.root && template.allow_empty_outputs);
    assert_eq!(template.network, NetworkMode::None);
    assert_eq!(template.timeout_ms, 1_800_000);
    assert_eq!(template.check(), Ok(()));
}

#[test]
fn a_job_needs_little() {
    let job = job("task.image = 'debian'");
    assert_eq!(job.resources, Resources::default());
    assert_eq!(job.policy, FilePolicy::default());
    assert_eq!(job.policy.wait_for_peers_ms, None);
    assert_eq!(job.array(&[]).unwrap().task_count(), 1);
    assert!(job.command.is_empty() && job.outputs.is_empty());
}

#[test]
fn keys_keep_the_order_of_the_file() {
    let job = job("task.image = 'a'\narray.z = '1-2'\narray.a = '1-2'\narray.m = '1-2'");
    let names: Vec<_> = job.keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "m"]);
}

#[test]
fn values_are_read_as_they_are_written() {
    let job = job("task.image = 'a'
[array]
a = '0001-0012:2'
b = [1, 'x', 0x10]
c = { lines = 'frames.txt' }
chunk = 'auto'");
    let padded = Values::Range {
        first: 1,
        last: 12,
        step: 2,
        width: 4,
    };
    assert_eq!(job.keys[0].values, ValuesSpec::Known(padded));
    let list = ["1", "x", "0x10"].map(str::to_owned).to_vec();
    assert_eq!(job.keys[1].values, ValuesSpec::Known(Values::List(list)));
    assert_eq!(job.line_files().count(), 1);
    assert_eq!(job.chunk, None);
}

#[test]
fn a_chunk_is_one_process_when_a_text_speaks_of_it() {
    let each = job("task.image = 'a'\ntask.command = ['{f}']\narray = { f = '1-10', chunk = 4 }");
    assert_eq!(each.array(&[]).unwrap().task_count(), 10);
    let whole =
        job("task.image = 'a'\ntask.command = ['{f.list}']\narray = { f = '1-10', chunk = 4 }");
    assert!(whole.whole_chunks);
    assert_eq!(whole.array(&[]).unwrap().task_count(), 3);
}

#[test]
fn quantities_are_read_as_people_write_them() {
    for (text, milli) in [("0.5", 500), ("'2'", 2_000), ("1", 1_000), ("'1.5'", 1_500)] {
        let job = job(&format!("task.image = 'a'\nresources.cpus = {text}"));
        assert_eq!(job.resources.cpus, MilliCpus(milli), "{text}");
    }
    for (text, bytes) in [
        ("'8g'", 8 << 30),
        ("1073741824", 1 << 30),
        ("'500 MB'", 500_000_000),
    ] {
        let job = job(&format!("task.image = 'a'\nresources.memory = {text}"));
        assert_eq!(job.resources.memory, Bytes(bytes), "{text}");
    }
    let gpus = job("task.image = 'a'\nresources.gpus = 1").resources.gpus;
    assert_eq!(gpus.count, 1);
    let gpus = job("task.image = 'a'\nresources.gpus = { model = '*A100*' }")
        .resources
        .gpus;
    assert_eq!(gpus.count, 1);
}

#[test]
fn a_job_without_a_name_is_called_after_its_file_or_folder() {
    for (file, folder, name) in [
        ("job.toml", "robot", "robot"),
        ("robot.toml", "x", "robot"),
        ("some/where/robot arm.toml", "x", "robot-arm"),
        ("a.b.toml", "x", "a.b"),
        ("job.toml", "", "job"),
        ("job.toml", "..", "job"),
        (".toml", "x", "job"),
        ("é.toml", "x", "-"),
    ] {
        let job = JobFile::parse("task.image = 'a'", file).unwrap();
        assert_eq!(job.name_in(folder), name, "{file} in {folder}");
    }
    assert_eq!(job("name = 'me'\ntask.image = 'a'").name_in("x"), "me");
}

#[test]
fn braces_that_are_no_blanks_pass() {
    job(r#"
[task]
image = "a"
command = ["sh", "-c", "echo ${HOME} {1..3} {{x}} && awk '{ print }'", "{\"a\":{\"b\":1}}"]
[outputs]
paths = ["out/*.{png,jpg}"]
"#);
}
