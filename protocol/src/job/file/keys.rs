//! Every key that a job file may have: one table, for the reader, for "did you mean", and for the
//! test that all of them are documented.

/// The keys of one section.
pub(super) struct Keys {
    /// The section, as a path; empty is the top of the file.
    pub section: &'static str,
    /// Keys that mean something.
    pub known: &'static [&'static str],
    /// Keys that the format reserves and this version does not support, each with what to do instead.
    pub later: &'static [(&'static str, &'static str)],
}

/// All sections whose keys are fixed. In `[array]`, `[inputs]`, `task.env` and `placement.labels` any
/// other key is the user's own.
pub(super) static SECTIONS: [Keys; 12] = [
    Keys {
        section: "",
        known: &[
            "name",
            "task",
            "array",
            "resources",
            "inputs",
            "outputs",
            "placement",
            "policy",
            "network",
        ],
        later: &[("step", "write one job for each step")],
    },
    Keys {
        section: "task",
        known: &[
            "image",
            "wasm",
            "build",
            "dockerfile",
            "image-archive",
            "command",
            "env",
            "root",
            "attended",
            "isolation",
            "runtime",
            "login",
        ],
        later: &[(
            "user",
            "tasks run as an unprivileged user; `root = true` asks for root",
        )],
    },
    Keys {
        section: "task.login",
        known: &["username", "password-file"],
        later: &[],
    },
    Keys {
        section: "array",
        known: &["chunk"],
        later: &[],
    },
    Keys {
        section: "array.KEY",
        known: &["lines"],
        later: &[],
    },
    Keys {
        section: "resources",
        known: &["cpus", "memory", "gpus", "disk", "pids"],
        later: &[],
    },
    Keys {
        section: "resources.gpus",
        known: &["count", "share", "memory", "model"],
        later: &[],
    },
    Keys {
        section: "outputs",
        known: &["paths"],
        later: &[],
    },
    Keys {
        section: "placement",
        known: &["peers", "labels"],
        later: &[],
    },
    Keys {
        section: "policy",
        known: &[
            "retries",
            "timeout",
            "stall",
            "keep",
            "prepare_timeout",
            "allow_empty_outputs",
            "wait_for_peers",
        ],
        later: &[("verify", "results are taken as they come")],
    },
    Keys {
        section: "network",
        known: &["mode", "domains"],
        later: &[],
    },
    // The user's own keys, under names that stand for them in the documentation.
    Keys {
        section: "inputs",
        known: &["\"PATH\""],
        later: &[],
    },
];

/// The keys of `section`.
pub(super) fn of(section: &str) -> Option<&'static Keys> {
    SECTIONS.iter().find(|keys| keys.section == section)
}

/// What to say about `key`, which is none of the section's.
pub(super) fn unknown(keys: &Keys, key: &str) -> String {
    let later = keys.later.iter().find(|(later, _)| *later == key);
    if let Some((_, instead)) = later {
        return format!("not supported by this version of p2pnode: {instead}");
    }
    if let Some(nearest) = crate::job::nearest(key, keys.known.iter().copied()) {
        return format!("unknown key: did you mean `{nearest}`?");
    }
    let elsewhere = SECTIONS
        .iter()
        .find(|other| other.section != keys.section && other.known.contains(&key));
    match elsewhere {
        Some(Keys { section: "", .. }) => "unknown key: it belongs at the top of the file".into(),
        Some(Keys { section, .. }) => format!("unknown key: it belongs under [{section}]"),
        None => format!("unknown key: known here are {}", keys.known.join(", ")),
    }
}

fn paths(choose: impl Fn(&Keys) -> Vec<&'static str>) -> Vec<String> {
    let path = |section: &str, key: &str| match section {
        "" => key.to_owned(),
        _ => format!("{section}.{key}"),
    };
    SECTIONS
        .iter()
        .flat_map(|keys| choose(keys).into_iter().map(|key| path(keys.section, key)))
        .collect()
}

/// Every key as a path, such as `resources.gpus.model`: what the documentation must mention.
#[must_use]
pub fn known_keys() -> Vec<String> {
    paths(|keys| keys.known.to_vec())
}

/// Every key that is reserved for a later version, as a path.
#[must_use]
pub fn reserved_keys() -> Vec<String> {
    paths(|keys| keys.later.iter().map(|(key, _)| *key).collect())
}
