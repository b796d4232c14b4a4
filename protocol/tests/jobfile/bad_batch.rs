//! What can be wrong with inputs, outputs, the array and the blanks.

use crate::{one, with};

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
