//! What can't be: one clear line each, and nothing left.

use super::{Place, refused};
use crate::bench::small_job;
use crate::harness::text;

#[test]
#[ignore = "needs docker"]
fn what_cannot_be_entered_is_said_in_one_line() {
    let place = Place::new();
    let other = "ffffffffffffffff";
    assert!(refused(&place.me(&["exec", other, "--", "id"]), 2).contains("no job begins with"));
    assert!(refused(&place.me(&["ssh", other]), 2).contains("no job begins with"));
    let beyond = format!("{}/7", place.job);
    assert!(refused(&place.me(&["exec", &beyond, "--", "id"]), 2).contains("task 7"));
    let unknown = place.me(&["exec", &place.job, "--", "no-such-program"]);
    assert!(refused(&unknown, 125).contains("no-such-program"));
    assert!(refused(&place.me(&["forward", &place.job, "http"]), 2).contains("8888"));
    assert!(refused(&place.me(&["forwards", "--close", "77"]), 2).contains("77"));

    let cancelled = place.me(&["cancel", &place.job]);
    assert!(cancelled.status.success());
    for (verb, code) in [
        (&["exec", &place.job, "--", "id"][..], 125),
        (&["ssh", &place.job], 2),
        (&["forward", &place.job, "80"], 2),
        (&["cp", &format!("{}:x", place.job), "."], 2),
    ] {
        let said = refused(&place.me(verb), code);
        assert!(said.contains("has ended"), "{verb:?}: {said}");
    }
    assert_eq!(place.lab.json("me", &["forwards"]), serde_json::json!([]));
}

#[test]
#[ignore = "needs docker"]
fn an_image_without_a_shell_says_so_and_takes_files() {
    let place = Place::of("image = \"p2pnode-test-bare:1\"\ncommand = [\"sleep\", \"600\"]");
    let shell = refused(&place.me(&["exec", &place.job]), 125);
    assert!(shell.contains("/bin/sh"), "{shell}");
    let terminal = refused(&place.me(&["exec", "-i", &place.job]), 125);
    assert!(terminal.contains("/bin/sh"), "{terminal}");
    let said = refused(&place.ssh(&["true"], b""), 127);
    assert!(said.contains("/bin/sh"), "{said}");
    let named = place.me(&["exec", &place.job, "--", "cat", "/proc/self/comm"]);
    assert_eq!(text(&named.stdout), "cat\n", "{}", text(&named.stderr));
    let file = place.lab.path("file");
    std::fs::write(&file, "there and back").unwrap();
    let there = format!("{}:file", place.host());
    place.does("scp", &[file.to_str().unwrap(), &there]);
    let back = place.lab.path("back");
    place.does("scp", &[&there, back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(back).unwrap(), "there and back");
}

#[test]
#[ignore = "needs docker"]
fn a_wasm_task_has_no_inside() {
    let place = Place::new();
    let module = wat::parse_str(
        r#"(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))"#,
    )
    .unwrap();
    let job = place.lab.job(
        "wasm",
        &small_job("wasm = 'spin.wasm'", ""),
        &[("spin.wasm", &module)],
    );
    let spinning = crate::bench::begin(&place.lab, &job, &[]);
    let id = crate::harness::eventually("the module runs", || {
        let shown = place.lab.last_job("me")?;
        let job = shown["job"]["job"].as_str()?.to_owned();
        (job != place.job && shown["tasks"][0]["state"] == "running").then_some(job)
    });
    assert!(refused(&place.me(&["ssh", &id]), 2).contains("WASM"));
    assert!(refused(&place.me(&["exec", &id, "--", "id"]), 125).contains("WASM"));
    assert!(refused(&place.me(&["forward", &id, "0:80"]), 2).contains("WASM"));
    assert_eq!(
        place.lab.json("me", &["forwards"]),
        serde_json::json!([]),
        "nothing is left listening"
    );
    assert!(place.me(&["cancel", &id]).status.success());
    crate::bench::end(&place.lab, spinning);
}
