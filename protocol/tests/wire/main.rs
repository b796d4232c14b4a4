//! The wire: pinned bytes, round trips, hostile bytes, adverts.
#![allow(clippy::unwrap_used)]

mod advert;
mod decided;
mod golden;
mod hostile;
mod memory;
mod parts;
mod roundtrip;
mod samples;

/// So many random cases; a failing one prints its input and writes no file.
fn cases(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        cases,
        failure_persistence: None,
        ..Default::default()
    }
}
