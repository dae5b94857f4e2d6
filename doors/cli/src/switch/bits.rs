//! Bandwidths as people write them: `500M`, `2.5G`, in bits per second.

use std::str::FromStr;

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub u64);

impl FromStr for Bits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("`{text}` is no bandwidth: write bits per second, like 500M or 2.5G; 0 or `none` for no limit");
        if text == "none" {
            return Ok(Bits(0));
        }
        let (number, unit) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], 1e3),
            Some((at, 'M')) => (&text[..at], 1e6),
            Some((at, 'G')) => (&text[..at], 1e9),
            Some((at, 'T')) => (&text[..at], 1e12),
            _ => (text, 1.0),
        };
        let value = number.parse::<f64>().map_err(|_| wrong())? * unit;
        if (0.0..=1e15).contains(&value) { Ok(Bits(value.round() as u64)) } else { Err(wrong()) }
    }
}

/// The same for people.
pub fn show(bits: u64) -> String {
    let value = bits as f64;
    match bits {
        0..1_000_000 => format!("{bits} bit/s"),
        1_000_000..1_000_000_000 => format!("{} Mbit/s", value / 1e6),
        _ => format!("{} Gbit/s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_read_and_shown() {
        for (text, bits) in [("500M", 500_000_000), ("2.5G", 2_500_000_000), ("64k", 64_000), ("9", 9), ("none", 0)] {
            assert_eq!(text.parse(), Ok(Bits(bits)), "{text}");
        }
        for text in ["", "G", "-1M", "1X", "1e30G", "NaN"] {
            assert!(text.parse::<Bits>().is_err(), "{text}");
        }
        assert_eq!((show(500_000_000), show(2_500_000_000)), ("500 Mbit/s".into(), "2.5 Gbit/s".into()));
    }
}
