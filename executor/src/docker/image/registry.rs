//! Which registries are asked for a submitter's images, and what he is told when one gives nothing.
//!
//! The engine fetches from wherever a reference says, and it stands inside the owner's network. So what
//! an owner has not named himself comes from public addresses, as tasks with a way out reach them
//! (`egress` says which), and no answer is passed on: only its kind. That a registry sends the engine
//! elsewhere, or that its name means something else when the engine asks for it, is not seen here.

use p2pnode_protocol::task::{Failure, FailureKind};

use super::reference::host;
use crate::egress::{Gate, Unreachable};

/// Why an image cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    /// Its registry is none that strangers' images may come from.
    Local,
    NotFound,
    Unauthorized,
    Tls,
    Timeout,
    Unreachable,
    Busy,
    Other,
}

/// How engines and registries say it, in small letters, the more particular first.
const SIGNS: [(&str, Problem); 27] = [
    ("unauthorized", Problem::Unauthorized),
    ("authentication required", Problem::Unauthorized),
    ("no basic auth", Problem::Unauthorized),
    ("access denied", Problem::Unauthorized),
    ("access to the resource is denied", Problem::Unauthorized),
    ("forbidden", Problem::Unauthorized),
    ("status: 401", Problem::Unauthorized),
    ("status: 403", Problem::Unauthorized),
    ("toomanyrequests", Problem::Busy),
    ("too many requests", Problem::Busy),
    ("x509", Problem::Tls),
    ("tls", Problem::Tls),
    ("certificate", Problem::Tls),
    ("http response to https client", Problem::Tls),
    ("timeout", Problem::Timeout),
    ("timed out", Problem::Timeout),
    ("deadline exceeded", Problem::Timeout),
    ("no such host", Problem::Unreachable),
    ("connection refused", Problem::Unreachable),
    ("connection reset", Problem::Unreachable),
    ("no route", Problem::Unreachable),
    ("unreachable", Problem::Unreachable),
    ("dial tcp", Problem::Unreachable),
    ("manifest unknown", Problem::NotFound),
    ("name unknown", Problem::NotFound),
    ("not found", Problem::NotFound),
    ("no such image", Problem::NotFound),
];

impl Problem {
    /// By what the engine says, which holds what the registry said.
    fn by_words(words: &str) -> Self {
        let words = words.to_ascii_lowercase();
        let found = SIGNS.iter().find(|(sign, _)| words.contains(sign));
        found.map_or(Self::Other, |(_, problem)| *problem)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Local => {
                "its registry is on this provider's own machine or network, from which images come \
                 only when the owner names them (`p2pnode offer --image`)"
            }
            Self::NotFound => "there is no image of this name",
            Self::Unauthorized => {
                "its registry does not give it to whoever asks with these credentials, or none"
            }
            Self::Tls => {
                "its registry is not reached over a TLS connection that this provider trusts"
            }
            Self::Timeout => "its registry did not answer in time",
            Self::Unreachable => "its registry cannot be reached",
            Self::Busy => "its registry wants no more requests for now",
            Self::Other => "the engine could not pull it",
        }
    }

    /// The failure for the image `reference`.
    pub(super) fn of(self, reference: &str) -> Failure {
        Failure::new(
            FailureKind::ImageUnavailable,
            format!(
                "the image {reference} is not on this machine and cannot be pulled: {}. Check its \
                 name and, if it is a private one, the credentials (task.login), or load it into the engine of \
                 this provider",
                self.words()
            ),
        )
    }
}

/// The failure for what the engine said, which is for the owner alone.
pub(super) fn told(reference: &str, said: &str) -> Failure {
    tracing::info!(reference, said, "an image cannot be pulled");
    Problem::by_words(said).of(reference)
}

/// Checks that the image may be asked for where its name says.
///
/// # Errors
/// [`FailureKind::ImageUnavailable`] when its registry is a local one, and not `local_registry`.
pub(super) async fn permitted(
    gate: &Gate,
    reference: &str,
    local_registry: bool,
) -> Result<(), Failure> {
    let Some(host) = host(reference).filter(|_| !local_registry) else {
        return Ok(());
    };
    let name = host.split(':').next().unwrap_or(host).trim_end_matches('.');
    // An address is nobody's public registry, and a name without a dot is one of this network.
    if name.parse::<std::net::IpAddr>().is_ok() || !name.contains('.') {
        return Err(Problem::Local.of(reference));
    }
    match gate.check_host(name).await {
        Ok(()) => Ok(()),
        Err(Unreachable::Refused) => Err(Problem::Local.of(reference)),
        Err(Unreachable::Unknown) => Err(Problem::Unreachable.of(reference)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr};

    use async_trait::async_trait;

    use super::*;
    use crate::egress::{Addresses, Resolve};

    /// `NAME.pub` is public, `NAME.lan` is not, `NAME.both` is both.
    #[derive(Debug)]
    struct Names;

    const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));

    #[async_trait]
    impl Resolve for Names {
        async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            let lan = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1));
            match name.rsplit_once('.') {
                Some((_, "pub")) => Ok(vec![PUBLIC]),
                Some((_, "lan")) => Ok(vec![lan]),
                Some((_, "both")) => Ok(vec![PUBLIC, lan]),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        }
    }

    #[derive(Debug)]
    struct Only;

    impl Addresses for Only {
        fn check(&self, address: IpAddr) -> Result<(), String> {
            (address == PUBLIC).then_some(()).ok_or("not it".into())
        }
    }

    #[tokio::test]
    async fn strangers_images_come_from_public_registries() {
        let gate = Gate::with(Box::new(Names), Box::new(Only), Vec::new());
        for good in [
            "a",
            "a/b:1",
            "docker.io/a/b",
            "r.pub/a",
            "r.pub:5000/a@sha256:00",
            "r.pub./a",
        ] {
            assert_eq!(permitted(&gate, good, false).await, Ok(()), "{good}");
        }
        for bad in [
            "127.0.0.1:5000/a",
            "192.168.0.1/a",
            // A public one, but an address all the same.
            "9.9.9.9/a",
            "localhost/a",
            "localhost:1/a",
            "localhost.:1/a",
            "Router/a",
            "router:80/a",
            "2130706433:80/a",
            "r.lan/a",
            "r.both/a:1",
        ] {
            let failure = permitted(&gate, bad, false).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::ImageUnavailable);
            assert!(failure.message.contains("--image"), "{failure:?}");
            assert_eq!(permitted(&gate, bad, true).await, Ok(()), "{bad}");
        }
        // What is not known here may mean anything to the engine.
        let unknown = permitted(&gate, "127.1/a", false).await.unwrap_err();
        assert!(unknown.message.contains("cannot be reached"), "{unknown:?}");
    }

    #[test]
    fn what_an_answer_said_is_not_passed_on() {
        for (said, problem) in [
            (
                "pull access denied for a, repository does not exist",
                Problem::Unauthorized,
            ),
            (
                "Get \"https://r.pub/v2/\": x509: unknown authority",
                Problem::Tls,
            ),
            (
                "Get \"https://r/v2/\": net/http: TLS handshake timeout",
                Problem::Tls,
            ),
            ("server gave HTTP response to HTTPS client", Problem::Tls),
            (
                "context deadline exceeded (Client.Timeout)",
                Problem::Timeout,
            ),
            (
                "dial tcp 9.9.9.9:443: connect: connection refused",
                Problem::Unreachable,
            ),
            (
                "manifest for a:1 not found: manifest unknown",
                Problem::NotFound,
            ),
            ("toomanyrequests: slow down", Problem::Busy),
            (
                "error parsing HTTP 400 response body: SECRET",
                Problem::Other,
            ),
        ] {
            assert_eq!(Problem::by_words(said), problem, "{said}");
            let failure = told("a:1", said);
            assert!(!failure.message.contains(said), "{failure:?}");
            assert!(failure.message.contains(problem.words()));
        }
    }
}
