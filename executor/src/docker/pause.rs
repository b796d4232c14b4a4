//! The program that keeps a container alive when none of the image's programs shall: it waits.
//!
//! It is written here as machine code, so that nothing has to be compiled for, found in or copied out
//! of an image: the node writes the file into the runtime's folder, and containers see it read-only.
//! `warm` starts it as a container's first process. It does three things, all of which matter there:
//! it makes itself undumpable, so that a task of the same user can't trace it and live on in it; it
//! ignores `SIGCHLD`, so that orphans which end are reaped by the kernel; then it sleeps for ever.
//! As the first process of its namespace it can't be stopped or killed from inside.

use std::io::{self, Write};
use std::path::Path;

/// Where the program stands in a container.
pub(super) const PAUSE: &str = "/.p2pnode-pause";

/// Where the file is mapped: any address that is a multiple of every page size will do, and this one
/// is what linkers use.
const BASE: u64 = 0x40_0000;

/// Sizes of an ELF file's head and of one entry of its program table, by the format.
const HEAD: u16 = 64;
const ENTRY: u16 = 56;

/// How `arch` is called in ELF, and the code.
struct Machine {
    elf: u16,
    code: &'static [u8],
}

#[rustfmt::skip]
const X86_64: Machine = Machine {
    elf: 62,
    code: &[
        // prctl(PR_SET_DUMPABLE = 4, 0)
        0x6a, 0x04, 0x5f,             // push 4; pop rdi
        0x31, 0xf6,                   // xor esi, esi
        0xb8, 0x9d, 0x00, 0x00, 0x00, // mov eax, 157
        0x0f, 0x05,                   // syscall
        // rt_sigaction(SIGCHLD = 17, {SIG_IGN = 1, 0, 0, 0}, NULL, 8)
        0x6a, 0x00,                   // push 0    the mask
        0x6a, 0x00,                   // push 0    the restorer
        0x6a, 0x00,                   // push 0    the flags
        0x6a, 0x01,                   // push 1    the handler
        0x6a, 0x11, 0x5f,             // push 17; pop rdi
        0x48, 0x89, 0xe6,             // mov rsi, rsp
        0x31, 0xd2,                   // xor edx, edx
        0x6a, 0x08, 0x41, 0x5a,       // push 8; pop r10
        0x6a, 0x0d, 0x58,             // push 13; pop rax
        0x0f, 0x05,                   // syscall
        // pause(), again and again
        0x6a, 0x22, 0x58,             // push 34; pop rax
        0x0f, 0x05,                   // syscall
        0xeb, 0xf9,                   // jmp 7 bytes back
    ],
};

#[rustfmt::skip]
const AARCH64: Machine = Machine {
    elf: 183,
    code: &[
        // prctl(PR_SET_DUMPABLE = 4, 0)
        0x80, 0x00, 0x80, 0xd2, // mov x0, #4
        0x01, 0x00, 0x80, 0xd2, // mov x1, #0
        0xe8, 0x14, 0x80, 0xd2, // mov x8, #167
        0x01, 0x00, 0x00, 0xd4, // svc #0
        // rt_sigaction(SIGCHLD = 17, {SIG_IGN = 1, 0, 0, 0}, NULL, 8)
        0x21, 0x00, 0x80, 0xd2, // mov x1, #1
        0xe1, 0x7f, 0xbe, 0xa9, // stp x1, xzr, [sp, #-32]!
        0xff, 0x7f, 0x01, 0xa9, // stp xzr, xzr, [sp, #16]
        0x20, 0x02, 0x80, 0xd2, // mov x0, #17
        0xe1, 0x03, 0x00, 0x91, // mov x1, sp
        0x02, 0x00, 0x80, 0xd2, // mov x2, #0
        0x03, 0x01, 0x80, 0xd2, // mov x3, #8
        0xc8, 0x10, 0x80, 0xd2, // mov x8, #134
        0x01, 0x00, 0x00, 0xd4, // svc #0
        // ppoll(NULL, 0, NULL, NULL), again and again: there is no pause() here
        0x00, 0x00, 0x80, 0xd2, // mov x0, #0
        0x01, 0x00, 0x80, 0xd2, // mov x1, #0
        0x02, 0x00, 0x80, 0xd2, // mov x2, #0
        0x03, 0x00, 0x80, 0xd2, // mov x3, #0
        0x28, 0x09, 0x80, 0xd2, // mov x8, #73
        0x01, 0x00, 0x00, 0xd4, // svc #0
        0xfa, 0xff, 0xff, 0x17, // b 6 instructions back
    ],
};

/// The program for this machine.
///
/// # Errors
/// On an architecture that it was not written for.
fn program() -> Result<Vec<u8>, String> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(elf(&X86_64)),
        "aarch64" => Ok(elf(&AARCH64)),
        other => Err(format!(
            "containers that wait are not to be had on this architecture ({other}): only on x86_64 \
             and aarch64"
        )),
    }
}

/// Whether containers can wait on this machine.
///
/// # Errors
/// Why not.
pub(super) fn supported() -> Result<(), String> {
    program().map(|_| ())
}

/// A static executable: the file's head, one entry that maps all of it, and the code.
fn elf(machine: &Machine) -> Vec<u8> {
    let start = u64::from(HEAD + ENTRY);
    let size = start + machine.code.len() as u64;
    let mut file = Vec::with_capacity(256);
    // 64 bits, little-endian, version 1, System V.
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2, machine.elf] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1_u32.to_le_bytes());
    // Entry point, where the program table is, no sections, no flags.
    for word in [BASE + start, u64::from(HEAD), 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0_u32.to_le_bytes());
    for half in [HEAD, ENTRY, 1, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    // To be loaded (1), readable and executable (4 + 1), all of the file, aligned for pages of 64 KiB.
    for word in [1_u32, 5] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1_0000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(machine.code);
    file
}

/// Makes sure that the program stands in `dir`, which is made when it is missing. Returns its path.
///
/// # Errors
/// When it can't be written, has a path that is not UTF-8, or is not to be had on this architecture.
pub(super) fn ensure(dir: &Path) -> io::Result<String> {
    let wanted = program().map_err(io::Error::other)?;
    let path = std::path::absolute(dir)?.join("pause");
    if std::fs::read(&path).ok().as_deref() != Some(&wanted[..]) || !is_executable(&path) {
        std::fs::create_dir_all(dir)?;
        // A container that starts meanwhile must see all of it.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&wanted)?;
        executable_by_all(file.as_file())?;
        file.persist(&path).map_err(|error| error.error)?;
    }
    path.into_os_string()
        .into_string()
        .map_err(|path| io::Error::other(format!("{} is not UTF-8", path.display())))
}

#[cfg(unix)]
fn executable_by_all(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o555))
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o777 == 0o555)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;

    /// Another test's child may still hold the file open for writing, for a moment.
    fn spawn(path: &str) -> Child {
        loop {
            match Command::new(path).spawn() {
                Ok(child) => return child,
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn it_waits_reaps_and_cannot_be_traced() {
        let dir = tempfile::tempdir().unwrap();
        let path = ensure(&dir.path().join("new")).unwrap();
        let mut child = spawn(&path);
        let proc = format!("/proc/{}", child.id());
        let status = || std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let start = Instant::now();
        // SIGCHLD is signal 17, so bit 16.
        let ready = |status: &str| {
            let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
            let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
            ignored & (1 << 16) != 0 && status.contains("State:\tS")
        };
        while !ready(&status()) {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", status());
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        // What is undumpable belongs to root, whoever runs it.
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(format!("{proc}/mem")).unwrap().uid(), 0);
        let call = std::fs::read_to_string(format!("{proc}/syscall")).unwrap_or_default();
        let waits = if cfg!(target_arch = "x86_64") {
            "34 "
        } else {
            "73 "
        };
        assert!(call.is_empty() || call.starts_with(waits), "{call}");
        // A signal with a handler of the default kind ends it outside of a container.
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn it_is_mended_when_it_was_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = ensure(dir.path()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert!(whole.len() <= 200, "{}", whole.len());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"#!/bin/sh").unwrap();
        assert_eq!(ensure(dir.path()).unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert!(is_executable(Path::new(&path)));
    }

    #[test]
    fn both_programs_are_whole() {
        for machine in [X86_64, AARCH64] {
            let file = elf(&machine);
            let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
            assert_eq!(word(24), BASE + 120, "the entry point is behind the heads");
            assert_eq!(
                word(64 + 32),
                file.len() as u64,
                "all of the file is mapped"
            );
            assert_eq!(file.len(), 120 + machine.code.len());
        }
    }
}
