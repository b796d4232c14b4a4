//! A terminal whose other side is a test.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::rig::LONG;

pub struct Screen {
    master: OwnedFd,
    seen: String,
    seeing: mpsc::Receiver<Vec<u8>>,
}

impl Screen {
    /// The screen, and what a program is to have as stdin, stdout and stderr.
    pub fn new(columns: u16, rows: u16) -> (Self, File) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let mut slave = File::options();
        let slave = slave.read(true).write(true).open(name.to_str().unwrap());
        let (show, seeing) = mpsc::channel(64);
        let mut reader = File::from(rustix::io::dup(&master).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || show.blocking_send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = Self {
            master,
            seen: String::new(),
            seeing,
        };
        screen.resize(columns, rows);
        (screen, slave.unwrap())
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).unwrap();
    }

    pub fn type_in(&self, text: &str) {
        rustix::io::write(&self.master, text.as_bytes()).unwrap();
    }

    /// Waits until the text has appeared.
    pub async fn wait_for(&mut self, wanted: &str) {
        while !self.seen.contains(wanted) {
            match timeout(LONG, self.seeing.recv()).await {
                Ok(Some(bytes)) => self.seen += &String::from_utf8_lossy(&bytes),
                _ => panic!("no `{wanted}` in {}", self.seen),
            }
        }
    }
}
