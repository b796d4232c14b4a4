//! The format is pinned: every sample has the bytes that `golden.txt` says.
//!
//! After a change that is meant (a new message, or a new protocol version), write the file again with
//! `P2PNODE_BLESS=1 cargo test -p p2pnode-protocol --test wire golden` and read the difference: a line
//! that changed is a break with every node that runs an older version.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use data_encoding::HEXLOWER;

use crate::samples;

#[test]
fn golden_bytes_do_not_change() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/golden.txt");
    let mut text = String::new();
    for sample in samples::all() {
        writeln!(text, "{} {}", sample.name, HEXLOWER.encode(&sample.bytes)).unwrap();
    }
    if std::env::var_os("P2PNODE_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let pinned: BTreeMap<_, _> = golden
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    for line in text.lines() {
        let (name, hex) = line.split_once(' ').unwrap();
        assert_eq!(pinned.get(name), Some(&hex), "the bytes of {name} changed");
    }
    assert_eq!(pinned.len(), text.lines().count(), "a sample is gone");
}

#[test]
fn samples_survive_the_round_trip() {
    for sample in samples::all() {
        let again = (sample.again)(&sample.bytes, sample.limit).unwrap();
        assert_eq!(again, sample.bytes, "{}", sample.name);
    }
}
