//! What tasks write, on its way to a terminal.
//!
//! A task is a stranger's program, and a terminal obeys what it reads: sequences move the cursor, rewrite
//! what stands there, set the clipboard, or answer as if somebody typed. Of all of them only colours pass,
//! and of control characters tab, line end and carriage return.

use p2pnode_protocol::text::is_plain;

/// The longest sequence of colours that passes, in characters: the longest in use have some 40.
const MAX_COLOURS: usize = 64;

/// The longest text within a sequence, in characters; what goes on longer is shown as text, so that one
/// sequence without an end does not swallow a log.
const MAX_WITHIN: usize = 4_096;

/// Where a stream is. What is written may be cut anywhere, so this is kept from one piece to the next.
#[derive(Debug, Default)]
enum At {
    #[default]
    Text,
    /// Behind an escape character.
    Escape,
    /// Within a control sequence: its parameters so far.
    Control(String),
    /// Within a text that is meant for the terminal (title, clipboard, device), so long so far; true
    /// behind an escape character in it.
    Within(usize, bool),
}

/// The filter of one stream.
#[derive(Debug, Default)]
pub struct Filter {
    at: At,
}

impl Filter {
    /// What of the next piece may be shown.
    pub fn pass(&mut self, piece: &str) -> String {
        let mut shown = String::with_capacity(piece.len());
        for letter in piece.chars() {
            self.at = match std::mem::take(&mut self.at) {
                At::Text => text(letter, &mut shown),
                At::Escape => escape(letter, &mut shown),
                At::Control(begun) => control(begun, letter, &mut shown),
                At::Within(length, escaped) => within(length, escaped, letter, &mut shown),
            };
        }
        shown
    }
}

fn text(letter: char, shown: &mut String) -> At {
    match letter {
        '\u{1b}' => return At::Escape,
        '\u{9b}' => return At::Control(String::new()),
        '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => return At::Within(0, false),
        '\t' | '\n' | '\r' => shown.push(letter),
        letter if is_plain(letter) => shown.push(letter),
        _ => {}
    }
    At::Text
}

fn escape(letter: char, shown: &mut String) -> At {
    match letter {
        '[' => At::Control(String::new()),
        'P' | 'X' | ']' | '^' | '_' => At::Within(0, false),
        // Between them and the last character, such as for a choice of a character set.
        ' '..='/' | '\u{1b}' => At::Escape,
        '0'..='~' => At::Text,
        letter => text(letter, shown),
    }
}

fn control(mut begun: String, letter: char, shown: &mut String) -> At {
    match letter {
        'm' if begun
            .chars()
            .all(|sign| matches!(sign, '0'..='9' | ';' | ':')) =>
        {
            shown.push_str("\u{1b}[");
            shown.push_str(&begun);
            shown.push('m');
            At::Text
        }
        '@'..='~' => At::Text,
        ' '..='?' if begun.len() < MAX_COLOURS => {
            begun.push(letter);
            At::Control(begun)
        }
        // It is none; what follows is text.
        letter => text(letter, shown),
    }
}

fn within(length: usize, escaped: bool, letter: char, shown: &mut String) -> At {
    match letter {
        '\u{7}' | '\u{9c}' => At::Text,
        '\\' if escaped => At::Text,
        '\u{1b}' if !escaped => At::Within(length + 1, true),
        // Another sequence begins.
        letter if escaped => escape(letter, shown),
        _ if length < MAX_WITHIN => At::Within(length + 1, false),
        letter => text(letter, shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&str]) -> String {
        let mut filter = Filter::default();
        pieces.iter().map(|piece| filter.pass(piece)).collect()
    }

    #[test]
    fn colours_and_lines_pass() {
        for text in [
            "plain\ttext\r\n",
            "\u{1b}[1;38;2;10;20;30mred\u{1b}[0m\u{1b}[m",
            "Zoë 東京 🦀",
            "\u{1b}[4:3munder\u{1b}[24m",
        ] {
            assert_eq!(shown(&[text]), text);
        }
    }

    #[test]
    fn what_else_a_terminal_would_obey_goes() {
        for (text, left) in [
            ("a\u{1b}[2J\u{1b}[1;1Hb", "ab"),
            ("a\u{1b}]52;c;aGFja2Vk\u{7}b", "ab"),
            ("a\u{1b}]0;title\u{1b}\\b", "ab"),
            ("a\u{1b}P$q\"p\u{1b}\\b", "ab"),
            ("a\u{9b}6nb\u{9d}0;x\u{9c}c", "abc"),
            ("a\u{1b}cb\u{1b}(0c", "abc"),
            ("a\u{1b}[?25lb\u{1b}[>4;2mc", "abc"),
            ("a\u{7}\u{8}\u{b}\u{c}\u{7f}\u{202e}b", "ab"),
            ("\u{1b}[\nnext", "\nnext"),
        ] {
            assert_eq!(shown(&[text]), left, "{text:?}");
        }
    }

    #[test]
    fn a_sequence_that_is_cut_is_one_all_the_same() {
        assert_eq!(
            shown(&["a\u{1b}", "[3", "1mb\u{1b}", "[", "2Jc"]),
            "a\u{1b}[31mbc"
        );
        assert_eq!(shown(&["a\u{1b}]52;", "c;aGFj", "\u{1b}", "\\b"]), "ab");
    }

    #[test]
    fn a_sequence_without_an_end_does_not_hide_the_rest() {
        let long = format!("\u{1b}]{}", "x".repeat(2 * MAX_WITHIN));
        assert!(shown(&[&long]).len() >= MAX_WITHIN / 2);
        let long = format!("\u{1b}[{}", "1".repeat(1_000));
        assert!(shown(&[&long]).len() > 900);
    }
}
