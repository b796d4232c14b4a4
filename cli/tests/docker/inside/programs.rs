//! Programs that speak through this system's OpenSSH: rsync, git, and whatever uses its ports.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use super::{Place, WORK, connected, fed, free_port, succeeds};
use crate::bench::noise;
use crate::harness::text;

/// A port in the task that nobody else uses.
const PORT: u16 = 7_009;

/// Ends a program of OpenSSH's that goes on by itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
#[ignore = "needs docker"]
fn rsync_copies_what_has_changed_both_ways() {
    let place = Place::with_tools();
    let tree = place.lab.path("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    let mut big = noise(21, 6 << 20);
    fs::write(tree.join("sub/big"), &big).unwrap();
    fs::write(tree.join("small one"), "one").unwrap();
    std::os::unix::fs::symlink("sub/big", tree.join("link")).unwrap();
    let rsync = |from: &str, to: &str| {
        let mut command = Command::new("rsync");
        // By content: what changed may have the same size, and the same second.
        command.args(["-ac", "--delete", "--itemize-changes", "--stats", "-e"]);
        command.arg(place.ssh_words()).args([from, to]);
        succeeds(command, b"")
    };
    let here = format!("{}/", tree.display());
    let there = format!("{}:copy", place.host());
    rsync(&here, &there);
    let sum = |line: &str| {
        let output = place.ssh(&[line], b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let seen = sum("cat 'copy/small one'; readlink copy/link; wc -c <copy/sub/big");
    assert_eq!(seen, format!("onesub/big\n{}\n", big.len()));

    // Again: only what differs travels, of a file that changed a little a little.
    big[3 << 20] ^= 1;
    fs::write(tree.join("sub/big"), &big).unwrap();
    fs::remove_file(tree.join("small one")).unwrap();
    let said = rsync(&here, &there);
    assert!(said.contains("*deleting   small one"), "{said}");
    assert!(said.contains("sub/big"), "{said}");
    let literal = said
        .lines()
        .find_map(|line| line.strip_prefix("Literal data: "));
    let literal = literal.unwrap().split(' ').next().unwrap().replace(',', "");
    assert!(literal.parse::<usize>().unwrap() < 1 << 20, "{said}");

    sum("echo new >copy/sub/new; rm copy/link");
    let back = place.lab.path("back");
    rsync(&format!("{there}/"), &format!("{}/", back.display()));
    assert!(fs::read(back.join("sub/big")).unwrap() == big);
    assert_eq!(fs::read(back.join("sub/new")).unwrap(), b"new\n");
    assert!(!back.join("link").exists() && !back.join("small one").exists());
}

/// `git` in a folder, with nothing of this machine's own settings.
fn git(place: &Place, folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args([
            "-c",
            "init.defaultBranch=main",
            "-c",
            "commit.gpgSign=false",
        ])
        .args(args)
        .current_dir(folder)
        .env("GIT_SSH_COMMAND", place.ssh_words())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "somebody");
        command.env(format!("GIT_{who}_EMAIL"), "somebody@example.org");
    }
    succeeds(command, b"")
}

#[test]
#[ignore = "needs docker"]
fn git_pushes_into_a_task_and_clones_out_of_it() {
    let place = Place::with_tools();
    let made = place.ssh(&["git init --quiet --bare shared.git"], b"");
    assert!(made.status.success(), "{}", text(&made.stderr));
    let (first, root) = (place.lab.path("first"), place.lab.root.path());
    git(&place, root, &["init", "--quiet", "first"]);
    let big = noise(22, 5 << 20);
    fs::write(first.join("big"), &big).unwrap();
    git(&place, &first, &["add", "big"]);
    git(&place, &first, &["commit", "--quiet", "-m", "one"]);
    let url = format!("ssh://{}{WORK}/shared.git", place.host());
    git(&place, &first, &["push", "--quiet", &url, "HEAD:main"]);

    // The other way to write where it is; paths begin at the work directory.
    let short = format!("{}:shared.git", place.host());
    git(
        &place,
        root,
        &["clone", "--quiet", "-b", "main", &short, "second"],
    );
    let second = place.lab.path("second");
    assert!(fs::read(second.join("big")).unwrap() == big);
    fs::write(second.join("small"), "two").unwrap();
    git(&place, &second, &["add", "small"]);
    git(&place, &second, &["commit", "--quiet", "-m", "two"]);
    git(&place, &second, &["push", "--quiet", "origin", "main"]);
    git(
        &place,
        &first,
        &["pull", "--quiet", "--ff-only", &url, "main"],
    );
    assert_eq!(fs::read(first.join("small")).unwrap(), b"two");
    let seen = place.ssh(&["git --git-dir shared.git log --format=%s main"], b"");
    assert_eq!(text(&seen.stdout), "two\none\n", "{}", text(&seen.stderr));
}

/// Asks a SOCKS 5 proxy (RFC 1928) for a connection by name.
pub fn socks(proxy: u16, host: &str, port: u16) -> TcpStream {
    let mut stream = connected(&format!("127.0.0.1:{proxy}"));
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut method = [0; 2];
    stream.read_exact(&mut method).unwrap();
    assert_eq!(method, [5, 0]);
    let mut request = vec![5, 1, 0, 3, host.len() as u8];
    request.extend(host.as_bytes());
    request.extend(port.to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut answer = [0; 10];
    // OpenSSH says yes before it knows, and closes when it was wrong.
    let _refused = stream.read_exact(&mut answer);
    stream
}

/// What a web server in the task says; nothing when the connection was not made.
fn fetch(mut stream: TcpStream, path: &str) -> Vec<u8> {
    let request = format!("GET /{path} HTTP/1.0\r\n\r\n");
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).is_ok() {
        // Refused: the stream ends, or is reset.
        let _refused = stream.read_to_end(&mut answer);
    }
    answer
}

#[test]
#[ignore = "needs docker"]
fn a_socks_proxy_and_a_bare_connection_reach_the_tasks_own_ports_and_no_others() {
    let place = Place::new();
    let big = noise(23, 3 << 20);
    let serve = format!("cat >page && busybox httpd -p 127.0.0.1:{PORT} -h /work");
    let served = place.ssh(&[&serve], &big);
    assert!(served.status.success(), "{}", text(&served.stderr));

    let near = free_port();
    let mut proxy = place.openssh("ssh");
    proxy.args(["-N", "-o", "ExitOnForwardFailure=yes", "-D"]);
    proxy.arg(format!("127.0.0.1:{near}")).arg(place.host());
    let _proxy = Running(proxy.spawn().unwrap());
    let fetching: Vec<_> = ["localhost", "127.0.0.1", "localhost", "::1"]
        .into_iter()
        .map(|host| std::thread::spawn(move || fetch(socks(near, host, PORT), "page")))
        .collect();
    for page in fetching {
        let page = page.join().unwrap();
        assert!(
            page.starts_with(b"HTTP/1.0 200 OK\r\n") || page.starts_with(b"HTTP/1.1 200 OK\r\n")
        );
        assert!(page.ends_with(&big), "{} bytes", page.len());
    }
    assert_eq!(fetch(socks(near, "example.org", 80), "page"), b"");
    assert_eq!(fetch(socks(near, "localhost", PORT + 1), "page"), b"");

    let direct = |to: &str| {
        let mut command = place.openssh("ssh");
        command
            .args(["-o", "LogLevel=INFO", "-W", to])
            .arg(place.host());
        fed(command, b"GET /page HTTP/1.0\r\n\r\n")
    };
    let page = direct(&format!("localhost:{PORT}"));
    assert!(page.stdout.ends_with(&big), "{}", text(&page.stderr));
    let refused = direct(&format!("localhost:{}", PORT + 1));
    assert_eq!(refused.status.code(), Some(255));
    assert!(text(&refused.stderr).contains("nobody in the task listens"));
    let refused = direct("192.0.2.1:80");
    assert!(text(&refused.stderr).contains("no way out"));
}
