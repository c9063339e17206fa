//! Quantities as people write them: `20GiB`, `500M`, `4096`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};
use varve_node::watermark::Mark;

/// A size in bytes; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(u64);

/// The units, each with the bytes it stands for: binary with an `i`, decimal without, as Kubernetes has them.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("ti", 1 << 40),
];

/// Says that a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{reason}: expected a whole number above zero with a unit such as KiB, MiB, GiB, TiB or kB, MB, GB, TB, as in 20GiB"
)]
pub(crate) struct ParseSizeError {
    reason: &'static str,
}

impl Size {
    /// Returns the size in bytes.
    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let error = |reason| ParseSizeError { reason };
        let text = text.trim();
        if text.starts_with('-') {
            return Err(error("a size cannot be negative"));
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(error("not a size"));
        }
        let unit = unit.trim_start().to_ascii_lowercase();
        let unit = unit.strip_suffix('b').unwrap_or(&unit);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| error("unknown unit"))?.1;
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        match bytes {
            None => Err(error("larger than any image can be")),
            Some(0) => Err(error("a size cannot be zero")),
            Some(bytes) => Ok(Self(bytes)),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"20GiB\", or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                bytes.to_string().parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                bytes.to_string().parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bytes(self.0))
    }
}

/// How much of a pool: a percentage, or a size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Watermark(Mark);

impl From<Watermark> for Mark {
    fn from(watermark: Watermark) -> Self {
        watermark.0
    }
}

impl FromStr for Watermark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mark = match text.trim().strip_suffix('%') {
            Some(number) => number.trim_end().parse::<f64>().ok().map(|percent| Mark::Share(percent / 100.0)),
            None => text.parse::<Size>().ok().map(|size| Mark::Bytes(size.bytes())),
        };
        mark.map(Self).ok_or_else(|| {
            format!("{text:?} is neither a percentage nor a size: expected a share of the pool, as in \"10%\", or a size, as in \"20GiB\"")
        })
    }
}

impl<'de> Deserialize<'de> for Watermark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Writes a number of bytes for people: three digits or so, in binary units.
pub(crate) fn bytes(bytes: u64) -> String {
    const NAMES: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut whole = bytes;
    let mut rest = 0;
    let mut name = "";
    for next in NAMES {
        if whole < 1024 {
            break;
        }
        rest = whole % 1024;
        whole /= 1024;
        name = next;
    }
    if whole < 100 { format!("{whole}.{} {name}", rest * 10 / 1024) } else { format!("{whole} {name}") }
}

/// Writes milliseconds for people.
pub(crate) fn millis(millis: f64) -> String {
    if millis < 10.0 {
        format!("{millis:.1} ms")
    } else if millis < 1000.0 {
        format!("{millis:.0} ms")
    } else {
        format!("{:.1} s", millis / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u64, String> {
        text.parse::<Size>().map(Size::bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_with_and_without_units() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("500M", 500_000_000),
            ("500MB", 500_000_000),
            ("1k", 1000),
            ("3kB", 3000),
            ("64KiB", 65_536),
            ("64Ki", 65_536),
            ("20GiB", 20 << 30),
            ("20 GiB", 20 << 30),
            ("20gib", 20 << 30),
            ("2Ti", 2 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for (text, reason) in [
            ("0", "cannot be zero"),
            ("0GiB", "cannot be zero"),
            ("-5GiB", "cannot be negative"),
            ("", "not a size"),
            ("GiB", "not a size"),
            ("ten", "not a size"),
            ("1.5GiB", "unknown unit"),
            ("20Gib/s", "unknown unit"),
            ("20XiB", "unknown unit"),
            ("99999999999999999999", "larger than"),
            ("99999999TiB", "larger than"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(reason) && error.contains("as in 20GiB"), "{text}: {error}");
        }
    }

    #[test]
    fn bytes_for_people() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (150 << 20, "150 MiB"),
            (20 << 30, "20.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
