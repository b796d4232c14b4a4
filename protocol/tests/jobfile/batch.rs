//! How many tasks there are, and outputs that would land on one path.

use p2pnode_protocol::job::{JobFile, JobFileErrors};

use crate::{faults, job};

fn outputs(array: &str, paths: &str) -> Vec<String> {
    let text = format!("task.image = 'a'\narray = {{ {array} }}\noutputs.paths = [{paths}]");
    match JobFile::parse(&text, "job.toml") {
        Ok(_) => Vec::new(),
        Err(errors) => {
            let lines = errors.lines();
            let cut = |line: &String| line.replace("job.toml:3: outputs.paths: ", "");
            lines.iter().map(cut).collect()
        }
    }
}

#[test]
fn outputs_that_differ_pass() {
    for (array, paths) in [
        ("f = '1-9'", "'out/{f}.png'"),
        ("f = '1-9'", "'out/{index}.png'"),
        ("f = '1-9'", "'out/{f}.png', 'log/{f}.txt'"),
        ("f = '1-9'", "'out/**'"),
        ("f = '1-9'", "'*.png'"),
        ("a = '1-9', b = '1-9'", "'{a}/{b}'"),
        ("a = '1-9', b = '1-9'", "'{index}'"),
        ("a = '1-9', b = ['x']", "'{a}'"),
        ("f = '1-1'", "'out.png'"),
        ("a = ['x', 'y']", "'{a}'"),
        ("f = '1-4', chunk = 2", "'{f}.png', '{f.first}.txt'"),
        ("f = '1-4', chunk = 4", "'x', '{f.first}'"),
        ("f = '1-1000000'", "'{f}', 'x/{f}'"),
    ] {
        assert_eq!(outputs(array, paths), [""; 0], "{array} {paths}");
    }
    assert!(
        job("task.image = 'a'\noutputs.paths = ['out.png']")
            .whole_chunks
            .eq(&false)
    );
}

#[test]
fn outputs_on_one_path_are_refused_with_the_mend() {
    for (array, paths, expected) in [
        (
            "f = '1-9'",
            "'out.png'",
            "all tasks would write `out.png`: add {f} to the path",
        ),
        (
            "a = '1-9', b = '1-9'",
            "'out.png'",
            "all tasks would write `out.png`: add {a} and {b} to the path",
        ),
        (
            "a = '1-9', b = '1-9'",
            "'{a}.png'",
            "tasks that differ only in `b` would both write `{a}.png`: add {b} to the path",
        ),
        (
            "a = '1-11', b = '1-11'",
            "'{a}{b}'",
            "task 110 (a = 11, b = 1): would write `111`, and so would task 10: make the paths differ, for example with {index}",
        ),
        (
            "a = ['x', 'x']",
            "'{a}'",
            "task 1 (a = x): would write `x`, and so would task 0: make the paths differ, for example with {index}",
        ),
        (
            "f = '1-3'",
            "'{f}/a', '1/a'",
            "all tasks would write `1/a`: add {f} to the path",
        ),
        (
            "a = '1-2', b = '1-2'",
            "'{a}-{b}', '{b}-{a}'",
            "task 2 (a = 2, b = 1): would write `2-1`, and so would task 1: make the paths differ, for example with {index}",
        ),
        (
            "f = '1-8', chunk = 4",
            "'x', '{f.first}'",
            "all tasks would write `x`: add {f} to the path",
        ),
    ] {
        assert_eq!(outputs(array, paths), [expected], "{array} {paths}");
    }
}

#[test]
fn values_that_lead_out_of_the_work_directory_are_refused() {
    assert_eq!(
        outputs("a = ['x', '..']", "'out/{a}/b'"),
        [
            "task 1 (a = ..): `out/../b` is not below the task's work directory: write a relative path without `..`"
        ]
    );
    assert_eq!(
        faults("task.image = 'a'\narray.a = ['x', '/etc']\n[inputs]\n'{a}' = 'x'"),
        ["4: inputs: task 1 (a = /etc): the input path `/etc` is not below the work directory"]
    );
    assert_eq!(
        faults("task.image = 'a'\narray.a = ['y', 'x']\n[inputs]\n'{a}' = '1'\nx = '2'"),
        ["4: inputs: task 1 (a = x): two inputs stand at `x`"]
    );
}

#[test]
fn the_number_of_tasks_is_bounded() {
    let text = "task.image = 'a'\n[array]\n";
    assert_eq!(
        faults(&format!("{text}a = '1-1000001'")),
        [
            "3: array: makes 1000001 tasks, and a job may have 1000000: take smaller ranges, or split it into several jobs"
        ]
    );
    let many = format!("{text}a = '0-9000000000000000000'\nb = '0-9000000000000000000'");
    assert_eq!(
        faults(&many),
        [
            "3: array: makes more tasks than can be counted, and a job may have 1000000: take smaller ranges, or split it into several jobs"
        ]
    );
    let most = job(&format!("{text}a = '1-1000'\nb = '1-1000'"));
    assert_eq!(most.array(&[]).unwrap().task_count(), 1_000_000);
    let keys: String = (0..17).map(|n| format!("k{n} = '1-1'\n")).collect();
    assert_eq!(
        faults(&format!("{text}{keys}")),
        ["2: array: has more than 16 keys"]
    );
}

#[test]
fn a_chunk_too_long_for_a_task_is_refused() {
    let text =
        "task.image = 'a'\ntask.command = ['{f.first}']\narray = { f = '1-100000', chunk = 50000 }";
    assert_eq!(
        faults(text),
        [
            "3: array: task 0 (f = 1): the task does not fit its template: its values are too long; use a smaller chunk"
        ]
    );
}

#[test]
fn lines_of_files_are_values() {
    let job = job("task.image = 'a'\narray.f = { lines = 'f.txt' }\noutputs.paths = ['{f}']");
    assert_eq!(job.line_files().next().unwrap().text, "f.txt");
    let lines = |lines: &[&str]| vec![lines.iter().map(ToString::to_string).collect()];
    let array = job.array(&lines(&["a", "b"])).unwrap();
    assert_eq!(array.values(1), Some(vec![vec!["b".into()]]));
    let error = |result: Result<_, JobFileErrors>| result.map(drop).unwrap_err().to_string();
    assert_eq!(
        error(job.array(&lines(&[]))),
        "job.toml:2: array.f.lines: `f.txt` has no lines, so there are no tasks: write one value a line"
    );
    assert_eq!(
        error(job.array(&lines(&["a", "b\0"]))),
        "job.toml:2: array.f.lines: line 2 of `f.txt`: a value holds a NUL character"
    );
    assert_eq!(
        error(job.array(&lines(&["a", "a"]))),
        "job.toml:3: outputs.paths: task 1 (f = a): would write `a`, and so would task 0: make the paths differ, for example with {index}"
    );
}

#[test]
fn faults_elsewhere_do_not_hide_a_collision() {
    assert_eq!(
        faults("nmae = 'x'\ntask.image = 'a'\narray.f = '1-2'\noutputs.paths = ['x']"),
        [
            "1: nmae: unknown key: did you mean `name`?",
            "4: outputs.paths: all tasks would write `x`: add {f} to the path",
        ]
    );
}
