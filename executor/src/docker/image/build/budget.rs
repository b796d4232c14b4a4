//! How much a Dockerfile becomes when its variables are filled in.
//!
//! Pure. Variables may repeat one another, each line multiplying what the lines before it have: a text
//! that fits a page becomes more than any memory. Whoever fills them in, this node or the engine's
//! builder, would only notice then. So before anything is filled in, lengths are added up that the
//! result cannot exceed; what quotes and conditions would leave out counts.

use std::collections::HashMap;

use super::dockerfile::{Instruction, Verb};
use super::words;

/// Bytes of all variables of a stage together, those that were set again included: no more than the
/// largest Dockerfile, which could set as much without any variable.
const MAX_HELD: usize = 1 << 20;

/// Bytes of all instructions of a stage when they are filled in.
const MAX_TOTAL: usize = 4 << 20;

/// What a variable takes beside its name and value, at least; also what one is taken to have that is
/// not known here (engines have a `PATH` of their own).
const OVERHEAD: usize = 64;

/// What one stage has used.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    /// The longest that each variable may be.
    lengths: HashMap<String, usize>,
    held: usize,
    total: usize,
}

impl Budget {
    /// One of the image's own variables, `NAME=value`.
    ///
    /// # Errors
    /// When there is too much of them.
    pub(super) fn image(&mut self, variable: &str) -> Result<(), String> {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        self.hold(name, value.len())
    }

    /// Counts an instruction. `globals` are what `ARG`s before the first stage have.
    ///
    /// # Errors
    /// When it becomes too much, with its line.
    pub(super) fn take(
        &mut self,
        instruction: &Instruction,
        escape: char,
        globals: &Budget,
    ) -> Result<(), String> {
        let taken = match instruction.verb {
            Verb::Arg => self.assign(&instruction.rest, escape, Some(globals)),
            Verb::Plain("ENV") => self.assign(&instruction.rest, escape, None),
            _ => Ok(()),
        };
        let taken = taken.and_then(|()| {
            let length = match instruction.verb {
                // A shell fills them in, when the command runs.
                Verb::Run | Verb::Shell | Verb::Plain("CMD" | "ENTRYPOINT" | "HEALTHCHECK") => {
                    instruction.rest.len()
                }
                _ => self.length(&instruction.rest)?,
            };
            self.total = self.total.saturating_add(length);
            match self.total > MAX_TOTAL {
                true => Err(too_much("its instructions", MAX_TOTAL)),
                false => Ok(()),
            }
        });
        taken.map_err(|why| format!("line {}: {why}", instruction.line))
    }

    /// What `NAME=value ...` sets, or `NAME value`, or, of `globals`, `NAME`.
    fn assign(&mut self, rest: &str, escape: char, globals: Option<&Budget>) -> Result<(), String> {
        let words = words::split(rest, escape);
        let pairs = words.first().is_some_and(|word| word.contains('='));
        if let (None, false) = (globals, pairs) {
            let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let length = self.length(value)?;
            return self.hold(name, length);
        }
        // All of one line are filled in with what was set before it, or, of `ARG`, with one another:
        // the longer counts.
        for word in words {
            let (name, length) = match (word.split_once('='), globals) {
                (Some((name, value)), _) => (name, self.length(value)?),
                (None, Some(globals)) => {
                    let length = globals.lengths.get(&word).copied().unwrap_or(0);
                    (&word[..], length)
                }
                (None, None) => (&word[..], 0),
            };
            self.hold(name, length)?;
        }
        Ok(())
    }

    fn hold(&mut self, name: &str, length: usize) -> Result<(), String> {
        self.held = self
            .held
            .saturating_add(name.len().saturating_add(length).saturating_add(OVERHEAD));
        if self.held > MAX_HELD {
            return Err(too_much("its variables", MAX_HELD));
        }
        // Of one that is set twice either may be meant: the image's wins over a later `ARG`.
        let longest = self.lengths.entry(name.to_owned()).or_default();
        *longest = length.max(*longest);
        Ok(())
    }

    /// The longest that `text` may become.
    fn length(&self, text: &str) -> Result<usize, String> {
        let mut all = text.len();
        for (at, _) in text.match_indices('$') {
            let after = &text[at + 1..];
            let (after, braced) = match after.strip_prefix('{') {
                Some(inner) => (inner, true),
                None => (after, false),
            };
            let end = after
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(after.len());
            let (name, modifier) = after.split_at(end);
            // Replaces every letter by as many as it likes.
            if braced && modifier.starts_with('/') {
                return Err(format!(
                    "${{{name}/...}} has a modifier that is not supported"
                ));
            }
            let length = self.lengths.get(name).copied().unwrap_or(OVERHEAD);
            all = all.saturating_add(length);
        }
        Ok(all)
    }
}

fn too_much(what: &str, most: usize) -> String {
    let most = p2pnode_protocol::Bytes(most as u64);
    format!("{what} take more than {most} when its variables are filled in")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::image::build::dockerfile;

    fn take_all(body: &str) -> Result<Budget, String> {
        let recipe = dockerfile::parse(&format!("FROM a\n{body}")).unwrap();
        let (mut budget, globals) = (Budget::default(), Budget::default());
        for instruction in &recipe.stages[0].steps {
            budget.take(instruction, '\\', &globals)?;
        }
        Ok(budget)
    }

    #[test]
    fn ordinary_files_are_far_from_it() {
        let mut body = String::from("ARG V=1.2.3\nARG A\nENV HOME /root\n");
        for n in 0..50 {
            body.push_str(&format!(
                "ENV P{n}=/opt/p{n} PATH=/opt/p{n}-$V/bin:/opt/${{V:-x}}:$PATH\nLABEL v{n}=\"$V\"\nRUN x ${{PATH//a/b}}\n"
            ));
        }
        let budget = take_all(&body).unwrap();
        assert!(
            budget.held < MAX_HELD / 4 && budget.total < MAX_TOTAL / 4,
            "{budget:?}"
        );
    }

    #[test]
    fn lines_that_multiply_are_refused_before_they_are_filled_in() {
        let doubling: String = (0..40).map(|_| "ENV A=$A${A}xx\n").collect();
        let plain: String = (0..40).map(|_| "ENV A $A$A\n").collect();
        let long = format!(
            "ARG a={}\nARG {}",
            "x".repeat(60_000),
            "b=$a ".repeat(20_000)
        );
        let labels = format!(
            "ARG a={}\nLABEL {}",
            "x".repeat(60_000),
            "b=$a ".repeat(20_000)
        );
        let hidden = "ENV A=aaaaaaaa\nENV B=${A:+${A}${A}}\n".to_owned()
            + &"ENV B=${B:-$A}$B'$B'\n".repeat(40);
        for (body, expected) in [
            (doubling, "variables"),
            (format!("ENV A aaaa\n{plain}"), "variables"),
            (long, "line 3: its variables"),
            (labels, "line 3: its instructions"),
            (hidden, "variables"),
            ("ENV A=a\nENV B=${A//a/bbbbbbbb}".to_owned(), "modifier"),
        ] {
            let error = take_all(&body).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_the_image_and_the_globals_have_counts() {
        let recipe = dockerfile::parse("ARG G=xxxxxxxx\nFROM a\nARG G\nENV A=$G$I").unwrap();
        let (mut globals, mut budget) = (Budget::default(), Budget::default());
        let none = Budget::default();
        globals.take(&recipe.globals[0], '\\', &none).unwrap();
        budget.image(&format!("I={}", "y".repeat(500))).unwrap();
        for instruction in &recipe.stages[0].steps {
            budget.take(instruction, '\\', &globals).unwrap();
        }
        assert_eq!(budget.lengths["A"], "$G$I".len() + 8 + 500);
        assert!(budget.image(&"z".repeat(MAX_HELD)).is_err());
    }
}
