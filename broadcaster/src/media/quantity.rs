//! How rates and durations are written in a configuration: `2.5M`, `800k`, `2s`, `200ms`.

/// Bits per second, as a number or with a `k` or `M` behind it.
pub(super) mod rate {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in crate::media) fn serialize<S: Serializer>(rate: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(*rate)
    }

    pub(in crate::media) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<u32, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Text(String),
        }
        match Written::deserialize(from)? {
            Written::Number(rate) => Ok(rate),
            Written::Text(text) => parse(&text).ok_or_else(|| {
                de::Error::custom(format_args!(
                    "expected a rate such as 2.5M or 800k, found {text:?}"
                ))
            }),
        }
    }

    pub(super) fn parse(text: &str) -> Option<u32> {
        let (digits, unit) = match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1e6),
            None => match text.strip_suffix(['k', 'K']) {
                Some(digits) => (digits, 1e3),
                None => (text, 1.0),
            },
        };
        let rate = digits.parse::<f64>().ok()? * unit;
        (rate.is_finite() && (0.0..=f64::from(u32::MAX)).contains(&rate)).then_some(rate as u32)
    }
}

/// A time with its unit, `ms` or `s`.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in crate::media) fn serialize<S: Serializer>(
        duration: &Duration,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}ms", duration.as_millis()))
    }

    pub(in crate::media) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).ok_or_else(|| {
            de::Error::custom(format_args!(
                "expected a duration such as 2s or 200ms, found {text:?}"
            ))
        })
    }

    pub(super) fn parse(text: &str) -> Option<Duration> {
        let (digits, unit) = match text.strip_suffix("ms") {
            Some(digits) => (digits, 1e-3),
            None => (text.strip_suffix('s')?, 1.0),
        };
        Duration::try_from_secs_f64(digits.trim().parse::<f64>().ok()? * unit).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn rates_and_durations() {
        use super::{duration, rate};
        assert_eq!(rate::parse("2.5M"), Some(2_500_000));
        assert_eq!(rate::parse("800k"), Some(800_000));
        assert_eq!(rate::parse("64000"), Some(64_000));
        for wrong in ["", "M", "-1", "1G", "inf", "nan", "5000M"] {
            assert_eq!(rate::parse(wrong), None, "{wrong}");
        }
        assert_eq!(duration::parse("2s"), Some(Duration::from_secs(2)));
        assert_eq!(duration::parse("200ms"), Some(Duration::from_millis(200)));
        for wrong in ["", "s", "2", "-1s", "infs", "1h"] {
            assert_eq!(duration::parse(wrong), None, "{wrong}");
        }
    }
}
