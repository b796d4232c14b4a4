//! Words and kinds for the ways in which a task's container can end.
//!
//! Pure functions from what the engine said to a [`Failure`]; whether a failure counts as one of the
//! task's tries hangs on the kind chosen here.

use bollard::errors::Error;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};

use super::words;

/// Exit codes above this are 128 + the signal that ended the process.
const SIGNAL_BASE: i64 = 128;

/// The exit code of a process that was killed (signal 9).
pub(super) const KILLED: i64 = SIGNAL_BASE + 9;

/// Sent to a process that writes past the largest file allowed.
const SIGXFSZ: i64 = 25;

/// How the init process begins its own complaint when it can't start the task's command.
const INIT_COMPLAINT: &[u8] = b"[FATAL tini";

/// How engines say that it is the command's fault when they can't start one.
const UNFIT: [&str; 5] = [
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "is a directory",
    "exec format error",
];

/// Whether an engine that could not start a command in a running container blames the command.
pub(super) fn blames_command(said: &str) -> bool {
    said.contains("exec: ") && UNFIT.iter().any(|sign| said.contains(sign))
}

/// Why a command could not be started.
pub(super) fn no_command(command: &str) -> Failure {
    Failure::new(
        FailureKind::BadProgram,
        format!("`{command}` cannot be started: it is not in the image, or is no program"),
    )
}

/// What is known when a container has exited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exit<'a> {
    /// Its exit code.
    pub code: i64,
    /// Whether the engine saw the kernel kill for memory.
    pub oom_killed: bool,
    /// Whether its disk was full.
    pub disk_full: bool,
    /// How stderr began.
    pub stderr_head: &'a [u8],
    /// Its memory limit.
    pub memory: Bytes,
    /// Its command's first word.
    pub command: Option<&'a str>,
    /// Whether somebody attended to it, who was told the code.
    pub attended: bool,
}

/// What became of a task whose container exited by itself. A full disk is said by the caller, who
/// knows the limit, when this returns [`FailureKind::DiskFull`].
///
/// A task that was attended to has done its work whatever its code: what somebody typed for an hour does
/// not hang on the last of it. Only a command that was killed has not, as when they have gone.
pub(super) fn of_exit(exit: &Exit<'_>) -> Result<(), Failure> {
    let code = exit.code;
    if code == 0 {
        return Ok(());
    }
    let command = exit.command.unwrap_or("the image's own command");
    if exit.stderr_head.starts_with(INIT_COMPLAINT) {
        return Err(no_command(command));
    }
    // Whoever attended to it has seen what its disk and its memory did to the commands in it.
    if exit.attended && code != KILLED {
        return Ok(());
    }
    if exit.oom_killed {
        return Err(Failure::new(
            FailureKind::OutOfMemory,
            format!(
                "went over its {} of memory (scratch in /tmp counts too); raise `memory` in \
                 [resources] if it needs more",
                exit.memory
            ),
        ));
    }
    if exit.disk_full || code == SIGNAL_BASE + SIGXFSZ {
        return Err(Failure::new(
            FailureKind::DiskFull,
            "wrote more than its disk limit",
        ));
    }
    let hint = match code {
        126 => format!(" (usually: `{command}` or something it calls is no program)"),
        127 => format!(" (usually: `{command}` or something it calls was not found in the image)"),
        KILLED => " (killed; usually for going over its memory in one of its processes)".to_owned(),
        code if code > SIGNAL_BASE => format!(" (usually: ended by signal {})", code - SIGNAL_BASE),
        _ => String::new(),
    };
    let kind = FailureKind::Exit(i32::try_from(code).unwrap_or(i32::MAX));
    Err(Failure::new(
        kind,
        format!("ended with exit code {code}{hint}"),
    ))
}

/// Why a container could not be created.
pub(super) fn of_create(error: &Error) -> Failure {
    if let Error::DockerResponseServerError {
        status_code,
        message,
    } = error
    {
        if message.contains("bind source path does not exist") {
            return Failure::new(
                FailureKind::Host,
                "the container engine does not see this node's files, so it cannot run tasks: its \
                 owner must run the node on the engine's own machine, with its data directory at the \
                 same path for both",
            );
        }
        if *status_code == 404 {
            return Failure::new(
                FailureKind::ImageUnavailable,
                format!("the image was removed from this provider's engine: {message}"),
            );
        }
    }
    let why = words(error);
    of_gpu(&why).unwrap_or_else(|| {
        Failure::new(
            FailureKind::Host,
            format!("the container engine cannot make the container: {why}"),
        )
    })
}

/// Why a container could not be started.
pub(super) fn of_start(error: &Error) -> Failure {
    let why = words(error);
    if let Some(failure) = of_gpu(&why) {
        return failure;
    }
    // Without an init process of its own the engine itself looks for the command.
    let missing = [
        "executable file not found",
        "no such file or directory",
        "permission denied",
    ];
    if why.contains("exec: ")
        && missing.iter().any(|sign| why.contains(sign))
        && !why.contains("init")
    {
        return Failure::new(
            FailureKind::BadProgram,
            format!("the command cannot be started in the image: {why}"),
        );
    }
    Failure::new(
        FailureKind::Host,
        format!("the container engine cannot start the container: {why}"),
    )
}

/// What an engine says when it cannot give a GPU to a container, which depends on its version and on how
/// it would give it, as the sign and the mend.
const GPU_REFUSALS: [(&str, &str); 4] = [
    ("could not select device driver", NO_TOOLKIT),
    // Newer engines look for a description of the device instead of a driver.
    ("discover GPU vendor from CDI", NO_TOOLKIT),
    (
        "unresolvable CDI devices",
        "it does not know the GPU: its owner must run nvidia-ctk cdi generate \
         --output=/etc/cdi/nvidia.yaml as root and restart the engine",
    ),
    // The toolkit's own helper, for want of a driver that works, or of the GPU.
    (
        "nvidia-container-cli: ",
        "its owner must see that nvidia-smi shows the GPU, and start the machine anew after an \
         update of NVIDIA's driver",
    ),
];

const NO_TOOLKIT: &str = "its owner must install nvidia-container-toolkit and restart the engine";

/// Why a container did not get its GPUs, if that is what the engine's words say. Those come last: a
/// long message is cut at its end.
fn of_gpu(why: &str) -> Option<Failure> {
    let (_, mend) = GPU_REFUSALS.iter().find(|(sign, _)| why.contains(sign))?;
    let why = format!(
        "the container engine cannot give GPUs to containers: {mend}; the engine said: {why}"
    );
    Some(Failure::new(FailureKind::Host, why))
}

/// The engine failed while a task ran.
pub(super) fn of_loss(what: &str, error: &Error) -> Failure {
    Failure::new(
        FailureKind::Host,
        format!("{what}; the container engine said: {}", words(error)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i64) -> Exit<'static> {
        Exit {
            code,
            oom_killed: false,
            disk_full: false,
            stderr_head: b"",
            memory: Bytes::mib(64),
            command: Some("render"),
            attended: false,
        }
    }

    fn kind(exit: &Exit<'_>) -> FailureKind {
        of_exit(exit).unwrap_err().kind
    }

    #[test]
    fn exits() {
        assert_eq!(of_exit(&exit(0)), Ok(()));
        assert_eq!(
            of_exit(&Exit {
                oom_killed: true,
                ..exit(0)
            }),
            Ok(())
        );
        assert_eq!(kind(&exit(3)), FailureKind::Exit(3));
        assert_eq!(kind(&exit(137)), FailureKind::Exit(137));
        let attended = |code| Exit {
            attended: true,
            ..exit(code)
        };
        assert_eq!(of_exit(&attended(130)), Ok(()));
        let short_of_all = Exit {
            oom_killed: true,
            disk_full: true,
            ..attended(1)
        };
        assert_eq!(of_exit(&short_of_all), Ok(()));
        assert_eq!(kind(&attended(137)), FailureKind::Exit(137));
        assert_eq!(
            kind(&Exit {
                oom_killed: true,
                ..exit(137)
            }),
            FailureKind::OutOfMemory
        );
        assert_eq!(
            kind(&Exit {
                disk_full: true,
                ..exit(1)
            }),
            FailureKind::DiskFull
        );
        assert_eq!(kind(&exit(153)), FailureKind::DiskFull);
        let complaint = b"[FATAL tini (7)] exec render failed: No such file or directory";
        assert_eq!(
            kind(&Exit {
                stderr_head: complaint,
                ..exit(127)
            }),
            FailureKind::BadProgram
        );
        assert!(
            of_exit(&exit(127))
                .unwrap_err()
                .message
                .contains("`render`")
        );
    }

    #[test]
    fn refusals_of_the_engine() {
        let refusal = |status_code, message: &str| Error::DockerResponseServerError {
            status_code,
            message: message.into(),
        };
        let bind = refusal(
            400,
            "invalid mount config: bind source path does not exist: /x",
        );
        assert!(
            of_create(&bind)
                .message
                .contains("does not see this node's files")
        );
        let gone = refusal(404, "No such image: sha256:ab");
        assert_eq!(of_create(&gone).kind, FailureKind::ImageUnavailable);
        assert_eq!(
            of_create(&refusal(500, "no space left")).kind,
            FailureKind::Host
        );
        let command = refusal(
            400,
            "OCI: exec: \"render\": executable file not found in $PATH",
        );
        assert_eq!(of_start(&command).kind, FailureKind::BadProgram);
        let init = refusal(
            500,
            "exec: \"docker-init\": executable file not found in $PATH",
        );
        assert_eq!(of_start(&init).kind, FailureKind::Host);
    }

    /// Words of engines as people have met them.
    #[test]
    fn gpus_that_an_engine_cannot_give_are_told_with_the_mend() {
        let hook = "OCI runtime create failed: runc create failed: unable to start container process: \
                    error during container init: error running hook #0: error running hook: exit \
                    status 1, stdout: , stderr: nvidia-container-cli: ";
        let refusals = [
            (
                "could not select device driver \"\" with capabilities: [[gpu]]".to_owned(),
                "nvidia-container-toolkit",
            ),
            (
                "failed to discover GPU vendor from CDI: no known GPU vendor found".to_owned(),
                "nvidia-container-toolkit",
            ),
            (
                "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-1"
                    .to_owned(),
                "nvidia-ctk cdi generate",
            ),
            (
                format!("{hook}device error: GPU-1: unknown device: unknown"),
                "nvidia-smi",
            ),
            (
                format!("{hook}initialization error: nvml error: driver not loaded: unknown"),
                "nvidia-smi",
            ),
        ];
        for (message, mend) in refusals {
            let error = Error::DockerResponseServerError {
                status_code: 500,
                message: message.clone(),
            };
            for failure in [of_create(&error), of_start(&error)] {
                assert_eq!(failure.kind, FailureKind::Host);
                let text = failure.message;
                assert!(text.contains(mend) && text.contains(&message), "{text}");
            }
        }
    }
}
