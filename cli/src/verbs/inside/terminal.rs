//! This process's own terminal, when a command elsewhere has it.

use std::io::{IsTerminal, Read};
use std::thread;

use p2pnode_protocol::tunnel::{MAX_DATA_BYTES, Terminal, WindowSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use crate::exit::Failure;

/// Reads of stdin that may wait to be sent.
const WAITING: usize = 4;

/// What `TERM` is when nothing says.
const PLAIN: &str = "xterm";

/// The terminal's size; 80 by 24 where it has none.
pub fn size() -> WindowSize {
    match tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin())) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => WindowSize {
            columns: size.ws_col,
            rows: size.ws_row,
        },
        _ => WindowSize {
            columns: 80,
            rows: 24,
        },
    }
}

/// A terminal like this one, for a command elsewhere.
pub fn like_this() -> Terminal {
    Terminal {
        term: std::env::var("TERM").unwrap_or_else(|_| PLAIN.to_owned()),
        size: size(),
    }
}

/// The terminal hands every key on as it is. Dropping it brings back what was before.
pub struct Raw(Option<Termios>);

impl Raw {
    /// From now on. Nothing happens when stdin is no terminal.
    ///
    /// # Errors
    /// When the terminal can't be set.
    pub fn begin() -> Result<Self, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let fault =
            |error| Failure::internal(format!("this terminal cannot be set to raw mode: {error}"));
        let before = tcgetattr(rustix::stdio::stdin()).map_err(fault)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &raw).map_err(fault)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Whatever is wrong with the terminal now, nothing more can be done.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// What is typed or piped in, until its end. A thread of its own reads, that nobody waits for: a read
/// of a terminal can't be broken off.
pub fn input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; MAX_DATA_BYTES];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}
