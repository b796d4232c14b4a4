//! `doctor`: looks for what is wrong with this machine and its node, and says how to mend it.
//!
//! One file for each kind of thing that is looked at; each has a part that looks and a part that
//! judges, which knows nothing but what was seen. [`selftest`] runs tasks. Nothing is changed: no
//! data directory is made, no image pulled, and a node that runs is only asked.

mod clock;
mod engine;
mod finding;
mod gpus;
mod home;
mod node;
mod selftest;
mod sensors;
mod trial;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use p2pnode_executor::host::HostInfo;
use p2pnode_executor::host::sensors::{Readings, SENSORS_VARIABLE, Sensors};
use p2pnode_node::config::Config;
use p2pnode_node::home::DataDir;
use p2pnode_protocol::api::NodeStatus;
use serde_json::json;

use self::finding::{Finding, State, count};
use self::selftest::Machine;
use crate::args::{DoctorArgs, Global, NodeFlags};
use crate::client::Client;
use crate::exit::{self, Failure};
use crate::{here, output};

pub async fn doctor(global: &Global, args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let dir = DataDir::find(global.data_dir.clone()).map_err(here::home_failure)?;
    let mut report = Report {
        json: global.json,
        findings: Vec::new(),
    };
    let config = here::config(global, &NodeFlags::default());
    report.add(home::look(&dir));
    report.add([home::config(&dir, config.as_ref().err())]);
    let config = config.unwrap_or_default();

    let (client, asked) = match running(global).await {
        Ok(Some((client, status))) => (Some(client), Ok(Some(status))),
        Ok(None) => (None, Ok(None)),
        Err(failure) => (None, Err(failure)),
    };
    let adverts = asked.as_ref().ok().and_then(Option::as_ref);
    let adverts = adverts.map(|status| status.adverts);
    report.add([clock::look(&home::nearest(dir.path()), adverts)]);
    let (host, readings) = tokio::task::spawn_blocking(machine)
        .await
        .map_err(|error| Failure::internal(error.to_string()))?;
    report.add(sensors::look(&host, &readings));
    let engine = engine::look(&config).await?;
    report.add(engine.findings(config.hard_disk));
    report.add(gpus::look(&root(), &host, engine.facts.as_ref().ok()));
    report.add(match &asked {
        Ok(Some(status)) => node::judge(status),
        Ok(None) => vec![node::absent()],
        Err(failure) => vec![
            Finding::fault("node", &failure.message)
                .mend("p2pnode stop, and start it again; or run this as the node's user"),
        ],
    });
    if args.self_test && asked.is_ok() {
        let machine = Machine {
            dir,
            config: Config::clone(&config),
            images: engine.images().to_vec(),
            engine: engine.facts.is_ok(),
            gpus: host.gpus.len(),
        };
        let tell = |finding| report.add([finding]);
        selftest::run(global, client, &machine, tell).await?;
    }
    Ok(report.end())
}

/// The running node and its status.
async fn running(global: &Global) -> Result<Option<(Client, NodeStatus)>, Failure> {
    let Some(client) = here::running(global)? else {
        return Ok(None);
    };
    let status = client.get("/status").await?;
    Ok(Some((client, status)))
}

fn machine() -> (HostInfo, Readings) {
    (HostInfo::detect(None), Sensors::of_this_machine().read())
}

/// Where `sys/` and `dev/` stand.
fn root() -> PathBuf {
    std::env::var_os(SENSORS_VARIABLE).map_or_else(|| Path::new("/").to_path_buf(), PathBuf::from)
}

/// What was found so far; told as it comes, or as one object at the end.
struct Report {
    json: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            if !self.json {
                finding.print();
            }
            self.findings.push(finding);
        }
    }

    /// Warnings fail nothing.
    fn end(&self) -> ExitCode {
        let faults = count(&self.findings, State::Fault);
        let warnings = count(&self.findings, State::Warning);
        if self.json {
            output::line_json(&json!({
                "ok": faults == 0,
                "faults": faults,
                "warnings": warnings,
                "checks": self.findings,
            }));
        } else {
            use super::follow::counted;
            let (faults, warnings) = (faults as u64, warnings as u64);
            output::line(format!(
                "{}, {}",
                counted(faults, "fault"),
                counted(warnings, "warning")
            ));
        }
        if faults == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(exit::JOB_FAILED)
        }
    }
}
