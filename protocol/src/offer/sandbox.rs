//! Which OCI runtimes keep a task apart from the host's kernel, as far as their names tell.
//!
//! The node asks before it takes a job, the executor before it makes a container.

/// How the names of runtimes begin that do not share the host's kernel with tasks.
const STRONGER: [&str; 6] = [
    "runsc",
    "gvisor",
    "kata",
    "io.containerd.runsc",
    "io.containerd.gvisor",
    "io.containerd.kata",
];

/// Whether a task under the OCI runtime `name` has a kernel of its own.
#[must_use]
pub fn has_own_kernel(name: &str) -> bool {
    STRONGER.iter().any(|start| name.starts_with(start))
}

/// Whether `wanted` would be weaker than the `least` that the owner chose.
#[must_use]
pub fn weakens(least: &str, wanted: &str) -> bool {
    least != wanted && !has_own_kernel(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_or_a_stronger_one_weakens_nothing() {
        for (least, wanted, expected) in [
            ("runsc", "runc", true),
            ("runsc", "io.containerd.runc.v2", true),
            ("runsc", "runsc", false),
            ("runsc", "kata-runtime", false),
            ("crun", "runc", true),
            ("crun", "runsc", false),
        ] {
            assert_eq!(weakens(least, wanted), expected, "{least} {wanted}");
        }
    }
}
