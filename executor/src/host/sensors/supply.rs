//! Whether the machine runs on battery.

use super::files::Root;

/// A battery of the machine's own is being emptied and nothing from outside feeds it; `None` when the
/// machine has no battery. Batteries of mice and keyboards (scope `Device`) are none.
pub(super) fn on_battery(root: &Root) -> Option<bool> {
    let (mut has_battery, mut discharging, mut fed) = (false, false, false);
    for name in root.names("sys/class/power_supply") {
        let value = |file: &str| root.text(&format!("sys/class/power_supply/{name}/{file}"));
        if value("scope").as_deref() == Some("Device") {
            continue;
        }
        match value("type").as_deref() {
            Some("Battery") => {
                has_battery = true;
                discharging |= value("status").as_deref() == Some("Discharging");
            }
            // A charger with a USB plug is a supply of type USB.
            Some("Mains" | "USB" | "Wireless") => fed |= value("online").as_deref() == Some("1"),
            _ => {}
        }
    }
    has_battery.then_some(discharging && !fed)
}
