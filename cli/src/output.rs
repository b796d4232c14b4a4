//! The only module that prints. Results go to stdout, everything else to stderr.
//!
//! Much of what is printed was chosen by peers: only [`Logs`] lets anything through that does more than
//! show itself, and of that colours alone.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use p2pnode_protocol::task::Stream;
use p2pnode_protocol::text::{is_plain, printable, printable_lines};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;

use crate::args::Global;
use crate::exit::{self, Failure};
use crate::terminal::Filter;

/// What a node logs unless it is told otherwise. That Kademlia knows nobody yet is no news: every first
/// node of a network begins so.
const NODE_FILTER: &str =
    "warn,libp2p_kad=error,p2pnode=info,p2pnode_node=info,p2pnode_executor=info";

/// Logs go to stderr: of a node what its operator would care about, of a client errors only; what
/// `filter` says in place of that, and `-v` in place of both.
pub fn start_logging(is_node: bool, global: &Global, filter: Option<&str>) -> Result<(), Failure> {
    let default = if is_node { NODE_FILTER } else { "error" };
    let filter = match global.verbose {
        0 => filter.unwrap_or(default),
        1 => "info,p2pnode=debug,p2pnode_node=debug,p2pnode_executor=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!(
            "`log`: `{filter}` is no filter ({error}): write error, warn, info, debug or trace, or parts such as info,p2pnode_node::net=debug"
        ))
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    if global.json {
        log.json().init();
    } else {
        log.with_target(global.verbose > 0).init();
    }
    Ok(())
}

/// Prints what clap says of the arguments: help on stdout, faults on stderr, or as one JSON object.
pub fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let text = error.to_string();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let message = lines.next().unwrap_or("wrong usage");
        let message = message.strip_prefix("error: ").unwrap_or(message);
        let details = lines.map(str::to_owned).collect();
        let told = Failure::usage(message).with_details(details);
        failure(&told, true);
        return told.code();
    }
    // Nothing can be said when even this fails.
    let _unwritable = error.print();
    if error.use_stderr() {
        ExitCode::from(exit::USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Prints why the program ends.
pub fn failure(failure: &Failure, json: bool) {
    if json {
        line_json(&json!({
            "event": "error",
            "code": failure.number(),
            "message": failure.message,
            "details": failure.details,
        }));
        return;
    }
    note(format!("p2pnode: {}", failure.message));
    // A single detail is the message itself.
    if failure.details.len() > 1
        || failure
            .details
            .first()
            .is_some_and(|one| *one != failure.message)
    {
        for detail in &failure.details {
            note(format!("  {detail}"));
        }
    }
}

/// A line of result.
pub fn line(text: impl AsRef<str>) {
    raw(&(printable_lines(text.as_ref()) + "\n"));
}

/// Bytes of result as they are.
pub fn raw(text: &str) {
    raw_bytes(text.as_bytes());
}

/// The same, of bytes that need not be text.
pub fn raw_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    told(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// This process has more to do than to print: from now on nothing that can't be printed ends it.
/// [`unread`] tells of it.
pub fn outlives_readers() {
    OUTLIVES_READERS.store(true, Ordering::Relaxed);
}

static OUTLIVES_READERS: AtomicBool = AtomicBool::new(false);

/// Returns when a process that outlives its readers has printed something that nobody will read: the exit
/// code that says why. Safe to drop and call again.
pub async fn unread() -> u8 {
    UNREAD.notified().await;
    match READER_LEFT.load(Ordering::Relaxed) {
        true => exit::BROKEN_PIPE,
        false => exit::JOB_FAILED,
    }
}

static UNREAD: Notify = Notify::const_new();

/// Whether that is for want of a reader, and not of a place to write.
static READER_LEFT: AtomicBool = AtomicBool::new(false);

/// Says once that there is no such place.
static NO_PLACE: Once = Once::new();

type Hook = Box<dyn Fn() + Send>;

/// What is to be done before this process ends by itself; nothing with `None`.
pub fn before_exit(hook: Option<Hook>) {
    *HOOK.lock().unwrap_or_else(PoisonError::into_inner) = hook;
}

static HOOK: Mutex<Option<Hook>> = Mutex::new(None);

fn exit_with(code: u8) -> ! {
    if let Some(hook) = &*HOOK.lock().unwrap_or_else(PoisonError::into_inner) {
        hook();
    }
    std::process::exit(code.into())
}

/// A result that nobody can have is the end of a program that does nothing else: without a word when
/// its reader has seen enough, and with one when there is no place for it.
fn told(written: io::Result<()>) {
    let Err(error) = written else { return };
    let left = error.kind() == io::ErrorKind::BrokenPipe;
    if !left {
        NO_PLACE.call_once(|| note(format!("p2pnode: the output cannot be written: {error}")));
    }
    if OUTLIVES_READERS.load(Ordering::Relaxed) {
        READER_LEFT.store(left, Ordering::Relaxed);
        UNREAD.notify_one();
        return;
    }
    exit_with(if left {
        exit::BROKEN_PIPE
    } else {
        exit::JOB_FAILED
    })
}

/// Something to be told beside the result.
pub fn note(text: impl AsRef<str>) {
    raw_note(&(printable_lines(text.as_ref()) + "\n"));
}

/// Bytes for stderr as they are.
fn raw_note(text: &str) {
    raw_note_bytes(text.as_bytes());
}

/// The same, of bytes that need not be text.
pub fn raw_note_bytes(bytes: &[u8]) {
    let mut stderr = io::stderr().lock();
    let _closed = stderr.write_all(bytes).and_then(|()| stderr.flush());
}

/// A value as one line of JSON.
pub fn line_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => raw(&(escaped(&text) + "\n")),
        Err(error) => note(format!("p2pnode: cannot be written as JSON: {error}")),
    }
}

/// JSON in which everything is escaped that does not only show itself. All of it stands in texts, where
/// an escape means the same.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_plain(letter) || letter == '\n' {
            out.push(letter);
        } else {
            // All of these are of Unicode's first plane. Writing to a text cannot fail.
            let _infallible = write!(out, "\\u{:04x}", u32::from(letter));
        }
    }
    out
}

/// What tasks write, on its way out.
#[derive(Debug)]
pub struct Logs {
    stdout: Option<Filter>,
    stderr: Option<Filter>,
}

impl Logs {
    /// Filters what goes to a terminal; nothing when `raw`.
    pub fn new(raw: bool) -> Self {
        let filter = |is_terminal: bool| (is_terminal && !raw).then(Filter::default);
        Self {
            stdout: filter(io::stdout().is_terminal()),
            stderr: filter(io::stderr().is_terminal()),
        }
    }

    /// Prints a piece of one task's output, to the stream that it was written to.
    pub fn piece(&mut self, stream: Stream, text: &str) {
        let filter = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let shown = filter.as_mut().map(|filter| filter.pass(text));
        let shown = shown.as_deref().unwrap_or(text);
        match stream {
            Stream::Stdout => raw(shown),
            Stream::Stderr => raw_note(shown),
        }
    }

    /// The same of bytes that need not be text; they are passed on as they are where nothing is filtered.
    pub fn bytes(&mut self, stream: Stream, bytes: &[u8]) {
        let filtered = match stream {
            Stream::Stdout => self.stdout.is_some(),
            Stream::Stderr => self.stderr.is_some(),
        };
        match stream {
            _ if filtered => self.piece(stream, &String::from_utf8_lossy(bytes)),
            Stream::Stdout => raw_bytes(bytes),
            Stream::Stderr => raw_note_bytes(bytes),
        }
    }

    /// Prints a piece of output of one of several tasks, each line with the task's number. A line of one
    /// does not change those of others.
    pub fn lines(&self, index: &str, text: &str) {
        for line in text.lines() {
            let shown = match self.stdout {
                // A sequence that is cut at the end of a piece is lost.
                Some(_) => Filter::default().pass(line) + "\u{1b}[m",
                None => line.to_owned(),
            };
            raw(&format!("{index:>5} | {shown}\n"));
        }
    }
}

/// A value as JSON for people and programs.
pub fn pretty_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => raw(&(escaped(&text) + "\n")),
        Err(error) => note(format!("p2pnode: cannot be written as JSON: {error}")),
    }
}

/// Whether progress bars make sense.
pub fn is_interactive() -> bool {
    io::stderr().is_terminal()
}

/// Makes room for the next look: an empty screen on a terminal, an empty line elsewhere.
pub fn fresh_screen() {
    if io::stdout().is_terminal() {
        // To the upper left corner, and what is below it is cleared.
        raw("\x1b[H\x1b[J");
    } else {
        line("");
    }
}

/// Rows under headings, columns aligned, two spaces between.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    // A cell of several lines, or of what is not shown, would break the columns.
    let plain = |row: &Vec<String>| row.iter().map(|cell| printable(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(plain).collect();
    let mut widths: Vec<usize> = headings.iter().map(|text| text.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        line(padded.join("  ").trim_end());
    };
    print(headings.to_vec());
    for row in &rows {
        print(row.iter().map(String::as_str).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_and_obeys_nobody() {
        let value = json!({ "name": "a\u{1b}[2J\u{9b}b\u{202e}\u{7f}\"\\", "e": "é🦀" });
        let text = escaped(&value.to_string());
        assert!(text.chars().all(is_plain), "{text:?}");
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back, value);
    }
}
