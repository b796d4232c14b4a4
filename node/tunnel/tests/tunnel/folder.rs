//! The files of the test double: those of a folder of this machine.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use p2pnode_executor::inside::{FileChange, FileStat, Files, OpenFile, OpenMode};

pub struct LocalFiles(pub PathBuf);

impl LocalFiles {
    /// Absolute paths are the machine's: this double confines nothing.
    fn path(&self, path: &[u8]) -> PathBuf {
        self.0.join(OsStr::from_bytes(path))
    }
}

fn stat(metadata: &fs::Metadata) -> FileStat {
    FileStat {
        mode: metadata.mode(),
        size: metadata.size(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        atime: metadata.atime(),
        mtime: metadata.mtime(),
    }
}

fn change_file(file: &File, change: FileChange) -> io::Result<()> {
    if let Some(size) = change.size {
        file.set_len(size)?;
    }
    if let Some(mode) = change.mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    if let Some((atime, mtime)) = change.times {
        let at = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap())
        };
        let times = fs::FileTimes::new()
            .set_accessed(at(atime))
            .set_modified(at(mtime));
        file.set_times(times)?;
    }
    Ok(())
}

struct LocalFile(Arc<File>);

impl OpenFile for LocalFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < into.len() {
            match self.0.read_at(&mut into[count..], offset + count as u64)? {
                0 => break,
                more => count += more,
            }
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn stat(&self) -> io::Result<FileStat> {
        Ok(stat(&self.0.metadata()?))
    }

    fn change(&self, change: FileChange) -> io::Result<()> {
        change_file(&self.0, change)
    }
}

impl Files for LocalFiles {
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &[u8], how: OpenMode, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        let file = OpenOptions::new()
            .read(how.read)
            .write(how.write)
            .create(how.create && !how.exclusive)
            .create_new(how.create && how.exclusive)
            .truncate(how.truncate)
            .mode(mode)
            .open(self.path(path))?;
        Ok(Box::new(LocalFile(Arc::new(file))))
    }

    fn stat(&self, path: &[u8], follow: bool) -> io::Result<FileStat> {
        let path = self.path(path);
        Ok(stat(&if follow {
            fs::metadata(path)?
        } else {
            fs::symlink_metadata(path)?
        }))
    }

    fn list(&self, path: &[u8], limit: usize) -> io::Result<Vec<Vec<u8>>> {
        fs::read_dir(self.path(path))?
            .take(limit)
            .map(|entry| Ok(entry?.file_name().as_bytes().to_vec()))
            .collect()
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(self.path(path))
    }

    fn remove_dir(&self, path: &[u8]) -> io::Result<()> {
        fs::remove_dir(self.path(path))
    }

    fn remove_file(&self, path: &[u8]) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        let to = self.path(to);
        if !replace && to.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(self.path(from), to)
    }

    fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        Ok(fs::read_link(self.path(path))?
            .as_os_str()
            .as_bytes()
            .to_vec())
    }

    fn make_link(&self, target: &[u8], path: &[u8]) -> io::Result<()> {
        symlink(OsStr::from_bytes(target), self.path(path))
    }

    fn change(&self, path: &[u8], change: FileChange) -> io::Result<()> {
        change_file(&File::open(self.path(path))?, change)
    }

    fn real_path(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let path = self.path(path);
        let real = path.canonicalize().or_else(|error| {
            let parent = path.parent().ok_or(error)?.canonicalize()?;
            io::Result::Ok(parent.join(path.file_name().unwrap_or_default()))
        })?;
        Ok(real.as_os_str().as_bytes().to_vec())
    }
}
