//! What the machine's sensors let this process read: rules of an offer and energy rest on them.

use std::path::Path;

use p2pnode_executor::host::HostInfo;
use p2pnode_executor::host::sensors::Readings;

use super::finding::Finding;

/// Where the kernel shows the CPUs' energy.
const POWERCAP: &str = "/sys/class/powercap/intel-rapl:0";

/// The machine and its sensors.
pub fn look(host: &HostInfo, readings: &Readings) -> Vec<Finding> {
    let machine = format!("{} CPUs, {} of memory", host.cpus, host.memory);
    let temperature = match readings.cpu_temperature_c {
        Some(degrees) => Finding::ok("temperature", format!("CPU {degrees:.0} °C")),
        None => Finding::none(
            "temperature",
            "no sensor of a CPU: `offer --max-temperature` cannot be used",
        ),
    };
    let is_root = rustix::process::geteuid().is_root();
    let energy = judge_energy(readings, Path::new(POWERCAP).exists(), is_root);
    let supply = match readings.on_battery {
        Some(true) => Finding::warning("power", "on battery")
            .mend("plug it in, or: p2pnode offer --not-on-battery"),
        Some(false) => Finding::ok("power", "plugged in"),
        None => Finding::none("power", "no battery"),
    };
    let user = match readings.user_idle {
        Some(_) => Finding::ok("user", "it can be told whether somebody is there"),
        None => Finding::none(
            "user",
            "no terminal, keyboard or mouse: only the load tells whether somebody is there",
        ),
    };
    vec![
        Finding::ok("machine", machine),
        temperature,
        energy,
        supply,
        user,
    ]
}

fn judge_energy(readings: &Readings, has_counter: bool, is_root: bool) -> Finding {
    match readings.cpu_energy_uj {
        Some(_) => Finding::ok("energy", "the CPUs' can be read"),
        None if has_counter && !is_root => Finding::none(
            "energy",
            "the CPUs' is for root alone, so receipts go without",
        )
        .mend("run the node as root"),
        None => Finding::none("energy", "the CPUs' cannot be read, so receipts go without"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn what_cannot_be_read_is_no_fault() {
        let none = judge_energy(&Readings::default(), true, false);
        assert_eq!(none.state, State::None);
        assert_eq!(none.mend.as_deref(), Some("run the node as root"));
        assert_eq!(judge_energy(&Readings::default(), false, true).mend, None);
        let read = Readings {
            cpu_energy_uj: Some(0),
            ..Readings::default()
        };
        assert_eq!(judge_energy(&read, true, true).state, State::Ok);
    }
}
