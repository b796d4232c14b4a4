//! How much of everything a job may have, and what single words of it may look like.
//!
//! One place for both sides: the job file is checked against these before it leaves, and a template
//! that arrives from a peer is checked against the same ones, so that what `validate` accepts no
//! provider refuses as broken.

use crate::gpu::{GpuRequest, WHOLE_GPU};
use crate::resources::Resources;
use crate::units::{Bytes, MilliCpus};

/// The longest name of a job, in bytes: it is part of folder names and container names.
pub const MAX_NAME_BYTES: usize = 64;

/// The most keys of an array. Sixteen keys of two values are 65,536 tasks already.
pub const MAX_KEYS: usize = 16;

/// The longest name of an array key or environment variable, in bytes. Generous: POSIX sets no limit.
pub const MAX_IDENTIFIER_BYTES: usize = 128;

/// The longest argument or environment entry, in bytes: Linux's `MAX_ARG_STRLEN` (128 KiB) less the
/// closing NUL.
pub const MAX_ARGUMENT_BYTES: usize = (128 << 10) - 1;

/// The most arguments of a command. A longer list belongs in an input file.
pub const MAX_ARGUMENTS: usize = 4_096;

/// The most environment variables.
pub const MAX_ENV: usize = 1_024;

/// The longest command line and environment together, in bytes (1 MiB): half of what Linux allows
/// with its usual 8 MiB stack, so that the rest is left for what the image and the runtime add.
pub const MAX_COMMAND_BYTES: usize = 1 << 20;

/// The most inputs of a task. More belong in a folder.
pub const MAX_INPUTS: usize = 1_024;

/// The longest lists of files of one task's inputs together, in bytes (64 MiB), each counted as often as it
/// is named: what the list of one input may take.
pub const MAX_INPUT_LIST_BYTES: u64 = crate::manifest::MAX_MANIFEST_BYTES;

/// The most output patterns of a job.
pub const MAX_PATTERNS: usize = 256;

/// The longest pattern, in bytes: as long as a path.
pub const MAX_PATTERN_BYTES: usize = crate::manifest::MAX_PATH_BYTES;

/// The most patterns of one task after a chunk's values were filled in: a matcher of so many takes a
/// provider some 50 ms to make.
pub const MAX_FILLED_PATTERNS: usize = 4_096;

/// The longest patterns of one task together after they were filled in, in bytes (4 MiB): the
/// matcher that is made of them takes some ten times as much.
pub const MAX_FILLED_PATTERN_BYTES: usize = 4 << 20;

/// The longest template of a step, in bytes of text (1 MiB): a quarter of the largest message, so
/// that tasks fit beside it.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// The longest single value of an array key, in bytes: as long as a path.
pub const MAX_VALUE_BYTES: usize = crate::manifest::MAX_PATH_BYTES;

/// The longest values of one task together, in bytes (64 KiB): a message holds some sixty of the
/// largest tasks, and an argument two of the largest lists.
pub const MAX_TASK_VALUES_BYTES: usize = 64 << 10;

/// The longest image reference, in bytes: 255 for the name, 128 for the tag, 128 for a digest.
pub const MAX_IMAGE_BYTES: usize = 512;

/// The longest time that a job may ask for, in milliseconds (one year): longer is a mistake, and the
/// sum with any clock cannot overflow.
pub const MAX_TIME_MS: u64 = 365 * 24 * 3_600_000;

/// The least CPU share, in thousandths: what Docker accepts.
pub const MIN_CPUS: MilliCpus = MilliCpus(10);
/// More CPUs than any machine has today.
const MAX_CPUS: MilliCpus = MilliCpus::whole(4_096);
/// The least memory: what Docker accepts.
pub const MIN_MEMORY: Bytes = Bytes::mib(6);
/// More memory than any machine has today.
const MAX_MEMORY: Bytes = Bytes::gib(64 << 10);
/// The least disk. Even a small task writes something.
pub const MIN_DISK: Bytes = Bytes::mib(1);
/// More disk than any machine gives to one task today.
const MAX_DISK: Bytes = Bytes::gib(1 << 20);
/// More GPUs than any machine has today.
const MAX_GPUS: u16 = 64;
/// The most processes that Linux can have (`PID_MAX_LIMIT`).
const MAX_PIDS: u32 = 4 << 20;
/// The longest pattern for a GPU's model, in bytes: NVML's names are at most 96.
const MAX_MODEL_BYTES: usize = 96;

/// A resource of which a task asks for too little or too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ResourceError {
    /// Which: a key of `[resources]`.
    pub key: &'static str,
    /// What is wrong and how to mend it.
    pub message: String,
}

fn between<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    value: T,
    least: T,
    most: T,
) -> Option<ResourceError> {
    let message = if value < least {
        format!("{value} is too little: ask for {least} or more")
    } else if value > most {
        format!("{value} is more than any machine has: ask for {most} at most")
    } else {
        return None;
    };
    Some(ResourceError { key, message })
}

impl Resources {
    /// What no machine can give, or is no request at all. A request for nothing would fit any number
    /// of times.
    #[must_use]
    pub fn faults(&self) -> Vec<ResourceError> {
        let model = self.gpus.model.as_deref().unwrap_or("*");
        let model = (model.is_empty() || model.len() > MAX_MODEL_BYTES).then(|| ResourceError {
            key: "gpus.model",
            message: format!(
                "must have 1 to {MAX_MODEL_BYTES} characters: write for example \"*RTX*\""
            ),
        });
        [
            between("cpus", self.cpus, MIN_CPUS, MAX_CPUS),
            between("memory", self.memory, MIN_MEMORY, MAX_MEMORY),
            between("disk", self.disk, MIN_DISK, MAX_DISK),
            between("pids", self.pids, 1, MAX_PIDS),
            between("gpus", self.gpus.count, 0, MAX_GPUS),
            self.gpus.share_fault(),
            model,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl GpuRequest {
    fn share_fault(&self) -> Option<ResourceError> {
        let message = if !(1..=WHOLE_GPU).contains(&self.milli) {
            "a share of a GPU is more than 0 and at most 1, such as 0.5"
        } else if self.milli < WHOLE_GPU && self.count > 1 {
            "only one GPU can be shared: ask for whole ones, or for one and a part of it"
        } else {
            return None;
        };
        Some(ResourceError {
            key: "gpus",
            message: message.into(),
        })
    }
}

/// Whether `name` may be a job's name: 1 to [`MAX_NAME_BYTES`] of `A-Z a-z 0-9 . _ -`, and neither
/// `.` nor `..`, which would not be a folder's own name.
#[must_use]
pub fn is_job_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The longest name of an OCI runtime, in bytes.
const MAX_RUNTIME_BYTES: usize = 64;

/// Whether `name` may be an OCI runtime's: letters, digits and `._-`, which is what engines take.
#[must_use]
pub fn is_runtime_name(name: &str) -> bool {
    (1..=MAX_RUNTIME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The most domains that a job may ask for.
pub const MAX_DOMAINS: usize = 64;

/// What is wrong with an image reference, with the mend; `None`: nothing that text can tell.
#[must_use]
pub fn image_fault(reference: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    if reference.is_empty() {
        return Some("is empty: write for example \"debian:12\"".into());
    }
    if reference.len() > MAX_IMAGE_BYTES {
        return Some(format!(
            "is longer than an image's name may be ({MAX_IMAGE_BYTES} bytes)"
        ));
    }
    if !reference.bytes().all(allowed) || !reference.as_bytes()[0].is_ascii_alphanumeric() {
        return Some(format!(
            "`{reference}` is not an image: write a name and a tag, for example \"debian:12\""
        ));
    }
    let name = reference.split('@').next().unwrap_or_default();
    let (registry, path) = name.split_once('/').unwrap_or(("", name));
    let path = path.split(':').next().unwrap_or_default();
    let is_registry = registry.contains(['.', ':']) || registry == "localhost";
    let has_upper = |text: &str| text.bytes().any(|byte| byte.is_ascii_uppercase());
    if has_upper(path) || (!is_registry && has_upper(registry)) {
        return Some(format!(
            "`{reference}` is not an image: its name must be in lower case (a tag need not)"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_request_is_a_request() {
        assert_eq!(Resources::default().faults(), []);
    }

    #[test]
    fn nothing_and_the_absurd_are_refused() {
        let nothing = Resources {
            cpus: MilliCpus(0),
            memory: Bytes(0),
            disk: Bytes(0),
            pids: 0,
            gpus: GpuRequest::default(),
        };
        let keys = |resources: Resources| -> Vec<_> {
            resources.faults().iter().map(|fault| fault.key).collect()
        };
        assert_eq!(keys(nothing), ["cpus", "memory", "disk", "pids"]);
        let absurd = Resources {
            cpus: MilliCpus(u32::MAX),
            memory: Bytes(u64::MAX),
            disk: Bytes(u64::MAX),
            pids: u32::MAX,
            gpus: GpuRequest {
                count: u16::MAX,
                milli: 1_000,
                memory: None,
                model: Some(String::new()),
            },
        };
        assert_eq!(
            keys(absurd),
            ["cpus", "memory", "disk", "pids", "gpus", "gpus.model"]
        );
    }

    #[test]
    fn names_are_plain() {
        for name in ["robot", "a.b_c-D9", "..."] {
            assert!(is_job_name(name), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "é", &"x".repeat(65)] {
            assert!(!is_job_name(name), "{name}");
        }
    }

    #[test]
    fn image_references() {
        for image in [
            "debian",
            "debian:12",
            "library/debian:Bookworm",
            "ghcr.io/a/b:1",
            "localhost:5000/a",
            "a@sha256:0123",
            "REG.example:5000/a/b",
        ] {
            assert_eq!(image_fault(image), None, "{image}");
        }
        for image in [
            "",
            "-rm",
            "a b",
            "Debian",
            "A/b",
            "ghcr.io/A",
            "a;b",
            "../x",
        ] {
            assert!(image_fault(image).is_some(), "{image}");
        }
    }
}
