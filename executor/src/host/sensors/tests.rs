//! A machine of files in a temporary folder.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, files: &[(&str, &str)]) -> Self {
        for (path, text) in files {
            self.set(path, text.as_bytes());
        }
        self
    }

    fn set(&self, path: &str, bytes: &[u8]) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// A terminal that was last read `ago`.
    fn terminal(&self, path: &str, ago: Duration) {
        self.set(path, b"");
        let file = std::fs::File::options()
            .write(true)
            .open(self.0.path().join(path))
            .unwrap();
        let read = std::fs::FileTimes::new().set_accessed(SystemTime::now() - ago);
        file.set_times(read).unwrap();
    }

    fn sensors(&self) -> Sensors {
        Sensors::new(self.0.path(), Some(Path::new("/no/such/nvml.so")))
    }
}

const STAT: &str =
    "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 50 0 25 400 25\ncpu1 50 0 25 400 25\nintr 1\n";

#[test]
fn a_machine_without_any_sensor_says_nothing() {
    let readings = Machine::new().sensors().read();
    assert_eq!(readings, Readings::default());
}

#[test]
fn the_hottest_sensor_of_a_cpu_counts_and_others_do_not() {
    let machine = Machine::new().with(&[
        ("sys/class/hwmon/hwmon0/name", "nvme\n"),
        ("sys/class/hwmon/hwmon0/temp1_input", "99000\n"),
        ("sys/class/hwmon/hwmon1/name", "coretemp\n"),
        ("sys/class/hwmon/hwmon1/temp1_input", "51000\n"),
        ("sys/class/hwmon/hwmon1/temp2_input", "63500\n"),
        ("sys/class/hwmon/hwmon1/temp2_crit", "100000\n"),
        ("sys/class/hwmon/hwmon1/temp3_input", "255000\n"),
        ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n"),
        ("sys/class/thermal/thermal_zone0/temp", "70000\n"),
    ]);
    assert_eq!(machine.sensors().read().cpu_temperature_c, Some(63.5));
}

#[test]
fn the_die_of_an_amd_cpu_counts_and_not_what_its_fan_is_driven_by() {
    let chip = "sys/class/hwmon/hwmon0";
    let machine = Machine::new();
    for (file, text) in [
        ("name", "k10temp"),
        ("temp1_input", "77000"),
        ("temp1_label", "Tctl"),
    ] {
        machine.set(&format!("{chip}/{file}"), text.as_bytes());
    }
    assert_eq!(machine.sensors().read().cpu_temperature_c, Some(77.0));
    machine.set(&format!("{chip}/temp2_input"), b"50000");
    machine.set(&format!("{chip}/temp2_label"), b"Tdie");
    assert_eq!(machine.sensors().read().cpu_temperature_c, Some(50.0));
}

#[test]
fn thermal_zones_of_cpus_take_the_place_of_sensors() {
    let machine = Machine::new().with(&[
        ("sys/class/thermal/thermal_zone0/type", "acpitz"),
        ("sys/class/thermal/thermal_zone0/temp", "90000"),
        ("sys/class/thermal/thermal_zone1/type", "cpu-thermal"),
        ("sys/class/thermal/thermal_zone1/temp", "47250"),
        ("sys/class/thermal/cooling_device0/type", "cpufreq"),
    ]);
    assert_eq!(machine.sensors().read().cpu_temperature_c, Some(47.25));
}

#[test]
fn a_laptop_runs_on_battery_only_when_nothing_feeds_it() {
    let supply = "sys/class/power_supply";
    let machine = Machine::new().with(&[
        ("sys/class/power_supply/mouse/type", "Battery"),
        ("sys/class/power_supply/mouse/scope", "Device"),
        ("sys/class/power_supply/mouse/status", "Discharging"),
        ("sys/class/power_supply/AC/type", "Mains"),
        ("sys/class/power_supply/AC/online", "0"),
    ]);
    assert_eq!(
        machine.sensors().read().on_battery,
        None,
        "a mouse's battery"
    );
    machine.set(&format!("{supply}/BAT0/type"), b"Battery\n");
    machine.set(&format!("{supply}/BAT0/status"), b"Discharging\n");
    assert_eq!(machine.sensors().read().on_battery, Some(true));
    machine.set(&format!("{supply}/ucsi/type"), b"USB\n");
    machine.set(&format!("{supply}/ucsi/online"), b"1\n");
    assert_eq!(machine.sensors().read().on_battery, Some(false));
}

#[test]
fn cpus_in_use_are_counted_between_readings() {
    let machine = Machine::new().with(&[("proc/stat", STAT)]);
    let mut sensors = machine.sensors();
    assert_eq!(sensors.read().busy_milli_cpus, None);
    // 400 ticks of both CPUs, of which 100 were busy: half a CPU.
    let later = "cpu  180 0 70 1050 100 0 0 0 0 0\ncpu0 1\ncpu1 1\n";
    machine.set("proc/stat", later.as_bytes());
    assert_eq!(sensors.read().busy_milli_cpus, Some(500));
    assert_eq!(sensors.read().busy_milli_cpus, Some(500), "within a tick");
    machine.set("proc/stat", STAT.as_bytes());
    assert_eq!(sensors.read().busy_milli_cpus, None, "counters went back");
}

#[test]
fn energy_is_that_of_whole_packages_and_survives_a_counter_that_comes_round() {
    let zone = "sys/class/powercap/intel-rapl:0";
    let machine = Machine::new().with(&[
        ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "900\n"),
        (
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
            "1000\n",
        ),
        ("sys/class/powercap/intel-rapl:0:0/name", "core\n"),
        ("sys/class/powercap/intel-rapl:0:0/energy_uj", "5\n"),
        ("sys/class/powercap/intel-rapl-mmio:0/name", "package-0\n"),
        ("sys/class/powercap/intel-rapl-mmio:0/energy_uj", "1\n"),
        ("sys/class/powercap/intel-rapl:1/name", "psys\n"),
        ("sys/class/powercap/intel-rapl:1/energy_uj", "1\n"),
        ("sys/class/powercap/intel-rapl:2/name", "package-1\n"),
        ("sys/class/powercap/intel-rapl:2/energy_uj", "50\n"),
    ]);
    let mut sensors = machine.sensors();
    assert_eq!(sensors.read().cpu_energy_uj, Some(0));
    machine.set(&format!("{zone}/energy_uj"), b"30");
    machine.set("sys/class/powercap/intel-rapl:2/energy_uj", b"57");
    machine.set("sys/class/powercap/intel-rapl:0:0/energy_uj", b"999");
    assert_eq!(sensors.read().cpu_energy_uj, Some(130 + 7));
    // Without its part the sum would be too small.
    std::fs::remove_file(machine.0.path().join(zone).join("energy_uj")).unwrap();
    assert_eq!(sensors.read().cpu_energy_uj, None);
    machine.set(&format!("{zone}/energy_uj"), b"40");
    assert_eq!(sensors.read().cpu_energy_uj, Some(147));
    // This one's range is not known, so nobody can tell how much it was.
    machine.set("sys/class/powercap/intel-rapl:2/energy_uj", b"3");
    assert_eq!(sensors.read().cpu_energy_uj, None);
    assert_eq!(sensors.read().cpu_energy_uj, None);
}

#[test]
fn the_terminal_used_last_says_how_long_nobody_was_there() {
    let machine = Machine::new();
    machine.terminal("dev/tty1", Duration::from_secs(9_000));
    machine.terminal("dev/ttyS0", Duration::ZERO);
    machine.terminal("dev/tty", Duration::ZERO);
    machine.terminal("dev/pts/ptmx", Duration::ZERO);
    machine.terminal("dev/pts/3", Duration::from_secs(600));
    let idle = machine.sensors().read().user_idle.unwrap();
    assert!((600..660).contains(&idle.as_secs()), "{idle:?}");
}

#[test]
fn a_terminal_from_the_future_is_nobody() {
    let machine = Machine::new();
    machine.set("dev/pts/0", b"");
    let file = std::fs::File::options()
        .write(true)
        .open(machine.0.path().join("dev/pts/0"))
        .unwrap();
    let read = SystemTime::now() + Duration::from_secs(1_000_000);
    file.set_times(std::fs::FileTimes::new().set_accessed(read))
        .unwrap();
    assert_eq!(machine.sensors().read().user_idle, None);
}

const QUIET: &str = "           CPU0       CPU1\n  1:       9          0  IO-APIC   1-edge      i8042\n \
    30:       7          0  PCI-MSI 1-edge      xhci_hcd\n 51:   0   5  intel-gpio  129  ELAN0629:00\n";

#[test]
fn a_key_or_a_touch_is_use_and_a_disk_is_none() {
    let machine = Machine::new().with(&[("proc/interrupts", QUIET)]);
    std::fs::create_dir_all(
        machine
            .0
            .path()
            .join("sys/bus/i2c/drivers/i2c_hid_acpi/i2c-ELAN0629:00"),
    )
    .unwrap();
    let mut sensors = machine.sensors();
    let wait = Duration::from_millis(30);
    let used = |sensors: &mut Sensors, table: String| {
        sensors.read();
        std::thread::sleep(wait);
        machine.set("proc/interrupts", table.as_bytes());
        sensors.read().user_idle.unwrap() < wait
    };
    assert!(!used(&mut sensors, QUIET.replace("       7 ", "       8 ")));
    assert!(used(&mut sensors, QUIET.replace("       9 ", "      10 ")));
    assert!(used(&mut sensors, QUIET.replace("   5 ", "   6 ")));
    // Nothing since.
    assert!(!used(&mut sensors, QUIET.replace("   5 ", "   6 ")));
}

/// A USB interface of a class and protocol, and its device's count of requests.
fn usb(machine: &Machine, device: &str, class: &str, protocol: &str, requests: u64) {
    let interface = format!("sys/bus/usb/devices/{device}:1.0");
    machine.set(&format!("{interface}/bInterfaceClass"), class.as_bytes());
    machine.set(&format!("{interface}/bInterfaceSubClass"), b"01");
    machine.set(
        &format!("{interface}/bInterfaceProtocol"),
        protocol.as_bytes(),
    );
    let count = format!("{requests}\n");
    machine.set(
        &format!("sys/bus/usb/devices/{device}/urbnum"),
        count.as_bytes(),
    );
}

#[test]
fn usb_keyboards_and_mice_are_use_and_other_usb_devices_are_none() {
    let machine = Machine::new();
    let mut sensors = machine.sensors();
    usb(&machine, "1-1", "08", "50", 10);
    assert_eq!(sensors.read().user_idle, None, "a disk is no one");
    usb(&machine, "1-2", "03", "02", 10);
    usb(&machine, "1-3", "e0", "01", 10);
    assert!(sensors.read().user_idle.is_some());
    let wait = Duration::from_millis(30);
    let mut used = |device: &str, class: &str, protocol: &str, requests| {
        std::thread::sleep(wait);
        usb(&machine, device, class, protocol, requests);
        sensors.read().user_idle.unwrap() < wait
    };
    assert!(!used("1-1", "08", "50", 11), "the disk");
    assert!(used("1-2", "03", "02", 11), "the mouse");
    assert!(!used("1-3", "e0", "01", 11), "a radio with nothing to say");
    machine.set("sys/class/input/input7/id/bustype", b"0005\n");
    assert!(used("1-3", "e0", "01", 12), "a mouse through the air");
    assert!(used("1-3", "e0", "01", 13), "and again");
}

#[test]
fn garbage_is_nothing() {
    let machine = Machine::new();
    let long = vec![b'7'; 10_000];
    let binary: &[u8] = &[0xff, 0xfe, 0, 1];
    for garbage in [
        &long,
        binary,
        b"",
        b"\n\n",
        b"-1",
        b"99999999999999999999999",
    ] {
        for file in [
            "sys/class/hwmon/hwmon0/temp1_input",
            "sys/class/thermal/thermal_zone0/temp",
            "sys/class/power_supply/BAT1/type",
            "sys/class/powercap/intel-rapl:0/energy_uj",
            "sys/bus/usb/devices/1-1/urbnum",
            "proc/stat",
            "proc/interrupts",
        ] {
            machine.set(file, garbage);
        }
        machine.set("sys/class/hwmon/hwmon0/name", b"coretemp");
        machine.set("sys/class/thermal/thermal_zone0/type", b"cpu-thermal");
        machine.set("sys/class/powercap/intel-rapl:0/name", b"package-0");
        machine.set("sys/bus/usb/devices/1-1:1.0/bInterfaceClass", garbage);
        let mut sensors = machine.sensors();
        sensors.read();
        let mut readings = sensors.read();
        // The one number of the list that a sensor may say: a thousandth of a degree below zero.
        readings.cpu_temperature_c.take_if(|c| *c < 0.0);
        assert_eq!(
            readings,
            Readings::default(),
            "{:?}",
            &garbage[..garbage.len().min(9)]
        );
    }
}

#[test]
fn folders_and_links_in_a_circle_where_files_should_be_are_nothing() {
    let machine = Machine::new();
    let root = machine.0.path();
    std::fs::create_dir_all(root.join("proc/stat")).unwrap();
    std::fs::create_dir_all(root.join("sys/class/hwmon")).unwrap();
    symlink(".", root.join("sys/class/hwmon/hwmon0")).unwrap();
    symlink("name", root.join("sys/class/hwmon/name")).unwrap();
    std::fs::create_dir_all(root.join("sys/class/powercap/intel-rapl:0/name")).unwrap();
    let mut sensors = machine.sensors();
    assert_eq!(sensors.read(), Readings::default());
    assert_eq!(sensors.read(), Readings::default());
}

#[test]
fn nonsense_in_the_times_of_cpus_does_not_overflow() {
    let huge = format!("cpu  {0} {0} 1 1 1 1 1 1\ncpu0 1\n", u64::MAX);
    let machine = Machine::new().with(&[("proc/stat", huge.as_str())]);
    let mut sensors = machine.sensors();
    sensors.read();
    assert_eq!(sensors.read().busy_milli_cpus, None);
}

#[test]
#[cfg(target_os = "linux")]
fn this_machine_is_read_and_its_load_is_no_more_than_its_cpus() {
    let mut sensors = Sensors::new(Path::new("/"), None);
    sensors.read();
    std::thread::sleep(Duration::from_millis(50));
    let readings = sensors.read();
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let cpus = stat.lines().skip(1).filter(|line| line.starts_with("cpu"));
    let all = u32::try_from(cpus.count()).unwrap() * 1_000;
    assert!(readings.busy_milli_cpus.unwrap() <= all, "{readings:?}");
}
