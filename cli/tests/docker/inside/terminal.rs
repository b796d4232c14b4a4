//! Terminals: `exec -it` and `ssh -tt` from a terminal of the test's own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::Place;
use crate::harness::program;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program in a terminal that the test holds.
struct Screen {
    child: Child,
    keys: File,
    shown: Receiver<Vec<u8>>,
    text: String,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Screen {
    fn new(command: &Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, size(91, 23)).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave: OwnedFd = rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY,
            Mode::empty(),
        )
        .unwrap();
        // A session of its own, whose terminal this is.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::from(slave.try_clone().unwrap()))
            .stderr(Stdio::from(slave))
            .spawn()
            .unwrap();
        let keys = File::from(master);
        let mut screen = keys.try_clone().unwrap();
        let (sender, shown) = sync_channel(64);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keys,
            shown,
            text: String::new(),
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen shows this, and forgets all up to there.
    fn shows(&mut self, wanted: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text.find(wanted) {
                self.text.drain(..at + wanted.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("the screen does not show {wanted:?}: {:?}", self.text),
            }
        }
    }

    fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.keys, size(columns, rows)).unwrap();
    }

    fn ends_with(mut self, code: i32) {
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{}", self.text);
    }
}

/// What a shell in a terminal must be able to do, however one came to it.
fn a_shell_works(mut screen: Screen) {
    // An engine's own terminal may get its size a moment after the start.
    let sized = |size| {
        format!("until [ \"$(stty size)\" = '{size}' ]; do sleep 0.1; done; echo it is {size}\n")
    };
    screen.type_in(&sized("23 91"));
    screen.shows("\nit is 23 91");
    screen.type_in("tty\n");
    screen.shows("/dev/pts/");
    screen.resize(120, 40);
    screen.type_in(&sized("40 120"));
    screen.shows("\nit is 40 120");
    // Ctrl-C ends the command, not the shell. The word comes from the command itself: between two commands
    // the key would meet the shell.
    screen.type_in("sh -c \"echo go''ing; exec sleep 300\"\n");
    screen.shows("going");
    screen.type_in("\x03");
    screen.type_in("echo still he''re\n");
    screen.shows("still here");
    screen.type_in("exit 9\n");
    screen.ends_with(9);
}

#[test]
#[ignore = "needs docker"]
fn exec_gives_a_shell_in_a_terminal() {
    let place = Place::new();
    let mut command = program();
    command
        .args(["exec", "-it", &place.job, "--data-dir"])
        .arg(place.lab.path("me"));
    a_shell_works(Screen::new(&command));
}

#[test]
#[ignore = "needs docker"]
fn ssh_gives_a_shell_in_a_terminal() {
    let place = Place::new();
    let mut command = place.openssh("ssh");
    command.arg("-tt").arg(place.host());
    a_shell_works(Screen::new(&command));
}

#[test]
#[ignore = "needs docker"]
fn run_gives_a_shell_of_its_own_in_a_terminal() {
    let place = Place::new();
    let mut command = program();
    command
        .args(["run", "-it", "--image", crate::bench::IMAGE])
        .args(["--memory", "64MiB", "--disk", "64MiB", "--cpus", "0.2"])
        .arg("--data-dir")
        .arg(place.lab.path("me"))
        .args(["--", "sh"]);
    a_shell_works(Screen::new(&command));
}
