//! The temperature of the hottest CPU.

use super::files::Root;

/// Drivers whose sensors are in a CPU: Intel, AMD (the kernel's and the one from outside), VIA, and
/// the boards of ARM whose zone shows up as a sensor.
const CPU_DRIVERS: [&str; 6] = [
    "coretemp",
    "k10temp",
    "k8temp",
    "zenpower",
    "via_cputemp",
    "cpu_thermal",
];

/// What a sensor in a running CPU can say, in thousandths of a degree: chips switch themselves off
/// above 125 degrees, and broken sensors say 0 or values like 255 or -273.
const PLAUSIBLE_MILLI_C: std::ops::RangeInclusive<i64> = -40_000..=150_000;

/// In degrees Celsius. Sensors of drivers come first; where there is none, the kernel's thermal zones.
pub(super) fn hottest_cpu(root: &Root) -> Option<f32> {
    let milli = of_drivers(root).or_else(|| of_zones(root))?;
    // At most 150,000: exact.
    #[allow(clippy::cast_precision_loss)]
    Some(milli as f32 / 1_000.0)
}

fn of_drivers(root: &Root) -> Option<i64> {
    let chips = root.names("sys/class/hwmon");
    chips
        .iter()
        .map(|chip| format!("sys/class/hwmon/{chip}"))
        .filter(|chip| {
            root.text(&format!("{chip}/name"))
                .is_some_and(|name| CPU_DRIVERS.contains(&name.as_str()))
        })
        .filter_map(|chip| of_chip(root, &chip))
        .max()
}

/// AMD's `Tctl` is what the fan is to be driven by, on some processors 10 to 27 degrees above the
/// die's own `Tdie`: it counts only where there is no `Tdie`.
fn of_chip(root: &Root, chip: &str) -> Option<i64> {
    let sensors: Vec<(Option<String>, i64)> = root
        .names(chip)
        .iter()
        .filter_map(|name| name.strip_prefix("temp")?.strip_suffix("_input"))
        .filter_map(|number| {
            let value = plausible(root, &format!("{chip}/temp{number}_input"))?;
            Some((root.text(&format!("{chip}/temp{number}_label")), value))
        })
        .collect();
    let labelled = |wanted: &str| {
        let mut all = sensors.iter();
        all.any(|(label, _)| label.as_deref() == Some(wanted))
    };
    let has_die = labelled("Tdie");
    sensors
        .iter()
        .filter(|(label, _)| !(has_die && label.as_deref() == Some("Tctl")))
        .map(|(_, value)| *value)
        .max()
}

fn of_zones(root: &Root) -> Option<i64> {
    let zones = root.names("sys/class/thermal");
    zones
        .iter()
        .filter(|zone| zone.starts_with("thermal_zone"))
        .filter(|zone| {
            let kind = root.text(&format!("sys/class/thermal/{zone}/type"));
            kind.is_some_and(|kind| is_cpu_zone(&kind))
        })
        .filter_map(|zone| plausible(root, &format!("sys/class/thermal/{zone}/temp")))
        .max()
}

/// `x86_pkg_temp` and `TCPU` of PCs, `cpu-thermal`, `cpu0-thermal`, `cpuss-1-thermal` and the like of
/// boards. `acpitz` is anything from the CPU to the case, so it is left out.
fn is_cpu_zone(kind: &str) -> bool {
    kind == "x86_pkg_temp" || kind == "TCPU" || kind.starts_with("cpu")
}

fn plausible(root: &Root, file: &str) -> Option<i64> {
    root.number(file)
        .filter(|milli| PLAUSIBLE_MILLI_C.contains(milli))
}
