//! What an owner offers beside capacity: the rules under which others may use it.
//!
//! Kept by the node's core and its store, shown by its API. Whether a rule is kept is decided in the
//! node; here is what a rule says and what text can tell about it.

mod sandbox;
mod schedule;

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::gpu::wildcard;
use crate::id::JobId;
use crate::job::limits::{MAX_IMAGE_BYTES, image_fault};
use crate::resources::Resources;

pub use sandbox::{has_own_kernel, weakens};
pub use schedule::{MINUTES_OF_WEEK, Schedule, ScheduleError};

/// The most patterns in one list of rules: more than a person keeps in order.
pub const MAX_PATTERNS: usize = 256;

/// The longest domain name, in bytes (RFC 1035, section 2.3.4).
const MAX_DOMAIN_BYTES: usize = 253;

/// The longest part of a domain name between dots, in bytes (RFC 1035, section 2.3.4).
const MAX_DOMAIN_LABEL_BYTES: usize = 63;

/// Rules of an offer. The default forbids what it can and limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct OfferRules {
    /// Tasks that run at the same time, at most.
    pub max_tasks: Option<u32>,
    /// Longest run of one task, in milliseconds.
    pub max_task_ms: Option<u64>,
    /// When the offer holds, by the machine's own clock; absent: always.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub schedule: Option<Schedule>,
    /// Whether it holds only while nobody uses the machine.
    pub only_when_idle: bool,
    /// Whether it does not hold while the machine runs on battery.
    pub not_on_battery: bool,
    /// The CPU temperature above which it does not hold, in degrees Celsius.
    pub max_cpu_c: Option<u16>,
    /// The GPU temperature above which it does not hold, in degrees Celsius.
    pub max_gpu_c: Option<u16>,
    /// What becomes of running tasks when it ceases to hold.
    pub on_close: OnClose,
    /// Patterns of images that may run; empty: any. Also what an archive or a build is matched with,
    /// by the names `archive:DIGEST` and `build:DIGEST`.
    pub images: Vec<String>,
    /// Domains that tasks may reach, such as `pypi.org`, `*.debian.org` or `*`; empty: none.
    pub egress: Vec<String>,
    /// Whether tasks may be root inside their containers.
    pub allow_root: bool,
    /// Whether images may be built here.
    pub allow_build: bool,
    /// Labels that jobs can ask for, besides those of the node's settings.
    pub labels: BTreeMap<String, String>,
    /// What people call the node; absent: as its settings say.
    pub name: Option<String>,
    /// The OCI runtime of containers whose jobs name none, such as `runsc`; absent: the engine's own.
    pub runtime: Option<String>,
}

/// What becomes of running tasks when an offer ceases to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnClose {
    /// They finish.
    #[default]
    Finish,
    /// They are stopped, and go elsewhere.
    Stop,
}

/// What an allowed peer may do. The default limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Grant {
    /// How many tasks more.
    pub tasks: Option<u64>,
    /// Until when, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
    /// Patterns of images that it may run, besides what [`OfferRules::images`] says; empty: any.
    pub images: Vec<String>,
}

/// A peer that asked to run tasks here and was not allowed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Requested {
    /// The last job that it asked for.
    pub job: JobId,
    /// That job's name.
    pub name: String,
    /// What it runs.
    pub program: String,
    /// What each of its tasks needs.
    pub resources: Resources,
    /// When it first asked, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// When it last asked, likewise.
    pub last_ms: u64,
}

impl Grant {
    /// A permission for nothing, which ended when time began: how a denial is kept.
    #[must_use]
    pub const fn denial() -> Self {
        Self {
            tasks: Some(0),
            until_ms: Some(0),
            images: Vec::new(),
        }
    }

    /// Whether it is a denial, and no permission that is used up.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        self.tasks == Some(0) && self.until_ms == Some(0)
    }

    /// Whether it permits nothing at `now_ms`, in milliseconds since the Unix epoch: it is a denial, used
    /// up, or over.
    #[must_use]
    pub fn is_spent(&self, now_ms: u64) -> bool {
        self.tasks == Some(0) || self.until_ms.is_some_and(|until| now_ms >= until)
    }
}

impl OfferRules {
    /// Whether the offer holds only under some conditions.
    #[must_use]
    pub const fn is_conditional(&self) -> bool {
        self.schedule.is_some()
            || self.only_when_idle
            || self.not_on_battery
            || self.max_cpu_c.is_some()
            || self.max_gpu_c.is_some()
    }
}

/// Whether one of `patterns` matches the image's name, `*` standing for any text. A name without a tag
/// is also matched with `:latest`, which is what engines take it for.
///
/// An engine that is given a digest looks at nothing else, least of all at the tag beside it. So a name
/// with a digest is matched by patterns that have an `@` themselves, and by those that leave everything
/// behind the name open, such as `*` or `ghcr.io/lab/*`.
#[must_use]
pub fn image_matches(patterns: &[String], image: &str) -> bool {
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some((named, _)) = image.split_once('@') {
        let tag = last(named).find(':').map(|at| last(named).len() - at);
        let name = &named[..named.len() - tag.unwrap_or(0)];
        return patterns.iter().any(|pattern| match pattern.contains('@') {
            true => wildcard(pattern, image),
            false => {
                let is_open = pattern.ends_with('*') && !last(pattern).contains(':');
                is_open && wildcard(pattern, name)
            }
        });
    }
    let tagged = (!last(image).contains(':')).then(|| format!("{image}:latest"));
    patterns.iter().any(|pattern| {
        wildcard(pattern, image)
            || tagged
                .as_deref()
                .is_some_and(|tagged| wildcard(pattern, tagged))
    })
}

/// Whether one of `patterns` matches the image and names its registry in full, so that whoever wrote it
/// meant that one: `registry.lan:5000/*`, and not `*`.
#[must_use]
pub fn names_registry(patterns: &[String], image: &str) -> bool {
    let is_named = |pattern: &&String| {
        let host = pattern.split_once('/').map_or("", |(host, _)| host);
        let is_host = host == "localhost" || host.contains(['.', ':']);
        is_host && !host.contains('*')
    };
    let naming: Vec<String> = patterns.iter().filter(is_named).cloned().collect();
    image_matches(&naming, image)
}

/// What is wrong with a pattern for images, with the mend.
#[must_use]
pub fn image_pattern_fault(pattern: &str) -> Option<String> {
    if pattern.is_empty() {
        return Some("is empty: write for example 'blender:*'".into());
    }
    if pattern.len() > MAX_IMAGE_BYTES {
        return Some(format!("is longer than {MAX_IMAGE_BYTES} bytes"));
    }
    // A star may stand anywhere, also first.
    let as_image = format!("x{}", pattern.replace('*', "x"));
    image_fault(&as_image).is_some().then(|| {
        let shown: String = pattern.chars().take(80).collect();
        format!("`{shown}` is not a pattern for images: write for example 'blender:*'")
    })
}

/// Whether one of the owner's `rules` covers a domain that a job asks for, which may itself be a
/// pattern for all names below one.
#[must_use]
pub fn domain_covered(rules: &[String], domain: &str) -> bool {
    rules.iter().any(|rule| match rule.strip_prefix("*.") {
        _ if rule == "*" => true,
        Some(parent) => domain.strip_prefix("*.").map_or_else(
            || is_below(domain, parent),
            |asked| asked.eq_ignore_ascii_case(parent) || is_below(asked, parent),
        ),
        None => rule.eq_ignore_ascii_case(domain),
    })
}

/// Whether `name` is a proper subdomain of `parent`.
fn is_below(name: &str, parent: &str) -> bool {
    name.len() > parent.len() + 1
        && name.is_char_boundary(name.len() - parent.len())
        && name[name.len() - parent.len()..].eq_ignore_ascii_case(parent)
        && name.as_bytes()[name.len() - parent.len() - 1] == b'.'
}

/// What is wrong with a domain, or a pattern for all names below one, with the mend. `any` also takes
/// `*` for every domain, which only an owner may write.
#[must_use]
pub fn domain_fault(domain: &str, any: bool) -> Option<String> {
    if any && domain == "*" {
        return None;
    }
    let name = domain.strip_prefix("*.").unwrap_or(domain);
    let label = |part: &str| {
        (1..=MAX_DOMAIN_LABEL_BYTES).contains(&part.len())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let is_name = domain.len() <= MAX_DOMAIN_BYTES && name.split('.').all(label);
    let is_address = name.parse::<std::net::Ipv4Addr>().is_ok();
    (!is_name || is_address).then(|| {
        let shown: String = domain.chars().take(80).collect();
        format!("`{shown}` is not a domain: write for example \"pypi.org\" or \"*.debian.org\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn images_match_by_name_tag_and_digest() {
        let rules = list(&[
            "blender:*",
            "ghcr.io/lab/*",
            "*@sha256:abc",
            "debian:latest",
        ]);
        for image in [
            "blender:4",
            "blender",
            "ghcr.io/lab/x:1",
            "any@sha256:abc",
            "debian",
        ] {
            assert!(image_matches(&rules, image), "{image}");
        }
        for image in [
            "blenderx:4",
            "ghcr.io/other/x",
            "any@sha256:abd",
            "debian:12",
        ] {
            assert!(!image_matches(&rules, image), "{image}");
        }
        assert!(!image_matches(&[], "blender"));
    }

    #[test]
    fn a_registry_is_named_in_full_or_not_at_all() {
        let image = "registry.lan:5000/team/tool:1";
        for (pattern, named) in [
            ("registry.lan:5000/*", true),
            ("registry.lan:5000/team/tool:1", true),
            ("registry.lan:5000/other/*", false),
            ("*", false),
            ("*.lan:5000/*", false),
            ("team/*", false),
        ] {
            assert_eq!(names_registry(&list(&[pattern]), image), named, "{pattern}");
        }
        assert!(names_registry(&list(&["localhost/*"]), "localhost/a"));
    }

    #[test]
    fn a_tag_beside_a_digest_permits_nothing() {
        for (pattern, image, expected) in [
            ("blender:4*", "blender:4", true),
            ("blender:4*", "blender:4@sha256:4abc", false),
            ("blender:*", "blender:4@sha256:4abc", false),
            ("b*:4*", "blender@sha256:4abc", false),
            ("blender", "blender@sha256:4abc", false),
            ("blender:4*@sha256:4*", "blender:4@sha256:4abc", true),
            ("blender@sha256:4abc", "blender@sha256:4abc", true),
            ("ghcr.io/lab/*", "ghcr.io/lab/x:1@sha256:4abc", true),
            ("ghcr.io/lab/*", "ghcr.io/other/x@sha256:4abc", false),
            ("localhost:5000/*", "localhost:5000/x@sha256:4abc", true),
            ("*", "blender:4@sha256:4abc", true),
        ] {
            let found = image_matches(&list(&[pattern]), image);
            assert_eq!(found, expected, "{pattern} {image}");
        }
    }

    #[test]
    fn domains_are_covered_by_what_is_as_wide() {
        let rules = list(&["pypi.org", "*.debian.org"]);
        for domain in [
            "pypi.org",
            "PyPI.org",
            "deb.debian.org",
            "a.b.debian.org",
            "*.deb.debian.org",
            "*.debian.org",
        ] {
            assert!(domain_covered(&rules, domain), "{domain}");
        }
        for domain in [
            "debian.org",
            "xdebian.org",
            "*.pypi.org",
            "*.org",
            "org",
            "pypi.org.evil.example",
            "é",
        ] {
            assert!(!domain_covered(&rules, domain), "{domain}");
        }
        assert!(domain_covered(&list(&["*"]), "*.org"));
    }

    #[test]
    fn patterns_that_mean_nothing_are_told() {
        for pattern in ["blender:*", "*", "a/b@sha256:*", "archive:*", "*:latest"] {
            assert_eq!(image_pattern_fault(pattern), None, "{pattern}");
        }
        for pattern in ["", "a b", "a;b", "UPPER*"] {
            assert!(image_pattern_fault(pattern).is_some(), "{pattern}");
        }
        for domain in [
            "pypi.org",
            "*.debian.org",
            "localhost",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(domain_fault(domain, false), None, "{domain}");
        }
        for domain in [
            "", "*", "a..b", "-a.b", "http://x", "10.0.0.1", "[::1]", "a.*.b", "x:443",
        ] {
            assert!(domain_fault(domain, false).is_some(), "{domain}");
        }
        assert_eq!(domain_fault("*", true), None);
    }
}
