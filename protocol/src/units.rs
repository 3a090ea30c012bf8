//! Rates as people write them: `800k`, `4M`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bits in each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(u64);

/// Text that is no rate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no rate: write bits per second as in 800k, 4M or 1.5M")]
pub struct BitrateError(String);

impl Bitrate {
    /// A rate in bits per second.
    pub const fn bits_per_second(rate: u64) -> Self {
        Self(rate)
    }

    /// The rate in bits per second.
    pub const fn as_bits_per_second(self) -> u64 {
        self.0
    }

    /// The rate in bytes per second.
    pub fn as_bytes_per_second(self) -> f64 {
        self.0 as f64 / 8.0
    }

    /// So many times this rate.
    pub fn scaled(self, by: f64) -> Self {
        Self((self.0 as f64 * by) as u64)
    }

    /// How long `bytes` take at this rate.
    pub fn time_for(self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.as_bytes_per_second().max(1.0))
    }
}

impl FromStr for Bitrate {
    type Err = BitrateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || BitrateError(text.to_owned());
        let (number, factor) = match text.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&text[..at], 1e3),
            Some((at, 'm' | 'M')) => (&text[..at], 1e6),
            Some((at, 'g' | 'G')) => (&text[..at], 1e9),
            _ => (text, 1.0),
        };
        if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(error());
        }
        let rate = number.parse::<f64>().map_err(|_| error())? * factor;
        if !(1.0..=1e15).contains(&rate) {
            return Err(error());
        }
        Ok(Self(rate.round() as u64))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (factor, suffix) in [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{suffix}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl serde::Serialize for Bitrate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Bitrate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bitrate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as 800k or 4M")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bitrate, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, rate: u64) -> Result<Bitrate, E> {
                rate.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer, U64Deserializer};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[test]
    fn written_rates() {
        let table = [("800k", 800_000), ("4M", 4_000_000), ("1.5M", 1_500_000), ("96000", 96_000)];
        for (text, rate) in table {
            assert_eq!(text.parse::<Bitrate>().map(Bitrate::as_bits_per_second), Ok(rate));
        }
        for text in ["", "k", "-4M", "4 M", "1e9M", "nan", "0", "4Mbit", "1.2.3"] {
            assert!(text.parse::<Bitrate>().is_err(), "{text}");
        }
        assert_eq!(Bitrate::bits_per_second(4_000_000).to_string(), "4M");
        assert_eq!(Bitrate::bits_per_second(1_500_000).to_string(), "1500k");
    }

    #[test]
    fn rates_in_configurations() {
        let text = |text: &'static str| {
            let text: StrDeserializer<'_, Error> = text.into_deserializer();
            Bitrate::deserialize(text)
        };
        let number = |number: u64| {
            let number: U64Deserializer<Error> = number.into_deserializer();
            Bitrate::deserialize(number)
        };
        assert_eq!(text("1.5M"), Ok(Bitrate::bits_per_second(1_500_000)));
        assert_eq!(number(800_000), Ok(Bitrate::bits_per_second(800_000)));
        assert!(text("fast").expect_err("no rate").to_string().contains("write bits per second"));
        assert!(number(0).is_err());
        let flag: serde::de::value::BoolDeserializer<Error> = true.into_deserializer();
        let error = Bitrate::deserialize(flag).expect_err("no rate");
        assert!(error.to_string().contains("800k"), "{error}");

        struct Written(Bitrate);
        impl fmt::Display for Written {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.serialize(f)
            }
        }
        assert_eq!(Written(Bitrate::bits_per_second(2_500_000)).to_string(), "2500k");
    }
}
