//! What a job asks for beside capacity, and whether the owner's rules let it have that.
//!
//! Pure. Every answer names the key of the job file and what the owner can say to permit it.

use p2pnode_protocol::offer::{Grant, OfferRules, domain_covered, weakens};
use p2pnode_protocol::task::{NetworkMode, Program, TaskTemplate};

use super::access::{permits_image, program_name};

/// The first thing that is not permitted.
pub(super) fn check(
    rules: &OfferRules,
    granted: Option<&Grant>,
    template: &TaskTemplate,
) -> Result<(), String> {
    if template.root && !rules.allow_root {
        return Err(
            "the job asks for root in its container (task.root); the owner permits that \
             with `p2pnode offer --allow-root`"
                .into(),
        );
    }
    let program = &template.program;
    if matches!(program, Program::Build { .. }) && !rules.allow_build {
        return Err(
            "the job brings a Dockerfile (task.build); the owner permits builds with \
             `p2pnode offer --allow-build`"
                .into(),
        );
    }
    if let Some(owners) = &rules.runtime {
        let under = format!("its owner runs containers under {owners} (offer --runtime)");
        if matches!(program, Program::Build { .. }) {
            return Err(format!("{under}, where no images are built"));
        }
        if matches!(template.network, NetworkMode::Egress { .. }) {
            return Err(format!("{under}, which have no way out (network.mode)"));
        }
    }
    let of_peer = granted.map_or(&[][..], |granted| &granted.images);
    if !permits_image(&rules.images, program) || !permits_image(of_peer, program) {
        return Err(format!(
            "the image {} is none of those that the owner permits; `p2pnode offer --image PATTERN` or \
             `p2pnode allow PEER --image PATTERN` permits more",
            program_name(program)
        ));
    }
    if let (Some(least), Some(wanted)) = (&rules.runtime, &template.sandbox)
        && weakens(least, wanted)
    {
        return Err(format!(
            "the job insists on the OCI runtime {wanted} (task.runtime), and its owner runs tasks under \
             {least} and under nothing weaker (offer --runtime)"
        ));
    }
    if let Some(most) = rules.max_task_ms
        && template.timeout_ms > most
    {
        return Err(format!(
            "a task may run for {} there (offer --max-task-time), the job asks for {} (policy.timeout)",
            shown(most),
            shown(template.timeout_ms)
        ));
    }
    let NetworkMode::Egress { domains } = &template.network else {
        return Ok(());
    };
    match domains
        .iter()
        .find(|domain| !domain_covered(&rules.egress, domain))
    {
        None => Ok(()),
        Some(domain) => Err(format!(
            "the job wants to reach {domain} (network.domains); the owner permits that with \
             `p2pnode offer --egress {domain}`"
        )),
    }
}

/// A time as a person says it.
fn shown(ms: u64) -> String {
    match ms / 1_000 {
        seconds if seconds % 3_600 == 0 && seconds > 0 => format!("{} h", seconds / 3_600),
        seconds if seconds % 60 == 0 && seconds > 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::core::tests::fixture;

    fn refused(rules: &OfferRules, template: &TaskTemplate) -> String {
        check(rules, None, template).unwrap_err()
    }

    #[test]
    fn a_plain_job_needs_no_permission() {
        assert_eq!(
            check(&OfferRules::default(), None, &fixture::template(0, 1, 0)),
            Ok(())
        );
        let rules = OfferRules {
            images: vec!["blender:*".into()],
            ..OfferRules::default()
        };
        assert_eq!(
            check(&rules, None, &fixture::template(0, 1, 0)),
            Ok(()),
            "a module is no image"
        );
    }

    #[test]
    fn every_wish_has_its_own_permission() {
        let mut rules = OfferRules::default();
        let mut job = fixture::template(0, 1, 0);
        job.root = true;
        assert!(refused(&rules, &job).contains("--allow-root"));
        rules.allow_root = true;
        let context = fixture::blob(1);
        job.program = Program::Build {
            context,
            dockerfile: "Dockerfile".into(),
        };
        assert!(refused(&rules, &job).contains("--allow-build"));
        rules.allow_build = true;
        rules.images = vec!["blender:*".into()];
        assert!(refused(&rules, &job).contains("build:"));
        rules.images.push("build:*".into());
        job.network = NetworkMode::Egress {
            domains: vec!["a.org".into(), "b.org".into()],
        };
        assert!(refused(&rules, &job).contains("--egress a.org"));
        rules.egress = vec!["a.org".into()];
        assert!(refused(&rules, &job).contains("--egress b.org"));
        rules.egress.push("*".into());
        job.timeout_ms = 7_200_000;
        rules.max_task_ms = Some(1_800_000);
        let why = refused(&rules, &job);
        assert!(why.contains("30 min") && why.contains("2 h"), "{why}");
        job.timeout_ms = 1_800_000;
        assert_eq!(check(&rules, None, &job), Ok(()));
        rules.runtime = Some("runsc".into());
        assert!(refused(&rules, &job).contains("no images are built"));
        job.program = Program::Image {
            reference: "blender:4".into(),
        };
        assert!(refused(&rules, &job).contains("no way out"));
        job.network = NetworkMode::None;
        assert_eq!(check(&rules, None, &job), Ok(()));
        job.sandbox = Some("runc".into());
        assert!(refused(&rules, &job).contains("nothing weaker"));
        job.sandbox = Some("kata-runtime".into());
        assert_eq!(check(&rules, None, &job), Ok(()));
        let granted = Grant {
            images: vec!["other".into()],
            ..Grant::default()
        };
        assert!(check(&rules, Some(&granted), &job).is_err());
    }
}
