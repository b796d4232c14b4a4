//! Speaks with `files.sh`, which runs in the task: one request after the other.
//!
//! What comes back is the word of programs of the task's image, run as the task: nothing of it is
//! believed beyond what the task may say of its own files, and never more is kept than was asked for.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::Duration;

use p2pnode_protocol::task::Stream;
use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::inside::Session;

/// How long an answer may take: a piece of a file on a disk that is busy, in a task that is frozen for
/// a moment.
const ANSWER: Duration = Duration::from_secs(30);

/// What is kept of an answer that has only something to say, in bytes: the longest path and the
/// system's words around it.
pub(super) const WORDS: usize = 8 << 10;

/// The longest path that the system takes, in bytes, by Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Bytes of the line that ends an answer: a newline, 16 digits, a space, a code and a newline.
const MAX_END: usize = 32;

/// What is said of a request that cannot be answered any more.
const GONE: &str = "the programs in the task that reach its files have ended";

/// The system's words for what can go wrong, as programs repeat them in the locale `C`.
const REASONS: [(&str, Errno); 18] = [
    ("No such file or directory", Errno::NOENT),
    // What the shells say of a file in a folder that is not there.
    ("nonexistent directory", Errno::NOENT),
    ("Directory nonexistent", Errno::NOENT),
    ("Permission denied", Errno::ACCESS),
    ("Operation not permitted", Errno::PERM),
    ("File exists", Errno::EXIST),
    ("Read-only file system", Errno::ROFS),
    ("No space left on device", Errno::NOSPC),
    ("Disk quota exceeded", Errno::DQUOT),
    ("File too large", Errno::FBIG),
    ("Value too large for defined data type", Errno::OVERFLOW),
    ("Directory not empty", Errno::NOTEMPTY),
    ("Is a directory", Errno::ISDIR),
    ("Not a directory", Errno::NOTDIR),
    ("Too many levels of symbolic links", Errno::LOOP),
    ("File name too long", Errno::NAMETOOLONG),
    ("Invalid cross-device link", Errno::XDEV),
    ("Invalid argument", Errno::INVAL),
];

/// One thing to do.
pub(super) struct Request {
    words: String,
    data: Vec<u8>,
    most: usize,
}

impl Request {
    /// `op` with a path, answered in a few words.
    ///
    /// # Errors
    /// When no path can be like this one.
    pub(super) fn new(op: &str, path: &[u8]) -> io::Result<Self> {
        Ok(Self {
            words: format!("{op} {}", encoded(path)?),
            data: Vec::new(),
            most: WORDS,
        })
    }

    /// Another argument: digits or letters.
    pub(super) fn word(mut self, word: impl std::fmt::Display) -> Self {
        self.words.push_str(&format!(" {word}"));
        self
    }

    /// Another path.
    ///
    /// # Errors
    /// When no path can be like this one.
    pub(super) fn path(self, path: &[u8]) -> io::Result<Self> {
        let path = encoded(path)?;
        Ok(self.word(path))
    }

    /// The bytes that follow it.
    pub(super) fn with(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    /// The most bytes that an answer may have, if it is to be more than a few words.
    pub(super) fn most(mut self, bytes: usize) -> Self {
        self.most = bytes.max(WORDS);
        self
    }
}

/// A path as `files.sh` reads it: a word of a line.
fn encoded(path: &[u8]) -> io::Result<String> {
    if path.is_empty() || path.contains(&0) {
        return Err(Errno::INVAL.into());
    }
    if path.len() > MAX_PATH {
        return Err(Errno::NAMETOOLONG.into());
    }
    let mut word = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                word.push(char::from(*byte));
            }
            byte => word.push_str(&format!("\\0{byte:03o}")),
        }
    }
    Ok(word)
}

type Answer = oneshot::Sender<io::Result<Vec<u8>>>;

/// The one who asks. When the last is dropped the script ends.
#[derive(Debug, Clone)]
pub(super) struct Talk(mpsc::Sender<(Request, Answer)>);

impl Talk {
    /// `session` runs the script.
    pub(super) fn begin(session: Session) -> Self {
        let (sender, requests) = mpsc::channel(1);
        tokio::spawn(answer_all(session, requests));
        Self(sender)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Why it was not done, as the task's system says; a broken pipe once nobody answers any more.
    pub(super) async fn asks(&self, request: Request) -> io::Result<Vec<u8>> {
        let (tell, told) = oneshot::channel();
        let sent = self.0.send((request, tell)).await;
        sent.map_err(|_| gone())?;
        told.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The same on a thread that may block.
    ///
    /// # Errors
    /// As [`asks`](Self::asks).
    pub(super) fn ask(&self, request: Request) -> io::Result<Vec<u8>> {
        let (tell, told) = oneshot::channel();
        let sent = self.0.blocking_send((request, tell));
        sent.map_err(|_| gone())?;
        told.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, GONE)
}

/// Answers until nobody asks any more, or an answer did not come as it should: what follows could not
/// be told from it.
async fn answer_all(mut session: Session, mut requests: mpsc::Receiver<(Request, Answer)>) {
    // What ends an answer must not be what a file can hold.
    let marks = RandomState::new();
    let mut count = 0_u64;
    while let Some((request, tell)) = requests.recv().await {
        count += 1;
        let mark = format!("{:016x}", marks.hash_one(count));
        let answered = timeout(ANSWER, exchange(&mut session, &mark, &request)).await;
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the task's programs do not answer");
        let (answer, goes_on) = match answered.unwrap_or_else(|_| Err(late())) {
            Ok((true, bytes)) => (Ok(bytes), true),
            Ok((false, said)) => (Err(reason(&said)), true),
            Err(error) => (Err(error), false),
        };
        // Whoever asked may have left.
        let _ = tell.send(answer);
        if !goes_on {
            return;
        }
    }
}

/// One request and its answer; false when it says why not.
async fn exchange(
    session: &mut Session,
    mark: &str,
    request: &Request,
) -> io::Result<(bool, Vec<u8>)> {
    let line = format!("{mark} {}\n", request.words);
    session.input.write_all(line.as_bytes()).await?;
    session.input.write_all(&request.data).await?;
    session.input.flush().await?;
    let mut said = Vec::new();
    loop {
        let chunk = session.output.recv().await.ok_or_else(gone)?;
        if chunk.stream != Stream::Stdout {
            continue;
        }
        said.extend_from_slice(&chunk.bytes);
        if let Some((code, length)) = end_of(&said, mark) {
            said.truncate(length);
            return Ok((code == 0, said));
        }
        if said.len() > request.most + MAX_END {
            let error = "the task's programs say more than they were asked for";
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
}

/// The code at the end of an answer, and the length of what comes before; none while it goes on.
fn end_of(said: &[u8], mark: &str) -> Option<(u8, usize)> {
    let tail = said.strip_suffix(b"\n")?;
    let from = tail.len().saturating_sub(MAX_END);
    let newline = tail.get(from..)?.iter().rposition(|byte| *byte == b'\n')?;
    let last = std::str::from_utf8(tail.get(from + newline + 1..)?).ok()?;
    let code = last.strip_prefix(mark)?.strip_prefix(' ')?;
    Some((code.parse().ok()?, from + newline))
}

/// What the system said, at the end of what a program says of it.
fn reason(said: &[u8]) -> io::Error {
    let said = String::from_utf8_lossy(said);
    let said = said.trim_end();
    let known = REASONS.iter().find(|(words, _)| said.ends_with(words));
    if let Some((_, errno)) = known {
        return (*errno).into();
    }
    let shown: String = said
        .chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect();
    io::Error::other(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_whatever_is_in_it() {
        let word = |path: &[u8]| encoded(path).unwrap();
        assert_eq!(word(b"/data/a-b_c.d"), "/data/a-b_c.d");
        assert_eq!(
            word(b"a b\n'$\\\xff"),
            "a\\0040b\\0012\\0047\\0044\\0134\\0377"
        );
        assert!(encoded(b"").is_err() && encoded(b"a\0b").is_err());
        assert!(encoded(&[b'a'; MAX_PATH + 1]).is_err());
    }

    #[test]
    fn an_answer_ends_with_its_mark_and_nothing_else() {
        let mark = "0123456789abcdef";
        assert_eq!(end_of(b"bytes\n0123456789abcdef 0\n", mark), Some((0, 5)));
        assert_eq!(end_of(b"\n0123456789abcdef 127\n", mark), Some((127, 0)));
        for other in [
            &b"bytes\n0123456789abcdef 0"[..],
            b"bytes0123456789abcdef 0\n",
            b"\n0123456789abcdee 0\n",
            b"\n0123456789abcdef 0\nmore",
            b"\n0123456789abcdef x\n",
            b"",
            b"\n",
        ] {
            assert_eq!(end_of(other, mark), None, "{other:?}");
        }
    }

    #[test]
    fn reasons_are_the_systems_own() {
        let kind = |said: &str| reason(said.as_bytes()).kind();
        assert_eq!(
            kind("stat: can't stat 'File exists': No such file or directory\n"),
            io::ErrorKind::NotFound
        );
        assert_eq!(kind("Permission denied"), io::ErrorKind::PermissionDenied);
        let other = reason(b"sh: \x1b[31modd\n").to_string();
        assert_eq!(other, "sh: [31modd");
    }
}
