//! Times of the week: `mon-fri 19:00-07:00; sat,sun`.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize, de};

/// Minutes of a week, which is what a schedule repeats after.
pub const MINUTES_OF_WEEK: u16 = 7 * MINUTES_OF_DAY;

const MINUTES_OF_DAY: u16 = 24 * 60;

/// The longest text of a schedule, in bytes.
const MAX_BYTES: usize = 1_024;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Stretches of the week, by local time.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Schedule {
    text: String,
    /// Beginnings in minutes since Monday 00:00, and lengths in minutes, in the order of the text.
    open: Vec<(u16, u16)>,
}

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Too long to be one.
    #[error("a schedule has at most {MAX_BYTES} characters")]
    TooLong,
    /// Nothing in it.
    #[error("this schedule never opens: write for example \"mon-fri 19:00-07:00; sat,sun\"")]
    NeverOpens,
    /// Not a day.
    #[error("`{0}` is not a day: write mon, tue, wed, thu, fri, sat, sun, or mon-fri")]
    Day(String),
    /// Not a stretch of time.
    #[error("`{0}` is not a stretch of time: write for example 19:00-07:00")]
    Time(String),
    /// A stretch without length.
    #[error("`{0}` ends when it begins, so it never opens: write 00:00-24:00 for a whole day")]
    Empty(String),
}

impl Schedule {
    /// Whether it is open at a minute of the week, counted from Monday 00:00.
    #[must_use]
    pub fn is_open(&self, minute: u16) -> bool {
        self.open
            .iter()
            .any(|(start, length)| minutes_after(*start, minute) < *length)
    }

    /// How many minutes after `minute` it opens next; 0 when it is open.
    #[must_use]
    pub fn opens_in(&self, minute: u16) -> u16 {
        if self.is_open(minute) {
            return 0;
        }
        let starts = self.open.iter();
        let waits = starts.map(|(start, _)| minutes_after(minute, *start));
        waits.min().unwrap_or(MINUTES_OF_WEEK)
    }

    /// When it opens next after `minute`, as a person says it: `mon 19:00`.
    #[must_use]
    pub fn next_opening(&self, minute: u16) -> String {
        let at =
            (u32::from(minute) + u32::from(self.opens_in(minute))) % u32::from(MINUTES_OF_WEEK);
        let day = DAYS[(at / u32::from(MINUTES_OF_DAY)) as usize];
        let minute = at % u32::from(MINUTES_OF_DAY);
        format!("{day} {:02}:{:02}", minute / 60, minute % 60)
    }
}

/// From `start` on to `minute`, around the end of the week if need be.
const fn minutes_after(start: u16, minute: u16) -> u16 {
    (minute % MINUTES_OF_WEEK + MINUTES_OF_WEEK - start) % MINUTES_OF_WEEK
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    /// Clauses with `;` between them; each is a list of days (`mon-fri`, `sat,sun`), or none for every
    /// day, and a list of times, or none for the whole day. A time that ends before it begins ends on
    /// the next day.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if text.len() > MAX_BYTES {
            return Err(ScheduleError::TooLong);
        }
        let mut open = Vec::new();
        let lower = text.to_ascii_lowercase();
        let clauses = lower.split(';').map(str::trim);
        for clause in clauses.filter(|clause| !clause.is_empty()) {
            clause_into(clause, &mut open)?;
        }
        if open.is_empty() {
            return Err(ScheduleError::NeverOpens);
        }
        Ok(Self {
            text: text.trim().to_owned(),
            open,
        })
    }
}

fn clause_into(clause: &str, open: &mut Vec<(u16, u16)>) -> Result<(), ScheduleError> {
    let is_time = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    // "mon, tue 8:00 - 9:00" means what "mon,tue 8:00-9:00" means.
    let tight = clause
        .replace(" -", "-")
        .replace("- ", "-")
        .replace(" ,", ",")
        .replace(", ", ",");
    let words: Vec<&str> = tight
        .split_whitespace()
        .flat_map(|word| word.split(','))
        .collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let split = words.iter().position(is_time).unwrap_or(words.len());
    let (day_words, time_words) = words.split_at(split);
    let mut days = Vec::new();
    for word in day_words {
        days.extend(read_days(word)?);
    }
    if days.is_empty() {
        days.extend(0..7);
    }
    let mut times = Vec::new();
    for word in time_words {
        times.push(read_time(word)?);
    }
    if times.is_empty() {
        times.push((0, MINUTES_OF_DAY));
    }
    for day in &days {
        for (start, length) in &times {
            open.push((day * MINUTES_OF_DAY + start, *length));
        }
    }
    Ok(())
}

fn read_days(word: &str) -> Result<Vec<u16>, ScheduleError> {
    let wrong = || ScheduleError::Day(word.chars().take(40).collect());
    if word == "daily" || word == "*" {
        return Ok((0..7).collect());
    }
    let day = |name: &str| {
        let found = DAYS
            .iter()
            .position(|day| name.starts_with(day) && is_day(day, name));
        found.map(|at| at as u16).ok_or_else(wrong)
    };
    let Some((first, last)) = word.split_once('-') else {
        return Ok(vec![day(word)?]);
    };
    let (first, last) = (day(first)?, day(last)?);
    let count = (last + 7 - first) % 7;
    Ok((0..=count).map(|after| (first + after) % 7).collect())
}

/// Whether `name` is the short or the whole name of `day`.
fn is_day(day: &str, name: &str) -> bool {
    let whole = match day {
        "tue" => "tuesday",
        "wed" => "wednesday",
        "thu" => "thursday",
        "sat" => "saturday",
        _ => return name == day || name.strip_prefix(day) == Some("day"),
    };
    name == day || name == whole
}

/// Beginning and length, in minutes.
fn read_time(word: &str) -> Result<(u16, u16), ScheduleError> {
    let shown = || word.chars().take(40).collect::<String>();
    let (start, end) = word
        .split_once('-')
        .ok_or_else(|| ScheduleError::Time(shown()))?;
    let read = |text: &str| -> Option<u16> {
        let (hour, minute) = text.split_once(':').unwrap_or((text, "0"));
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        let at = hour.checked_mul(60)?.checked_add(minute)?;
        (minute < 60 && at <= MINUTES_OF_DAY).then_some(at)
    };
    let (Some(start), Some(end)) = (read(start), read(end)) else {
        return Err(ScheduleError::Time(shown()));
    };
    let length = (end + MINUTES_OF_DAY - start % MINUTES_OF_DAY) % MINUTES_OF_DAY;
    match length {
        0 if start == 0 && end == MINUTES_OF_DAY => Ok((0, MINUTES_OF_DAY)),
        0 => Err(ScheduleError::Empty(shown())),
        length => Ok((start % MINUTES_OF_DAY, length)),
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Schedule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u16, hour: u16, minute: u16) -> u16 {
        day * MINUTES_OF_DAY + hour * 60 + minute
    }

    #[test]
    fn nights_and_weekends() {
        let schedule: Schedule = "mon-fri 19:00-07:00; sat,sun".parse().unwrap();
        for (day, hour, minute, open) in [
            (0, 18, 59, false),
            (0, 19, 0, true),
            (1, 6, 59, true),
            (1, 7, 0, false),
            (5, 0, 0, true),
            (5, 6, 0, true),
            (5, 12, 0, true),
            (6, 23, 59, true),
            // Sunday night ends with Sunday: the night of Monday begins on Monday.
            (0, 3, 0, false),
        ] {
            assert_eq!(
                schedule.is_open(at(day, hour, minute)),
                open,
                "{day} {hour}:{minute}"
            );
        }
        assert_eq!(schedule.opens_in(at(0, 18, 0)), 60);
        assert_eq!(schedule.next_opening(at(0, 3, 0)), "mon 19:00");
        assert_eq!(schedule.opens_in(at(6, 0, 0)), 0);
        assert_eq!(schedule.to_string(), "mon-fri 19:00-07:00; sat,sun");
    }

    #[test]
    fn ways_to_write_it() {
        let schedule: Schedule = "Fri - Mon, wednesday 8 - 9:30, 22:00-24:00"
            .parse()
            .unwrap();
        assert!(schedule.is_open(at(6, 9, 29)) && !schedule.is_open(at(6, 9, 30)));
        assert!(schedule.is_open(at(2, 23, 0)) && !schedule.is_open(at(1, 23, 0)));
        let nightly: Schedule = "22:00-6:00".parse().unwrap();
        assert!(nightly.is_open(at(0, 3, 0)) && nightly.is_open(at(6, 23, 0)));
        // Around the end of the week.
        assert!(nightly.is_open(0));
        let always: Schedule = "daily 00:00-24:00".parse().unwrap();
        assert!((0..MINUTES_OF_WEEK).all(|minute| always.is_open(minute)));
    }

    #[test]
    fn what_never_opens_or_means_nothing_is_told() {
        for (text, word) in [
            ("", "never opens"),
            (" ; ", "never opens"),
            ("mon 10:00-10:00", "never opens"),
            ("funday", "not a day"),
            ("monkey", "not a day"),
            ("mon 25:00-26:00", "not a stretch"),
            ("mon 10:00", "not a stretch"),
            ("mon 10:61-11:00", "not a stretch"),
            ("mon 1-2 tue", "not a stretch"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert_eq!(
            "x".repeat(2_000).parse::<Schedule>(),
            Err(ScheduleError::TooLong)
        );
    }

    #[test]
    fn json_is_the_text() {
        let schedule: Schedule = "sat,sun".parse().unwrap();
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(json, "\"sat,sun\"");
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        assert!(serde_json::from_str::<Schedule>("\"never\"").is_err());
    }
}
