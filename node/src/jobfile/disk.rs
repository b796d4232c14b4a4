//! Looks at single files: whether they are there, can be read, and are what they should be.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use p2pnode_protocol::job::file::{Fault, Written};

use super::dockerignore::Ignored;

/// The longest file of lines, in bytes (64 MiB): a million lines of 64 bytes.
const MAX_LINES_BYTES: u64 = 64 << 20;

/// What a WASM binary begins with.
const MAGIC: &[u8; 4] = b"\0asm";

/// The version word of a module; a component has another.
const MODULE: [u8; 4] = [1, 0, 0, 0];

/// The whole path of what a job file names.
pub(super) fn path_of(folder: &Path, written: &str) -> PathBuf {
    // An absolute path replaces the folder.
    folder.join(written)
}

fn why(error: &io::Error, written: &str, folder: &Path) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if written.starts_with("~/") => {
            format!("`{written}` does not exist: `~` means nothing here, write the whole path")
        }
        io::ErrorKind::NotFound => format!(
            "`{written}` does not exist: correct the path, which is taken from {}",
            folder.display()
        ),
        io::ErrorKind::PermissionDenied => {
            format!("`{written}` cannot be read: let your user read it")
        }
        _ => format!("`{written}` cannot be read: {error}"),
    }
}

/// What is wrong with a file or folder that is to be stored; `None`: nothing.
pub(super) fn fault_of(folder: &Path, written: &str) -> Option<String> {
    let path = path_of(folder, written);
    let looked = fs::metadata(&path).and_then(|found| {
        // What is neither is not opened: a pipe would wait for its other end.
        if found.is_dir() {
            fs::read_dir(&path).map(|_| true)
        } else if found.is_file() {
            File::open(&path).map(|_| true)
        } else {
            Ok(false)
        }
    });
    match looked {
        Ok(true) => None,
        Ok(false) => Some(format!(
            "`{written}` is neither a file nor a folder: only those can travel"
        )),
        Err(error) => Some(why(&error, written, folder)),
    }
}

/// What is wrong with a WASM module; `None`: nothing that its first bytes tell.
pub(super) fn module_fault(folder: &Path, written: &str) -> Option<String> {
    if let Some(fault) = fault_of(folder, written) {
        return Some(fault);
    }
    let mut head = [0; 8];
    let path = path_of(folder, written);
    let read = File::open(&path).and_then(|mut file| {
        if file.metadata()?.is_dir() {
            return Ok(false);
        }
        match file.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            read => read.map(|()| true),
        }
    });
    match read {
        Err(error) => Some(why(&error, written, folder)),
        Ok(false) => Some(format!("`{written}` is a folder: name the module in it")),
        Ok(true) if head[..4] == *MAGIC && head[4..] == MODULE => None,
        Ok(true) if head[..4] == *MAGIC => Some(format!(
            "`{written}` is a WASM component or of an unknown version: build a module, for example for wasm32-wasip1"
        )),
        Ok(true) if written.ends_with(".wat") => Some(format!(
            "`{written}` is the text of a module: compile it, for example with wat2wasm"
        )),
        Ok(true) => Some(format!(
            "`{written}` is not a WASM module: build the program for wasm32-wasip1"
        )),
    }
}

/// Where a tar file says that it is one, and what it says there (POSIX and GNU alike).
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

/// What is wrong with an archive of an image; `None`: nothing that its first bytes tell.
pub(super) fn archive_fault(folder: &Path, written: &str) -> Option<String> {
    if let Some(fault) = fault_of(folder, written) {
        return Some(fault);
    }
    let path = path_of(folder, written);
    if path.is_dir() {
        return Some(format!(
            "`{written}` is a folder: name an archive as `docker save` writes it, or use `build`"
        ));
    }
    let (at, magic) = TAR_MAGIC;
    let mut head = Vec::with_capacity(512);
    let read = File::open(&path).and_then(|file| file.take(512).read_to_end(&mut head));
    if let Err(error) = read {
        return Some(why(&error, written, folder));
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Some(format!(
            "`{written}` is compressed, so that nothing of a second version would be known already: unpack it with gunzip"
        ));
    }
    (head.get(at..at + magic.len()) != Some(magic)).then(|| {
        format!(
            "`{written}` is no archive of an image: make one with `docker save -o {written} IMAGE`"
        )
    })
}

/// What is wrong with the folder of a build; `None`: nothing that can be told before.
pub(super) fn context_fault(folder: &Path, written: &str, dockerfile: &str) -> Option<String> {
    if let Some(fault) = fault_of(folder, written) {
        return Some(fault);
    }
    let path = path_of(folder, written);
    if !path.is_dir() {
        return Some(format!(
            "`{written}` is no folder: name the folder that the Dockerfile stands in"
        ));
    }
    if let Err(fault) = Ignored::of(&path) {
        return Some(format!("`{written}`: {fault}"));
    }
    (!path.join(dockerfile).is_file()).then(|| {
        format!(
            "`{written}` has no file {dockerfile}: put it there, or name another with `dockerfile`"
        )
    })
}

/// The lines of a file that are not empty; notes what keeps it from being read.
pub(super) fn lines(folder: &Path, path: &Written, faults: &mut Vec<Fault>) -> Vec<String> {
    match read_lines(folder, &path.text) {
        Ok(lines) => lines,
        Err(message) => {
            faults.push(path.fault(message));
            Vec::new()
        }
    }
}

fn read_lines(folder: &Path, written: &str) -> Result<Vec<String>, String> {
    if let Some(fault) = fault_of(folder, written) {
        return Err(fault);
    }
    let path = path_of(folder, written);
    if path.is_dir() {
        return Err(format!("`{written}` is a folder: name a file of lines"));
    }
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_LINES_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| why(&error, written, folder))?;
    if bytes.len() as u64 > MAX_LINES_BYTES {
        return Err(format!(
            "`{written}` is larger than {} MiB: split the job",
            MAX_LINES_BYTES >> 20
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        format!(
            "line {} of `{written}` is not UTF-8: save it as UTF-8",
            line + 1
        )
    })?;
    Ok(text
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}
