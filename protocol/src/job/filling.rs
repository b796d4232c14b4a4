//! Fills the blanks of a [`Template`] with one task's values.
//!
//! Every text has a limit that is checked before it grows: a hostile template could otherwise name a
//! long list a thousand times.

use super::template::{Blank, Part, Portion, Template};
use crate::id::TaskIndex;

/// What one task's blanks are filled with.
#[derive(Debug, Clone, Copy)]
pub struct Filling<'a> {
    /// For each array key its values.
    pub values: &'a [Vec<String>],
    /// The task's index.
    pub index: TaskIndex,
    /// The job's id as text; `None` where it is not known yet.
    pub job: Option<&'a str>,
    /// Where `{key}` stands for one of a chunk's values at a time: which one. `None`: it must be the
    /// only one.
    pub pick: Option<usize>,
}

/// A blank that could not be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// The task has no value for the key.
    #[error("the task has no value for array key {0}")]
    NoValue(usize),
    /// The task has several values for the key.
    #[error("the task has several values for array key {0}: write .first, .last or .list")]
    Several(usize),
    /// The job's id is not known yet.
    #[error("the job's id is not known before the job is submitted")]
    NoJob,
    /// Too long.
    #[error("filled in it is longer than {0} bytes")]
    TooLong(usize),
}

fn push_bounded(filled: &mut String, text: &str, limit: usize) -> Result<(), FillError> {
    if filled.len() + text.len() > limit {
        return Err(FillError::TooLong(limit));
    }
    filled.push_str(text);
    Ok(())
}

impl Filling<'_> {
    /// Appends what `blank` stands for, as long as all is at most `limit` bytes.
    pub(super) fn write(
        &self,
        blank: Blank,
        filled: &mut String,
        limit: usize,
    ) -> Result<(), FillError> {
        let (key, portion) = match blank {
            Blank::Index => return push_bounded(filled, &self.index.to_string(), limit),
            Blank::Job => {
                return push_bounded(filled, self.job.ok_or(FillError::NoJob)?, limit);
            }
            Blank::Key(key, portion) => (key, portion),
        };
        let values = self.values.get(key).map_or(&[][..], Vec::as_slice);
        let (Some(first), Some(last)) = (values.first(), values.last()) else {
            return Err(FillError::NoValue(key));
        };
        match portion {
            Portion::Only if values.len() > 1 => {
                let pick = self.pick.ok_or(FillError::Several(key))?;
                let value = values.get(pick).ok_or(FillError::NoValue(key))?;
                push_bounded(filled, value, limit)
            }
            Portion::Only | Portion::First => push_bounded(filled, first, limit),
            Portion::Last => push_bounded(filled, last, limit),
            Portion::List => {
                push_bounded(filled, first, limit)?;
                values[1..].iter().try_for_each(|value| {
                    push_bounded(filled, ",", limit)?;
                    push_bounded(filled, value, limit)
                })
            }
        }
    }
}

impl Template {
    /// The text with its blanks filled in, at most `limit` bytes of it.
    ///
    /// # Errors
    /// When a blank has no value or several, or the text gets too long.
    pub fn fill(&self, values: &Filling<'_>, limit: usize) -> Result<String, FillError> {
        let mut filled = String::new();
        for part in self.parts() {
            match part {
                Part::Text(text) => push_bounded(&mut filled, text, limit)?,
                Part::Blank(blank) => values.write(*blank, &mut filled, limit)?,
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<String> {
        vec!["scene".into(), "frame".into()]
    }

    #[test]
    fn chunks_have_a_first_a_last_and_a_list() {
        let values = [
            vec!["a".to_owned()],
            ["1", "2", "5"].map(str::to_owned).to_vec(),
        ];
        let filling = Filling {
            values: &values,
            index: 0,
            job: None,
            pick: None,
        };
        let fill = |text: &str, limit| {
            let template = Template::parse(text, &keys()).expect("a template");
            template.fill(&filling, limit)
        };
        assert_eq!(
            fill("{frame.first}..{frame.last} {frame.list}", 99),
            Ok("1..5 1,2,5".into())
        );
        assert_eq!(fill("{frame}", 99), Err(FillError::Several(1)));
        assert_eq!(fill("{job}", 99), Err(FillError::NoJob));
        assert_eq!(fill("{frame.list}", 4), Err(FillError::TooLong(4)));
        assert_eq!(fill("{frame.list}", 5), Ok("1,2,5".into()));
    }

    #[test]
    fn a_missing_value_is_an_error() {
        let filling = Filling {
            values: &[vec![]],
            index: 0,
            job: None,
            pick: None,
        };
        for (text, key) in [("{scene}", 0), ("{frame}", 1)] {
            let template = Template::parse(text, &keys()).expect("a template");
            assert_eq!(template.fill(&filling, 9), Err(FillError::NoValue(key)));
        }
    }
}
