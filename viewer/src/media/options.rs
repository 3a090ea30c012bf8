//! What may follow an output's address: `?key=value&key=value`, with percent-encoded values (RFC 3986).

use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What would end a value, or a word on a command line, early.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'&').add(b'?').add(b'#').add(b'=');

/// Options, in their order, each taken out once.
#[derive(Debug, Default)]
pub(super) struct Options(Vec<(String, String)>);

impl Options {
    /// The address, and what follows its last question mark.
    pub(super) fn split(text: &str) -> Result<(&str, Self), OptionError> {
        let Some((address, options)) = text.rsplit_once('?') else {
            return Ok((text, Self::default()));
        };
        let parts = options.split('&').map(|part| {
            let (key, value) =
                part.split_once('=').ok_or_else(|| OptionError::NoValue(part.to_owned()))?;
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| OptionError::NoValue(part.to_owned()))?;
            Ok((key.to_owned(), value.into_owned()))
        });
        Ok((address, Self(parts.collect::<Result<_, _>>()?)))
    }

    /// Takes out one option's text.
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(at).1)
    }

    /// Takes out a length of time within these bounds, as in `10m` or `1500ms`.
    pub(super) fn take_duration(
        &mut self,
        key: &'static str,
        within: std::ops::RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, OptionError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let duration = humantime::parse_duration(&value).ok();
        let duration = duration.filter(|duration| within.contains(duration));
        duration.map(Some).ok_or_else(|| {
            let (from, to) = (words(*within.start()), words(*within.end()));
            OptionError::Value { key, expected: format!("a time from {from} to {to}"), value }
        })
    }

    /// Takes out a number within these bounds.
    pub(super) fn take_number(
        &mut self,
        key: &'static str,
        within: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<u32>, OptionError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.parse().ok().filter(|number| within.contains(number));
        number.map(Some).ok_or_else(|| {
            let (from, to) = (within.start(), within.end());
            OptionError::Value { key, expected: format!("a number from {from} to {to}"), value }
        })
    }

    /// Takes out a size of at least so many bytes, as in `500M` (millions) or `2G`.
    pub(super) fn take_size(
        &mut self,
        key: &'static str,
        least: u64,
    ) -> Result<Option<u64>, OptionError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let unit = match value.chars().last() {
            Some('k') => 1_000,
            Some('M') => 1_000_000,
            Some('G') => 1_000_000_000,
            _ => 1,
        };
        let number = if unit == 1 { &value[..] } else { &value[..value.len() - 1] };
        let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        size.filter(|size| *size >= least).map(Some).ok_or_else(|| {
            let expected = format!("a size as in 500M, {least} bytes at least");
            OptionError::Value { key, expected, value }
        })
    }

    /// Nothing else may have been asked for.
    pub(super) fn end(self, known: &'static str) -> Result<(), OptionError> {
        match self.0.into_iter().next() {
            Some((key, _)) => Err(OptionError::Unknown { key, known }),
            None => Ok(()),
        }
    }
}

/// Prints options as [`Options::split`] takes them: nothing where there are none.
pub(super) fn print(f: &mut fmt::Formatter<'_>, options: &[(&str, Option<String>)]) -> fmt::Result {
    let given = options.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    for (index, (key, value)) in given.enumerate() {
        let mark = if index == 0 { '?' } else { '&' };
        write!(f, "{mark}{key}={}", utf8_percent_encode(value, ENCODED))?;
    }
    Ok(())
}

/// A time without spaces, as it is parsed.
pub(super) fn words(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// What is wrong with an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Without a value, or in no UTF-8.
    #[error("expected key=value after the question mark, got {0:?}")]
    NoValue(String),
    /// Not one of this output's.
    #[error("expected one of {known} after the question mark, got {key:?}")]
    Unknown {
        /// What was written.
        key: String,
        /// What could have been.
        known: &'static str,
    },
    /// Out of bounds, or no value of its kind.
    #[error("expected {key} to be {expected}, got {value:?}")]
    Value {
        /// Of which option.
        key: &'static str,
        /// What it could be.
        expected: String,
        /// What it was.
        value: String,
    },
}
