//! Which OCI runtime a container runs under.
//!
//! An engine has one by default and may have others by name, such as gVisor's `runsc`, which puts a
//! kernel of its own between task and host. The owner can choose one for all tasks, here or as the
//! engine's default; a job can insist on one. What a job insists on must never be weaker than what
//! the owner chose.

use bollard::models::SystemInfo;
use p2pnode_protocol::offer::{has_own_kernel, weakens};
use p2pnode_protocol::task::{Failure, FailureKind};

/// Names that are told at most: they travel in adverts.
const MAX_NAMES: usize = 16;

/// The longest name that is told, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The OCI runtimes of one engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sandboxes {
    /// What containers run under that ask for nothing.
    default: String,
    /// All beside the default, sorted.
    others: Vec<String>,
}

impl Sandboxes {
    /// What the engine says of itself.
    pub(super) fn of(info: &SystemInfo) -> Self {
        let default = info.default_runtime.clone().unwrap_or_default();
        let names = info.runtimes.iter().flat_map(|runtimes| runtimes.keys());
        let mut others: Vec<String> = names
            .filter(|name| **name != default && is_plain(name))
            .cloned()
            .collect();
        others.sort_unstable();
        // The default's name is told too.
        others.truncate(MAX_NAMES - 1);
        Self { default, others }
    }

    /// What a job can insist on: the default's name and the others; none that would be weaker than the
    /// owner's choice.
    pub(super) fn on_offer(&self, owners: Option<&str>) -> Vec<String> {
        let default = Some(&self.default).filter(|default| is_plain(default));
        let names = default.into_iter().chain(&self.others);
        names
            .filter(|name| self.choose(owners, Some(name)).is_ok())
            .cloned()
            .collect()
    }

    /// What a task runs under; `None` is the engine's default. `owners` is the owner's choice, `tasks`
    /// what the task insists on.
    ///
    /// # Errors
    /// When the engine lacks it, or it would be weaker than the owner's choice.
    pub(super) fn choose(
        &self,
        owners: Option<&str>,
        tasks: Option<&str>,
    ) -> Result<Option<String>, Failure> {
        let host = |why: String| Err(Failure::new(FailureKind::Host, why));
        let Some(name) = tasks.or(owners) else {
            return Ok(None);
        };
        if !self.has(name) {
            return host(format!(
                "this provider's container engine has no OCI runtime `{}`; it has {}",
                name.escape_debug(),
                self.all().join(", ")
            ));
        }
        let floor = owners.or_else(|| Some(&*self.default).filter(|name| has_own_kernel(name)));
        match floor {
            Some(floor) if weakens(floor, name) => host(format!(
                "this provider runs tasks under `{floor}` and under nothing weaker, so not under \
                 `{name}`"
            )),
            _ => Ok(Some(name.to_owned())),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.default == name || self.others.iter().any(|other| other == name)
    }

    fn all(&self) -> Vec<&str> {
        let names = std::iter::once(&self.default).chain(&self.others);
        names.map(String::as_str).collect()
    }
}

/// Whether a name is one that may travel: engines take these and no others.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::Runtime;

    use super::*;

    fn sandboxes(names: &[&str]) -> Sandboxes {
        with_default("runc", names)
    }

    fn with_default(default: &str, names: &[&str]) -> Sandboxes {
        let runtimes: HashMap<_, _> = names
            .iter()
            .map(|name| ((*name).to_owned(), Runtime::default()))
            .collect();
        Sandboxes::of(&SystemInfo {
            default_runtime: Some(default.into()),
            runtimes: Some(runtimes),
            ..SystemInfo::default()
        })
    }

    #[test]
    fn names_are_told_that_can_travel() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let all = sandboxes(&["runsc", "runc", "crun", "a b", "", "ü", "x\n", &long]);
        assert_eq!(all.on_offer(None), ["runc", "crun", "runsc"]);
        let many: Vec<String> = (0..99).map(|n| format!("r{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(sandboxes(&many).on_offer(None).len(), MAX_NAMES);
        assert_eq!(
            Sandboxes::of(&SystemInfo::default()).on_offer(None).len(),
            0
        );
    }

    #[test]
    fn the_tasks_word_goes_before_the_owners_unless_it_is_weaker() {
        let all = sandboxes(&["runc", "crun", "runsc", "kata-runtime"]);
        let choose = |owners, tasks| all.choose(owners, tasks).map_err(|failure| failure.kind);
        let some = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(choose(None, None), Ok(None));
        assert_eq!(choose(Some("runsc"), None), some("runsc"));
        assert_eq!(choose(None, Some("crun")), some("crun"));
        assert_eq!(choose(None, Some("runc")), some("runc"));
        assert_eq!(choose(Some("runsc"), Some("runsc")), some("runsc"));
        assert_eq!(
            choose(Some("runsc"), Some("kata-runtime")),
            some("kata-runtime")
        );
        assert_eq!(choose(Some("crun"), Some("runsc")), some("runsc"));
        for weaker in ["runc", "crun"] {
            let refused = choose(Some("runsc"), Some(weaker));
            assert_eq!(refused, Err(FailureKind::Host), "{weaker}");
        }
    }

    #[test]
    fn the_default_is_on_offer_and_a_stronger_one_is_the_least() {
        let all = with_default("runsc", &["runc", "runsc", "kata-runtime"]);
        assert_eq!(all.on_offer(None), ["runsc", "kata-runtime"]);
        assert_eq!(all.choose(None, Some("runsc")), Ok(Some("runsc".into())));
        assert!(all.choose(None, Some("runc")).is_err());
        // Unless the owner says otherwise.
        assert_eq!(all.choose(Some("runc"), None), Ok(Some("runc".into())));
        let all = sandboxes(&["crun", "runsc"]);
        assert_eq!(all.on_offer(Some("runsc")), ["runsc"]);
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let all = sandboxes(&["crun"]);
        for (owners, tasks) in [(None, Some("kata")), (Some("kata"), None)] {
            let failure = all.choose(owners, tasks).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Host);
            assert!(failure.message.contains("`kata`"), "{}", failure.message);
            assert!(
                failure.message.contains("runc, crun"),
                "{}",
                failure.message
            );
        }
    }
}
