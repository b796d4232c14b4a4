//! Since when no person has used the machine.
//!
//! No library of a desktop is asked: the node runs as a service, outside of any session. What people
//! leave behind in the kernel is enough:
//!
//! - **Terminals** (text consoles, SSH, terminal windows): the time of the last read of `/dev/pts/*`
//!   and `/dev/tty<number>`, which is what `w` shows as idle time. Exact to 8 s.
//! - **Keyboards and mice with USB**: each report that they send is a request answered, and the kernel
//!   counts requests of a device in `urbnum`. Only devices that have a keyboard's or mouse's interface.
//! - **Built-in keyboards, touchpads, PS/2**: interrupts of the keyboard controller (`i8042`) and of
//!   devices of the drivers of HID over I2C.
//! - **Bluetooth keyboards and mice**, where the radio is a USB device: its requests, while such an
//!   input device is connected. Sound over Bluetooth then counts as somebody's presence too.
//! - **macOS**: `HIDIdleTime` of `ioreg`.
//!
//! Counters tell of use only from one reading to the next, so what came before the first reading is
//! taken as use at that moment. Not noticed: radios on other buses, game pads, remote desktops, touch
//! screens and keyboards with a driver of their own (laptops by Apple, most boards of ARM).

use std::time::{Duration, Instant, SystemTime};

use super::files::Root;

/// Drivers of HID over I2C; the devices' names are the names of their interrupts.
const I2C_HID_DRIVERS: [&str; 3] = ["i2c_hid", "i2c_hid_acpi", "elan_i2c"];

/// How far ahead of the clock a terminal's time may be. More is a clock that was set back, and would
/// otherwise be somebody who is there for ever.
const AHEAD: Duration = Duration::from_secs(60);

/// Remembers the counters of input devices and when they last changed.
#[derive(Debug, Default)]
pub(super) struct Idle {
    input: Option<Counted>,
}

#[derive(Debug)]
struct Counted {
    /// All of them, as text: whichever changed, or came, or went, somebody did it.
    counters: Vec<String>,
    changed: Instant,
}

impl Idle {
    /// The shortest of what terminals and input devices say; `None` when there are neither.
    pub(super) fn read(&mut self, root: &Root) -> Option<Duration> {
        let all = [terminals(root), self.input(root), system(root)];
        all.into_iter().flatten().min()
    }

    fn input(&mut self, root: &Root) -> Option<Duration> {
        let mut counters = interrupts(root);
        counters.extend(usb_requests(root));
        if counters.is_empty() {
            self.input = None;
            return None;
        }
        match &self.input {
            Some(counted) if counted.counters == counters => {}
            _ => {
                let changed = Instant::now();
                self.input = Some(Counted { counters, changed });
            }
        }
        self.input.as_ref().map(|counted| counted.changed.elapsed())
    }
}

/// Time since the last read of any terminal.
fn terminals(root: &Root) -> Option<Duration> {
    let numbered = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let windows = root.names("dev/pts").into_iter();
    let windows = windows
        .filter(|name| numbered(name))
        .map(|name| format!("dev/pts/{name}"));
    let consoles = root.names("dev").into_iter();
    let consoles = consoles
        .filter(|name| name.strip_prefix("tty").is_some_and(numbered))
        .map(|name| format!("dev/{name}"));
    let now = SystemTime::now();
    windows
        .chain(consoles)
        .filter_map(|file| {
            let read = root.path(&file).symlink_metadata().ok()?.accessed().ok()?;
            match now.duration_since(read) {
                Ok(idle) => Some(idle),
                Err(ahead) if ahead.duration() <= AHEAD => Some(Duration::ZERO),
                Err(_) => None,
            }
        })
        .min()
}

/// Lines of `/proc/interrupts` that belong to keyboards, mice and touchpads, as they are: a change of
/// any counter is a change of the line.
fn interrupts(root: &Root) -> Vec<String> {
    let Some(table) = root.table("proc/interrupts") else {
        return Vec::new();
    };
    let devices: Vec<String> = I2C_HID_DRIVERS
        .iter()
        .flat_map(|driver| root.names(&format!("sys/bus/i2c/drivers/{driver}")))
        .filter_map(|name| name.strip_prefix("i2c-").map(str::to_owned))
        .collect();
    let is_input = |word: &str| word == "i8042" || devices.iter().any(|device| device == word);
    table
        .lines()
        // Several devices on one interrupt stand with commas between them.
        .filter(|line| line.split([' ', ',']).any(is_input))
        .map(str::to_owned)
        .collect()
}

/// The folder of USB devices: `1-2` is a device, `1-2:1.0` an interface of it.
const USB: &str = "sys/bus/usb/devices";

/// Requests to each USB device that people use the machine with.
fn usb_requests(root: &Root) -> Vec<String> {
    let through_air = has_bluetooth_input(root);
    let mut devices: Vec<String> = root
        .names(USB)
        .into_iter()
        .filter_map(|name| {
            let device = name.split_once(':')?.0.to_owned();
            is_of_people(root, &name, through_air)?.then_some(device)
        })
        .collect();
    devices.dedup();
    devices
        .into_iter()
        .filter_map(|device| {
            let requests: u64 = root.number(&format!("{USB}/{device}/urbnum"))?;
            Some(format!("{device} {requests}"))
        })
        .collect()
}

/// Whether an interface is a keyboard's or a mouse's, or the radio that one speaks through.
fn is_of_people(root: &Root, interface: &str, through_air: bool) -> Option<bool> {
    let value = |file: &str| root.text(&format!("{USB}/{interface}/{file}"));
    let (class, protocol) = (value("bInterfaceClass")?, value("bInterfaceProtocol")?);
    Some(match class.as_str() {
        "03" => protocol == "01" || protocol == "02",
        "e0" => through_air && protocol == "01" && value("bInterfaceSubClass")? == "01",
        _ => false,
    })
}

/// Whether an input device is connected by Bluetooth (bus 5).
fn has_bluetooth_input(root: &Root) -> bool {
    let inputs = root.names("sys/class/input");
    inputs.iter().any(|input| {
        let bus = root.text(&format!("sys/class/input/{input}/id/bustype"));
        bus.as_deref() == Some("0005")
    })
}

#[cfg(target_os = "macos")]
fn system(root: &Root) -> Option<Duration> {
    use std::io::Read;
    use std::process::{Command, Stdio};
    /// What `ioreg` says about one class is some 10 KiB.
    const MAX_OUTPUT: u64 = 1 << 20;
    if !root.is_real() {
        return None;
    }
    let mut child = Command::new("/usr/sbin/ioreg")
        .args(["-c", "IOHIDSystem", "-d", "4"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut text = Vec::new();
    let read = child
        .stdout
        .take()
        .map(|stdout| stdout.take(MAX_OUTPUT).read_to_end(&mut text));
    // Whatever it still had to say is not waited for.
    let _gone = child.kill();
    let _reaped = child.wait();
    read?.ok()?;
    hid_idle_time(&String::from_utf8_lossy(&text))
}

#[cfg(not(target_os = "macos"))]
fn system(_root: &Root) -> Option<Duration> {
    None
}

/// From what `ioreg -c IOHIDSystem` says: nanoseconds.
#[cfg(any(target_os = "macos", test))]
fn hid_idle_time(text: &str) -> Option<Duration> {
    let (_, rest) = text.split_once("\"HIDIdleTime\" = ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_time_of_a_mac_is_found_in_its_registry() {
        let text =
            "    | |   \"HIDIdleTime\" = 1500000000\n    | |   \"HIDServiceSupport\" = Yes\n";
        assert_eq!(hid_idle_time(text), Some(Duration::from_millis(1_500)));
        assert_eq!(hid_idle_time("\"HIDIdleTime\" = soon"), None);
        assert_eq!(hid_idle_time(""), None);
    }
}
