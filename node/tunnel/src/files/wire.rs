//! SFTP's messages: numbers and strings, big endian, strings after their length in 4 bytes.
//!
//! Both sides of SFTP use this. Readers never go beyond the packet, and no count from a packet
//! decides about an allocation.

use p2pnode_executor::inside::{FileChange, FileStat};

/// The version that is spoken.
pub(crate) const VERSION: u32 = 3;

/// The largest packet without its length, in bytes: OpenSSH's own limit.
pub(crate) const MAX_PACKET_BYTES: usize = 256 << 10;

/// The most bytes of a file in one packet: OpenSSH's, which leaves 1 KiB for what stands around them.
pub(crate) const MAX_PIECE_BYTES: usize = MAX_PACKET_BYTES - 1024;

/// The longest path, in bytes: Linux's `PATH_MAX`.
pub(crate) const MAX_PATH_BYTES: usize = 4096;

/// Types of packets, section 3 of the draft.
pub(crate) mod kind {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const VERSION: u8 = 2;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const CLOSE: u8 = 4;
    pub(crate) const READ: u8 = 5;
    pub(crate) const WRITE: u8 = 6;
    pub(crate) const LSTAT: u8 = 7;
    pub(crate) const FSTAT: u8 = 8;
    pub(crate) const SETSTAT: u8 = 9;
    pub(crate) const FSETSTAT: u8 = 10;
    pub(crate) const OPENDIR: u8 = 11;
    pub(crate) const READDIR: u8 = 12;
    pub(crate) const REMOVE: u8 = 13;
    pub(crate) const MKDIR: u8 = 14;
    pub(crate) const RMDIR: u8 = 15;
    pub(crate) const REALPATH: u8 = 16;
    pub(crate) const STAT: u8 = 17;
    pub(crate) const RENAME: u8 = 18;
    pub(crate) const READLINK: u8 = 19;
    pub(crate) const SYMLINK: u8 = 20;
    pub(crate) const STATUS: u8 = 101;
    pub(crate) const HANDLE: u8 = 102;
    pub(crate) const DATA: u8 = 103;
    pub(crate) const NAME: u8 = 104;
    pub(crate) const ATTRS: u8 = 105;
    pub(crate) const EXTENDED: u8 = 200;
    pub(crate) const EXTENDED_REPLY: u8 = 201;
}

/// Codes of a status, section 7 of the draft.
pub(crate) mod status {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    pub(crate) const FAILURE: u32 = 4;
    pub(crate) const BAD_MESSAGE: u32 = 5;
    pub(crate) const UNSUPPORTED: u32 = 8;
}

/// Ways to open a file, section 6.3 of the draft.
pub(crate) mod flag {
    pub(crate) const READ: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const APPEND: u32 = 4;
    pub(crate) const CREATE: u32 = 8;
    pub(crate) const TRUNCATE: u32 = 16;
    pub(crate) const EXCLUSIVE: u32 = 32;
}

/// Which attributes are there, section 5 of the draft.
mod attribute {
    pub(super) const SIZE: u32 = 1;
    pub(super) const OWNER: u32 = 2;
    pub(super) const PERMISSIONS: u32 = 4;
    pub(super) const TIMES: u32 = 8;
    pub(super) const EXTENDED: u32 = 0x8000_0000;
}

/// A packet that ends too early, or holds what it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed SFTP packet")]
pub(crate) struct Malformed;

/// Reads a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// A path: not too long, and without a zero byte.
    pub(crate) fn path(&mut self) -> Result<&'a [u8], Malformed> {
        let path = self.bytes()?;
        if path.len() > MAX_PATH_BYTES || path.contains(&0) {
            return Err(Malformed);
        }
        Ok(path)
    }

    /// Attributes; those that nobody here changes are read over.
    pub(crate) fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.u32()?;
        let mut found = Attributes::default();
        if flags & attribute::SIZE != 0 {
            found.size = Some(self.u64()?);
        }
        if flags & attribute::OWNER != 0 {
            found.owner = Some((self.u32()?, self.u32()?));
        }
        if flags & attribute::PERMISSIONS != 0 {
            found.mode = Some(self.u32()?);
        }
        if flags & attribute::TIMES != 0 {
            found.times = Some((i64::from(self.u32()?), i64::from(self.u32()?)));
        }
        if flags & attribute::EXTENDED != 0 {
            let count = self.u32()?;
            for _ in 0..count {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(found)
    }
}

/// What a packet says of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) size: Option<u64>,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Option<u32>,
    pub(crate) times: Option<(i64, i64)>,
}

impl Attributes {
    /// As a change. Owners stay as they are: a sandbox's user may not give files away.
    pub(crate) fn change(&self) -> FileChange {
        FileChange {
            mode: self.mode.map(|mode| mode & 0o1777),
            size: self.size,
            times: self.times,
        }
    }
}

impl From<&FileStat> for Attributes {
    fn from(stat: &FileStat) -> Self {
        Self {
            size: Some(stat.size),
            owner: Some((stat.uid, stat.gid)),
            mode: Some(stat.mode),
            times: Some((stat.atime, stat.mtime)),
        }
    }
}

/// Writes a packet, its length first.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// A packet of the kind, with room for `capacity` bytes.
    pub(crate) fn new(kind: u8, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(5 + capacity);
        bytes.extend_from_slice(&[0; 4]);
        bytes.push(kind);
        Self(bytes)
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn bytes(mut self, value: &[u8]) -> Self {
        self.0
            .extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn attributes(self, of: &Attributes) -> Self {
        let flags = of.size.map_or(0, |_| attribute::SIZE)
            | of.owner.map_or(0, |_| attribute::OWNER)
            | of.mode.map_or(0, |_| attribute::PERMISSIONS)
            | of.times.map_or(0, |_| attribute::TIMES);
        let mut packet = self.u32(flags);
        if let Some(size) = of.size {
            packet = packet.u64(size);
        }
        if let Some((uid, gid)) = of.owner {
            packet = packet.u32(uid).u32(gid);
        }
        if let Some(mode) = of.mode {
            packet = packet.u32(mode);
        }
        if let Some((atime, mtime)) = of.times {
            packet = packet.u32(seconds(atime)).u32(seconds(mtime));
        }
        packet
    }

    /// `count` more bytes, for `fill` to write to; it says how many of them it wrote. They go out as
    /// a string.
    pub(crate) fn filled<E>(
        mut self,
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(Self, usize), E> {
        let start = self.0.len();
        self.0.resize(start + 4 + count, 0);
        let wrote = fill(self.0.get_mut(start + 4..).unwrap_or_default())?.min(count);
        self.0.truncate(start + 4 + wrote);
        if let Some(length) = self.0.get_mut(start..start + 4) {
            length.copy_from_slice(&(wrote as u32).to_be_bytes());
        }
        Ok((self, wrote))
    }

    /// Bytes as they are.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The packet as it travels.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as u32;
        if let Some(head) = self.0.first_chunk_mut::<4>() {
            *head = length.to_be_bytes();
        }
        self.0
    }
}

/// Seconds as version 3 has room for them.
fn seconds(time: i64) -> u32 {
    time.clamp(0, i64::from(u32::MAX)) as u32
}
