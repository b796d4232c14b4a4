//! WASI preview 1 as guests get it: wasmtime's own, with some calls replaced.
//!
//! - Calls that can make a folder grow ask [`super::disk`] first.
//! - `path_open`, `fd_close` and `fd_renumber` know open files, since all tasks share one process's.
//! - `poll_oneoff` on a single timer sleeps on the runtime's clock: wasmtime's blocks the thread when
//!   file calls may, and could not be cancelled.
//! - `proc_exit` takes every exit code: wasmtime's makes a trap of 126 and more.
//! - Reads and writes of files have other limits on one buffer than calls that make the host copy:
//!   large files would fail with "out of memory".
//!
//! Nothing here may hold more of the host's memory than the guest has of its own.

use std::collections::BTreeSet;

use wasmtime::{AsContextMut, Caller, Extern, Linker, Result};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as preview1, WasiSnapshotPreview1};
use wiggle::GuestMemory;

use super::MAX_OPEN_FILES;
use super::disk::ENTRY_BYTES;
use super::sleep::{Sleep, read_u32};
use super::task::TaskState;

/// The name that modules import WASI preview 1 by.
pub const MODULE: &str = "wasi_snapshot_preview1";

/// `errno` "too many open files in this process".
const ERRNO_MFILE: i32 = 33;

/// `oflags` "create the file if it does not exist".
const OFLAGS_CREAT: i32 = 1;

/// Largest buffer of calls that work in the guest's own memory.
const IN_PLACE_BYTES: usize = usize::MAX;

/// Largest buffer of `fd_pread`, for which wasmtime makes a copy: wasmtime's own limit.
const PREAD_BYTES: usize = 128 << 20;

/// Bytes of a `filestat`, and where its parts are, by WASI preview 1.
const FILESTAT_BYTES: usize = 64;
const FILESTAT_INODE: usize = 8;
const FILESTAT_LINKS: usize = 24;
const FILESTAT_SIZE: usize = 32;

/// The descriptors of files and folders that a guest has opened. Only a write to one of them goes to
/// the disk.
#[derive(Debug, Default)]
pub struct Descriptors(BTreeSet<i32>);

impl Descriptors {
    /// One was closed.
    fn closed(&mut self, fd: i32) {
        self.0.remove(&fd);
    }

    /// What was at `from` is at `to` now, and what was there is closed.
    fn moved(&mut self, from: i32, to: i32) {
        if self.0.remove(&from) {
            self.0.insert(to);
        } else {
            self.0.remove(&to);
        }
    }
}

/// Adds everything to `linker`.
///
/// # Errors
/// When wasmtime refuses a definition, which no guest can cause.
pub fn add_to_linker(linker: &mut Linker<TaskState>) -> Result<()> {
    wasmtime_wasi::p1::add_to_linker_async(linker, |state: &mut TaskState| &mut state.wasi)?;
    linker.allow_shadowing(true);
    add_io(linker)?;
    add_descriptors(linker)?;
    add_open(linker)?;
    add_entries(linker)?;
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, TaskState>, (subs, events, count, out): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (_, memory) = guest(&mut caller)?;
                if let Some(sleep) = Sleep::asked_for(&memory, subs, count) {
                    tokio::time::sleep(sleep.duration).await;
                    let (_, mut memory) = guest(&mut caller)?;
                    return sleep.report(&mut memory, events, out);
                }
                let (state, mut memory) = guest(&mut caller)?;
                preview1::poll_oneoff(&mut state.wasi, &mut memory, subs, events, count, out).await
            })
        },
    )?;
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> Result<()> {
        Err(I32Exit(code).into())
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The guest's state and memory, ready for one call.
fn guest<'a>(
    caller: &'a mut Caller<'_, TaskState>,
) -> Result<(&'a mut TaskState, GuestMemory<'a>)> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wiggle::error::bail!("the module does not export its memory");
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, state) = memory.data_and_store_mut(caller);
    state.wasi.set_hostcall_fuel(fuel);
    Ok((state, GuestMemory::Unshared(bytes)))
}

fn add_io(linker: &mut Linker<TaskState>) -> Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_write",
        |mut caller: Caller<'_, TaskState>, (fd, iovs, count, out): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                admit_write(state, &memory, fd, iovs, count).await?;
                state.wasi.set_hostcall_fuel(IN_PLACE_BYTES);
                preview1::fd_write(&mut state.wasi, &mut memory, fd, iovs, count, out).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_pwrite",
        |mut caller: Caller<'_, TaskState>,
         (fd, iovs, count, offset, out): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                admit_write(state, &memory, fd, iovs, count).await?;
                state.wasi.set_hostcall_fuel(IN_PLACE_BYTES);
                let wasi = &mut state.wasi;
                preview1::fd_pwrite(wasi, &mut memory, fd, iovs, count, offset, out).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_read",
        |mut caller: Caller<'_, TaskState>, (fd, iovs, count, out): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                state.wasi.set_hostcall_fuel(IN_PLACE_BYTES);
                preview1::fd_read(&mut state.wasi, &mut memory, fd, iovs, count, out).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_pread",
        |mut caller: Caller<'_, TaskState>,
         (fd, iovs, count, offset, out): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                state.wasi.set_hostcall_fuel(PREAD_BYTES);
                let wasi = &mut state.wasi;
                preview1::fd_pread(wasi, &mut memory, fd, iovs, count, offset, out).await
            })
        },
    )?;
    Ok(())
}

/// Asks for room for what a write to `fd` will write: like wasmtime, the first buffer that is not
/// empty. Buffers that cannot be read are left to wasmtime to refuse.
async fn admit_write(
    state: &mut TaskState,
    memory: &GuestMemory<'_>,
    fd: i32,
    iovs: i32,
    count: i32,
) -> Result<()> {
    let GuestMemory::Unshared(bytes) = memory else {
        return Ok(());
    };
    if !state.descriptors.0.contains(&fd) {
        return Ok(());
    }
    let length = (0..count as u32 as usize)
        .map_while(|index| {
            let at = (iovs as u32 as usize).checked_add(index.checked_mul(8)?)?;
            read_u32(bytes, at.checked_add(4)?)
        })
        .find(|length| *length > 0);
    admit(state, u64::from(length.unwrap_or(0))).await
}

/// Asks for room for `bytes`.
async fn admit(state: &mut TaskState, bytes: u64) -> Result<()> {
    if !state.disk.has(bytes) {
        let nameless = nameless(state).await?;
        state.disk.measure(nameless).await;
    }
    Ok(state.disk.admit(bytes)?)
}

/// Bytes in files that the guest holds open and that have no name any more: removed, or replaced by
/// another that was renamed. What cannot be told is all.
async fn nameless(state: &mut TaskState) -> Result<u64> {
    let (mut bytes, mut seen) = (0_u64, BTreeSet::new());
    for fd in &state.descriptors.0 {
        let mut stat = [0; FILESTAT_BYTES];
        let mut memory = GuestMemory::Unshared(&mut stat);
        let errno = preview1::fd_filestat_get(&mut state.wasi, &mut memory, *fd, 0).await?;
        if errno != 0 {
            return Ok(u64::MAX);
        }
        let number = |at: usize| {
            let bytes = stat[at..].first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        if number(FILESTAT_LINKS) == 0 && seen.insert(number(FILESTAT_INODE)) {
            bytes = bytes.saturating_add(number(FILESTAT_SIZE).saturating_add(ENTRY_BYTES));
        }
    }
    Ok(bytes)
}

fn add_descriptors(linker: &mut Linker<TaskState>) -> Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_close",
        |mut caller: Caller<'_, TaskState>, (fd,): (i32,)| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                let errno = preview1::fd_close(&mut state.wasi, &mut memory, fd).await?;
                if errno == 0 {
                    state.descriptors.closed(fd);
                }
                Ok(errno)
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_renumber",
        |mut caller: Caller<'_, TaskState>, (from, to): (i32, i32)| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                let errno = preview1::fd_renumber(&mut state.wasi, &mut memory, from, to).await?;
                if errno == 0 {
                    state.descriptors.moved(from, to);
                }
                Ok(errno)
            })
        },
    )?;
    Ok(())
}

fn add_open(linker: &mut Linker<TaskState>) -> Result<()> {
    linker.func_wrap_async(
        MODULE,
        "path_open",
        |mut caller: Caller<'_, TaskState>,
         (fd, look, path, length, oflags, base, inherit, flags, out): OpenArguments| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                if state.descriptors.0.len() >= usize::from(MAX_OPEN_FILES) {
                    return Ok(ERRNO_MFILE);
                }
                if oflags & OFLAGS_CREAT != 0 {
                    admit(state, ENTRY_BYTES).await?;
                }
                let wasi = &mut state.wasi;
                let errno = preview1::path_open(
                    wasi,
                    &mut memory,
                    fd,
                    look,
                    path,
                    length,
                    oflags,
                    base,
                    inherit,
                    flags,
                    out,
                )
                .await?;
                if errno == 0 {
                    let opened = match &memory {
                        GuestMemory::Unshared(bytes) => read_u32(bytes, out as u32 as usize),
                        GuestMemory::Shared(_) => None,
                    };
                    // It was written there just now.
                    let opened =
                        opened.ok_or_else(|| wiggle::error::format_err!("no descriptor"))?;
                    state.descriptors.0.insert(opened as i32);
                }
                Ok(errno)
            })
        },
    )?;
    Ok(())
}

fn add_entries(linker: &mut Linker<TaskState>) -> Result<()> {
    linker.func_wrap_async(
        MODULE,
        "path_create_directory",
        |mut caller: Caller<'_, TaskState>, (fd, path, length): (i32, i32, i32)| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                admit(state, ENTRY_BYTES).await?;
                let wasi = &mut state.wasi;
                preview1::path_create_directory(wasi, &mut memory, fd, path, length).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_symlink",
        |mut caller: Caller<'_, TaskState>,
         (old, old_length, fd, new, new_length): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                // The text of the link is its content.
                let bytes = u64::from(old_length as u32).saturating_add(ENTRY_BYTES);
                admit(state, bytes).await?;
                let wasi = &mut state.wasi;
                preview1::path_symlink(wasi, &mut memory, old, old_length, fd, new, new_length)
                    .await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "path_link",
        |mut caller: Caller<'_, TaskState>,
         (old_fd, flags, old, old_length, new_fd, new, new_length): LinkArguments| {
            Box::new(async move {
                let (state, mut memory) = guest(&mut caller)?;
                admit(state, ENTRY_BYTES).await?;
                let wasi = &mut state.wasi;
                preview1::path_link(
                    wasi,
                    &mut memory,
                    old_fd,
                    flags,
                    old,
                    old_length,
                    new_fd,
                    new,
                    new_length,
                )
                .await
            })
        },
    )?;
    Ok(())
}

type OpenArguments = (i32, i32, i32, i32, i32, i64, i64, i32, i32);
type LinkArguments = (i32, i32, i32, i32, i32, i32, i32);
