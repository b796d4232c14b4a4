//! Whether an engine can hold a sandbox.
//!
//! A limit that an engine does not have it ignores in silence, and the task would run without it. So
//! every engine is asked once, when it is found, and one that lacks something is refused with the mend.

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum};

/// Whether the engine reports a security option, such as `name=seccomp,profile=default`.
pub(super) fn has_option(info: &SystemInfo, name: &str) -> bool {
    option(info, name).is_some()
}

fn option<'a>(info: &'a SystemInfo, name: &str) -> Option<&'a str> {
    let options = info.security_options.as_deref().unwrap_or_default();
    options.iter().map(String::as_str).find(|option| {
        *option == name
            || option
                .split(',')
                .any(|part| part.strip_prefix("name=") == Some(name))
    })
}

/// Whether it can freeze containers. Version 1 of control groups cannot be delegated to a user's
/// engine, so one has no freezer there.
pub(super) fn can_pause(info: &SystemInfo) -> bool {
    let v2 = info.cgroup_version == Some(SystemInfoCgroupVersionEnum::_2);
    v2 || !has_option(info, "rootless")
}

/// What a sandbox of ours needs of an engine. Limits that an engine does not have it ignores in
/// silence, so they are asked for here.
pub(super) fn check(info: &SystemInfo) -> Result<(), String> {
    if info.os_type.as_deref().is_some_and(|os| os != "linux") {
        return Err("it runs Windows containers; switch it to Linux containers".into());
    }
    match option(info, "seccomp") {
        None => return Err("it has no seccomp; use a kernel and an engine that have it".into()),
        Some(option) if option.contains("unconfined") => {
            return Err("its default seccomp profile is `unconfined`; remove that setting".into());
        }
        Some(_) => {}
    }
    if has_option(info, "userns") {
        return Err(
            "it maps user ids (userns-remap), so a task could not use its work directory; \
                    turn that off, or run a rootless engine"
                .into(),
        );
    }
    let limits = [
        ("memory", info.memory_limit),
        ("process", info.pids_limit),
        ("CPU", info.cpu_cfs_quota),
    ];
    for (name, enforced) in limits {
        if enforced == Some(false) {
            return Err(format!(
                "it cannot enforce {name} limits; delegate that cgroup controller to it"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> SystemInfo {
        SystemInfo {
            os_type: Some("linux".into()),
            security_options: Some(vec!["name=seccomp,profile=default".into()]),
            memory_limit: Some(true),
            pids_limit: Some(true),
            cpu_cfs_quota: Some(true),
            ..SystemInfo::default()
        }
    }

    #[test]
    fn engines_that_cannot_hold_a_sandbox_are_refused() {
        assert_eq!(check(&fit()), Ok(()));
        let seccomp = |options: &[&str]| SystemInfo {
            security_options: Some(options.iter().map(ToString::to_string).collect()),
            ..fit()
        };
        for (info, expected) in [
            (
                SystemInfo {
                    os_type: Some("windows".into()),
                    ..fit()
                },
                "Linux containers",
            ),
            (
                SystemInfo {
                    memory_limit: Some(false),
                    ..fit()
                },
                "memory limits",
            ),
            (
                SystemInfo {
                    pids_limit: Some(false),
                    ..fit()
                },
                "process limits",
            ),
            (
                SystemInfo {
                    cpu_cfs_quota: Some(false),
                    ..fit()
                },
                "CPU limits",
            ),
            (seccomp(&[]), "no seccomp"),
            (seccomp(&["name=seccomp,profile=unconfined"]), "unconfined"),
            (
                seccomp(&["name=seccomp,profile=builtin", "name=userns"]),
                "userns-remap",
            ),
        ] {
            let error = check(&info).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let rootless = seccomp(&["name=seccomp,profile=builtin", "name=rootless"]);
        assert_eq!(check(&rootless), Ok(()));
        assert!(has_option(&rootless, "rootless") && !has_option(&fit(), "rootless"));
        assert!(can_pause(&fit()) && !can_pause(&rootless));
        let delegated = SystemInfo {
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_2),
            ..rootless
        };
        assert!(can_pause(&delegated));
    }
}
