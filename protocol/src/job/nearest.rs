//! "Did you mean": the known word nearest to one that is not known.

/// The nearest of `known` when it is near enough that it may be what was meant: at most a third of
/// its letters differ. Case, and `-` for `_`, count as nothing.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = plain(word);
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &plain(known)), known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["cpus", "memory", "gpus", "disk", "image-archive"];
        for (word, expected) in [
            ("memroy", Some("memory")),
            ("cpu", Some("cpus")),
            ("CPUS", Some("cpus")),
            ("image_archive", Some("image-archive")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
