//! What the command line says.

use super::Origin;
use super::keys::{self, Set};
use super::value::Raw;

/// Settings from flags, as text. The command line fills in what was given; each is read and checked
/// like the same key of the file, and a fault names the flag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--name`.
    pub name: Option<String>,
    /// `--network`, once for each network.
    pub networks: Vec<String>,
    /// `--listen`, once for each address.
    pub listen: Vec<String>,
    /// `--external`, once for each address.
    pub external: Vec<String>,
    /// `--bootstrap`, once for each address.
    pub bootstrap: Vec<String>,
    /// `--no-mdns`.
    pub no_mdns: bool,
    /// `--no-upnp`.
    pub no_upnp: bool,
    /// `--no-shortcuts`.
    pub no_shortcuts: bool,
    /// `--relay`.
    pub relay: Option<String>,
    /// `--log`.
    pub log: Option<String>,
    /// `--label`, once for each `name=value`.
    pub labels: Vec<String>,
    /// `--api-port`.
    pub api_port: Option<String>,
    /// `--metrics`.
    pub metrics: Option<String>,
    /// `--blob-quota`.
    pub blob_quota: Option<String>,
    /// `--wait-for-peers`.
    pub wait_for_peers: Option<String>,
}

impl Overrides {
    /// What was given, as settings.
    pub(super) fn settings(&self) -> Vec<Set> {
        let text = |value: &Option<String>| value.clone().map(Raw::Text);
        let list = |values: &[String]| {
            let items = values.iter().cloned().map(Raw::Text).collect();
            (!values.is_empty()).then_some(Raw::List(items))
        };
        let yes = |given: bool, value: bool| given.then_some(Raw::Bool(value));
        // Labels are one text in every source but the file.
        let labels = (!self.labels.is_empty()).then(|| Raw::Text(self.labels.join(",")));
        let given = [
            ("name", "--name", text(&self.name)),
            ("network", "--network", list(&self.networks)),
            ("listen", "--listen", list(&self.listen)),
            ("external", "--external", list(&self.external)),
            ("bootstrap", "--bootstrap", list(&self.bootstrap)),
            ("mdns", "--no-mdns", yes(self.no_mdns, false)),
            ("upnp", "--no-upnp", yes(self.no_upnp, false)),
            ("shortcuts", "--no-shortcuts", yes(self.no_shortcuts, false)),
            ("relay", "--relay", text(&self.relay)),
            ("log", "--log", text(&self.log)),
            ("labels", "--label", labels),
            ("api.port", "--api-port", text(&self.api_port)),
            ("metrics", "--metrics", text(&self.metrics)),
            ("blobs.quota", "--blob-quota", text(&self.blob_quota)),
            (
                "submit.wait_for_peers",
                "--wait-for-peers",
                text(&self.wait_for_peers),
            ),
        ];
        given
            .into_iter()
            .filter_map(|(key, flag, raw)| Some((keys::find(key)?, raw?, Origin::Flag(flag))))
            .collect()
    }
}
