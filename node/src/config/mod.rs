//! Everything a node can be told, in one place.
//!
//! [`Config::load`] reads a file, the environment and the command line's flags, the later winning
//! over the earlier, and remembers for each value where it came from ([`Config::explain`]). Called
//! once, by whoever starts a node; everything else is handed the values it needs.
//!
//! `keys` lists every key once: its name, its meaning, how it is read and how it is shown. A key that
//! is not in that list does not exist, and is refused wherever it appears: a setting that is
//! misspelt must not be a setting that is silently absent.

mod error;
mod explain;
mod file;
mod keys;
mod overrides;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use libp2p::Multiaddr;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::api::OfferRequest;

pub use error::{ConfigError, Fault, Problem};
pub use explain::{Explanation, Setting};
pub use keys::documentation;
pub use overrides::Overrides;
pub use value::ValueError;
pub(crate) use value::network_name;

use crate::net::RelayPolicy;

/// The network that a node is in unless it is told otherwise: everybody's.
pub const PUBLIC_NETWORK: &str = "main";

/// A node's settings. Every field is a key of the configuration file; `docs/operations.md` describes
/// them for the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `name`: what people call this node. The host's name unless set.
    pub name: String,
    /// `network`: which overlay networks it is in; at least one. Where something goes by itself, such as a
    /// request to a peer that is in several of them, the first that will do is taken.
    pub networks: Vec<String>,
    /// `listen`: where it listens. Port 0 is a port of the system's choice.
    pub listen: Vec<Multiaddr>,
    /// `external`: addresses that are known to lead here, such as a forwarded port.
    pub external: Vec<Multiaddr>,
    /// `bootstrap`: nodes that are asked first.
    pub bootstrap: Vec<Multiaddr>,
    /// `mdns`: whether peers on the local network are looked for.
    pub mdns: bool,
    /// `upnp`: whether the router is asked to forward ports.
    pub upnp: bool,
    /// `shortcuts`: whether SSH into tasks may take TCP connections of its own, both as owner and as provider.
    pub shortcuts: bool,
    /// `relay`: how much it relays for others while the whole Internet can reach it.
    pub relay: RelayPolicy,
    /// `log`: what is logged, in `tracing`'s filter syntax.
    pub log: String,
    /// `labels`: what jobs can ask for in `[placement] labels`.
    pub labels: BTreeMap<String, String>,
    /// `[api]`: where the local API answers. Port 0 is a port of the system's choice; clients find it
    /// in the data directory.
    pub api: SocketAddr,
    /// `metrics`: where the metrics, and nothing else, are served without a token; absent: nowhere.
    pub metrics: Option<SocketAddr>,
    /// `blobs.quota`: the most disk that chunks take, in bytes.
    pub blob_quota: Bytes,
    /// `docker.socket`: the container engine; absent: `DOCKER_HOST`, or the usual sockets.
    pub docker_socket: Option<String>,
    /// `docker.image_cache`: the most disk that unused images take which were brought by tasks;
    /// absent: any.
    pub image_cache: Option<Bytes>,
    /// `docker.hard_disk`: whether containers' disk limits are made hard, where that can be.
    pub hard_disk: bool,
    /// `[offer]`: what `p2pnode offer` offers when its flags do not say.
    pub offer: OfferRequest,
    /// `submit.wait_for_peers`: how long a job waits for a first peer that fits.
    pub wait_for_peers: Duration,
    origins: Origins,
}

/// Which source set each key; a key that is absent has its default.
type Origins = BTreeMap<&'static str, Origin>;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing set it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag on the command line.
    Flag(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// What settings are read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file; one that is not there sets nothing.
    pub file: Option<PathBuf>,
    /// The environment; only variables that begin with `P2PNODE_` matter.
    pub environment: Vec<(String, String)>,
    /// The command line's flags.
    pub overrides: Overrides,
    /// The networks that were joined last: what `network` is unless something sets it.
    pub last_networks: Vec<String>,
}

impl Sources {
    /// This process's environment, the data directory's configuration file and these flags.
    #[must_use]
    pub fn of_process(dir: &crate::home::DataDir, overrides: Overrides) -> Self {
        // Variables that are not text are nobody's settings here.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            file: Some(dir.config_file()),
            environment: std::env::vars_os().filter_map(text).collect(),
            overrides,
            last_networks: dir.last_networks(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: host_name(),
            networks: vec![PUBLIC_NETWORK.into()],
            listen: default_listen(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            mdns: true,
            upnp: true,
            shortcuts: true,
            relay: RelayPolicy::default(),
            log: "info".into(),
            labels: BTreeMap::new(),
            api: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            metrics: None,
            // Holds the inputs of a render farm's week and leaves a small laptop's disk usable.
            blob_quota: Bytes::gib(20),
            docker_socket: None,
            // What a few large images take.
            image_cache: Some(Bytes::gib(20)),
            hard_disk: false,
            offer: OfferRequest::default(),
            wait_for_peers: Duration::from_millis(crate::jobfile::DEFAULT_WAIT_MS),
            origins: Origins::new(),
        }
    }
}

/// Every interface, IPv4 and IPv6, TCP and QUIC, ports of the system's choice: several nodes on one
/// machine must not need to agree on ports.
fn default_listen() -> Vec<Multiaddr> {
    [
        "/ip4/0.0.0.0/tcp/0",
        "/ip4/0.0.0.0/udp/0/quic-v1",
        "/ip6/::/tcp/0",
        "/ip6/::/udp/0/quic-v1",
    ]
    .iter()
    .filter_map(|text| text.parse().ok())
    .collect()
}

fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    value::node_name(&name).unwrap_or_else(|_| "p2pnode".into())
}

impl Config {
    /// Reads all sources. What the file says is overridden by the environment, and both by flags.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] when the file is there and cannot be read, else
    /// [`ConfigError::Invalid`] with every fault of every source.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if !sources.last_networks.is_empty() {
            config.networks.clone_from(&sources.last_networks);
        }
        let mut faults = Vec::new();
        let mut settings = Vec::new();
        if let Some(path) = &sources.file {
            file::read(path, &mut settings, &mut faults)?;
        }
        keys::from_environment(&sources.environment, &mut settings, &mut faults);
        settings.extend(sources.overrides.settings());
        for (key, raw, origin) in settings {
            match key.set(&mut config, raw) {
                Ok(()) => {
                    config.origins.insert(key.name, origin);
                }
                Err(error) => faults.push(Fault {
                    origin,
                    key: key.name.to_owned(),
                    problem: Problem::Value(error),
                }),
            }
        }
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid { faults })
        }
    }

    /// `log`, unless it is the default: what is logged then depends on the verb.
    #[must_use]
    pub fn log_filter(&self) -> Option<&str> {
        (self.origin("log") != Origin::Default).then_some(self.log.as_str())
    }

    /// Every key with its value and where that came from.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        Explanation::of(self)
    }

    /// Where a key's value came from.
    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}
