//! The words of a Dockerfile's instruction: quotes, escapes and blanks to be filled.
//!
//! Pure. Only as much as is needed to know what `FROM` and `ARG` mean; the rest of the instructions
//! are read by the engine's own builder.

/// Text of one instruction after its blanks were filled: they may repeat one another, each doubling
/// its length.
const MAX_EXPANDED: usize = 64 << 10;

/// Splits at white space that is neither quoted nor escaped. Quotes and escapes stay.
pub(super) fn split(text: &str, escape: char) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut quote, mut escaped) = (None, false);
    for c in text.chars() {
        if c.is_whitespace() && quote.is_none() && !escaped {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        match quote {
            _ if escaped => escaped = false,
            None if c == escape => escaped = true,
            Some('"') if c == escape => escaped = true,
            Some(open) if open == c => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// One word without its quotes, blanks filled by `lookup` (an unknown name is empty).
///
/// # Errors
/// What is wrong with it.
pub(super) fn expand(
    word: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut text = String::new();
    let mut quote = None;
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = after;
        match (c, quote) {
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            (_, Some('\'')) => text.push(c),
            ('\'' | '"', None) => quote = Some(c),
            (c, _) if c == escape => {
                if let Some(next) = after.chars().next() {
                    text.push(next);
                    rest = &after[next.len_utf8()..];
                }
            }
            ('$', _) => {
                let (value, used) = blank(after, escape, lookup)?;
                text.push_str(&value);
                rest = &after[used..];
            }
            _ => text.push(c),
        }
        if text.len() > MAX_EXPANDED {
            return Err("it becomes too long when its variables are filled in".into());
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    Ok(text)
}

/// What follows a `$`: its value, and how many bytes it takes.
fn blank(
    after: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, usize), String> {
    let name_len = |text: &str| {
        text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(text.len())
    };
    let Some(inner) = after.strip_prefix('{') else {
        let len = name_len(after);
        if len == 0 {
            return Ok(("$".into(), 0));
        }
        return Ok((lookup(&after[..len]).unwrap_or_default(), len));
    };
    let close = inner.find('}').ok_or("a ${ is not closed")?;
    let (name, modifier) = inner[..close].split_at(name_len(&inner[..close]));
    if name.is_empty() {
        return Err("a ${} has no name".into());
    }
    let value = lookup(name);
    let set = value.as_deref().is_some_and(|value| !value.is_empty());
    let value = match modifier.get(..2) {
        None if modifier.is_empty() => value.unwrap_or_default(),
        Some(":-") if set => value.unwrap_or_default(),
        Some(":+") if !set => String::new(),
        Some(":-" | ":+") => expand(&modifier[2..], escape, lookup)?,
        _ => return Err(format!("${{{name}...}} has a modifier that is not known")),
    };
    // The two braces.
    Ok((value, close + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn blanks_are_filled_as_docker_does() {
        for (word, expected) in [
            ("x$A", "xone"),
            ("${A}x", "onex"),
            ("${B:-two}", "two"),
            ("${EMPTY:-$A}", "one"),
            ("${A:-two}", "one"),
            ("${A:+three}", "three"),
            ("${B:+three}", ""),
            ("$B", ""),
            ("'$A'", "$A"),
            ("\"$A b\"", "one b"),
            ("\\$A", "$A"),
            ("5$", "5$"),
            ("ä$Aä", "oneä"),
        ] {
            let got = expand(word, '\\', &lookup);
            let expected = if word.starts_with('ä') {
                "äoneä"
            } else {
                expected
            };
            assert_eq!(got.as_deref(), Ok(expected), "{word}");
        }
        for bad in ["${A", "${}", "${A?x}", "'x", "\"x"] {
            assert!(expand(bad, '\\', &lookup).is_err(), "{bad}");
        }
        let long = |_: &str| Some("x".repeat(MAX_EXPANDED));
        assert!(expand("$A$A", '\\', &long).is_err());
    }

    #[test]
    fn words_end_at_bare_space() {
        let words = split("a='x y'  b=\"c \\\" d\" e\\ f", '\\');
        assert_eq!(words, ["a='x y'", "b=\"c \\\" d\"", "e\\ f"]);
        assert!(split("  ", '\\').is_empty());
    }
}
