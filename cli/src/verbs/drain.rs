//! `drain`: finishes what runs here and takes nothing new.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use p2pnode_protocol::api::{DrainRequest, DrainStatus};

use super::follow::counted;
use crate::args::{DrainArgs, Global};
use crate::exit::{self, Failure};
use crate::interrupt::Interrupts;
use crate::{here, output};

/// How often `--wait` looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

pub async fn drain(global: &Global, args: &DrainArgs) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let client = here::must_run(global)?;
    let request = DrainRequest { on: !args.off };
    let mut status: DrainStatus = client.ask(Method::PUT, "/drain", &request).await?;
    if !global.json {
        say(&status);
    }
    while args.wait && status.running > 0 {
        tokio::select! {
            _ = interrupts.next() => {
                output::note("the node still drains: p2pnode drain --off ends it");
                return Ok(ExitCode::from(exit::INTERRUPTED));
            }
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let before = status.running;
        status = client.get("/drain").await?;
        if !status.draining {
            return Err(Failure::internal(
                "somebody ended the drain meanwhile, by `drain --off` or a new offer",
            ));
        }
        if !global.json && status.running != before {
            say(&status);
        }
    }
    if global.json {
        output::line_json(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn say(status: &DrainStatus) {
    output::line(match (status.draining, status.running) {
        (false, _) => "the node takes new tasks again".to_owned(),
        (true, 0) => "drained: nothing runs here".to_owned(),
        (true, running) => format!(
            "draining: {} still here, nothing new is taken",
            counted(running.into(), "task")
        ),
    });
}
