//! The options of a Dockerfile's instructions, and the keys of its labels, read so that nobody reads
//! them otherwise.
//!
//! Pure. The engine's parser takes quotes and escapes out of options, and takes bytes within letters
//! for spaces: what looks like one option here could be another one there. So an option is one that is
//! known and is spelt plainly, in letters that have one meaning, or the instruction is refused.

/// What `COPY` may be told, and `ADD`, which becomes one. Others (`--link`, `--parents`) the
/// engine's classic builder does not know.
const COPY: [&str; 3] = ["from", "chown", "chmod"];

/// What `HEALTHCHECK` may be told.
const HEALTHCHECK: [&str; 5] = [
    "interval",
    "timeout",
    "start-period",
    "start-interval",
    "retries",
];

/// The beginning of the labels by which a node knows what is its own.
const OWN_LABELS: &str = "p2pnode.";

/// An option's name and value.
pub(super) type Named<'a> = (&'a str, &'a str);

/// The options that `verb` is followed by, and what follows them.
///
/// # Errors
/// What is wrong with them.
pub(super) fn split<'a>(verb: &str, rest: &'a str) -> Result<(Vec<Named<'a>>, &'a str), String> {
    let known: &[&str] = match verb {
        "COPY" | "ADD" => &COPY,
        "HEALTHCHECK" => &HEALTHCHECK,
        _ => &[],
    };
    let (mut options, mut rest) = (Vec::new(), rest);
    while rest.starts_with("--") {
        let (word, after) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        options.push(option(verb, known, word)?);
        rest = after.trim_start_matches([' ', '\t']);
    }
    // The engine would skip it and find another option behind it.
    if rest.starts_with(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{verb} has an odd space after its options"));
    }
    Ok((options, rest))
}

fn option<'a>(verb: &str, known: &[&str], word: &'a str) -> Result<Named<'a>, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._:/@-".contains(c);
    let found = word[2..].split_once('=').filter(|(name, value)| {
        known.contains(name) && !value.is_empty() && value.chars().all(fits)
    });
    found.ok_or_else(|| {
        let word: String = word.chars().take(40).flat_map(char::escape_debug).collect();
        match known {
            [] => format!("`{word}`: {verb} has no options that are supported"),
            _ => format!(
                "`{word}` is no option of {verb} that is supported: it takes --{}, each with a value \
                 of letters, digits and ._:/@- and without quotes or variables",
                known.join(", --")
            ),
        }
    })
}

/// Checks the keys of a `LABEL`: none that a node knows its own by, spelt so that the engine reads the
/// same.
///
/// # Errors
/// What is wrong with them.
pub(super) fn check_labels(rest: &str, escape: char) -> Result<(), String> {
    let words = super::words::split(rest, escape);
    let pairs = words.first().is_some_and(|word| word.contains('='));
    let keys: Vec<&str> = match pairs {
        true => words
            .iter()
            .map(|word| word.split_once('=').map_or(word.as_str(), |(key, _)| key))
            .collect(),
        // The old form: one key, and the rest of the line is its value.
        false => rest.split_ascii_whitespace().take(1).collect(),
    };
    for key in keys {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        if key.is_empty() || !key.chars().all(fits) {
            let key: String = key.chars().take(40).flat_map(char::escape_debug).collect();
            return Err(format!(
                "the label `{key}`: only letters, digits and ._-/ may be in a label's name, without \
                 quotes or variables"
            ));
        }
        if key.to_ascii_lowercase().starts_with(OWN_LABELS) {
            return Err(format!(
                "the label `{key}`: names that begin with {OWN_LABELS} are the provider's own"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_options_are_read() {
        let (options, rest) = split("COPY", "--from=a1b2 \t --chown=0:0 a --b").unwrap();
        assert_eq!(options, [("from", "a1b2"), ("chown", "0:0")]);
        assert_eq!(rest, "a --b");
        let (options, rest) = split("HEALTHCHECK", "--interval=5m --retries=3 CMD x").unwrap();
        assert_eq!((options.len(), rest), (2, "CMD x"));
        assert_eq!(split("CMD", "a --b").unwrap(), (Vec::new(), "a --b"));
        assert_eq!(split("COPY", "a\u{a0}--from=b c").unwrap().0, []);
    }

    #[test]
    fn what_the_engine_may_read_otherwise_is_refused() {
        for (verb, rest) in [
            ("COPY", "--fr\"om\"=a1b2 /a /b"),
            ("COPY", "--fr\\om=a1b2 /a /b"),
            ("COPY", "--chown=0\u{a0}--from=a1b2 /a /b"),
            ("COPY", "--chown=0\u{85}--from=a1b2 /a /b"),
            // In UTF-8 its second byte is 0xA0.
            ("COPY", "--chown=à--from=a1b2 /a /b"),
            ("COPY", "--chown=0 \u{b}--from=a1b2 /a /b"),
            ("COPY", "--chown=0 \u{c}--from=a1b2 /a /b"),
            ("COPY", "--chown=0\r--from=a1b2 /a /b"),
            ("COPY", "--chown=$X /a /b"),
            ("COPY", "--FROM=a1b2 /a /b"),
            ("COPY", "--from /a /b"),
            ("COPY", "--from= /a /b"),
            ("COPY", "-- --from=a /a /b"),
            ("COPY", "--link /a /b"),
            ("ADD", "--checksum=sha256:00 /a /b"),
            ("ADD", "--keep-git-dir=true /a /b"),
            ("HEALTHCHECK", "--inter\"val\"=5m CMD x"),
            ("HEALTHCHECK", "--from=a CMD x"),
            ("LABEL", "--x=y"),
            ("ENV", "--from=y z"),
        ] {
            assert!(split(verb, rest).is_err(), "{verb} {rest:?}");
        }
    }

    #[test]
    fn labels_of_a_nodes_own_are_refused_however_they_are_spelt() {
        for good in [
            "a=b",
            "org.example.name=\"a b\" version=$V c='p2pnode.x=1'",
            "maintainer some body",
            "a=\"b\\\"\" c=d\\ e",
        ] {
            assert_eq!(check_labels(good, '\\'), Ok(()), "{good}");
        }
        for bad in [
            "p2pnode.build=\"\"",
            "a=b p2pnode.node=x",
            "P2Pnode.build=x",
            "p2pnode.build x",
            "\"p2pnode.build\"=x",
            "p2p\"node\".build=x",
            "p2pnode\\.build=x",
            "$X=y",
            "a=b ${X}=y",
            "$X y",
            "a\u{a0}p2pnode.build=x",
            "a=b\u{2003}p2pnode.build=x",
            "'a b' c",
            "=x",
        ] {
            assert!(check_labels(bad, '\\').is_err(), "{bad}");
        }
        // What takes the next letter's meaning away can be another.
        assert!(check_labels("a=b` c p2pnode.x=1", '`').is_err());
    }
}
