//! Words of others on a person's screen: names, labels and messages that a peer chose.
//!
//! A terminal obeys escape sequences, so none may reach it; and text that runs backwards makes one name
//! look like another.

/// Whether a character only shows itself: no control character, and none that changes the direction or
/// the line of what follows.
#[must_use]
pub fn is_plain(letter: char) -> bool {
    !letter.is_control()
        && !matches!(letter,
            // Unicode's directional marks, embeddings, overrides and isolates (UAX 9), and its own line and
            // paragraph separators.
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
                | '\u{2028}' | '\u{2029}')
}

/// The text without what does not only show itself, see [`is_plain`].
#[must_use]
pub fn printable(words: &str) -> String {
    words.chars().filter(|letter| is_plain(*letter)).collect()
}

/// The same for texts of several lines: line ends and tabs stay.
#[must_use]
pub fn printable_lines(words: &str) -> String {
    let shown = words
        .chars()
        .filter(|letter| is_plain(*letter) || matches!(letter, '\n' | '\t'));
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_goes() {
        assert_eq!(
            printable("a\u{1b}[31mb\r\nc\t\u{9b}2Jd\u{7f}"),
            "a[31mbc2Jd"
        );
        assert_eq!(printable("lab\u{202e}gnp\u{2066}.x"), "labgnp.x");
        assert_eq!(printable("Zoë 東京 🦀"), "Zoë 東京 🦀");
        assert_eq!(printable_lines("a\n\tb\r\u{1b}c"), "a\n\tbc");
    }
}
