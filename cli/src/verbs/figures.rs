//! How the owner's verbs show peers, times and amounts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2pnode_protocol::Bytes;
use p2pnode_protocol::text::is_plain;

use super::follow::short;

/// The most of an address that is shown, in characters: a name of 253, transports and two peers.
pub const MAX_ADDRESS: usize = 400;

/// The time now, in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_millis() as u64)
}

/// A peer: its name and the end of its id, which is what differs.
pub fn peer(id: &str, name: &str) -> String {
    let shown: String = name
        .chars()
        .filter(|letter| is_plain(*letter))
        .take(24)
        .collect();
    match shown.is_empty() {
        true => format!("…{}", short(id)),
        false => format!("{shown} (…{})", short(id)),
    }
}

/// Text of a peer's, fit for a line of a terminal.
pub fn line(text: &str, most: usize) -> String {
    let shown = text.chars().filter(|letter| is_plain(*letter));
    let mut shown: String = shown.take(most + 1).collect();
    if shown.chars().count() > most {
        shown.pop();
        shown.pop();
        shown.push('…');
    }
    shown
}

/// A length of time in two units at most: `3.2 s`, `4m 10s`, `2h 05m`, `3d 02h`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.is_zero() => "0".to_owned(),
        0 if time.as_millis() == 0 => format!("{} µs", time.as_micros()),
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// The same of microseconds.
pub fn span_us(micros: u64) -> String {
    span(Duration::from_micros(micros))
}

/// A point in time as `2026-11-22 09:41:36`, in UTC.
pub fn moment(at_ms: u64) -> String {
    let at = UNIX_EPOCH
        .checked_add(Duration::from_millis(at_ms))
        .unwrap_or(UNIX_EPOCH);
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.replace('T', " ").trim_end_matches('Z').to_owned()
}

/// An amount of which 0 means that nothing is known, or nothing was.
pub fn bytes(count: u64) -> String {
    match count {
        0 => "-".to_owned(),
        count => {
            let (unit, name) = match count {
                0..1_024 => return format!("{count} B"),
                1_024..1_048_576 => (1_024.0, "KiB"),
                1_048_576..1_073_741_824 => (1_048_576.0, "MiB"),
                _ => (1_073_741_824.0, "GiB"),
            };
            format!("{:.1} {name}", count as f64 / unit)
        }
    }
}

/// What is used of what was given: `12.0 MiB/64 MiB`, or only what was given.
pub fn of(used: Option<u64>, given: u64) -> String {
    match used {
        Some(used) => format!("{}/{}", bytes(used), Bytes(given)),
        None => Bytes(given).to_string(),
    }
}

/// Energy, when it is known.
pub fn energy(millijoules: Option<u64>) -> String {
    match millijoules {
        None => "-".to_owned(),
        Some(energy) if energy < 3_600_000 => format!("{:.1} J", energy as f64 / 1e3),
        Some(energy) => format!("{:.1} Wh", energy as f64 / 3.6e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_exact_enough() {
        let shown: Vec<String> = [0, 7, 12_000, 3_200_000, 250_000_000, 7_500_000_000]
            .into_iter()
            .map(span_us)
            .collect();
        assert_eq!(shown, ["0", "7 µs", "12 ms", "3.2 s", "4m 10s", "2h 05m"]);
        assert_eq!(span(Duration::from_secs(3 * 86_400 + 7_200)), "3d 02h");
        assert_eq!(moment(1_795_340_496_000), "2026-11-22 09:41:36");
        assert_eq!((bytes(0), bytes(1_536)), ("-".into(), "1.5 KiB".into()));
        assert_eq!(of(Some(12 << 20), 64 << 20), "12.0 MiB/64 MiB");
        assert_eq!(energy(Some(7_200_000)), "2.0 Wh");
    }

    #[test]
    fn what_peers_say_cannot_draw_on_the_terminal() {
        assert_eq!(
            peer("12D3KooWabcdefghij", "de\u{1b}sk"),
            "desk (…abcdefghij)"
        );
        assert_eq!(peer("12D3KooWabcdefghij", ""), "…abcdefghij");
        assert_eq!(line("a\nb", 9), "ab");
        assert_eq!(line("abcdef", 4), "abc…");
        assert_eq!(line("abcd", 4), "abcd");
    }
}
