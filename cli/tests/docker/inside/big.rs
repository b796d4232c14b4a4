//! A gibibyte into a task and out again.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::{Place, succeeds};
use crate::bench::{IMAGE, noise};

/// What is copied each way.
const BYTES: usize = 1 << 30;

/// What is made and written at a time.
const PIECE: usize = 32 << 20;

/// The digest that `sha256sum` prints of a file.
fn digest(mut command: Command, path: &str) -> String {
    command.arg(format!("sha256sum {path}"));
    let said = succeeds(command, b"");
    said.split_whitespace().next().unwrap().to_owned()
}

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    // The pieces are unlike one another, so that none may take another's place.
    let piece = noise(11, PIECE);
    for number in 0..BYTES / PIECE {
        let shift = number * 4_099;
        file.write_all(&piece[shift..]).unwrap();
        file.write_all(&piece[..shift]).unwrap();
    }
}

#[test]
#[ignore = "needs docker"]
fn a_gibibyte_goes_in_and_comes_out_unchanged() {
    let place = Place::of_job(&format!(
        "[task]\nimage = \"{IMAGE}\"\ncommand = [\"sleep\", \"900\"]\n\
         [resources]\ncpus = 1\nmemory = \"256MiB\"\ndisk = \"1200MiB\"\n"
    ));
    let here = place.lab.path("here").display().to_string();
    let back = place.lab.path("back").display().to_string();
    let there = format!("{}:there", place.host());
    fill(Path::new(&here));
    let of_file = |path: &str| {
        let mut shell = Command::new("sh");
        shell.arg("-c");
        digest(shell, path)
    };
    let wanted = of_file(&here);

    let began = Instant::now();
    place.does("scp", &[&here, &there]);
    let inward = began.elapsed();
    std::fs::remove_file(&here).unwrap();
    let mut inside = place.openssh("ssh");
    inside.arg(place.host());
    assert_eq!(digest(inside, "there"), wanted);
    let began = Instant::now();
    place.does("scp", &[&there, &back]);
    eprintln!("1 GiB in: {inward:?}, out: {:?}", began.elapsed());
    assert_eq!(of_file(&back), wanted);
}
