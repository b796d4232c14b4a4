//! Quantities that carry their unit in the type.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize, de};

/// A number of bytes. Written `8GiB`, `500 MB`, `8g` (binary, as Docker reads it) or `1024`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// Thousandths of one CPU. Written as a number of CPUs: `8`, `0.5`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct MilliCpus(pub u32);

/// A quantity that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("`{0}` is not a size: write for example 8GiB, 500MB or 1048576")]
    Size(String),
    /// Not a number of CPUs.
    #[error("`{0}` is not a number of CPUs: write for example 8 or 0.5")]
    Cpus(String),
}

const KIB: u64 = 1 << 10;

/// Suffixes after the number, in lower case, with what one of them is worth.
/// A lone letter is binary, as in `docker run --memory 8g`.
const SIZE_SUFFIXES: [(&str, u64); 17] = [
    ("", 1),
    ("b", 1),
    ("k", KIB),
    ("kb", 1_000),
    ("kib", KIB),
    ("m", KIB * KIB),
    ("mb", 1_000_000),
    ("mib", KIB * KIB),
    ("g", KIB * KIB * KIB),
    ("gb", 1_000_000_000),
    ("gib", KIB * KIB * KIB),
    ("t", KIB * KIB * KIB * KIB),
    ("tb", 1_000_000_000_000),
    ("tib", KIB * KIB * KIB * KIB),
    ("p", KIB * KIB * KIB * KIB * KIB),
    ("pb", 1_000_000_000_000_000),
    ("pib", KIB * KIB * KIB * KIB * KIB),
];

impl Bytes {
    /// `count` mebibytes (2^20 bytes).
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count * KIB * KIB)
    }

    /// `count` gibibytes (2^30 bytes).
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count * KIB * KIB * KIB)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Size(text.chars().take(40).collect());
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, suffix) = trimmed.split_at(split);
        let suffix = suffix.trim().to_ascii_lowercase();
        let (_, unit) = SIZE_SUFFIXES
            .iter()
            .find(|(name, _)| *name == suffix)
            .ok_or_else(wrong)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(*unit).map(Self).ok_or_else(wrong);
        }
        let value: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = value * *unit as f64;
        if bytes < 0.0 || bytes >= u64::MAX as f64 {
            return Err(wrong());
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for Bytes {
    /// In the largest binary unit that leaves at least 1, to one decimal when not whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut scale = 0;
        while scale + 1 < units.len() && self.0 >= KIB.pow(scale as u32 + 1) {
            scale += 1;
        }
        let unit = KIB.pow(scale as u32);
        if self.0.is_multiple_of(unit) {
            write!(f, "{} {}", self.0 / unit, units[scale])
        } else {
            write!(f, "{:.1} {}", self.0 as f64 / unit as f64, units[scale])
        }
    }
}

impl MilliCpus {
    /// `count` whole CPUs.
    #[must_use]
    pub const fn whole(count: u32) -> Self {
        Self(count * 1_000)
    }

    /// From a number of CPUs; `None` when it is negative, not a number, or too large.
    #[must_use]
    pub fn from_cpus(cpus: f64) -> Option<Self> {
        let milli = (cpus * 1_000.0).round();
        (milli.is_finite() && (0.0..=f64::from(u32::MAX)).contains(&milli))
            .then_some(Self(milli as u32))
    }

    /// As a number of CPUs.
    #[must_use]
    pub fn cpus(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl FromStr for MilliCpus {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        text.trim()
            .parse::<f64>()
            .ok()
            .and_then(Self::from_cpus)
            .ok_or_else(|| UnitError::Cpus(text.chars().take(40).collect()))
    }
}

impl fmt::Display for MilliCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cpus())
    }
}

/// Accepts what people write (`"8GiB"`) and what programs write (`8589934592`).
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Whole(bytes) => Ok(Self(bytes)),
            Written::Fraction(value) => Err(de::Error::custom(UnitError::Size(value.to_string()))),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// In JSON a [`MilliCpus`] is its number of thousandths; text is a number of CPUs.
impl<'de> Deserialize<'de> for MilliCpus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Whole(milli) => u32::try_from(milli)
                .map(Self)
                .map_err(|_| de::Error::custom(UnitError::Cpus(milli.to_string()))),
            Written::Fraction(value) => Err(de::Error::custom(UnitError::Cpus(value.to_string()))),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("8GiB", 8 << 30),
            ("8 GB", 8_000_000_000),
            ("8g", 8 << 30),
            ("1.5k", 1536),
            ("1024", 1024),
            (" 0 ", 0),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in [
            "",
            "GiB",
            "-1",
            "8 apples",
            "1e400",
            "99999999999999999999",
            "1.2.3k",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_in_the_largest_fitting_unit() {
        assert_eq!(Bytes::gib(8).to_string(), "8 GiB");
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(u64::MAX).to_string(), "16384.0 PiB");
    }

    #[test]
    fn cpus_are_thousandths() {
        assert_eq!("0.5".parse(), Ok(MilliCpus(500)));
        assert_eq!(MilliCpus::whole(8).to_string(), "8");
        assert!("-1".parse::<MilliCpus>().is_err());
        assert!("nan".parse::<MilliCpus>().is_err());
    }
}
