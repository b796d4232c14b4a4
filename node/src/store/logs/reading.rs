//! Reads a log's entries: to learn what is in it, and for whoever wants to see it.
//!
//! Needs no lock: what lies before the end that it was given never changes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use p2pnode_protocol::stream::LogFrame;

use super::format::{HEADER_BYTES, Header, Kind};
use super::{LogPage, LogPosition, LogsError, TaskFilter};

/// Bytes read from the file at a time (16 KiB): a hundred headers of short lines in one read, and
/// little wasted where long payloads are stepped over.
const READ_BYTES: usize = 16 << 10;

/// What a reader needs, taken under the job's lock and used without it.
#[derive(Debug)]
pub(super) struct Reading {
    pub file: Arc<File>,
    pub path: PathBuf,
    /// Where to begin.
    pub from: u64,
    /// Nothing is read from here on.
    pub end: u64,
    /// Whether the log is full.
    pub full: bool,
}

impl Reading {
    /// Reads entries until some `max_bytes` of payload are collected or the end is met.
    pub(super) fn page(
        self,
        filter: Option<TaskFilter>,
        max_bytes: usize,
    ) -> Result<LogPage, LogsError> {
        if self.from > self.end {
            return Err(LogsError::BadPosition(LogPosition(self.from)));
        }
        let path = self.path;
        let failed = |source| LogsError::Io {
            path: path.clone(),
            source,
        };
        let mut page = LogPage::default();
        let mut bytes = 0;
        let mut entries = Entries::new(self.file, self.from, self.end);
        while bytes < max_bytes {
            let header = match entries.next_header().map_err(failed)? {
                Next::Header(header) => header,
                Next::End => break,
                Next::Broken => return Err(LogsError::BadPosition(LogPosition(entries.at))),
            };
            let wanted = filter.is_none_or(|filter| filter.fits(header.task));
            match header.kind {
                Kind::Output(stream) if wanted => {
                    let payload = entries.payload(header.length).map_err(failed)?;
                    bytes += payload.len();
                    page.frames.push(LogFrame {
                        step: header.task.step,
                        index: header.task.index,
                        attempt: header.task.attempt,
                        stream,
                        offset: header.offset,
                        bytes: payload,
                    });
                }
                Kind::Output(_) | Kind::Full => {}
            }
            entries.skip_payload();
        }
        page.at_end = entries.at >= self.end;
        page.truncated = page.at_end && self.full;
        page.next = LogPosition(entries.at);
        Ok(page)
    }
}

/// Walks over entries with few reads: headers come out of a window, payloads nobody wants are
/// stepped over.
pub(super) struct Entries {
    file: Arc<File>,
    /// Position of the current entry's header.
    pub at: u64,
    /// Nothing is read from here on.
    end: u64,
    /// Payload of the current entry, in bytes.
    length: u32,
    window: Vec<u8>,
    window_at: u64,
}

/// What stands at a position.
pub(super) enum Next {
    /// An entry with this header.
    Header(Header),
    /// The end of what is to be read.
    End,
    /// Something that is no entry, or not all of one.
    Broken,
}

impl Entries {
    /// Begins at `at`, an entry's start, and ends at `end`.
    pub(super) fn new(file: Arc<File>, at: u64, end: u64) -> Self {
        Self {
            file,
            at,
            end,
            length: 0,
            window: Vec::new(),
            window_at: at,
        }
    }

    /// The header at the current position; the position stays.
    pub(super) fn next_header(&mut self) -> io::Result<Next> {
        if self.at >= self.end {
            return Ok(Next::End);
        }
        if self.end - self.at < HEADER_BYTES as u64 {
            return Ok(Next::Broken);
        }
        let mut bytes = [0; HEADER_BYTES];
        let (at, length) = (self.at, HEADER_BYTES);
        bytes.copy_from_slice(self.window(at, length)?);
        let rest = self.end - self.at - HEADER_BYTES as u64;
        match Header::decode(&bytes) {
            Some(header) if u64::from(header.length) <= rest => {
                self.length = header.length;
                Ok(Next::Header(header))
            }
            _ => Ok(Next::Broken),
        }
    }

    /// The current entry's payload.
    fn payload(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let at = self.at + HEADER_BYTES as u64;
        Ok(self.window(at, length as usize)?.to_vec())
    }

    /// Goes to the next entry.
    pub(super) fn skip_payload(&mut self) {
        self.at += HEADER_BYTES as u64 + u64::from(self.length);
    }

    /// `length` bytes at `at`, which lie before the end.
    fn window(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let until = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + length as u64 > until {
            let wanted = (READ_BYTES.max(length) as u64).min(self.end - at);
            self.window.resize(wanted as usize, 0);
            // Empty while the read is under way, so that a failed one leaves nothing behind.
            let mut window = std::mem::take(&mut self.window);
            self.file.read_exact_at(&mut window, at)?;
            self.window = window;
            self.window_at = at;
        }
        let from = (at - self.window_at) as usize;
        Ok(&self.window[from..from + length])
    }
}
