//! `ping`.

use std::io::IsTerminal;
use std::process::ExitCode;

use hyper::Method;
use p2pnode_protocol::api::PeerEcho;
use serde_json::json;

use crate::args::{Global, PingArgs};
use crate::exit::{self, Failure};
use crate::interrupt::Interrupts;
use crate::{here, output, select};

/// Round trips when nobody says how many and nobody watches.
const UNWATCHED: u32 = 4;

/// What came back so far.
#[derive(Default)]
struct Trips {
    sent: u32,
    /// In milliseconds.
    times: Vec<f64>,
    relayed: u32,
}

impl Trips {
    fn add(&mut self, echo: &PeerEcho) {
        self.sent += 1;
        self.times.extend(echo.rtt_ms);
        self.relayed += u32::from(echo.rtt_ms.is_some() && echo.relayed);
    }

    /// Least, mean, most.
    fn spread(&self) -> Option<(f64, f64, f64)> {
        let least = self.times.iter().copied().reduce(f64::min)?;
        let most = self.times.iter().copied().reduce(f64::max)?;
        let mean = self.times.iter().sum::<f64>() / self.times.len() as f64;
        Some((least, mean, most))
    }

    /// How they went, in words.
    fn way(&self) -> String {
        let all = self.times.len() as u32;
        match self.relayed {
            0 => "directly".to_owned(),
            relayed if relayed == all => "through a relay".to_owned(),
            relayed => format!("{} directly, {relayed} through a relay", all - relayed),
        }
    }
}

pub async fn ping(global: &Global, args: &PingArgs) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let path = select::way_path(&args.peer, "ping")?;
    let client = here::must_run(global)?;
    let watched = std::io::stdout().is_terminal() && !global.json;
    let most = args.count.or((!watched).then_some(UNWATCHED));
    let mut trips = Trips::default();
    while most.is_none_or(|most| trips.sent < most) {
        if trips.sent > 0 {
            tokio::select! {
                _ = interrupts.next() => break,
                () = tokio::time::sleep(args.interval) => {}
            }
        }
        let echo: Result<PeerEcho, Failure> = tokio::select! {
            _ = interrupts.next() => break,
            echo = client.ask(Method::POST, &path, &()) => echo,
        };
        let echo = match echo {
            Ok(echo) => echo,
            Err(failure) => {
                // The peer has gone; what came before is worth telling.
                if trips.sent > 0 {
                    sum_up(global, args, &trips);
                }
                return Err(failure);
            }
        };
        trips.add(&echo);
        tell(global, &echo, trips.sent);
    }
    sum_up(global, args, &trips);
    Ok(match trips.times.len() {
        0 => ExitCode::from(exit::JOB_FAILED),
        _ => ExitCode::SUCCESS,
    })
}

fn tell(global: &Global, echo: &PeerEcho, number: u32) {
    if global.json {
        output::line_json(&json!({
            "event": "echo",
            "number": number,
            "peer": echo.peer,
            "rtt_ms": echo.rtt_ms,
            "relayed": echo.relayed,
        }));
        return;
    }
    let way = if echo.relayed { "relayed" } else { "direct" };
    output::line(match echo.rtt_ms {
        Some(rtt) => format!("{} {number}: {rtt:.1} ms, {way}", echo.peer),
        None => format!("{} {number}: nothing came back", echo.peer),
    });
}

fn sum_up(global: &Global, args: &PingArgs, trips: &Trips) {
    let (sent, came) = (trips.sent, trips.times.len());
    if global.json {
        let spread = trips.spread();
        output::line_json(&json!({
            "event": "summary",
            "sent": sent,
            "received": came,
            "relayed": trips.relayed,
            "min_ms": spread.map(|(least, _, _)| least),
            "mean_ms": spread.map(|(_, mean, _)| mean),
            "max_ms": spread.map(|(_, _, most)| most),
        }));
        return;
    }
    let lost = match sent {
        0 => 0.0,
        sent => 100.0 * (f64::from(sent) - came as f64) / f64::from(sent),
    };
    output::line(format!("--- {}", args.peer));
    output::line(format!("{sent} sent, {came} came back, {lost:.0} % lost"));
    if let Some((least, mean, most)) = trips.spread() {
        output::line(format!(
            "round trip {least:.1} ms at least, {mean:.1} ms in the mean, {most:.1} ms at most; {}",
            trips.way()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_add_up() {
        let mut trips = Trips::default();
        assert_eq!(trips.spread(), None);
        for (rtt_ms, relayed) in [(Some(4.0), true), (None, true), (Some(2.0), false)] {
            trips.add(&PeerEcho {
                peer: "12D3".into(),
                rtt_ms,
                relayed,
            });
        }
        assert_eq!((trips.sent, trips.relayed), (3, 1));
        assert_eq!(trips.spread(), Some((2.0, 3.0, 4.0)));
        assert_eq!(trips.way(), "1 directly, 1 through a relay");
    }
}
