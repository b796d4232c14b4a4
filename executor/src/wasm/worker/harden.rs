//! What a worker process gives up before it reads foreign bytes.
//!
//! Called once by [`super::main`], while the process has a single thread: most of this binds only the
//! calling thread and those it starts later. A guest is already held by wasmtime; this is for the
//! day on which a bug in the compiler or the runtime lets it out. Whatever cannot be had is reported
//! as a note and the worker goes on: a kernel without landlock still has the WASM sandbox itself.

use std::path::Path;

#[cfg(target_os = "linux")]
pub use linux::{apply, close_inherited};

/// Elsewhere only wasmtime's own sandbox stands between guest and host.
#[cfg(not(target_os = "linux"))]
pub fn apply(_work_root: &Path) -> Vec<String> {
    vec!["the worker process is confined only on Linux".to_owned()]
}

/// Files are not inherited where the standard library closes them.
#[cfg(not(target_os = "linux"))]
pub fn close_inherited() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::RawFd;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetStatus, Scope,
    };
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

    use super::Path;
    use crate::wasm::worker::seccomp;
    use crate::wasm::worker::{MAX_OPEN_FILES, MAX_TASKS};

    /// Closes every file but stdin, stdout and stderr. The node opens its own files close-on-exec;
    /// this is about what the node itself inherited from a careless parent. Must be called first, by
    /// the only thread.
    pub fn close_inherited() {
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
            return;
        };
        let inherited: Vec<RawFd> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|fd| *fd > 2)
            .collect();
        for fd in inherited {
            // The listing saw itself, and is closed by now.
            if !Path::new(&format!("/proc/self/fd/{fd}")).is_symlink() {
                continue;
            }
            #[expect(
                unsafe_code,
                reason = "the only way to close a file that nothing in this process owns"
            )]
            // SAFETY: nothing has been opened yet, so no value in this process owns a descriptor
            // above 2.
            unsafe {
                rustix::io::close(fd);
            }
        }
    }

    /// Confines the process; returns what could not be done, in words.
    pub fn apply(work_root: &Path) -> Vec<String> {
        let mut notes = Vec::new();
        // In the order of what later steps forbid: files outside the work root end with landlock,
        // these system calls with seccomp.
        // When memory runs out the kernel should take a worker and not the node; half of the scale.
        let _ = std::fs::write("/proc/self/oom_score_adj", "500");
        limit_resources(&mut notes);
        let confined = restrict_files(work_root, &mut notes);
        drop_capabilities(confined, &mut notes);
        if let Err(error) = seccomp::apply() {
            notes.push(format!("system calls are not filtered: {error}"));
        }
        notes
    }

    fn limit_resources(notes: &mut Vec<String>) {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        if let Err(error) = setrlimit(Resource::Core, none) {
            notes.push(format!("core dumps are not switched off: {error}"));
        }
        // Not RLIMIT_AS: the pool of memories reserves a terabyte of addresses that cost nothing.
        // Two files for the preopened folder, and what the task opens, for every task.
        let wanted = u64::from(MAX_TASKS) * (u64::from(MAX_OPEN_FILES) + 2) + 64;
        let hard = getrlimit(Resource::Nofile).maximum;
        let files = Some(hard.map_or(wanted, |hard| hard.min(wanted)));
        let limit = Rlimit {
            current: files,
            maximum: files,
        };
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            notes.push(format!("open files are not limited: {error}"));
        }
    }

    /// True when nothing outside `work_root` can be opened any more.
    fn restrict_files(work_root: &Path, notes: &mut Vec<String>) -> bool {
        match landlock(work_root) {
            Ok(RulesetStatus::NotEnforced) => {
                notes.push(
                    "the worker is not confined to its folder: the kernel has no landlock \
                     (Linux 5.13 or newer, with `landlock` among its security modules)"
                        .to_owned(),
                );
                false
            }
            Ok(_) => true,
            Err(error) => {
                notes.push(format!(
                    "the worker is not confined to {}: {error}",
                    work_root.display()
                ));
                false
            }
        }
    }

    fn landlock(work_root: &Path) -> Result<RulesetStatus, Box<dyn std::error::Error>> {
        // The newest set of rights that was looked at when this was written; an older kernel
        // enforces those it knows. V4 has the network, V6 signals and abstract sockets.
        let abi = ABI::V6;
        let all = AccessFs::from_all(abi);
        let of_a_task = all
            & !(AccessFs::Execute
                | AccessFs::MakeChar
                | AccessFs::MakeBlock
                | AccessFs::MakeFifo
                | AccessFs::MakeSock
                | AccessFs::IoctlDev);
        let status = Ruleset::default()
            .handle_access(all)?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .add_rule(PathBeneath::new(PathFd::new(work_root)?, of_a_task))?
            .restrict_self()?;
        Ok(status.ruleset)
    }

    /// Takes root's powers from a root node's worker. Where landlock holds it to the work root, it
    /// keeps what it takes to write there whoever owns the folders.
    fn drop_capabilities(confined: bool, notes: &mut Vec<String>) {
        let kept = if confined && rustix::process::geteuid().is_root() {
            CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER
        } else {
            CapabilitySet::empty()
        };
        // Dropping is always allowed, raising never: only what is there may be kept.
        let have = rustix::thread::capabilities(None).map_or(kept, |sets| sets.permitted);
        let kept = kept & have;
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        if let Err(error) = set_capabilities(None, sets) {
            notes.push(format!("capabilities are not dropped: {error}"));
        }
    }
}
