//! The last words of a build: what is shown of output that may be endless and hold anything.

/// Bytes kept: what fits into a failure beside its own words.
const KEPT: usize = 1_400;

/// Lines shown.
const LINES: usize = 20;

/// The end of some output.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    /// More of it.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(KEPT);
        self.0.extend_from_slice(&bytes[from..]);
        let over = self.0.len().saturating_sub(KEPT);
        self.0.drain(..over);
    }

    /// Its last lines, without control characters.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let clean = |line: &str| -> String {
            let kept = line.trim_end().chars().filter(|c| !c.is_control());
            kept.collect()
        };
        let lines: Vec<_> = text
            .lines()
            .map(clean)
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_terminals_are_not_spoken_to() {
        let mut tail = Tail::default();
        for line in 0..10_000 {
            tail.push(format!("line {line}\n").as_bytes());
        }
        assert!(tail.0.len() <= KEPT);
        let text = tail.text();
        assert!(
            text.ends_with("line 9999") && text.lines().count() == LINES,
            "{text}"
        );
        let mut tail = Tail::default();
        tail.push(b"\x1b[31mred\x07\r\n\n\xff\n");
        assert_eq!(tail.text(), "[31mred\n\u{fffd}");
    }
}
