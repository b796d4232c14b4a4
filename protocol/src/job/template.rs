//! Text with blanks: `{key}`, `{key.first}`, `{key.last}`, `{key.list}`, `{index}` and `{job}`.
//!
//! Owns the grammar of the blanks and nothing else. Used where a job file is checked and where a task
//! is made ready ([`super::filling`] fills the blanks), so that both read it the same way. It must never fail on text that has no blanks in
//! it: shell, JSON and glob patterns are full of braces.
//!
//! The grammar:
//! - `{name}` is a blank when `name` is an identifier; one that is no array key is an error.
//! - `{name.first}`, `.last` and `.list` speak of all values of a chunk.
//! - `{{` is a literal `{`, and `}}` a literal `}` where a `{{` is open. (A `}}` without one stays as it
//!   is: `{"a":{"b":1}}` is JSON, not an escape.)
//! - `${` is left alone, and so are braces around anything that is not an identifier.

/// Names that mean something of their own in a blank, so that no array key may have them.
pub const RESERVED_NAMES: [&str; 2] = ["index", "job"];

/// What a blank is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blank {
    /// The values of the array key at this position.
    Key(usize, Portion),
    /// The task's index.
    Index,
    /// The job's id.
    Job,
}

/// Which of a chunk's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Portion {
    /// The only one.
    Only,
    /// The first.
    First,
    /// The last.
    Last,
    /// All, with commas between them.
    List,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// As it is.
    Text(String),
    /// To be filled in.
    Blank(Blank),
}

/// A text with its blanks found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

/// A blank that nothing can fill.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// No such key.
    #[error("`{{{name}}}` is not an array key: {}", mend_unknown(name, nearest.as_deref()))]
    Unknown {
        /// The name in the braces.
        name: String,
        /// The declared key nearest to it.
        nearest: Option<String>,
    },
    /// A key has no such portion.
    #[error("`{{{name}.{portion}}}` means nothing: write .first, .last or .list")]
    Portion {
        /// The key.
        name: String,
        /// What was asked of it.
        portion: String,
    },
}

fn mend_unknown(name: &str, nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => {
            format!("did you mean {{{nearest}}}? Or write {{{{{name}}}}} for literal braces")
        }
        None => format!("declare it under [array], or write {{{{{name}}}}} for literal braces"),
    }
}

/// Whether `text` is a letter or `_` followed by letters, digits and `_` (ASCII): what may be the name
/// of an array key, and of an environment variable.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Writes `text` so that it reads as itself, whatever braces it has.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut open = 0_usize;
    for char in text.chars() {
        escaped.push(char);
        match char {
            '{' => {
                escaped.push('{');
                open += 1;
            }
            '}' if open > 0 => {
                escaped.push('}');
                open -= 1;
            }
            _ => {}
        }
    }
    escaped
}

/// What [`Template::parse`] is in the middle of.
struct Scan<'a> {
    keys: &'a [String],
    parts: Vec<Part>,
    text: String,
    /// `{{` that no `}}` has closed.
    open: usize,
    errors: Vec<TemplateError>,
}

impl Scan<'_> {
    /// The blank that `inside` (what stands between two braces) means; `None`: none, leave it alone.
    fn blank(&mut self, inside: &str) -> Option<Blank> {
        let (name, portion) = match inside.split_once('.') {
            Some((name, portion)) => (name, Some(portion)),
            None => (inside, None),
        };
        if !is_identifier(name) {
            return None;
        }
        let key = self.keys.iter().position(|key| key == name);
        match (portion, key) {
            (None, Some(key)) => Some(Blank::Key(key, Portion::Only)),
            (None, None) if name == "index" => Some(Blank::Index),
            (None, None) if name == "job" => Some(Blank::Job),
            (Some("first"), Some(key)) => Some(Blank::Key(key, Portion::First)),
            (Some("last"), Some(key)) => Some(Blank::Key(key, Portion::Last)),
            (Some("list"), Some(key)) => Some(Blank::Key(key, Portion::List)),
            (Some(portion), Some(_)) => {
                let (name, portion) = (name.to_owned(), portion.to_owned());
                self.errors.push(TemplateError::Portion { name, portion });
                None
            }
            (None | Some("first" | "last" | "list"), None) => {
                let known = self.keys.iter().map(String::as_str).chain(RESERVED_NAMES);
                let nearest = super::nearest(name, known).map(str::to_owned);
                let name = inside.to_owned();
                self.errors.push(TemplateError::Unknown { name, nearest });
                None
            }
            (Some(_), None) => None,
        }
    }

    fn push_blank(&mut self, blank: Blank) {
        if !self.text.is_empty() {
            self.parts.push(Part::Text(std::mem::take(&mut self.text)));
        }
        self.parts.push(Part::Blank(blank));
    }

    /// Takes what stands at the head of `rest`, and returns how many bytes that was.
    fn step(&mut self, rest: &str) -> usize {
        if rest.starts_with("${") && !rest.starts_with("${{") {
            self.text.push_str("${");
            return 2;
        }
        if rest.starts_with("{{") {
            self.open += 1;
            self.text.push('{');
            return 2;
        }
        if self.open > 0 && rest.starts_with("}}") {
            self.open -= 1;
            self.text.push('}');
            return 2;
        }
        if let Some(after) = rest.strip_prefix('{')
            && let Some(end) = after.find(['{', '}'])
            && after.as_bytes()[end] == b'}'
            && let Some(blank) = self.blank(&after[..end])
        {
            self.push_blank(blank);
            return end + 2;
        }
        match rest.chars().next() {
            Some(char) => {
                self.text.push(char);
                char.len_utf8()
            }
            None => rest.len(),
        }
    }
}

impl Template {
    /// Finds the blanks of `text`. `keys` are the names of the array's keys.
    ///
    /// # Errors
    /// Every blank that nothing can fill.
    pub fn parse(text: &str, keys: &[String]) -> Result<Self, Vec<TemplateError>> {
        let mut scan = Scan {
            keys,
            parts: Vec::new(),
            text: String::new(),
            open: 0,
            errors: Vec::new(),
        };
        let mut at = 0;
        while at < text.len() {
            at += scan.step(&text[at..]);
        }
        if !scan.text.is_empty() {
            scan.parts.push(Part::Text(scan.text));
        }
        if scan.errors.is_empty() {
            let (text, parts) = (text.to_owned(), scan.parts);
            Ok(Self { text, parts })
        } else {
            Err(scan.errors)
        }
    }

    /// The text as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its pieces in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Its blanks in order.
    pub fn blanks(&self) -> impl Iterator<Item = Blank> + '_ {
        self.parts.iter().filter_map(|part| match part {
            Part::Blank(blank) => Some(*blank),
            Part::Text(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::job::filling::Filling;

    proptest::proptest! {
        #[test]
        fn escaped_text_reads_as_itself(text in "[${}a-c.]{0,24}") {
            let template = Template::parse(&escape(&text), &["a".to_owned()]).unwrap();
            let read: String = template.parts().iter().map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Blank(_) => "a blank",
            }).collect();
            proptest::prop_assert_eq!(read, text);
        }
    }

    fn keys() -> Vec<String> {
        vec!["scene".into(), "frame".into()]
    }

    fn fill(text: &str) -> String {
        let values = [vec!["a".to_owned()], vec!["7".to_owned()]];
        let filling = Filling {
            values: &values,
            index: 12,
            job: Some("3f09"),
            pick: None,
        };
        let template = Template::parse(text, &keys()).unwrap();
        template.fill(&filling, 1_000).unwrap()
    }

    fn errors(text: &str) -> Vec<String> {
        let errors = Template::parse(text, &keys()).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn blanks_are_filled() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("{scene}/{frame}.png", "a/7.png"),
            ("{frame}{frame}", "77"),
            ("{index} of {job}", "12 of 3f09"),
            ("é{frame}é", "é7é"),
        ] {
            assert_eq!(fill(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_blank_is_left_alone() {
        for text in [
            "${HOME}",
            "${frame}",
            "${NAME:-x}",
            r#"{"a":{"b":1}}"#,
            r#"{"frame": 1}"#,
            "*.{png,jpg}",
            "{}",
            "{ frame }",
            "{1}",
            "{a-b}",
            "{frame",
            "frame}",
            "}}",
            "$",
            "{obj.attr}",
            "awk '{ print $1 }'",
            "{frame-{frame-x",
        ] {
            assert_eq!(fill(text), text, "{text}");
        }
    }

    #[test]
    fn doubled_braces_are_literal() {
        for (text, expected) in [
            ("{{frame}}", "{frame}"),
            ("{{{frame}}}", "{7}"),
            ("{{{{frame}}}}", "{{frame}}"),
            (r#"{{"a":{{"b":{frame}}}}}"#, r#"{"a":{"b":7}}"#),
            ("{{", "{"),
            ("$${{x}}", "$${x}"),
            ("${{frame}}", "${frame}"),
            ("${X:-{frame}}", "${X:-7}"),
            ("{{print}} {frame}}}", "{print} 7}}"),
        ] {
            assert_eq!(fill(text), expected, "{text}");
        }
    }

    #[test]
    fn an_undeclared_key_is_an_error_that_says_so() {
        assert_eq!(
            errors("{fram} {x}"),
            [
                "`{fram}` is not an array key: did you mean {frame}? Or write {{fram}} for literal braces",
                "`{x}` is not an array key: declare it under [array], or write {{x}} for literal braces",
            ]
        );
        assert_eq!(
            errors("{fram.first}"),
            [
                "`{fram.first}` is not an array key: did you mean {frame}? Or write {{fram.first}} for literal braces"
            ]
        );
        assert_eq!(
            errors("{frame.frist}"),
            ["`{frame.frist}` means nothing: write .first, .last or .list"]
        );
    }
}
