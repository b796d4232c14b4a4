//! Asks the runtimes again and again whether they work: an engine may start late or go away.

use std::collections::BTreeSet;
use std::time::Duration;

use p2pnode_protocol::api::RuntimeStatus;
use p2pnode_protocol::task::RuntimeKind;
use tokio::sync::mpsc;

use super::actor::Internal;
use crate::core::io::{RuntimeFeatures, RuntimeState};
use crate::exec::Exec;

/// Time between looks: an engine that starts is used within this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// What the runtimes said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Probed {
    pub(super) working: Vec<(RuntimeKind, RuntimeState)>,
    pub(super) runtimes: Vec<RuntimeStatus>,
    pub(super) images: Vec<String>,
    /// Runtimes that can freeze tasks.
    pub(super) freezing: BTreeSet<RuntimeKind>,
}

impl Probed {
    /// OCI runtimes that the container engine has by name.
    pub(super) fn sandboxes(&self) -> Vec<String> {
        let features = self
            .working
            .iter()
            .filter_map(|(_, state)| state.as_ref().ok());
        features
            .flat_map(|features| features.sandboxes.clone())
            .collect()
    }
}

pub(super) async fn look(exec: &Exec) -> Probed {
    let mut probed = Probed {
        working: Vec::new(),
        runtimes: Vec::new(),
        images: Vec::new(),
        freezing: BTreeSet::new(),
    };
    for (runtime, report) in exec.probe().await {
        let features = RuntimeFeatures {
            sandboxes: report.features.sandboxes,
            hard_disk: report.features.hard_disk,
            egress: report.features.egress,
        };
        let working = report
            .version
            .as_ref()
            .map(|_| features)
            .map_err(Clone::clone);
        probed.working.push((runtime, working));
        let (version, problem) = match report.version {
            Ok(version) => (Some(version), None),
            Err(problem) => (None, Some(problem)),
        };
        probed.runtimes.push(RuntimeStatus {
            runtime,
            version,
            problem,
        });
        probed.images.extend(report.images);
        if report.features.pause {
            probed.freezing.insert(runtime);
        }
    }
    probed
}

/// Looks until the driver is gone, and tells it what changed.
pub(super) async fn keep_looking(exec: Exec, mut last: Probed, driver: mpsc::Sender<Internal>) {
    loop {
        tokio::select! {
            () = driver.closed() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let probed = look(&exec).await;
        if probed != last {
            last = probed.clone();
            if driver.send(Internal::Probed(probed)).await.is_err() {
                return;
            }
        }
    }
}
