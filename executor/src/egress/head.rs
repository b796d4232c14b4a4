//! Requests to the proxy: the head of one, read and understood, or refused.
//!
//! Whatever two readers could understand differently is refused here and not mended: folded lines,
//! bare line ends, two lengths, a `Host` that is not the one asked for. What is passed on is written
//! anew from what was understood.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::domains::is_name_byte;

/// The longest head, in bytes: the limit of most web servers.
pub(super) const MOST_BYTES: usize = 8 << 10;

/// How long a head may take to arrive.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Header lines in one head.
const MOST_LINES: usize = 100;

/// The longest name in the DNS, in text.
const MOST_NAME_BYTES: usize = 253;

/// Headers that are about the connection to the proxy and end here.
const OURS: [&str; 9] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// Why a request is not carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// The status of the answer.
    pub status: u16,
    /// One line for people.
    pub why: String,
}

impl Refused {
    pub(super) fn new(status: u16, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { status, why }
    }

    fn bad(why: &str) -> Self {
        Self::new(400, why)
    }
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
}

/// What a task asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// A tunnel.
    Connect(Target),
    /// One plain request.
    Forward {
        to: Target,
        /// Its head as it is passed on.
        head: Vec<u8>,
        /// Bytes of its body.
        body: u64,
    },
}

/// Reads up to the end of a head. Returns it without its empty line, and what came after it. `None`
/// when the other side hung up before it said anything.
pub(super) async fn read(
    client: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> Result<Option<(Vec<u8>, Vec<u8>)>, Refused> {
    let mut bytes = Vec::with_capacity(1_024);
    let end = timeout(patience, async {
        loop {
            let searched = bytes.len().saturating_sub(3);
            let room = u64::try_from(MOST_BYTES - bytes.len()).unwrap_or(0);
            if room == 0 {
                let why = format!("the request's head is longer than {MOST_BYTES} bytes");
                return Err(Refused::new(431, why));
            }
            match (&mut *client).take(room).read_buf(&mut bytes).await {
                Ok(0) | Err(_) if bytes.is_empty() => return Ok(None),
                Ok(0) | Err(_) => return Err(Refused::bad("the request breaks off")),
                Ok(_) => {}
            }
            let end = bytes[searched..]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                return Ok(Some(searched + end));
            }
        }
    });
    let end = end.await.unwrap_or_else(|_| {
        let why = format!("the request's head took longer than {patience:?}");
        Err(Refused::new(408, why))
    })?;
    Ok(end.map(|end| {
        let rest = bytes.split_off(end + 4);
        bytes.truncate(end);
        (bytes, rest)
    }))
}

/// Understands a head, without its empty line.
///
/// # Errors
/// Why not.
pub(super) fn parse(head: &[u8]) -> Result<Request, Refused> {
    let head = std::str::from_utf8(head).map_err(|_| Refused::bad("the head is not text"))?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let fields: Vec<_> = lines.map(field).collect::<Result<_, _>>()?;
    if fields.len() > MOST_LINES {
        return Err(Refused::new(431, format!("more than {MOST_LINES} headers")));
    }
    let words: Vec<_> = first.split(' ').collect();
    let [method, target, version @ ("HTTP/1.1" | "HTTP/1.0")] = words[..] else {
        return Err(Refused::bad("the first line is not one of HTTP/1.1"));
    };
    if method.is_empty() || !method.bytes().all(is_token_byte) {
        return Err(Refused::bad("the method is none"));
    }
    if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refused::bad("the target is none"));
    }
    if method == "CONNECT" {
        let to = authority(target, None)?;
        one_host(&fields, &to, None)?;
        return Ok(Request::Connect(to));
    }
    let (to, path) = absolute(target)?;
    one_host(&fields, &to, Some(80))?;
    let body = length(&fields)?;
    let head = rewritten(method, path, version, &to, &fields);
    Ok(Request::Forward { to, head, body })
}

/// A header line, its name and its value.
fn field(line: &str) -> Result<(&str, &str), Refused> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| Refused::bad("a header has no colon"))?;
    // Also refuses folded lines, which begin with a space.
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(Refused::bad("a header's name is none"));
    }
    if value
        .bytes()
        .any(|byte| byte.is_ascii_control() && byte != b'\t')
    {
        return Err(Refused::bad("a header's value holds control characters"));
    }
    Ok((name, value.trim_matches([' ', '\t'])))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn values<'a>(fields: &[(&str, &'a str)], wanted: &str) -> Vec<&'a str> {
    let found = fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
    found.map(|(_, value)| *value).collect()
}

/// `http://host:port/path`.
fn absolute(target: &str) -> Result<(Target, &str), Refused> {
    let scheme = target
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    if scheme.is_none() {
        return Err(Refused::bad(
            "this is a proxy: it takes CONNECT, and requests for http:// addresses in full",
        ));
    }
    let rest = &target[7..];
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (place, path) = rest.split_at(end);
    if path.contains('#') {
        return Err(Refused::bad("the target holds a fragment"));
    }
    Ok((authority(place, Some(80))?, path))
}

/// `host:port`, or a host alone where there is a `default` port.
fn authority(text: &str, default: Option<u16>) -> Result<Target, Refused> {
    let bad = || Refused::bad("the target is not a host and a port");
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
        let address: std::net::Ipv6Addr = host.parse().map_err(|_| bad())?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').ok_or_else(bad)?),
        };
        (address.to_string(), port)
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let sound =
            !host.is_empty() && host.len() <= MOST_NAME_BYTES && host.bytes().all(is_name_byte);
        if !sound {
            return Err(bad());
        }
        (host.to_ascii_lowercase(), port)
    };
    let port = match port {
        None => default.ok_or_else(bad)?,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map_err(|_| bad())?
        }
        Some(_) => return Err(bad()),
    };
    Ok(Target { host, port })
}

/// Refuses a `Host` that is not where the request goes: whoever reads on might believe it.
fn one_host(fields: &[(&str, &str)], to: &Target, default: Option<u16>) -> Result<(), Refused> {
    let hosts = values(fields, "host");
    if hosts.len() > 1 {
        return Err(Refused::bad("there is more than one Host header"));
    }
    let Some(host) = hosts.first() else {
        return Ok(());
    };
    // Of a tunnel's the port may be left out: the target has it.
    let named = authority(host, default.or(Some(to.port)))?;
    let same = |name: &str| name.strip_suffix('.').unwrap_or(name).to_owned();
    if same(&named.host) != same(&to.host) || named.port != to.port {
        return Err(Refused::bad(
            "the Host header is not the host of the target",
        ));
    }
    Ok(())
}

/// The length of the body.
fn length(fields: &[(&str, &str)]) -> Result<u64, Refused> {
    if !values(fields, "transfer-encoding").is_empty() {
        let why = "this proxy passes on bodies with a Content-Length only";
        return Err(Refused::new(411, why));
    }
    match values(fields, "content-length")[..] {
        [] => Ok(0),
        [digits] if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = digits.parse();
            length.map_err(|_| Refused::bad("the Content-Length is too large"))
        }
        _ => Err(Refused::bad("the Content-Length is not one number")),
    }
}

/// The head as it is passed on: to one host, for one request.
fn rewritten(
    method: &str,
    path: &str,
    version: &str,
    to: &Target,
    fields: &[(&str, &str)],
) -> Vec<u8> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let host = if to.host.contains(':') {
        format!("[{}]", to.host)
    } else {
        to.host.clone()
    };
    let port = if to.port == 80 {
        String::new()
    } else {
        format!(":{}", to.port)
    };
    let mut head = format!("{method} {slash}{path} {version}\r\nHost: {host}{port}\r\n");
    let connection: Vec<String> = values(fields, "connection")
        .iter()
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for (name, value) in fields {
        let lower = name.to_ascii_lowercase();
        // A length must not be lost, whatever is said of it.
        let kept = lower == "content-length"
            || !(OURS.contains(&lower.as_str()) || connection.contains(&lower));
        if kept {
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    head.into_bytes()
}

#[cfg(test)]
mod tests;
