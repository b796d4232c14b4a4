//! `cp`: files in and out of a running task.

use super::{Place, refused};
use crate::bench::noise;
use crate::harness::text;

#[test]
#[ignore = "needs docker"]
fn files_and_folders_are_copied_in_and_out() {
    let place = Place::new();
    let here = place.lab.path("here");
    std::fs::create_dir_all(here.join("tree/deep")).unwrap();
    let bytes = noise(9, 20 << 20);
    std::fs::write(here.join("tree/data"), &bytes).unwrap();
    std::fs::write(here.join("tree/deep/small"), "small").unwrap();
    let path = |name: &str| here.join(name).to_str().unwrap().to_owned();
    let there = |name: &str| format!("{}:{name}", place.job);
    place.said(&["cp", &path("tree"), &there("")]);
    assert_eq!(
        place.said(&["exec", &place.job, "--", "cat", "tree/deep/small"]),
        "small"
    );
    place.said(&["cp", &there("tree/data"), &path("back")]);
    assert!(std::fs::read(here.join("back")).unwrap() == bytes);
    place.said(&["cp", &there("tree"), &path("again")]);
    assert_eq!(
        std::fs::read(here.join("again/deep/small")).unwrap(),
        b"small"
    );

    let missing = place.me(&["cp", &there("nowhere"), &path("x")]);
    assert!(
        refused(&missing, 2).contains("nowhere"),
        "{}",
        text(&missing.stderr)
    );
    let denied = place.me(&["cp", &path("back"), &there("/etc/planted")]);
    assert!(!denied.status.success());
    let both = place.me(&["cp", &path("back"), &path("x")]);
    assert!(refused(&both, 2).contains("TASK:PATH"));
}
