//! Sizes as people write them: `512M`, `2G`, `1.5T`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A number of bytes. Text is a whole number of bytes, or a number with a unit: K, M, G, T, P (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(u64);

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a size: {reason}; write 512M, 2G or 1.5T")]
pub struct ParseSizeError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

const UNITS: [(char, u32); 5] = [('K', 10), ('M', 20), ('G', 30), ('T', 40), ('P', 50)];

impl Size {
    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Size {
        Size(bytes)
    }

    /// This many MiB.
    pub const fn from_mib(mib: u32) -> Size {
        Size((mib as u64) << 20)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Size, ParseSizeError> {
        let error = |reason| ParseSizeError { text: text.chars().take(64).collect(), reason };
        let upper = text.to_ascii_uppercase();
        let stem = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
        let unit = UNITS.into_iter().find(|(letter, _)| stem.ends_with(*letter));
        let number = unit.map_or(stem, |(letter, _)| stem.trim_end_matches(letter));
        let shift = unit.map_or(0, |(_, shift)| shift);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || !(whole.bytes().chain(fraction.bytes())).all(|byte| byte.is_ascii_digit()) {
            return Err(error("a number is expected"));
        }
        if fraction.len() > 6 || number.ends_with('.') {
            return Err(error("one to six digits may follow the point"));
        }
        let scale = 10u128.pow(fraction.len() as u32);
        let whole: u128 = whole.parse::<u64>().map_err(|_| error("it is too large"))?.into();
        let fraction: u128 =
            if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| error("a number is expected"))? };
        let scaled = (whole * scale + fraction) << shift;
        if !scaled.is_multiple_of(scale) && shift == 0 {
            return Err(error("there are no parts of a byte"));
        }
        u64::try_from(scaled / scale).map(Size).map_err(|_| error("it is too large"))
    }
}

impl fmt::Display for Size {
    /// The largest unit that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.into_iter().rev().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((letter, shift)) => write!(f, "{}{letter}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
