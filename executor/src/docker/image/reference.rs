//! References: what may name an image, and when two of them name the same.
//!
//! A reference comes from a stranger and ends up in a request's path: nothing may pass that is not an
//! image's name. Pure functions; whoever talks to the engine asks them first.

/// Docker's own limit for a name is 255; a tag may add 128 and a digest 72.
const MAX_REFERENCE_BYTES: usize = 512;

/// What the names of the images begin with that this node makes itself. The top-level domain is one
/// that nobody can own (RFC 2606), so no registry ever has such an image.
pub(super) const OWN_PREFIX: &str = "p2pnode.invalid/";

/// What the names begin with that mark an image as pulled with credentials. The mark is on the engine,
/// so it holds for every node on it, and when this node has lost its list.
pub(super) const PRIVATE_PREFIX: &str = "p2pnode.invalid/private:";

/// The address under which Docker's own registry takes credentials.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Whether `reference` can be an image's name. The engine judges the rest; this keeps out whatever
/// could change the meaning of the request it is put into, and the names of what others had made.
///
/// # Errors
/// Why not.
pub(super) fn check(reference: &str) -> Result<(), &'static str> {
    if reference.is_empty() {
        return Err("it is empty");
    }
    if reference.len() > MAX_REFERENCE_BYTES {
        return Err("it is too long");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if !reference.chars().all(allowed) {
        return Err("only letters, digits and ._-/:@ may be in it");
    }
    let starts_well = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !reference.split('/').all(starts_well) {
        return Err("every part between slashes must begin with a letter or a digit");
    }
    if reference.to_ascii_lowercase().starts_with(OWN_PREFIX) {
        return Err("names that begin with p2pnode.invalid/ are the provider's own");
    }
    Ok(())
}

/// Without a tag the engine would pull every tag of the name.
pub(super) fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains([':', '@']) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

/// A name as people write it: Podman puts in front where an image would be pulled from. What it puts
/// before an image that was made here (`localhost/`) stays: it is another's than Docker Hub's of the
/// same name.
pub(super) fn short(name: &str) -> &str {
    ["docker.io/library/", "docker.io/"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

/// The form in which references are compared and remembered: short, with a tag, or with a digest and
/// then without a tag.
pub(super) fn canonical(reference: &str) -> String {
    let tagged = with_tag(reference);
    match tagged.split_once('@') {
        Some((_, digest)) => format!("{}@{digest}", repository(&tagged)),
        None => short(&tagged).to_owned(),
    }
}

/// The name without tag and digest.
pub(super) fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    let from = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[from..].find(':').map_or(name.len(), |at| from + at);
    short(&name[..end])
}

/// The registry that a reference names; `None` for Docker's own. As engines read it: what looks like a
/// host, or has a capital letter, which the names of images have not.
pub(super) fn host(reference: &str) -> Option<&str> {
    let (host, _) = reference.split_once('/')?;
    let is_host = host.contains(['.', ':'])
        || host == "localhost"
        || host.chars().any(|c| c.is_ascii_uppercase());
    (is_host && !["docker.io", "index.docker.io"].contains(&host)).then_some(host)
}

/// Where the engine shows the credentials for `reference`: the registry that the reference names.
pub(super) fn registry(reference: &str) -> String {
    host(reference).unwrap_or(DOCKER_HUB).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_pass() {
        for good in [
            "busybox",
            "blender:4",
            "ghcr.io/owner/name_x.y:v1.2-rc",
            "localhost:5000/a/b@sha256:00ff",
            "sha256:00ff",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = "a".repeat(MAX_REFERENCE_BYTES + 1);
        for bad in [
            "",
            "a b",
            "a/../b",
            "../x",
            "a//b",
            "/a",
            "-x",
            "a?all=1",
            "a#b",
            "a%2fb",
            "ä",
            "a\n",
            "p2pnode.invalid/archive:00",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_told_as_people_write_them() {
        assert_eq!(short("docker.io/library/busybox:1"), "busybox:1");
        assert_eq!(short("docker.io/a/b:1"), "a/b:1");
        assert_eq!(short("localhost/a:1"), "localhost/a:1");
        assert_eq!(short("localhost:5000/a:1"), "localhost:5000/a:1");
        assert_eq!(short("quay.io/a:1"), "quay.io/a:1");
    }

    #[test]
    fn one_tag_is_pulled() {
        assert_eq!(with_tag("a"), "a:latest");
        assert_eq!(with_tag("host:5000/a"), "host:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
        assert_eq!(with_tag("a@sha256:00"), "a@sha256:00");
    }

    #[test]
    fn references_to_the_same_are_the_same() {
        for (left, right) in [
            ("a", "docker.io/library/a:latest"),
            ("h:1/a", "h:1/a:latest"),
            ("h:1/a:2@sha256:00", "h:1/a@sha256:00"),
        ] {
            assert_eq!(canonical(left), canonical(right));
        }
        assert_ne!(canonical("a:1"), canonical("a:2"));
        assert_ne!(canonical("a"), canonical("localhost/a"));
        for (reference, name) in [
            ("a:1", "a"),
            ("h:1/a", "h:1/a"),
            ("h:1/a:2@sha256:00", "h:1/a"),
            ("docker.io/library/a", "a"),
        ] {
            assert_eq!(repository(reference), name, "{reference}");
        }
    }

    #[test]
    fn credentials_go_to_the_registry_of_the_name() {
        for (reference, host) in [
            ("a", DOCKER_HUB),
            ("a/b:1", DOCKER_HUB),
            ("docker.io/a/b", DOCKER_HUB),
            ("index.docker.io/a/b", DOCKER_HUB),
            ("Router/a", "Router"),
            ("ghcr.io/a/b", "ghcr.io"),
            ("localhost/a", "localhost"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000"),
        ] {
            assert_eq!(registry(reference), host, "{reference}");
        }
    }
}
