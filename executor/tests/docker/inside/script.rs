//! The script that reaches files from within a task, by itself: with programs of this machine.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

/// What runs in a task whose files this host does not see.
const SCRIPT: &str = include_str!("../../../src/docker/inside/shell/files.sh");

/// What the script says to `requests` with the programs of this `PATH`.
fn script_says(path: &OsStr, requests: &str) -> String {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", SCRIPT])
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(requests.as_bytes()).unwrap();
    drop(stdin);
    String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_task_without_the_programs_that_reach_its_files_says_which() {
    let nothing = tempfile::tempdir().unwrap();
    let requests = "mark ready /\nnext odd /\n";
    let said = script_says(nothing.path().as_os_str(), requests);
    let (missing, next) = said.split_once("\nmark 1\n").expect(&said);
    for program in ["stat", "dd", "mv"] {
        assert!(missing.split(' ').any(|name| name == program), "{said}");
    }
    assert_eq!(next, "Invalid argument\nnext 1\n");
}

/// Were they, a file that is copied into a task could remove others.
#[test]
fn bytes_that_cannot_be_read_are_never_taken_for_requests() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("dd"), "#!/bin/sh\nkill -9 $$\n").unwrap();
    std::fs::set_permissions(at("dd"), Permissions::from_mode(0o755)).unwrap();
    std::fs::write(at("target"), "before").unwrap();
    std::fs::write(at("other"), "").unwrap();
    let path = std::env::join_paths([folder.path(), "/usr/bin".as_ref(), "/bin".as_ref()]);
    let data = format!("x remove {}\n", at("other").display());
    for (target, place) in [("target", "0"), ("target", "end"), ("none", "0")] {
        let target = at(target);
        let line = format!("m write {} {place} {}\n", target.display(), data.len());
        let said = script_says(path.as_ref().unwrap(), &(line + &data));
        assert!(!said.contains("m 0") && !said.contains('x'), "{said}");
        assert!(at("other").exists());
    }
    // With a `dd` that works, the same does what it says.
    std::fs::remove_file(at("dd")).unwrap();
    let line = format!("m write {} 0 {}\n", at("target").display(), data.len());
    let said = script_says(path.as_ref().unwrap(), &(line + &data + "y odd /\n"));
    assert_eq!(said, "\nm 0\nInvalid argument\ny 1\n");
    assert_eq!(std::fs::read_to_string(at("target")).unwrap(), data);
}

#[test]
fn a_folder_with_too_many_names_is_refused_and_not_told_in_part() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..40 {
        std::fs::write(folder.path().join(format!("name-{number:02}")), "").unwrap();
    }
    let path = std::env::var_os("PATH").unwrap();
    let ask = |room: usize| {
        let line = format!("m list {} 100 {room}\n", folder.path().display());
        script_says(&path, &line)
    };
    let all = ask(40 * 8);
    assert_eq!(all.matches('\0').count(), 40, "{all}");
    assert!(all.ends_with("\nm 0\n"), "{all}");
    let few = ask(40 * 8 - 1);
    assert!(
        few.ends_with("Value too large for defined data type\nm 1\n"),
        "{few}"
    );
}
