//! A provider that is not root, and so sees nothing of its containers.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Place, refused, succeeds};
use crate::bench::{noise, shell, small_job};
use crate::harness::{Lab, TestNode, program};

/// `nobody`, as on Debian.
const NOBODY: u32 = 65_534;

/// Where the engine listens.
const SOCKET: &str = "/var/run/docker.sock";

/// A provider run by `nobody`, who may use the engine, and a node that may use it.
fn pair(lab: &Lab) -> (TestNode, TestNode) {
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(lab.root.path(), open).unwrap();
    // The build's own folder may be out of its reach.
    let copy = lab.path("p2pnode");
    std::fs::copy(program().get_program(), &copy).unwrap();
    let home = lab.path("provider");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();

    let me = lab.id("me");
    let mut command = Command::new(copy);
    command
        .uid(NOBODY)
        .gid(Path::new(SOCKET).metadata().unwrap().gid())
        .env("HOME", &home)
        .env_remove("P2PNODE_DATA_DIR")
        .current_dir(&home)
        .stdin(Stdio::null());
    let terms = ["offer", "--cpus", "1", "--memory", "1GiB", "--disk", "1GiB"];
    let terms = [&terms[..], &["--allow", &me]].concat();
    let provider = lab.start_by(command, "provider", &terms, None);
    let mine = lab.start("me", "join", &[], Some(&provider));
    lab.wait_until_known("me", &provider);
    (provider, mine)
}

#[test]
#[ignore = "needs docker"]
fn files_ports_and_commands_are_reached_without_root() {
    // Every folder on the way must let others through.
    let root = tempfile::tempdir_in("/var/tmp").unwrap();
    let lab = Lab {
        root,
        env: Vec::new(),
    };
    let nodes = pair(&lab);
    let wait = "busybox nc -ll -p 7013 -e cat & echo there >kept; sleep 600";
    let place = Place::at(lab, nodes, &small_job(&shell(wait), ""));
    let path = |name: &str| place.lab.path(name).display().to_string();
    let there = |name: &str| format!("{}:{name}", place.job);
    std::fs::create_dir_all(place.lab.path("tree/deep")).unwrap();
    let bytes = noise(51, 5 << 20);
    std::fs::write(path("tree/data"), &bytes).unwrap();
    std::fs::write(path("tree/deep/it's a \"name\""), "deep").unwrap();

    place.said(&["cp", &path("tree"), &there("up")]);
    place.said(&["cp", &there("up"), &path("down")]);
    assert!(std::fs::read(path("down/data")).unwrap() == bytes);
    let deep = std::fs::read(path("down/deep/it's a \"name\"")).unwrap();
    assert_eq!(deep, b"deep");
    let missing = place.me(&["cp", &there("nowhere"), &path("x")]);
    assert!(refused(&missing, 2).contains("No such file"));
    let denied = place.me(&["cp", &path("tree/data"), &there("/etc/planted")]);
    assert!(!denied.status.success());

    let host = |name: &str| format!("{}:{name}", place.host());
    place.does("scp", &["-q", "-p", &path("tree/data"), &host("copy")]);
    place.does("scp", &["-q", &host("copy"), &path("copy")]);
    assert!(std::fs::read(path("copy")).unwrap() == bytes);
    let mut sftp = place.openssh("sftp");
    sftp.args(["-q", "-b", "-"]).arg(place.host());
    let batch = "mkdir new\nrename copy new/moved\nchmod 600 new/moved\nls -l new\nrm new/moved\n";
    let said = succeeds(sftp, batch.as_bytes());
    assert!(
        said.contains("-rw-------") && said.contains("moved"),
        "{said}"
    );
    let left = place.said(&["exec", &place.job, "--", "sh", "-c", "cat kept; ls new"]);
    assert_eq!(left, "there\n");

    // A port, by a program of the image.
    let mut direct = place.openssh("ssh");
    direct.args(["-W", "localhost:7013"]).arg(place.host());
    assert_eq!(succeeds(direct, b"echoed"), "echoed");
}
