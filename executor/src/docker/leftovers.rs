//! Networks and volumes that carry our label.
//!
//! A task needs neither, but what the node makes for it (a network for its way out) has the same
//! label as its container, and must be gone with it however the node ends. Used by `remove`, after
//! the containers, since what is in use cannot be removed. It must never touch what is not labelled.

use std::collections::HashMap;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptionsBuilder,
};

use super::{labels, words};

/// Removes the networks and volumes whose label [`labels::NODE`] is picked, and returns how many
/// are gone. What cannot be asked for or removed is said in the log: it takes no CPU and no memory,
/// and the next start tries again.
pub(super) async fn remove(docker: &Docker, pick: impl Fn(&str) -> bool) -> usize {
    let picked = |labels: &HashMap<String, String>| {
        labels.get(labels::NODE).is_some_and(|label| pick(label))
    };
    let mut count = 0;
    for name in networks(docker, &picked).await {
        count += usize::from(gone("network", &name, docker.remove_network(&name).await));
    }
    for name in volumes(docker, &picked).await {
        let options = RemoveVolumeOptionsBuilder::new().force(true).build();
        let removed = docker.remove_volume(&name, Some(options)).await;
        count += usize::from(gone("volume", &name, removed));
    }
    count
}

async fn networks(
    docker: &Docker,
    picked: impl Fn(&HashMap<String, String>) -> bool,
) -> Vec<String> {
    let filters = HashMap::from([("label", vec![labels::NODE])]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let listed = match docker.list_networks(Some(options)).await {
        Ok(listed) => listed,
        Err(error) => return cannot_list("networks", &error),
    };
    let ours = listed
        .into_iter()
        .filter(|network| network.labels.as_ref().is_some_and(&picked));
    // Names need not be unique, ids are.
    ours.filter_map(|network| network.id.or(network.name))
        .collect()
}

async fn volumes(
    docker: &Docker,
    picked: impl Fn(&HashMap<String, String>) -> bool,
) -> Vec<String> {
    let filters = HashMap::from([("label", vec![labels::NODE])]);
    let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
    let listed = match docker.list_volumes(Some(options)).await {
        Ok(listed) => listed.volumes.unwrap_or_default(),
        Err(error) => return cannot_list("volumes", &error),
    };
    let ours = listed.into_iter().filter(|volume| picked(&volume.labels));
    ours.map(|volume| volume.name).collect()
}

fn cannot_list(what: &str, error: &Error) -> Vec<String> {
    tracing::debug!(error = words(error), "the engine does not list its {what}");
    Vec::new()
}

/// True when this call removed it.
fn gone(what: &str, name: &str, removed: Result<(), Error>) -> bool {
    match removed {
        Ok(()) => true,
        Err(Error::DockerResponseServerError {
            status_code: 404, ..
        }) => false,
        Err(error) => {
            tracing::warn!(name, error = words(&error), "a {what} cannot be removed");
            false
        }
    }
}
