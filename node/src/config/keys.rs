//! The list of keys.
//!
//! Environment variables are named after keys: `offer.allow_any` is `P2PNODE_OFFER_ALLOW_ANY`.

use p2pnode_protocol::job::nearest;
use p2pnode_protocol::{Bytes, MilliCpus};
use serde_json::{Value, json};

use super::error::{Fault, Problem};
use super::value::{self, Raw, ValueError};
use super::{Config, Origin};

/// How every environment variable begins.
const PREFIX: &str = "P2PNODE_";

/// One key.
pub(super) struct Key {
    /// Its dotted name.
    pub name: &'static str,
    /// What it means, in one line.
    pub help: &'static str,
    /// Reads a value into the configuration.
    set: fn(&mut Config, Raw) -> Result<(), ValueError>,
    /// The value, `null` when it is not set.
    pub show: fn(&Config) -> Value,
}

impl Key {
    /// Reads a value into `config`.
    pub(super) fn set(&self, config: &mut Config, raw: Raw) -> Result<(), ValueError> {
        (self.set)(config, raw)
    }

    /// Its environment variable.
    pub(super) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_uppercase().replace('.', "_"))
    }
}

/// A setting as some source has it.
pub(super) type Set = (&'static Key, Raw, Origin);

/// Makes a [`Key`] whose value is stored as it is read.
macro_rules! key {
    ($name:literal, $help:literal, $read:expr => |$config:ident| $place:expr, $show:expr) => {
        Key {
            name: $name,
            help: $help,
            set: |$config, raw| {
                $place = ($read)(raw)?;
                Ok(())
            },
            show: |$config| $show,
        }
    };
}

/// Addresses, peers and everything else whose text is what a person writes.
fn texts<T: ToString>(items: &[T]) -> Value {
    items.iter().map(ToString::to_string).collect()
}

fn shown_ms(time: Option<u64>) -> Value {
    let time = time.map(std::time::Duration::from_millis);
    time.map_or(Value::Null, |time| {
        humantime::format_duration(time).to_string().into()
    })
}

fn optional<T: ToString>(value: Option<&T>) -> Value {
    value.map_or(Value::Null, |value| value.to_string().into())
}

/// Every key, in the order in which they are shown.
pub(super) static KEYS: &[Key] = &[
    key!("name", "what people call this node; the host's name unless set",
        |raw| value::node_name(&value::text(raw)?) => |c| c.name, json!(c.name)),
    key!("network", "the overlay network it is in, or a list of them; nodes of other networks are not seen",
    value::networks => |c| c.networks, match c.networks.as_slice() {
        [one] => json!(one),
        all => json!(all),
    }),
    key!("listen", "addresses to listen on; port 0 is a port of the system's choice",
        value::addresses => |c| c.listen, texts(&c.listen)),
    key!("external", "addresses that are known to lead here, such as a forwarded port",
        value::addresses => |c| c.external, texts(&c.external)),
    key!("bootstrap", "addresses of nodes to ask first",
        value::addresses => |c| c.bootstrap, texts(&c.bootstrap)),
    key!("mdns", "look for peers on the local network",
        value::boolean => |c| c.mdns, json!(c.mdns)),
    key!("upnp", "ask the router to forward ports",
        value::boolean => |c| c.upnp, json!(c.upnp)),
    key!("shortcuts", "let SSH into tasks take TCP connections of its own",
        value::boolean => |c| c.shortcuts, json!(c.shortcuts)),
    key!("relay", "relay for others while the whole Internet can reach this node: on, off or limit",
        value::relay => |c| c.relay, json!(c.relay.name())),
    key!("log", "what is logged: error, warn, info, debug, trace, or a filter such as info,p2pnode_node::net=debug",
        value::text => |c| c.log, json!(c.log)),
    key!("labels", "names that jobs can ask for, such as { site = \"lab\" }",
        value::labels => |c| c.labels, json!(c.labels)),
    Key {
        name: "api.address",
        help: "IP address of the local API; anything but loopback lets other machines try",
        set: |c, raw| {
            c.api.set_ip(value::ip(raw)?);
            Ok(())
        },
        show: |c| json!(c.api.ip()),
    },
    Key {
        name: "api.port",
        help: "port of the local API; 0 is a port of the system's choice, which clients find by themselves",
        set: |c, raw| {
            c.api.set_port(value::small_number(raw)?);
            Ok(())
        },
        show: |c| json!(c.api.port()),
    },
    key!("metrics", "address for scrapes of the metrics by others, such as 0.0.0.0:9464, without a token; unset: none",
        |raw| value::socket(raw).map(Some) => |c| c.metrics, optional(c.metrics.as_ref())),
    key!("blobs.quota", "the most disk that stored chunks take; what live jobs need is kept all the same",
        value::quantity::<Bytes> => |c| c.blob_quota, json!(c.blob_quota.to_string())),
    key!("docker.socket", "the container engine; unset: DOCKER_HOST, or the usual sockets of Docker and Podman",
        |raw| value::text(raw).map(Some) => |c| c.docker_socket, json!(c.docker_socket)),
    key!("docker.image_cache", "the most disk that unused images take which tasks brought here; 0: none is kept",
        |raw| value::quantity(raw).map(Some) => |c| c.image_cache, optional(c.image_cache.as_ref())),
    key!("docker.hard_disk", "give each task a disk of its own size where the host can, so that no limit is overrun; costs time at each start",
        value::boolean => |c| c.hard_disk, json!(c.hard_disk)),
    key!("offer.cpus", "CPUs to offer; unset: all but one",
        |raw| value::quantity(raw).map(|cpus: MilliCpus| Some(cpus.0)) => |c| c.offer.cpus_milli,
        optional(c.offer.cpus_milli.map(MilliCpus).as_ref())),
    key!("offer.memory", "memory to offer; unset: three quarters",
        |raw| value::quantity(raw).map(|size: Bytes| Some(size.0)) => |c| c.offer.memory,
        optional(c.offer.memory.map(Bytes).as_ref())),
    key!("offer.disk", "disk to offer; unset: half of what is free",
        |raw| value::quantity(raw).map(|size: Bytes| Some(size.0)) => |c| c.offer.disk,
        optional(c.offer.disk.map(Bytes).as_ref())),
    key!("offer.percent", "part of the CPUs, memory and free disk to offer, in percent, in place of amounts",
        |raw| value::percent(raw).map(Some) => |c| c.offer.percent, json!(c.offer.percent)),
    key!("offer.gpus", "GPUs to offer: a number, all, or UUIDs with commas; unset: none",
        |raw| value::word(raw).map(Some) => |c| c.offer.gpus, json!(c.offer.gpus)),
    key!("offer.share_gpus", "let several tasks share a GPU",
        |raw| value::boolean(raw).map(Some) => |c| c.offer.share_gpus, json!(c.offer.share_gpus)),
    key!("offer.max_tasks", "tasks at the same time, at most; unset: as many as fit",
        |raw| value::small_number(raw).map(|count| Some(count.into())) => |c| c.offer.max_tasks, json!(c.offer.max_tasks)),
    key!("offer.max_task_time", "longest run of a task; unset: any",
        |raw| value::milliseconds(raw).map(Some) => |c| c.offer.max_task_ms, shown_ms(c.offer.max_task_ms)),
    key!("offer.schedule", "when it holds, such as \"mon-fri 19:00-07:00; sat,sun\"; unset: always",
        |raw| value::text(raw).map(Some) => |c| c.offer.schedule, json!(c.offer.schedule)),
    key!("offer.only_when_idle", "offer only while nobody uses the machine",
        |raw| value::boolean(raw).map(Some) => |c| c.offer.only_when_idle, json!(c.offer.only_when_idle)),
    key!("offer.not_on_battery", "offer nothing while the machine runs on battery",
        |raw| value::boolean(raw).map(Some) => |c| c.offer.not_on_battery, json!(c.offer.not_on_battery)),
    key!("offer.max_cpu_temperature", "the CPU temperature above which nothing is taken, in degrees Celsius",
        |raw| value::small_number(raw).map(Some) => |c| c.offer.max_cpu_c, json!(c.offer.max_cpu_c)),
    key!("offer.max_gpu_temperature", "the same of GPUs",
        |raw| value::small_number(raw).map(Some) => |c| c.offer.max_gpu_c, json!(c.offer.max_gpu_c)),
    key!("offer.on_close", "what becomes of running tasks when a rule closes the offer: finish or stop",
        |raw| value::on_close(raw).map(Some) => |c| c.offer.on_close, json!(c.offer.on_close)),
    key!("offer.images", "patterns of images that may run, such as blender:*; unset: any",
        |raw| value::words(raw).map(Some) => |c| c.offer.images, json!(c.offer.images)),
    key!("offer.egress", "domains that tasks may reach; unset: none",
        |raw| value::words(raw).map(Some) => |c| c.offer.egress, json!(c.offer.egress)),
    key!("offer.runtime", "the OCI runtime of containers, such as runsc; unset: the engine's own",
        |raw| value::text(raw).map(Some) => |c| c.offer.runtime, json!(c.offer.runtime)),
    key!("offer.allow", "peers that may run tasks here",
        |raw| value::peers(raw).map(|peers| peers.iter().map(ToString::to_string).collect()) => |c| c.offer.allow,
        texts(&c.offer.allow)),
    key!("offer.allow_any", "let anyone in the network run tasks here",
        |raw| value::boolean(raw).map(Some) => |c| c.offer.allow_any, json!(c.offer.allow_any)),
    key!("offer.allow_root", "let tasks be root inside their containers when they ask for it",
        |raw| value::boolean(raw).map(Some) => |c| c.offer.allow_root, json!(c.offer.allow_root)),
    key!("offer.allow_build", "let jobs build their images here",
        |raw| value::boolean(raw).map(Some) => |c| c.offer.allow_build, json!(c.offer.allow_build)),
    key!("submit.wait_for_peers", "how long a job waits for a first peer that fits",
        value::duration => |c| c.wait_for_peers,
        json!(humantime::format_duration(c.wait_for_peers).to_string())),
];

/// Name, environment variable and meaning of every key: what the documentation must cover.
pub fn documentation() -> impl Iterator<Item = (&'static str, String, &'static str)> {
    KEYS.iter().map(|key| (key.name, key.variable(), key.help))
}

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// What follows a name's last dot.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The key that may have been meant by `name`: one like it, or one whose last part is like it
/// (`quota` for `blobs.quota`).
pub(super) fn nearest_key(name: &str) -> Option<&'static str> {
    let whole = nearest(name, KEYS.iter().map(|key| key.name));
    whole.or_else(|| {
        let found = nearest(last(name), KEYS.iter().map(|key| last(key.name)))?;
        KEYS.iter()
            .map(|key| key.name)
            .find(|key| last(key) == found)
    })
}

/// Reads the variables that are keys. Others that begin alike may be anything (tasks have theirs,
/// and so do tests), so only what looks like a slip of a key is a fault.
pub(super) fn from_environment(
    environment: &[(String, String)],
    settings: &mut Vec<Set>,
    faults: &mut Vec<Fault>,
) {
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        if variable == crate::home::DATA_DIR_VARIABLE {
            continue;
        }
        let origin = Origin::Environment(variable.clone());
        if let Some(key) = KEYS.iter().find(|key| key.variable() == *variable) {
            settings.push((key, Raw::Text(text.clone()), origin));
        } else if let Some(key) = slip(name) {
            faults.push(Fault {
                origin,
                key: variable.clone(),
                problem: Problem::Unknown {
                    nearest: Some(key.variable()),
                },
            });
        }
    }
}

/// The key whose variable differs from this one by a letter or two.
fn slip(name: &str) -> Option<&'static Key> {
    let like = |key: &&Key| {
        let known = key.variable();
        let known = &known[PREFIX.len()..];
        known.len() > 4 && strsim::damerau_levenshtein(name, known) <= 2
    };
    KEYS.iter().find(like)
}
