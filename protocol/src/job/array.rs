//! The arithmetic of batches: which values the task with a given index has.

use bincode::{Decode, Encode};

/// The most tasks in one job.
pub const MAX_TASKS: u64 = 1_000_000;

/// The values of one key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Values {
    /// `first`, `first + step`, ... up to and including `last` where it is met. `step` is positive and
    /// `first <= last`; the job file's checks see to it. `width` zero-pads to so many digits (0: none).
    Range {
        /// The first value.
        first: i64,
        /// The end, included.
        last: i64,
        /// The distance.
        step: u32,
        /// Digits to pad to.
        width: u8,
    },
    /// These, as written.
    List(Vec<String>),
}

/// One key of the array.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ArrayKey {
    /// Its name, an identifier.
    pub name: String,
    /// Its values.
    pub values: Values,
}

/// All keys; they multiply, the last one turning fastest. No key: one task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Array {
    /// The keys in the order of the job file.
    pub keys: Vec<ArrayKey>,
    /// When set: this many successive values of the last key make one task (and one process), because
    /// the job uses `{key.first}`, `{key.last}` or `{key.list}`.
    pub chunk: Option<u32>,
}

impl Values {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Range {
                first, last, step, ..
            } if first <= last && *step > 0 => {
                (last.abs_diff(*first) / u64::from(*step)).saturating_add(1)
            }
            Self::Range { .. } => 0,
            Self::List(values) => values.len() as u64,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `index`, counted from 0.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<String> {
        if index >= self.len() {
            return None;
        }
        match self {
            Self::Range {
                first, step, width, ..
            } => {
                let offset = i64::try_from(index).ok()?.checked_mul(i64::from(*step))?;
                let value = first.checked_add(offset)?;
                let width = usize::from(*width);
                Some(if value < 0 && width > 0 {
                    format!("-{:0width$}", value.unsigned_abs())
                } else {
                    format!("{value:0width$}")
                })
            }
            Self::List(values) => values.get(usize::try_from(index).ok()?).cloned(),
        }
    }
}

impl Array {
    /// Number of tasks that come of the last key, chunks counted as one.
    fn last_key_tasks(&self) -> u64 {
        let values = self.keys.last().map_or(1, |key| key.values.len());
        self.chunk
            .map_or(values, |chunk| values.div_ceil(u64::from(chunk.max(1))))
    }

    /// How many tasks there are; `u64::MAX` when the product overflows.
    #[must_use]
    pub fn task_count(&self) -> u64 {
        let before = self.keys.len().saturating_sub(1);
        self.keys[..before]
            .iter()
            .fold(self.last_key_tasks(), |product, key| {
                product.saturating_mul(key.values.len())
            })
    }

    /// The values of the task at `index`: one list per key, of one value unless the key is chunked.
    #[must_use]
    pub fn values(&self, index: u64) -> Option<Vec<Vec<String>>> {
        if index >= self.task_count() {
            return None;
        }
        let mut rest = index;
        let mut values = Vec::with_capacity(self.keys.len());
        for (position, key) in self.keys.iter().enumerate().rev() {
            let last = position + 1 == self.keys.len();
            let radix = if last {
                self.last_key_tasks()
            } else {
                key.values.len()
            };
            let digit = rest % radix;
            rest /= radix;
            let (from, count) = match self.chunk {
                Some(chunk) if last => (digit * u64::from(chunk.max(1)), u64::from(chunk.max(1))),
                _ => (digit, 1),
            };
            let until = (from + count).min(key.values.len());
            values.push((from..until).filter_map(|at| key.values.get(at)).collect());
        }
        values.reverse();
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, first: i64, last: i64, step: u32) -> ArrayKey {
        ArrayKey {
            name: name.into(),
            values: Values::Range {
                first,
                last,
                step,
                width: 0,
            },
        }
    }

    #[test]
    fn keys_multiply_and_the_last_turns_fastest() {
        let list = Values::List(vec!["x".into(), "y".into()]);
        let array = Array {
            keys: vec![
                range("a", 1, 3, 1),
                ArrayKey {
                    name: "b".into(),
                    values: list,
                },
            ],
            chunk: None,
        };
        assert_eq!(array.task_count(), 6);
        assert_eq!(
            array.values(3),
            Some(vec![vec!["2".into()], vec!["y".into()]])
        );
        assert_eq!(array.values(6), None);
    }

    #[test]
    fn chunks_take_successive_values_and_the_last_may_be_short() {
        let array = Array {
            keys: vec![range("frame", 1, 10, 2)],
            chunk: Some(2),
        };
        assert_eq!(array.task_count(), 3);
        assert_eq!(array.values(0), Some(vec![vec!["1".into(), "3".into()]]));
        assert_eq!(array.values(2), Some(vec![vec!["9".into()]]));
    }

    #[test]
    fn no_key_is_one_task() {
        assert_eq!(Array::default().task_count(), 1);
        assert_eq!(Array::default().values(0), Some(vec![]));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let all = range("a", i64::MIN, i64::MAX, 1);
        assert_eq!(all.values.get(u64::MAX), None);
        let array = Array {
            keys: vec![all.clone(), all],
            chunk: None,
        };
        assert_eq!(array.task_count(), u64::MAX);
    }

    #[test]
    fn padding_counts_digits() {
        let values = Values::Range {
            first: -1,
            last: 1,
            step: 1,
            width: 4,
        };
        assert_eq!(values.get(0).as_deref(), Some("-0001"));
        assert_eq!(values.get(2).as_deref(), Some("0001"));
    }
}
