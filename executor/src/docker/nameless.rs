//! What a task's processes hold open that has no name any more.
//!
//! A file that was removed while it is open keeps its place on the disk and stands in no folder, so
//! `workdir`, which goes by names, cannot see it. It is seen here through the descriptors and mappings
//! of the container's processes, as `/proc` shows them. Called by `space`, off the async threads.
//!
//! Not everything can be seen: not from outside the engine's machine or by a node that may not look
//! into the processes, not a descriptor on its way through a socket, not more than
//! [`MAX_LOOKS`]. Whoever calls is told, and has another guard for it. Nothing of the task's is ever
//! opened: looking at a file by its descriptor follows no name.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::meter::cgroup_of;
use super::workdir::charged;
use crate::host::cgroup::Mounts;

/// Descriptors and mappings looked at in one measurement. At one to two microseconds each, it takes a
/// tenth of a second at most.
const MAX_LOOKS: usize = 1 << 16;

/// Processes and threads looked at: the most that a kernel of the ordinary kind has in all.
const MAX_THREADS: usize = 1 << 15;

/// Bytes read of one process's list of mappings: some 10,000 of them.
const MAX_MAPS_BYTES: u64 = 1 << 20;

/// How the list of mappings marks a file without a name.
const DELETED: &str = " (deleted)";

/// Files without a name that a container's processes hold.
#[derive(Debug, Default)]
pub(super) struct Nameless {
    /// What they take, in bytes.
    pub bytes: u64,
    /// Device and inode of each.
    pub files: HashSet<(u64, u64)>,
    /// Whether there may be others that could not be seen.
    pub hidden: bool,
}

/// Where the processes of one container are found.
#[derive(Debug, Clone)]
pub(super) struct Holders {
    mounts: Mounts,
    /// The container's.
    id: String,
}

impl Holders {
    pub(super) fn new(mounts: Mounts, id: String) -> Self {
        Self { mounts, id }
    }

    /// What they hold on the filesystem of `dir`.
    pub(super) fn look(&self, dir: &Path) -> Nameless {
        let (Some(folder), Ok(on)) = (cgroup_of(&self.mounts, &self.id), std::fs::metadata(dir))
        else {
            return hidden();
        };
        let Ok(pids) = std::fs::read_to_string(folder.join("cgroup.procs")) else {
            return hidden();
        };
        let belongs = |process: &Path| {
            std::fs::read_to_string(process.join("cgroup"))
                .is_ok_and(|text| text.contains(&self.id))
        };
        look_at(&pids, on.dev(), belongs)
    }
}

fn hidden() -> Nameless {
    Nameless {
        hidden: true,
        ..Nameless::default()
    }
}

/// What the processes with these ids, one a line, hold on the device `on`. Ids are used again: what
/// does not belong to the container after it was looked at does not count.
fn look_at(pids: &str, on: u64, belongs: impl Fn(&Path) -> bool) -> Nameless {
    let mut all = Nameless::default();
    let (mut left, mut threads_left) = (MAX_LOOKS, MAX_THREADS);
    for pid in pids.lines() {
        // Processes of another namespace of process ids have none here.
        if pid == "0" {
            all.hidden = true;
            continue;
        }
        let process = Path::new("/proc").join(pid);
        let mut look = Look {
            on,
            left,
            hidden: false,
            found: Vec::new(),
        };
        let seen = look.process(&process, &mut threads_left);
        left = look.left;
        match seen {
            // Gone meanwhile, or another's by now.
            _ if !belongs(&process) => continue,
            Ok(()) => {}
            Err(error) if is_gone(&error) => {}
            Err(_) => all.hidden = true,
        }
        for (file, bytes) in look.found {
            if all.files.insert(file) {
                all.bytes = all.bytes.saturating_add(bytes);
            }
        }
        all.hidden |= left == 0 || look.hidden;
    }
    all
}

fn is_gone(error: &io::Error) -> bool {
    // The second is what the kernel says of a process that ends while its files are read.
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// A look at one process.
struct Look {
    /// The device that counts.
    on: u64,
    /// How many files may still be looked at.
    left: usize,
    /// Whether it may not see something of it.
    hidden: bool,
    found: Vec<((u64, u64), u64)>,
}

impl Look {
    /// Every thread may have a table of descriptors of its own, and the first may have ended before
    /// the others.
    fn process(&mut self, process: &Path, threads_left: &mut usize) -> io::Result<()> {
        let mut mapped = false;
        for thread in std::fs::read_dir(process.join("task"))? {
            let thread = thread?.path();
            if *threads_left == 0 {
                self.left = 0;
            }
            *threads_left = threads_left.saturating_sub(1);
            self.descriptors(&thread)?;
            // Mappings are the same for all threads; one that has ended shows none.
            mapped = mapped || self.mappings(process, &thread)?;
            if self.left == 0 {
                break;
            }
        }
        Ok(())
    }

    fn descriptors(&mut self, thread: &Path) -> io::Result<()> {
        let entries = match std::fs::read_dir(thread.join("fd")) {
            Err(error) if is_gone(&error) => return Ok(()),
            entries => entries?,
        };
        for entry in entries.map_while(Result::ok) {
            if !self.may_look() {
                break;
            }
            self.file(&entry.path());
        }
        Ok(())
    }

    /// False when the thread has no mappings any more.
    fn mappings(&mut self, process: &Path, thread: &Path) -> io::Result<bool> {
        let maps = match std::fs::File::open(thread.join("maps")) {
            Err(error) if is_gone(&error) => return Ok(false),
            maps => maps?,
        };
        let (mut any, mut bytes) = (false, 0);
        // Names are any bytes.
        for line in BufReader::new(maps.take(MAX_MAPS_BYTES)).split(b'\n') {
            let line = match line {
                Err(error) if is_gone(&error) => break,
                line => String::from_utf8_lossy(&line?).into_owned(),
            };
            any = true;
            bytes += line.len() as u64 + 1;
            if let (true, Some((range, _))) = (line.ends_with(DELETED), line.split_once(' ')) {
                if !self.may_look() {
                    return Ok(any);
                }
                self.file(&mapping(process, range));
            }
        }
        if bytes >= MAX_MAPS_BYTES {
            self.left = 0;
        }
        Ok(any)
    }

    fn may_look(&mut self) -> bool {
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }

    /// What is behind one of the kernel's own links: following it opens nothing.
    fn file(&mut self, link: &Path) {
        match std::fs::metadata(link) {
            Ok(file) if self.counts(&file) => {
                let bytes = charged(file.blocks(), file.size());
                self.found.push(((file.dev(), file.ino()), bytes));
            }
            // Mappings are shown to root alone.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.hidden = true,
            Ok(_) | Err(_) => {}
        }
    }

    fn counts(&self, file: &Metadata) -> bool {
        file.nlink() == 0 && file.dev() == self.on && file.is_file()
    }
}

/// Where the file behind a mapping is looked at. The list pads addresses, the folder does not.
fn mapping(process: &Path, range: &str) -> PathBuf {
    let bare = |address: &str| {
        let bare = address.trim_start_matches('0');
        if bare.is_empty() { "0" } else { bare }.to_owned()
    };
    let range = match range.split_once('-') {
        Some((start, end)) => format!("{}-{}", bare(start), bare(end)),
        None => range.to_owned(),
    };
    process.join("map_files").join(range)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn own() -> String {
        std::process::id().to_string()
    }

    #[test]
    fn a_removed_file_counts_while_it_is_open_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let on = std::fs::metadata(dir.path()).unwrap().dev();
        let mut file = std::fs::File::create(dir.path().join("file")).unwrap();
        file.write_all(&vec![7; MIB as usize]).unwrap();
        let id = |file: &std::fs::File| {
            let file = file.metadata().unwrap();
            (file.dev(), file.ino())
        };
        let named = look_at(&own(), on, |_| true);
        assert!(!named.files.contains(&id(&file)), "it has a name");
        std::fs::remove_file(dir.path().join("file")).unwrap();
        let again = file.try_clone().unwrap();
        let seen = look_at(&own(), on, |_| true);
        assert!(seen.files.contains(&id(&file)));
        assert!(seen.bytes >= MIB && !seen.hidden, "{seen:?}");
        // Tests beside this one have files of their own: what counts is the one above.
        let both = look_at(&format!("{0}\n{0}", own()), on, |_| true);
        assert!(
            both.bytes < seen.bytes + MIB,
            "{} {}",
            both.bytes,
            seen.bytes
        );
        // Not that of another device, nor of a process that is another's by now.
        assert!(look_at(&own(), on + 1, |_| true).files.is_empty());
        assert!(look_at(&own(), on, |_| false).files.is_empty());
        let (id, _) = (id(&file), drop((file, again)));
        assert!(!look_at(&own(), on, |_| true).files.contains(&id));
    }

    #[test]
    fn what_cannot_be_seen_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let holders = Holders::new(Mounts::parse(""), "c1".into());
        assert!(holders.look(dir.path()).hidden);
        assert!(look_at("0\n", 1, |_| true).hidden);
        // Whoever has ended holds nothing.
        assert!(!look_at("4194999\n", 1, |_| true).hidden);
        let mut look = Look {
            on: 1,
            left: 1,
            hidden: false,
            found: Vec::new(),
        };
        look.process(Path::new("/proc/self"), &mut 9).unwrap();
        assert_eq!(look.left, 0, "more than may be looked at");
    }

    #[test]
    fn mappings_are_found_by_their_bare_addresses() {
        let at = |range| mapping(Path::new("/proc/1"), range);
        assert_eq!(
            at("00400000-0040b000"),
            Path::new("/proc/1/map_files/400000-40b000")
        );
        assert_eq!(
            at("00000000-00001000"),
            Path::new("/proc/1/map_files/0-1000")
        );
        assert_eq!(at("odd"), Path::new("/proc/1/map_files/odd"));
    }
}
