//! Files that are wrong: each fault with its line, its key and the mend.

use p2pnode_protocol::job::JobFile;

use crate::faults;

/// A file that is right but for `text`, which begins on line 2.
fn with(text: &str) -> Vec<String> {
    faults(&format!("task.image = 'a'\n{text}"))
}

fn one(text: &str, expected: &str) {
    assert_eq!(with(text), [expected], "{text}");
}

fn one_of_task(text: &str, expected: &str) {
    assert_eq!(faults(&format!("[task]\n{text}")), [expected], "{text}");
}

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
    for (text, expected) in [
        (
            "build = '.'",
            "2: task.build: not supported by this version of p2pnode: build the image beforehand and name it with `image`",
        ),
        (
            "image-archive = 'a.tar'",
            "2: task.image-archive: not supported by this version of p2pnode: load the image on the providers beforehand and name it with `image`",
        ),
        (
            "image = 'a'\nuser = 'root'",
            "3: task.user: not supported by this version of p2pnode: tasks run as an unprivileged user; `root = true` asks for root",
        ),
        (
            "image = 'a'\nisolation = 'job'",
            "3: task.isolation: not supported by this version of p2pnode: every task has a container of its own",
        ),
    ] {
        one_of_task(text, expected);
    }
    one(
        "policy.verify = { replicas = 2 }",
        "2: policy.verify: not supported by this version of p2pnode: results are taken as they come",
    );
    one(
        "[[step]]\nname = 'x'",
        "2: step: not supported by this version of p2pnode: write one job for each step",
    );
    one(
        "network.mode = 'host'",
        "2: network.mode: `host` is not supported by this version of p2pnode: tasks have no network, write \"none\"",
    );
    one(
        "network.egress = ['example.org']",
        "2: network.egress: not supported by this version of p2pnode: tasks have no network",
    );
}

#[test]
fn a_task_is_one_image_or_one_module() {
    let none = "does not say what runs: write `image = \"debian:12\"` or `wasm = \"program.wasm\"` under [task]";
    assert_eq!(faults(""), [format!("1: task: {none}")]);
    assert_eq!(faults("\n[task]"), [format!("2: task: {none}")]);
    one_of_task(
        "image = 'a'\nwasm = 'b'",
        "3: task.wasm: a task is either an image or a WASM module: remove `image` or `wasm`",
    );
    one_of_task(
        "image = ''",
        "2: task.image: is empty: write for example \"debian:12\"",
    );
    one_of_task(
        "image = 'a b'",
        "2: task.image: `a b` is not an image: write a name and a tag, for example \"debian:12\"",
    );
    one_of_task(
        "image = 'Debian'",
        "2: task.image: `Debian` is not an image: its name must be in lower case (a tag need not)",
    );
    one_of_task("wasm = ''", "2: task.wasm: is empty: name a file or folder");
    one_of_task(
        "wasm = 'a'\nroot = 'yes'",
        "3: task.root: must be true or false, not text",
    );
    assert_eq!(
        faults("task = 5"),
        ["1: task: must be a table, not a whole number: write [task]"]
    );
}

#[test]
fn commands_and_environments() {
    for (text, expected) in [
        (
            "command = 'echo hi'",
            "3: task.command: must be a list, not text: write [\"program\", \"argument\"], or [\"sh\", \"-c\", \"...\"] for a shell",
        ),
        (
            "command = 1",
            "3: task.command: must be a list, not a whole number: write for example [\"echo\", \"hello\"]",
        ),
        (
            "command = []",
            "3: task.command: is empty: name a program, or leave it out",
        ),
        (
            "command = ['', 'x']",
            "3: task.command: its first element is empty: name the program there",
        ),
        (
            "command = ['x',\n 5]",
            "4: task.command: element 2 must be text in quotes, not a whole number",
        ),
        (
            "command = [\"a\\u0000\"]",
            "3: task.command: holds a NUL character: programs cannot be given one",
        ),
        (
            "env = { '1A' = 'x' }",
            "3: task.env.1A: is not a variable's name: use letters, digits and `_`, not a digit first",
        ),
        (
            "env = { P2PNODE_JOB = 'x' }",
            "3: task.env.P2PNODE_JOB: variables that begin with P2PNODE_ are set by p2pnode: take another name",
        ),
        (
            "env = { A = 1.5 }",
            "3: task.env.A: must be text in quotes, not a fraction",
        ),
        (
            "env = ['A=1']",
            "3: task.env: must be a table, not a list: write [task.env]",
        ),
    ] {
        one_of_task(&format!("image = 'a'\n{text}"), expected);
    }
    let long = "x".repeat(131_072);
    assert_eq!(
        faults(&format!("task = {{ image = 'a', command = ['{long}'] }}")),
        [
            "1: task.command: is longer than 131071 bytes, the most that a program can be given: put it into an input file"
        ]
    );
    one(
        "task.command = []",
        "2: task.command: is empty: name a program, or leave it out",
    );
}

#[test]
fn resources_of_nothing_or_too_much() {
    for (text, expected) in [
        ("cpus = 0", "cpus: 0 is too little: ask for 0.01 or more"),
        (
            "cpus = 5000",
            "cpus: 5000 is more than any machine has: ask for 4096 at most",
        ),
        (
            "cpus = 'two'",
            "cpus: `two` is not a number of CPUs: write for example 8 or 0.5",
        ),
        ("cpus = [1]", "cpus: must be a number or text, not a list"),
        (
            "memory = 8",
            "memory: 8 B is too little: ask for 6 MiB or more",
        ),
        (
            "memory = '1PiB'",
            "memory: 1 PiB is more than any machine has: ask for 64 TiB at most",
        ),
        (
            "memory = -5",
            "memory: `-5` is not a size: write for example 8GiB, 500MB or 1048576",
        ),
        ("disk = 0", "disk: 0 B is too little: ask for 1 MiB or more"),
        ("pids = 0", "pids: 0 is too little: ask for 1 or more"),
        (
            "pids = -1",
            "pids: must be a whole number from 0 to 4294967295",
        ),
        (
            "pids = '5'",
            "pids: must be a whole number, not text: write for example 3",
        ),
        (
            "gpus = 100",
            "gpus: 100 is more than any machine has: ask for 64 at most",
        ),
        (
            "gpus = { model = '' }",
            "gpus.model: must have 1 to 96 characters: write for example \"*RTX*\"",
        ),
    ] {
        one(
            &format!("[resources]\n{text}"),
            &format!("3: resources.{expected}"),
        );
    }
}

#[test]
fn times() {
    for (text, expected) in [
        (
            "timeout = 30",
            "timeout: must be a time, not a whole number: write for example \"30s\", \"10m\" or \"1h 30m\"",
        ),
        (
            "timeout = '0s'",
            "timeout: is no time at all: write a longer one, or leave it out",
        ),
        (
            "stall = '-5m'",
            "stall: `-5m` is not a time: write for example \"30s\", \"10m\" or \"1h 30m\"",
        ),
        (
            "keep = '2 years'",
            "keep: is longer than a year: write a shorter time",
        ),
        (
            "retries = -1",
            "retries: must be a whole number from 0 to 1000",
        ),
        (
            "allow_empty_outputs = 1",
            "allow_empty_outputs: must be true or false, not a whole number",
        ),
    ] {
        one(
            &format!("[policy]\n{text}"),
            &format!("3: policy.{expected}"),
        );
    }
}

#[test]
fn placement() {
    one(
        "placement.peers = ['abc']",
        "2: placement.peers: `abc` is not a peer id: write what `p2pnode id` prints on that machine",
    );
    one(
        "placement.peers = 'abc'",
        "2: placement.peers: must be a list, not text: write for example [\"12D3KooW...\"]",
    );
    one(
        "placement.labels = { a = '' }",
        "2: placement.labels.a: a label's name and value must have 1 to 128 bytes each",
    );
}

#[test]
fn inputs() {
    let outside = "is not a path below the task's work directory";
    for (text, expected) in [
        (
            "'../x' = 'y'",
            format!("\"../x\": `../x` {outside}: write a relative path without `..`, such as \"data/scene.blend\""),
        ),
        (
            "'/x' = 'y'",
            format!("\"/x\": `/x` {outside}: write a relative path without `..`, such as \"data/scene.blend\""),
        ),
        (
            "'data/' = 'y'",
            format!("\"data/\": `data/` {outside}: write \"data\", for a folder too"),
        ),
        (
            "'.' = 'y'",
            format!("\".\": `.` {outside}: give the folder a name, such as \"data\""),
        ),
        (
            "scene.blend = 'y'",
            "scene: must be a path here, not a table: when the name has a dot, put it in quotes, such as \"scene.txt\" = \"...\"".into(),
        ),
        ("a = ''", "a: is empty: name a file or folder".into()),
        ("a = 5", "a: must be text in quotes, not a whole number".into()),
        (
            "a = 'x/{job}'",
            "a: `{job}` is not known before the job is submitted: use it in the command or the environment".into(),
        ),
    ] {
        one(&format!("[inputs]\n{text}"), &format!("3: inputs.{expected}"));
    }
    let twice = "stands at or inside another input's path: give each input a path of its own";
    one(
        "[inputs]\na = 'x'\n'./a' = 'y'",
        &format!("4: inputs.\"./a\": {twice}"),
    );
    one(
        "[inputs]\na = 'x'\n'a-b' = 'z'\n'a/b' = 'y'",
        &format!("5: inputs.\"a/b\": {twice}"),
    );
}

#[test]
fn outputs() {
    for (text, expected) in [
        (
            "[outputs]",
            "2: outputs: has no `paths`: write for example paths = [\"out/**\"], or remove the section",
        ),
        (
            "outputs = ['out/**']",
            "2: outputs: must be a table, not a list: write [outputs]",
        ),
        (
            "outputs.paths = 'out/**'",
            "2: outputs.paths: must be a list, not text: write for example [\"out/**\"]",
        ),
        (
            "outputs.paths = ['out/']",
            "2: outputs.paths: `out/` names a folder: write `out/**` for all that is in it",
        ),
        (
            "outputs.paths = ['/out']",
            "2: outputs.paths: `/out` is not below the task's work directory: write a relative path without `..`",
        ),
        (
            "outputs.paths = ['a/../../b']",
            "2: outputs.paths: `a/../../b` is not below the task's work directory: write a relative path without `..`",
        ),
        (
            "outputs.paths = ['[a']",
            "2: outputs.paths: `[a` is not a pattern: unclosed character class; missing ']'",
        ),
        (
            "outputs.paths = ['']",
            "2: outputs.paths: an output pattern is empty: name a file, or write for example \"out/**\"",
        ),
    ] {
        one(text, expected);
    }
}

#[test]
fn blanks() {
    one(
        "task.command = ['x', '{fram}']\narray.frame = '1-2'",
        "2: task.command: `{fram}` is not an array key: did you mean {frame}? Or write {{fram}} for literal braces",
    );
    one(
        "task.env.A = '{x}'",
        "2: task.env.A: `{x}` is not an array key: declare it under [array], or write {{x}} for literal braces",
    );
    one(
        "task.command = ['{f.lst}']\narray.f = '1-2'",
        "2: task.command: `{f.lst}` means nothing: write .first, .last or .list",
    );
    one(
        "inputs.a = 'x/{y}'",
        "2: inputs.a: `{y}` is not an array key: declare it under [array], or write {{y}} for literal braces",
    );
    one(
        "outputs.paths = ['{y}']",
        "2: outputs.paths: `{y}` is not an array key: declare it under [array], or write {{y}} for literal braces",
    );
}

#[test]
fn chunks() {
    one(
        "task.command = ['{f.first}']\narray.f = '1-9'",
        "2: task.command: `{f.first}` speaks of a chunk: say under [array] how many values make one, for example chunk = 40",
    );
    one(
        "task.command = ['{f.first}', '{f}']\narray = { f = '1-9', chunk = 4 }",
        "2: task.command: `{f}` has several values, because the job speaks of whole chunks: write {f.first}, {f.last} or {f.list}",
    );
    one(
        "task.command = ['{a.last}']\narray = { a = '1-9', b = '1-9', chunk = 4 }",
        "2: task.command: `{a.last}` speaks of a chunk, and only the last key of [array] is handed out in chunks: put `a` last",
    );
    for (text, expected) in [
        (
            "chunk = 0",
            "must be 1 to 1000000: write a whole number such as 40, or \"auto\"",
        ),
        (
            "chunk = '40'",
            "`40` is not a chunk: write a whole number such as 40, or \"auto\"",
        ),
        (
            "chunk = 'all'",
            "`all` is not a chunk: write a whole number such as 40, or \"auto\"",
        ),
    ] {
        one(
            &format!("task.command = ['{{f.first}}']\n[array]\nf = '1-9'\n{text}"),
            &format!("5: array.chunk: {expected}"),
        );
    }
    one(
        "array.chunk = 4",
        "2: array.chunk: there is nothing to hand out in chunks: add a key, such as frame = \"1-100\"",
    );
    one(
        "task.command = ['{f.list}']\narray = { f = ['a', 'b,c'], chunk = 2 }",
        "3: array.f: the value `b,c` has a comma, so `{f.list}` would read as two: use values without",
    );
}

#[test]
fn array_keys() {
    let examples = "write for example \"1-100\", \"1-100:5\" or [\"a\", \"b\"]";
    for (text, expected) in [
        (
            "f = 5",
            "f: is one number: write \"1-5\" for a range, or [5] for the one value".to_owned(),
        ),
        (
            "f = true",
            "f: must be a range or a list, not true or false".into(),
        ),
        (
            "f = []",
            format!("f: has no values, so there are no tasks: {examples}"),
        ),
        (
            "f = ''",
            format!("f: is empty, so there are no tasks: {examples}"),
        ),
        (
            "f = '1-5:0'",
            "f: `1-5:0` has a step of 0: write a step of 1 or more".into(),
        ),
        (
            "f = [1, true]",
            "f: element 2 must be text or a whole number, not true or false".into(),
        ),
        (
            "f = { line = 'x' }",
            "f.line: unknown key: did you mean `lines`?".into(),
        ),
        (
            "my-key = '1-2'",
            "my-key: is not a key's name: use letters, digits and `_`, not a digit first".into(),
        ),
        (
            "Index = '1-2'",
            "Index: is a name of p2pnode's own: take another".into(),
        ),
        (
            "a = '1-2'\nA = '1-2'",
            "A: differs from `a` only in case, but both would be P2PNODE_A: rename one".into(),
        ),
    ] {
        let faults = with(&format!("[array]\n{text}"));
        let line = text.lines().count() + 2;
        assert_eq!(faults[0], format!("{line}: array.{expected}"), "{text}");
    }
}

#[test]
fn what_could_be_read_is_given_even_with_faults() {
    let (job, faults) = JobFile::read("task.wasm = 'a'\nzzz = 1\ninputs.x = 'y'", "job.toml");
    assert_eq!(faults.len(), 1);
    assert_eq!(job.unwrap().inputs.len(), 1);
    assert!(JobFile::read("= 1", "job.toml").0.is_none());
}
