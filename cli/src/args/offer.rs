//! What `offer` and `allow` accept: an owner's terms.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use p2pnode_protocol::api::OfferRequest;
use p2pnode_protocol::offer::{Grant, OnClose};
use p2pnode_protocol::{Bytes, MilliCpus};

use super::{NodeFlags, humantime_duration};

pub(super) const EXAMPLES: &str = "Examples:
  p2pnode offer --cpus 8 --memory 16GiB --allow 12D3KooW...
  p2pnode offer --percent 50 --schedule 'mon-fri 19:00-07:00; sat,sun' --on-close stop
  p2pnode offer --gpus GPU-5a1c... --share-gpus --max-temperature cpu=85,gpu=80
  p2pnode offer --only-when-idle --not-on-battery --max-tasks 4 --max-task-time 2h
  p2pnode offer --image 'blender:*' --egress pypi.org --egress '*.pythonhosted.org'
  p2pnode offer --none                 # withdraw it, on a running node

What is left out stays as it is. In a first offer it is what [offer] in config.toml says, else all CPUs \
but one, three quarters of the memory, half of the free disk, no GPU, and nothing is permitted beyond plain \
tasks of peers that you allow.";

pub(super) const ALLOW_EXAMPLES: &str = "Examples:
  p2pnode allow 12D3KooW...            # the whole id, for a peer that was never met
  p2pnode allow h7Ka9Qx2Zt             # ten or more characters of the end of a known peer's id
  p2pnode allow h7Ka9Qx2Zt --tasks 10 --until 2h --image 'blender:*'";

/// `offer`.
#[derive(Args)]
#[command(next_help_heading = "How much")]
pub struct OfferArgs {
    /// CPUs to offer, such as 8 or 0.5
    #[arg(long, allow_negative_numbers = true)]
    cpus: Option<MilliCpus>,
    /// Memory to offer, such as 16GiB
    #[arg(long, allow_negative_numbers = true)]
    memory: Option<Bytes>,
    /// Disk to offer, such as 100GiB
    #[arg(long, allow_negative_numbers = true)]
    disk: Option<Bytes>,
    /// Part of the CPUs, memory and free disk to offer, where no amount is named
    #[arg(long, value_name = "1-100", value_parser = percent, allow_negative_numbers = true)]
    percent: Option<u8>,
    /// GPUs to offer: a number, `all`, or UUIDs with commas between them; never one that is not named
    #[arg(long, value_name = "N|all|UUID,...", allow_hyphen_values = true)]
    gpus: Option<String>,
    /// Let several tasks share a GPU
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    share_gpus: Option<bool>,
    /// Tasks at the same time, at most; 0 takes the limit away
    #[arg(long, value_name = "N", value_parser = count::<u32>, allow_negative_numbers = true)]
    max_tasks: Option<u32>,
    /// Longest run of a task, such as 2h; 0s takes the limit away
    #[arg(long, value_name = "TIME", value_parser = humantime_duration, allow_negative_numbers = true)]
    max_task_time: Option<Duration>,

    /// When it holds, by this machine's clock, such as 'mon-fri 19:00-07:00; sat,sun'; or `always`
    #[arg(long, value_name = "TIMES", help_heading = "When")]
    schedule: Option<String>,
    /// Only while nobody uses this machine: no input for 3 minutes, and other programs use less than
    /// a quarter of its CPUs (Linux; on macOS input only)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "When")]
    only_when_idle: Option<bool>,
    /// Not while this machine runs on battery
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "When")]
    not_on_battery: Option<bool>,
    /// Not while it is hotter than this, in degrees Celsius: 85 for whichever of CPU and GPU can be
    /// read, or cpu=85,gpu=80; 0 takes a limit away
    #[arg(long, value_name = "DEGREES", value_parser = temperature, allow_negative_numbers = true, help_heading = "When")]
    max_temperature: Option<Temperature>,
    /// What becomes of running tasks when it ceases to hold: they finish, or they stop and go elsewhere
    #[arg(long, value_name = "WHAT", help_heading = "When")]
    on_close: Option<Close>,

    /// Allow this peer to run tasks here, from now on: its id, or as `allow` takes it; repeatable
    #[arg(
        long,
        value_name = "PEER",
        value_delimiter = ',',
        help_heading = "To whom and what"
    )]
    allow: Vec<String>,
    /// Let anyone run tasks here; `--allow-any=false` takes that back
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "To whom and what")]
    allow_any: Option<bool>,
    /// Only images of such names or digests, such as 'blender:*' or '*@sha256:...'; repeatable; `any`
    /// takes the rule away
    #[arg(
        long = "image",
        value_name = "PATTERN",
        help_heading = "To whom and what"
    )]
    images: Vec<String>,
    /// Let tasks that ask for it reach this domain through this node's proxy, such as pypi.org or
    /// '*.debian.org'; repeatable; `none` takes that back
    #[arg(long, value_name = "DOMAIN", help_heading = "To whom and what")]
    egress: Vec<String>,
    /// Let tasks be root inside their containers when they ask for it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "To whom and what")]
    allow_root: Option<bool>,
    /// Let jobs build their images here. What a Dockerfile runs is less confined than a task
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "To whom and what")]
    allow_build: Option<bool>,
    /// The OCI runtime of containers, such as runsc (gVisor); `default` is the engine's own
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), help_heading = "To whom and what")]
    runtime: Option<String>,

    /// Withdraw what is offered; the node goes on, and so does what runs
    #[arg(long, conflicts_with_all = ["cpus", "memory", "disk", "percent", "gpus", "schedule", "allow", "allow_any", "images", "egress"])]
    pub none: bool,
    /// Of the node, when none runs yet.
    #[command(flatten, next_help_heading = "The node, when none runs yet")]
    pub node: NodeFlags,
}

/// `allow`.
#[derive(Args)]
pub struct AllowArgs {
    /// Its id, ten or more characters of its end, or the name of a peer that was allowed
    pub peer: String,
    /// This many tasks more [default: any number]
    #[arg(long, value_name = "N", value_parser = count::<u64>, allow_negative_numbers = true)]
    tasks: Option<u64>,
    /// For so long, such as 2h or 7d [default: until it is denied]
    #[arg(long, value_name = "TIME", value_parser = humantime_duration)]
    until: Option<Duration>,
    /// Only such images, besides what the offer says; repeatable
    #[arg(long = "image", value_name = "PATTERN")]
    images: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Close {
    Finish,
    Stop,
}

#[derive(Clone, Copy, Default)]
struct Temperature {
    cpu: Option<u16>,
    gpu: Option<u16>,
    any: Option<u16>,
}

impl OfferArgs {
    /// What is asked for.
    pub fn request(&self) -> OfferRequest {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        OfferRequest {
            none: self.none,
            cpus_milli: self.cpus.map(|cpus| cpus.0),
            memory: self.memory.map(|memory| memory.0),
            disk: self.disk.map(|disk| disk.0),
            percent: self.percent,
            gpus: self.gpus.clone(),
            share_gpus: self.share_gpus,
            max_tasks: self.max_tasks,
            max_task_ms: self.max_task_time.map(milliseconds),
            schedule: self.schedule.clone(),
            only_when_idle: self.only_when_idle,
            not_on_battery: self.not_on_battery,
            max_cpu_c: self.max_temperature.and_then(|limit| limit.cpu),
            max_gpu_c: self.max_temperature.and_then(|limit| limit.gpu),
            max_c: self.max_temperature.and_then(|limit| limit.any),
            on_close: self.on_close.map(|close| match close {
                Close::Finish => OnClose::Finish,
                Close::Stop => OnClose::Stop,
            }),
            images: list(&self.images, "any"),
            egress: list(&self.egress, "none"),
            allow_root: self.allow_root,
            allow_build: self.allow_build,
            runtime: self.runtime.clone(),
            labels: None,
            name: None,
            allow: self.allow.clone(),
            allow_any: self.allow_any,
        }
    }

    /// What is asked for of a node that runs: its name and labels can be changed too.
    pub fn request_to_running(&self) -> OfferRequest {
        let pairs = self.node.labels.iter().flat_map(|labels| labels.split(','));
        let pair = |text: &str| {
            // One without a value is refused by the node, as one with an empty value is.
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        let labels: BTreeMap<String, String> = pairs.map(pair).collect();
        OfferRequest {
            labels: (!labels.is_empty()).then_some(labels),
            name: self.node.name.clone(),
            ..self.request()
        }
    }
}

impl AllowArgs {
    /// How much is allowed.
    pub fn grant(&self) -> Grant {
        let until = self.until.map(|time| SystemTime::now() + time);
        let since_epoch = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Grant {
            tasks: self.tasks,
            until_ms: until
                .map(|at| u64::try_from(since_epoch(at).as_millis()).unwrap_or(u64::MAX)),
            images: self.images.clone(),
        }
    }
}

/// A list that one word takes away; `None` when nothing was given.
fn list(given: &[String], nothing: &str) -> Option<Vec<String>> {
    let named = || {
        given
            .iter()
            .filter(|word| *word != nothing)
            .cloned()
            .collect()
    };
    (!given.is_empty()).then(named)
}

/// A number of tasks.
fn count<N: FromStr>(text: &str) -> Result<N, String> {
    let number = text.trim().parse();
    number.map_err(|_| format!("`{text}` is no number of tasks: give 0, 1, 2 and so on"))
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.trim().trim_end_matches('%').parse().ok();
    number
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("`{text}` is no part of a machine: give 1 to 100"))
}

fn temperature(text: &str) -> Result<Temperature, String> {
    let wrong = || format!("`{text}` is no temperature: write 85, or cpu=85,gpu=80");
    let mut limits = Temperature::default();
    if let Ok(any) = text.trim().parse() {
        limits.any = Some(any);
        return Ok(limits);
    }
    for part in text.split(',') {
        let (what, degrees) = part.split_once('=').ok_or_else(wrong)?;
        let degrees = Some(degrees.trim().parse().map_err(|_| wrong())?);
        match what.trim() {
            "cpu" => limits.cpu = degrees,
            "gpu" => limits.gpu = degrees,
            _ => return Err(wrong()),
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_are_of_both_or_of_one() {
        let limit = |text| temperature(text).map(|limit| (limit.any, limit.cpu, limit.gpu));
        assert_eq!(limit("85"), Ok((Some(85), None, None)));
        assert_eq!(limit("gpu=80"), Ok((None, None, Some(80))));
        assert_eq!(limit("cpu=85, gpu=0"), Ok((None, Some(85), Some(0))));
        for wrong in ["", "hot", "cpu", "cpu=x", "board=3", "-4"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
        assert!(percent("50%") == Ok(50) && percent("0").is_err() && percent("101").is_err());
    }

    #[test]
    fn a_list_can_be_taken_away() {
        assert_eq!(list(&[], "any"), None);
        assert_eq!(list(&["any".into()], "any"), Some(Vec::new()));
        assert_eq!(list(&["a".into()], "any"), Some(vec!["a".into()]));
    }
}
