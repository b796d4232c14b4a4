//! Reads `[array]`: ranges, steps, lists and files of lines.

use super::fault::{Spot, Written};
use super::reader::{Faults, Item, Section};
use crate::job::array::{MAX_TASKS, Values};
use crate::job::form::is_key_name;
use crate::job::limits::{MAX_KEYS, MAX_VALUE_BYTES};

/// One key of the array as the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub spot: Spot,
    /// Its values.
    pub values: ValuesSpec,
}

/// The values of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValuesSpec {
    /// Written in the job file.
    Known(Values),
    /// The lines of a file here, by its path.
    Lines(Written),
}

const EXAMPLES: &str = "write for example \"1-100\", \"1-100:5\" or [\"a\", \"b\"]";

/// The keys in the order of the file, and the chunk.
pub(super) fn array(root: &Section<'_>, faults: &mut Faults<'_>) -> (Vec<KeySpec>, Option<u32>) {
    let Some(section) = root
        .get(faults, "array")
        .and_then(|item| item.table(faults))
    else {
        return (Vec::new(), None);
    };
    let mut keys: Vec<KeySpec> = Vec::new();
    let mut chunk = None;
    let mut has_chunk = None;
    for item in section.items(faults) {
        if item.name == "chunk" {
            chunk = read_chunk(&item, faults);
            has_chunk = Some(item.spot);
            continue;
        }
        check_name(&item, &keys, faults);
        if let Some(values) = values(&item, faults) {
            keys.push(KeySpec {
                name: item.name.to_owned(),
                spot: item.spot,
                values,
            });
        } else {
            // Known by name, so that no blank is called undeclared for a fault that was noted.
            keys.push(KeySpec {
                name: item.name.to_owned(),
                spot: item.spot,
                values: ValuesSpec::Known(Values::List(vec![String::new()])),
            });
        }
    }
    if keys.len() > MAX_KEYS {
        faults.add(
            section.spot,
            "array",
            format!("has more than {MAX_KEYS} keys"),
        );
    }
    if let (Some(spot), true) = (has_chunk, keys.is_empty()) {
        faults.add(
            spot,
            "array.chunk",
            "there is nothing to hand out in chunks: add a key, such as frame = \"1-100\"",
        );
    }
    (keys, chunk)
}

/// The chunk; 1 when it cannot be read, so that no blank asks for one that stands there.
fn read_chunk(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<u32> {
    const MEND: &str = "write a whole number such as 40, or \"auto\"";
    let most = MAX_TASKS as i64;
    if let Some(text) = item.as_text(faults) {
        if text.text == "auto" {
            return None;
        }
        let shown: String = text.text.chars().take(40).collect();
        item.fault(faults, format!("`{shown}` is not a chunk: {MEND}"));
        return Some(1);
    }
    let chunk = item.as_whole().filter(|chunk| (1..=most).contains(chunk));
    if chunk.is_none() {
        item.fault(faults, format!("must be 1 to {most}: {MEND}"));
    }
    chunk
        .and_then(|chunk| u32::try_from(chunk).ok())
        .or(Some(1))
}

fn check_name(item: &Item<'_>, before: &[KeySpec], faults: &mut Faults<'_>) {
    if !is_key_name(item.name) {
        let message = match item.name.to_ascii_lowercase().as_str() {
            "index" | "job" | "task" => "is a name of p2pnode's own: take another",
            _ => "is not a key's name: use letters, digits and `_`, not a digit first",
        };
        item.fault(faults, message);
    } else if let Some(other) = before
        .iter()
        .find(|other| other.name.eq_ignore_ascii_case(item.name))
    {
        let message = format!(
            "differs from `{}` only in case, but both would be P2PNODE_{}: rename one",
            other.name,
            item.name.to_ascii_uppercase()
        );
        item.fault(faults, message);
    }
}

fn values(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<ValuesSpec> {
    if let Some(table) = item.as_table() {
        let before = faults.list.len();
        table.check_keys(faults, "array.KEY");
        if table.get(faults, "lines").is_none() {
            if faults.list.len() == before {
                let message =
                    "has no `lines`: write { lines = \"file.txt\" } for the lines of a file";
                item.fault(faults, message);
            }
            return None;
        }
        let path = table.text(faults, "lines")?;
        if path.text.is_empty() {
            faults.list.push(path.fault("is empty: name a file"));
        }
        return Some(ValuesSpec::Lines(path));
    }
    let before = faults.list.len();
    if let Some(list) = item.as_values(faults) {
        if list.is_empty() && faults.list.len() == before {
            item.fault(
                faults,
                format!("has no values, so there are no tasks: {EXAMPLES}"),
            );
        }
        return known(item, Values::List(list), faults);
    }
    let Some(text) = item.as_text(faults) else {
        if crate::job::nearest(item.name, ["chunk"]).is_some() {
            item.fault(faults, "unknown key: did you mean `chunk`?");
        } else if let Some(number) = item.as_whole() {
            let message = format!(
                "is one number: write \"1-{number}\" for a range, or [{number}] for the one value"
            );
            item.fault(faults, message);
        } else {
            item.wrong_kind(faults, "a range or a list");
        }
        return None;
    };
    match from_text(&text.text) {
        Ok(values) => known(item, values, faults),
        Err(message) => {
            faults.list.push(text.fault(message));
            None
        }
    }
}

fn known(item: &Item<'_>, values: Values, faults: &mut Faults<'_>) -> Option<ValuesSpec> {
    if let Values::List(list) = &values
        && let Some(fault) = list.iter().find_map(|value| value_fault(value))
    {
        item.fault(faults, fault);
        return None;
    }
    Some(ValuesSpec::Known(values))
}

/// What is wrong with a value of a list.
pub(super) fn value_fault(value: &str) -> Option<String> {
    if value.len() > MAX_VALUE_BYTES {
        return Some(format!("a value is longer than {MAX_VALUE_BYTES} bytes"));
    }
    value
        .contains('\0')
        .then(|| "a value holds a NUL character".to_owned())
}

/// Values as text: a range with or without a step, or several of them and words with commas between.
fn from_text(text: &str) -> Result<Values, String> {
    if text.trim().is_empty() {
        return Err(format!("is empty, so there are no tasks: {EXAMPLES}"));
    }
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if let [one] = parts.as_slice() {
        return part(one);
    }
    let mut all = Vec::new();
    for word in parts {
        if word.is_empty() {
            return Err("has an empty place between commas: remove a comma".into());
        }
        let values = part(word)?;
        if values.len() + all.len() as u64 > MAX_TASKS {
            return Err(format!("has more than {MAX_TASKS} values"));
        }
        all.extend((0..values.len()).filter_map(|at| values.get(at)));
    }
    Ok(Values::List(all))
}

fn part(word: &str) -> Result<Values, String> {
    match range(word) {
        Some(range) => range,
        None => Ok(Values::List(vec![word.to_owned()])),
    }
}

/// Splits a leading whole number, with its sign, off a text.
fn leading_number(text: &str) -> Option<(&str, &str)> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let count = digits.bytes().take_while(u8::is_ascii_digit).count();
    (count > 0).then(|| text.split_at(text.len() - digits.len() + count))
}

/// A range, what is wrong with it, or `None` for a word that is no range.
fn range(word: &str) -> Option<Result<Values, String>> {
    let (first, rest) = leading_number(word)?;
    let shown: String = word.chars().take(40).collect();
    let not_a_range = || {
        format!(
            "`{shown}` is not a range: write for example \"1-100\" or \"1-100:5\", or a list such as [\"{shown}\"] for text"
        )
    };
    if !(rest.starts_with('-') || rest.starts_with("..") || rest.starts_with(':')) {
        return None;
    }
    let parsed =
        rest.strip_prefix('-')
            .and_then(leading_number)
            .and_then(|(last, rest)| match rest.strip_prefix(':') {
                Some(step) => Some((last, step)),
                None => rest.is_empty().then_some((last, "1")),
            });
    let Some((last, step)) = parsed else {
        return Some(Err(not_a_range()));
    };
    let numbers = (
        first.parse::<i64>(),
        last.parse::<i64>(),
        step.parse::<u32>(),
    );
    let (Ok(from), Ok(to), Ok(step)) = numbers else {
        return Some(Err(not_a_range()));
    };
    Some(if step == 0 {
        Err(format!(
            "`{shown}` has a step of 0: write a step of 1 or more"
        ))
    } else if from > to {
        Err(format!(
            "`{shown}` runs backwards: write \"{last}-{first}\", or a list such as [\"{shown}\"] for text"
        ))
    } else {
        Ok(Values::Range {
            first: from,
            last: to,
            step,
            width: width(first, last),
        })
    })
}

/// The digits to pad to: those of the longer end when either begins with a zero (`0001-0120`).
fn width(first: &str, last: &str) -> u8 {
    let digits = |text: &str| text.trim_start_matches('-').len();
    let padded = |text: &str| text.trim_start_matches('-').starts_with('0') && digits(text) > 1;
    if padded(first) || padded(last) {
        u8::try_from(digits(first).max(digits(last))).unwrap_or(u8::MAX)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn all(text: &str) -> Vec<String> {
        let values = from_text(text).unwrap();
        (0..values.len()).filter_map(|at| values.get(at)).collect()
    }

    #[test]
    fn ranges_steps_and_lists() {
        for (text, expected) in [
            ("1-3", "1 2 3"),
            ("1-10:4", "1 5 9"),
            ("5-5", "5"),
            ("-2-1", "-2 -1 0 1"),
            ("-3--2", "-3 -2"),
            ("0008-0010", "0008 0009 0010"),
            ("01-3", "01 02 03"),
            ("a,b, c", "a b c"),
            ("1-3,7", "1 2 3 7"),
            ("08-09,x", "08 09 x"),
            ("forest", "forest"),
            ("7", "7"),
            ("1a", "1a"),
            ("x-1", "x-1"),
        ] {
            assert_eq!(all(text).join(" "), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_range_says_how_to_write_one() {
        for (text, message) in [
            (
                "10-1",
                "`10-1` runs backwards: write \"1-10\", or a list such as [\"10-1\"] for text",
            ),
            (
                "1-9:0",
                "`1-9:0` has a step of 0: write a step of 1 or more",
            ),
            (
                "1..9",
                "`1..9` is not a range: write for example \"1-100\" or \"1-100:5\", or a list such as [\"1..9\"] for text",
            ),
            (
                "1-x",
                "`1-x` is not a range: write for example \"1-100\" or \"1-100:5\", or a list such as [\"1-x\"] for text",
            ),
            ("a,,b", "has an empty place between commas: remove a comma"),
            (
                " ",
                "is empty, so there are no tasks: write for example \"1-100\", \"1-100:5\" or [\"a\", \"b\"]",
            ),
        ] {
            assert_eq!(from_text(text), Err(message.to_owned()), "{text}");
        }
        for text in [
            "1-",
            "1-99999999999999999999",
            "1-9:-1",
            "1-9:99999999999",
            "2024-01-15",
            "1-2-3",
        ] {
            assert!(from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_of_ranges_is_not_written_out_without_end() {
        assert!(from_text("1-900000,1-900000").is_err());
        assert!(from_text("0-9223372036854775807,1").is_err());
        // A lone range costs nothing until its tasks are counted.
        assert!(from_text("0-9223372036854775807").is_ok());
    }
}
