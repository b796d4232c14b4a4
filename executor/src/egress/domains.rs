//! Which names a job may reach.
//!
//! Names are compared as ASCII letters without regard to case: a name in another script must be listed
//! in the form in which programs ask for it (`xn--...`).

use std::net::IpAddr;

/// The names of one job.
#[derive(Debug)]
pub(super) struct Domains(Vec<Pattern>);

#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    /// This name.
    Exact(String),
    /// Every name below this one, which begins with a dot.
    Below(String),
    /// This address.
    Address(IpAddr),
}

impl Domains {
    /// From the job's list: `name`, `*.suffix` or an address. What is none of these matches nothing.
    pub(super) fn new(listed: &[String]) -> Self {
        Self(
            listed
                .iter()
                .filter_map(|text| Pattern::new(text))
                .collect(),
        )
    }

    /// Whether the job may reach `host`, a name or an address in text without brackets.
    pub(super) fn permit(&self, host: &str) -> bool {
        let host = plain(host);
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.0.contains(&Pattern::Address(address));
        }
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exact(name) => *name == host,
            Pattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Pattern::Address(_) => false,
        })
    }
}

impl Pattern {
    fn new(text: &str) -> Option<Self> {
        let text = plain(text);
        let unbracketed = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = unbracketed.parse() {
            return Some(Self::Address(address));
        }
        let (name, wild) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text.as_str(), false),
        };
        let sound = !name.is_empty()
            && name.split('.').all(|label| !label.is_empty())
            && name.bytes().all(is_name_byte);
        sound.then(|| {
            if wild {
                Self::Below(format!(".{name}"))
            } else {
                Self::Exact(name.to_owned())
            }
        })
    }
}

/// Whether a byte may stand in a name.
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

/// Small letters, without the one dot at the end that says that a name is whole.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(listed: &[&str]) -> Domains {
        Domains::new(&listed.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn names_match_whole_and_suffixes_match_what_is_below() {
        let domains = domains(&["PyPI.org", "*.example.com"]);
        for host in [
            "pypi.org",
            "PYPI.ORG",
            "pypi.org.",
            "a.example.com",
            "a.b.Example.Com.",
        ] {
            assert!(domains.permit(host), "{host}");
        }
        for host in [
            "example.com",
            ".example.com",
            "evilexample.com",
            "a.example.com.evil.net",
            "xpypi.org",
            "pypi.org.evil.net",
            "pypi.org..",
            "files.pypi.org",
            "",
            ".",
        ] {
            assert!(!domains.permit(host), "{host}");
        }
    }

    #[test]
    fn addresses_must_be_listed_as_such() {
        let listed = domains(&["8.8.8.8", "[2600::1]", "*.1.1.1"]);
        assert!(listed.permit("8.8.8.8") && listed.permit("2600::1") && listed.permit("2600:0::1"));
        assert!(!listed.permit("8.8.4.4") && !listed.permit("1.1.1.1"));
        assert!(!domains(&["*.8.8.8"]).permit("8.8.8.8"));
    }

    #[test]
    fn what_is_no_name_matches_nothing() {
        let all = domains(&["", "*", "*.", ".", "a..b", "a b", "*.*", "http://x", "**.x"]);
        for host in ["", "a", "a..b", "a b", "x", "b.x", "com"] {
            assert!(!all.permit(host), "{host}");
        }
    }
}
