//! Amounts of memory, disk and processors, as people write them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A number of bytes, read and printed the way Kubernetes writes sizes (`512Mi`, `2Gi`). The small letters of container
/// engines are read too: `512m` and `2g` are `512Mi` and `2Gi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size of `n` bytes.
    #[must_use]
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

    /// A size of `n` mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// A size of `n` gibibytes.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self::mib(n * 1024)
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

const UNITS: [(&str, u64); 12] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
    ("g", 1 << 30),
    ("m", 1 << 20),
    ("b", 1),
    ("", 1),
];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = UNITS
            .into_iter()
            .filter(|(unit, _)| unit.is_empty() || unit.ends_with('i'))
            .find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale))
            .unwrap_or(("", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a whole number with an optional unit, such as 512Mi, 2Gi or 1000000")]
pub struct ParseByteSizeError(String);

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
        digits
            .parse::<u64>()
            .ok()
            .zip(scale)
            .and_then(|(n, scale)| n.checked_mul(scale))
            .map(Self)
            .ok_or_else(|| ParseByteSizeError(text.to_owned()))
    }
}

/// An amount of processors, read and printed the way Kubernetes writes them (`2`, `1.5`, `500m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u32);

impl Cpus {
    /// An amount in thousandths of a processor.
    #[must_use]
    pub const fn millis(n: u32) -> Self {
        Self(n)
    }

    /// Returns the number of thousandths.
    #[must_use]
    pub const fn as_millis(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

/// A text that is not an amount of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount of processors: write a number from 0.01 to 1000, such as 2, 1.5 or 500m")]
pub struct ParseCpusError(String);

impl FromStr for Cpus {
    type Err = ParseCpusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let millis = match text.strip_suffix('m') {
            Some(millis) => millis.parse().ok(),
            None => text.parse::<f64>().ok().map(|cpus| cpus * 1000.0),
        };
        match millis {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
            Some(millis) if (10.0..=1_000_000.0).contains(&millis) => Ok(Self(millis.round() as u32)),
            _ => Err(ParseCpusError(text.chars().take(80).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_size(text: &str, bytes: u64, shown: &str) {
        let size: ByteSize = text.parse().unwrap();
        assert_eq!((size.as_bytes(), size.to_string().as_str()), (bytes, shown));
    }

    #[test]
    fn sizes_are_read_and_shown_like_kubernetes_writes_them() {
        check_size("0", 0, "0");
        check_size("512Mi", 512 << 20, "512Mi");
        check_size("2Gi", 2 << 30, "2Gi");
        check_size("1500", 1500, "1500");
        check_size("3k", 3000, "3000");
        check_size("2048Mi", 2 << 30, "2Gi");
        check_size("512m", 512 << 20, "512Mi");
        check_size("2g", 2 << 30, "2Gi");
        check_size("7b", 7, "7");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "Mi", "-1", "1.5Gi", "1 Gi", "1mib", "99999999999Ti", "1e9"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn processors_are_read_as_kubernetes_writes_them() {
        for (text, millis, shown) in
            [("2", 2000, "2"), ("1.5", 1500, "1500m"), ("500m", 500, "500m"), ("0.01", 10, "10m")]
        {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!((cpus.as_millis(), cpus.to_string().as_str()), (millis, shown));
        }
        for text in ["", "0", "m", "-1", "nan", "1e9", "2 cpus", "inf"] {
            assert!(text.parse::<Cpus>().is_err(), "{text}");
        }
    }
}
