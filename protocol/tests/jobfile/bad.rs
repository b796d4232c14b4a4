//! Files that are wrong as a whole: not TOML, unknown keys, all faults at once.

use p2pnode_protocol::job::JobFile;

use crate::{faults, one, one_of_task};

#[test]
fn all_faults_are_told_at_once_in_the_order_of_the_file() {
    let file = r#"name = "a b"
[task]
image = "a"
comand = ["x"]
[array]
frame = "10-1"
[resources]
memory = "8 apples"
cpus = -1
[policy]
timeout = "5 apples"
"#;
    assert_eq!(
        faults(file),
        [
            "1: name: `a b` is not a name: use 1 to 64 letters, digits, `.`, `_` and `-`",
            "4: task.comand: unknown key: did you mean `command`?",
            "6: array.frame: `10-1` runs backwards: write \"1-10\", or a list such as [\"10-1\"] for text",
            "8: resources.memory: `8 apples` is not a size: write for example 8GiB, 500MB or 1048576",
            "9: resources.cpus: `-1` is not a number of CPUs: write for example 8 or 0.5",
            "11: policy.timeout: `5 apples` is not a time: write for example \"30s\", \"10m\" or \"1h 30m\"",
        ]
    );
}

#[test]
fn places_are_counted_in_characters_from_one() {
    let text = "name = 'é' # é\n\n  x = 1\ny = 'é'\nplacement.labels = { é = 1.5 }";
    let text = text.replace("{ é", "{ 'é'");
    let errors = JobFile::parse(&text, "a/b.toml").unwrap_err();
    let spots: Vec<_> = errors
        .faults
        .iter()
        .map(|fault| (fault.spot.line, fault.spot.column, fault.key.as_str()))
        .collect();
    let expected = [
        (1, 1, "task"),
        (1, 8, "name"),
        (3, 3, "x"),
        (4, 1, "y"),
        (5, 22, "placement.labels.\"é\""),
    ];
    assert_eq!(spots, expected);
    assert!(errors.to_string().starts_with("a/b.toml:1: task: "));
}

#[test]
fn what_is_not_toml_says_where() {
    assert_eq!(
        faults("[task]\nimage = \"a\ncommand = ["),
        [
            "2: not TOML: invalid basic string, expected `\"`",
            "3: not TOML: unclosed array, expected `]`",
        ]
    );
    assert_eq!(
        faults("[task]\nimage = 'a'\nimage = 'b'"),
        ["3: the key stands here for the second time: remove one"]
    );
    assert_eq!(
        faults("[task]\nimage = 'a'\n[task]"),
        ["3: the key stands here for the second time: remove one"]
    );
}

#[test]
fn too_large_a_file_is_not_read() {
    let errors = faults(&"#".repeat((1 << 20) + 1));
    assert_eq!(
        errors,
        [
            "1: is larger than 1 MiB: put long lists into a file and name it with { lines = \"...\" }"
        ]
    );
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("x = {}1{}", open.repeat(50_000), close.repeat(50_000));
        assert!(!faults(&text).is_empty());
    }
}

#[test]
fn hundreds_of_faults_are_cut_short() {
    let text: String = (0..400).map(|n| format!("strange{n} = 1\n")).collect();
    let errors = JobFile::parse(&text, "job.toml").unwrap_err();
    assert_eq!((errors.faults.len(), errors.more), (50, 351));
    assert_eq!(errors.lines().last().unwrap(), "job.toml: and 351 more");
}

#[test]
fn unknown_keys_name_the_nearest_or_the_right_section() {
    one("nmae = 'x'", "2: nmae: unknown key: did you mean `name`?");
    one(
        "zzz = 1",
        "2: zzz: unknown key: known here are name, task, array, resources, inputs, outputs, placement, policy, network",
    );
    one(
        "[resources]\nmemroy = 1",
        "3: resources.memroy: unknown key: did you mean `memory`?",
    );
    one(
        "[resources]\ntimeout = '1s'",
        "3: resources.timeout: unknown key: it belongs under [policy]",
    );
    one(
        "[policy]\nname = 'x'",
        "3: policy.name: unknown key: it belongs at the top of the file",
    );
    one(
        "[resources.gpus]\nmodell = 'x'",
        "3: resources.gpus.modell: unknown key: did you mean `model`?",
    );
    one(
        "[outputs]\npaths = ['x']\n\"a b\" = 1",
        "4: outputs.\"a b\": unknown key: known here are paths",
    );
    one(
        "array.chunck = 40",
        "2: array.chunck: unknown key: did you mean `chunk`?",
    );
}

#[test]
fn what_comes_later_is_said_so() {
    one_of_task(
        "image = 'a'\nuser = 'root'",
        "3: task.user: not supported by this version of p2pnode: tasks run as an unprivileged user; `root = true` asks for root",
    );
    one(
        "policy.verify = { replicas = 2 }",
        "2: policy.verify: not supported by this version of p2pnode: results are taken as they come",
    );
    one(
        "[[step]]\nname = 'x'",
        "2: step: not supported by this version of p2pnode: write one job for each step",
    );
}

#[test]
fn what_could_be_read_is_given_even_with_faults() {
    let (job, faults) = JobFile::read("task.wasm = 'a'\nzzz = 1\ninputs.x = 'y'", "job.toml");
    assert_eq!(faults.len(), 1);
    assert_eq!(job.unwrap().inputs.len(), 1);
    assert!(JobFile::read("= 1", "job.toml").0.is_none());
}

#[test]
fn environments_that_make_no_sense() {
    for (text, expected) in [
        (
            "image = 'a'\nwasm = 'b'",
            "3: task.wasm: a task runs one thing: remove `image` or `wasm`",
        ),
        (
            "build = '.'\nimage-archive = 'b'",
            "3: task.image-archive: a task runs one thing: remove `build` or `image-archive`",
        ),
        (
            "image = 'a'\ndockerfile = 'x'",
            "3: task.dockerfile: goes with `build`: name the folder there",
        ),
        (
            "build = '.'\ndockerfile = '../x'",
            "3: task.dockerfile: must be a path within the folder that `build` names, such as \"docker/Dockerfile\"",
        ),
        (
            "image = 'a'\nisolation = 'none'",
            "3: task.isolation: is \"task\" (a fresh container for each) or \"job\" (tasks follow one another in a warm one)",
        ),
        (
            "wasm = 'a'\nisolation = 'job'",
            "3: task.isolation: is of containers: tasks of a WASM module share a process anyhow",
        ),
        (
            "image = 'a'\nruntime = '../runc'",
            "3: task.runtime: is the name of an OCI runtime, such as \"runsc\" (gVisor) or \"kata-runtime\"",
        ),
        (
            "wasm = 'a'\nruntime = 'runsc'",
            "3: task.runtime: is of containers: a WASM module has a sandbox of its own",
        ),
        (
            "build = '.'\nlogin = 'docker'",
            "3: task.login: goes with `image`: nothing else is pulled",
        ),
        (
            "image = 'a'\nlogin = 'me:secret'",
            "3: task.login: write \"docker\" for what `docker login` keeps, or { username = \"me\", password-file = \"token.txt\" }",
        ),
    ] {
        one_of_task(text, expected);
    }
}

#[test]
fn networks_that_make_no_sense() {
    for (text, expected) in [
        (
            "network.mode = 'host'",
            "2: network.mode: `host` is no mode: write \"none\" or \"egress\"",
        ),
        (
            "network.mode = 'egress'",
            "2: network.mode: needs the names to be reached: write domains = [\"pypi.org\"] below it",
        ),
        (
            "network.domains = ['a.org']",
            "2: network.domains: goes with mode = \"egress\": write that too, or remove it",
        ),
        (
            "network = { mode = 'egress', domains = ['10.0.0.1'] }",
            "2: network.domains: `10.0.0.1` is not a domain: write for example \"pypi.org\" or \"*.debian.org\"",
        ),
        (
            "network = { mode = 'egress', domains = [] }",
            "2: network.domains: must name 1 to 64 domains",
        ),
    ] {
        one(text, expected);
    }
    let text = "task = { image = 'a', runtime = 'runsc' }\nnetwork = { mode = 'egress', domains = ['a.org'] }";
    let errors = JobFile::parse(text, "job.toml").unwrap_err();
    assert!(
        errors.to_string().contains("does not go with task.runtime"),
        "{errors}"
    );
    let text = "task.wasm = 'a'\nnetwork = { mode = 'egress', domains = ['a.org'] }";
    let errors = JobFile::parse(text, "job.toml").unwrap_err();
    assert!(
        errors.to_string().contains("a WASM module has no network"),
        "{errors}"
    );
}

#[test]
fn parts_of_gpus_that_make_no_sense() {
    for (text, expected) in [
        ("1.5", "a share of a GPU is more than 0 and at most 1"),
        ("0.0", "a share of a GPU is more than 0 and at most 1"),
        ("-0.5", "a share of a GPU is more than 0 and at most 1"),
        ("{ count = 2, share = 0.5 }", "only one GPU can be shared"),
        ("{ share = 'half' }", "is a part of a GPU, such as 0.5"),
    ] {
        let text = format!("task.image = 'a'\nresources.gpus = {text}");
        let errors = JobFile::parse(&text, "job.toml").unwrap_err();
        assert!(errors.to_string().contains(expected), "{text}: {errors}");
    }
}
