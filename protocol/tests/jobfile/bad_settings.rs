//! What can be wrong with the task, its resources, its placement and its policy.

use crate::{faults, one, one_of_task};

#[test]
fn a_task_is_one_image_or_one_module() {
    let none = "does not say what runs: write `image = \"debian:12\"` or `wasm = \"program.wasm\"` under [task]";
    assert_eq!(faults(""), [format!("1: task: {none}")]);
    assert_eq!(faults("\n[task]"), [format!("2: task: {none}")]);
    one_of_task(
        "image = 'a'\nwasm = 'b'",
        "3: task.wasm: a task runs one thing: remove `image` or `wasm`",
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
