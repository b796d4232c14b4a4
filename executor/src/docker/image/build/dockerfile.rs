//! Reading a Dockerfile: what its instructions are, not yet what they do.
//!
//! Pure. A Dockerfile comes from a stranger: its size and the number of its instructions are bounded,
//! and an instruction that is not known is an error, never passed on. Instructions that would have the
//! engine itself fetch, unpack or run something outside a task's limits are refused here by name.

use std::fmt;

use super::options;

/// The largest Dockerfile: they are written by people.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Instructions of one Dockerfile: engines take no image of more than some 125 layers.
const MAX_INSTRUCTIONS: usize = 1_000;

/// What an instruction begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    From,
    Run,
    Copy,
    Add,
    Arg,
    Shell,
    /// One that changes nothing but the image's configuration, or makes a folder.
    Plain(&'static str),
}

const PLAIN: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::From => "FROM",
            Self::Run => "RUN",
            Self::Copy => "COPY",
            Self::Add => "ADD",
            Self::Arg => "ARG",
            Self::Shell => "SHELL",
            Self::Plain(word) => word,
        })
    }
}

/// One instruction on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Where it begins, counted from 1.
    pub line: usize,
    pub verb: Verb,
    /// What follows.
    pub rest: String,
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.rest)
    }
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    /// What follows `AS`, in lower case.
    pub name: Option<String>,
    /// What it builds upon, with blanks to be filled.
    pub base: String,
    pub steps: Vec<Instruction>,
}

/// A whole Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipe {
    /// What takes the next character's meaning away.
    pub escape: char,
    /// `ARG`s before the first stage.
    pub globals: Vec<Instruction>,
    pub stages: Vec<Stage>,
}

impl Recipe {
    /// All instructions of all stages, `FROM` included.
    pub(super) fn steps(&self) -> u64 {
        self.stages
            .iter()
            .map(|stage| 1 + stage.steps.len() as u64)
            .sum()
    }
}

/// Reads a Dockerfile.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn parse(text: &str) -> Result<Recipe, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape_of(text)?;
    let (mut globals, mut stages) = (Vec::new(), Vec::<Stage>::new());
    for instruction in instructions(text, escape)? {
        let line = instruction.line;
        let wrong = |why: &str| format!("line {line}: {why}");
        match (instruction.verb, stages.last_mut()) {
            (Verb::From, _) => {
                stages.push(stage(&instruction.rest).map_err(|why| wrong(&why))?);
            }
            (Verb::Arg, None) => globals.push(instruction),
            (_, None) => return Err(wrong("an image begins with FROM")),
            (_, Some(stage)) => stage.steps.push(instruction),
        }
    }
    if stages.is_empty() {
        return Err("it has no FROM".into());
    }
    Ok(Recipe {
        escape,
        globals,
        stages,
    })
}

/// `# escape=` may stand among the first lines.
fn escape_of(text: &str) -> Result<char, String> {
    for line in text.lines() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|line| line.split_once('='))
        else {
            break;
        };
        if name.trim().eq_ignore_ascii_case("escape") {
            return match value.trim() {
                "\\" => Ok('\\'),
                "`" => Ok('`'),
                _ => Err("the escape character must be \\ or `".into()),
            };
        }
    }
    Ok('\\')
}

fn instructions(text: &str, escape: char) -> Result<Vec<Instruction>, String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let bare = line.trim_end();
        let comment = bare.trim_start().starts_with('#');
        if comment || bare.is_empty() {
            continue;
        }
        let (first, mut so_far) = open.take().unwrap_or((at + 1, String::new()));
        match bare.strip_suffix(escape) {
            Some(more) => {
                so_far.push_str(more);
                open = Some((first, so_far));
            }
            None => {
                so_far.push_str(bare);
                found.push(instruction(first, &so_far, escape)?);
            }
        }
        if found.len() > MAX_INSTRUCTIONS {
            return Err(format!("it has more than {MAX_INSTRUCTIONS} instructions"));
        }
    }
    if let Some((first, rest)) = open {
        found.push(instruction(first, &rest, escape)?);
    }
    Ok(found)
}

fn instruction(line: usize, text: &str, escape: char) -> Result<Instruction, String> {
    let text = text.trim();
    let (word, rest) = text
        .split_once(|c: char| c.is_whitespace())
        .unwrap_or((text, ""));
    let wrong = |why: String| Err(format!("line {line}: {why}"));
    let verb = match word.to_ascii_uppercase().as_str() {
        "FROM" => Verb::From,
        "RUN" => Verb::Run,
        "COPY" => Verb::Copy,
        "ADD" => Verb::Add,
        "ARG" => Verb::Arg,
        "SHELL" => Verb::Shell,
        "ONBUILD" => return wrong("ONBUILD is not supported".into()),
        word => match PLAIN.iter().find(|plain| **plain == word) {
            Some(plain) => Verb::Plain(plain),
            None => {
                let word: String = word.chars().take(40).flat_map(char::escape_debug).collect();
                return wrong(format!(
                    "`{word}` is no instruction that is supported (nor are here-documents)"
                ));
            }
        },
    };
    let rest = rest.trim().to_owned();
    if rest.contains('\0') || rest.is_empty() {
        return wrong(format!("{verb} needs something to follow it"));
    }
    // It would reach for the next line of what the builder is told.
    if rest.ends_with(escape) {
        return wrong(format!("{verb} ends with the escape character"));
    }
    if verb == Verb::Run && rest.starts_with("--") {
        return wrong("options of RUN are not supported".into());
    }
    if !matches!(verb, Verb::Run | Verb::From) {
        options::split(&verb.to_string(), &rest).map_err(|why| format!("line {line}: {why}"))?;
    }
    if verb == Verb::Plain("LABEL") {
        options::check_labels(&rest, escape).map_err(|why| format!("line {line}: {why}"))?;
    }
    if matches!(verb, Verb::Run | Verb::Copy) && has_here_document(&rest) {
        return wrong("here-documents are not supported: use a file of the context".into());
    }
    Ok(Instruction { line, verb, rest })
}

/// `<<EOF` and its kin, but not `1 << 2` and `<<<`.
fn has_here_document(text: &str) -> bool {
    text.match_indices("<<").any(|(at, _)| {
        let after = text[at + 2..].trim_start_matches('-');
        let after = after.trim_start_matches(['"', '\'']);
        let word = after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        word && !text[..at].ends_with('<')
    })
}

fn stage(rest: &str) -> Result<Stage, String> {
    let mut words = rest.split_whitespace().peekable();
    while let Some(option) = words.next_if(|word| word.starts_with("--")) {
        let platform = option.strip_prefix("--platform=");
        let ours = format!("linux/{}", super::architecture());
        match platform {
            Some(platform) if platform == ours || platform.starts_with('$') => {}
            Some(_) => return Err(format!("this provider builds for {ours} only")),
            None => return Err("FROM has no option but --platform".into()),
        }
    }
    let parts: Vec<&str> = words.collect();
    let (base, name) = match parts[..] {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => {
            (base, Some(name.to_ascii_lowercase()))
        }
        _ => return Err("FROM takes an image and perhaps `AS name`".into()),
    };
    Ok(Stage {
        name,
        base: base.to_owned(),
        steps: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_comments_and_stages_are_read() {
        let text = "\u{feff}# syntax=docker/dockerfile:1\n\
            # a comment\nARG BASE=a:1\nfrom ${BASE} as Build\n\
            RUN one && \\\n  # in between\n\n  two\r\n\
            copy . /x\nFROM scratch\nCOPY --from=build /x /y\nCMD [\"/y\"]";
        let recipe = parse(text).unwrap();
        assert_eq!(recipe.escape, '\\');
        assert_eq!(recipe.globals[0].rest, "BASE=a:1");
        assert_eq!(recipe.stages.len(), 2);
        assert_eq!(recipe.steps(), 6);
        let first = &recipe.stages[0];
        assert_eq!(first.name.as_deref(), Some("build"));
        assert_eq!(first.base, "${BASE}");
        assert_eq!(first.steps[0].rest, "one &&   two");
        assert_eq!((first.steps[0].line, first.steps[0].verb), (5, Verb::Run));
        assert_eq!(first.steps[1].to_string(), "COPY . /x");
        assert_eq!(recipe.stages[1].name, None);
        let other = parse("# escape=`\nFROM a\nRUN x `\n y\nRUN c:\\\n").unwrap();
        assert_eq!(other.escape, '`');
        assert_eq!(other.stages[0].steps[0].rest, "x  y");
        assert_eq!(other.stages[0].steps[1].rest, "c:\\");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        let many = format!("FROM a\n{}", "RUN x\n".repeat(MAX_INSTRUCTIONS + 1));
        for (text, expected) in [
            ("", "no FROM"),
            ("RUN x", "line 1: an image begins with FROM"),
            ("FROM a b c d", "line 1: FROM takes"),
            ("FROM --x=1 a", "no option"),
            ("FROM --platform=linux/vax a", "builds for linux/"),
            ("FROM a\n\nONBUILD RUN x", "line 3: ONBUILD"),
            ("FROM a\nEVIL x", "`EVIL` is no instruction"),
            ("FROM a\nRUN", "line 2: RUN needs"),
            ("FROM a\nRUN --mount=type=cache x", "options of RUN"),
            ("FROM a\n\nCOPY --fr\"om\"=b /x /y", "line 3: `--fr"),
            (
                "FROM a\nCOPY --chown=0\u{a0}--from=b /x /y",
                "no option of COPY",
            ),
            ("FROM a\nADD --checksum=sha256:00 x /y", "no option of ADD"),
            (
                "FROM a\nHEALTHCHECK --in\\terval=1s CMD x",
                "no option of HEALTH",
            ),
            ("FROM a\nENV --x=y z", "ENV has no options"),
            ("FROM a\nLABEL p2pnode.build=\"\"", "line 2: the label"),
            ("FROM a\nLABEL a=b \\\n $X=c", "line 2: the label"),
            ("FROM a\nRUN cat <<EOF\nx\nEOF", "here-documents"),
            ("FROM a\nCOPY <<-\"X\" /y", "here-documents"),
            ("# escape=x\nFROM a", "escape character"),
            ("FROM a\nENV x=y\\\\\n", "ends with the escape"),
            ("ARG x=y\\ \\\n", "ends with the escape"),
            (&many, "more than"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(parse("FROM a\nRUN echo $((1<<2)) <<<x").is_ok());
        assert!(parse("FROM --platform=$BUILDPLATFORM a").is_ok());
    }
}
