//! How a duration is written in a configuration: `2s`, `200ms`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

pub(crate) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    match (duration.subsec_millis(), duration.as_secs()) {
        (0, seconds) => to.collect_str(&format_args!("{seconds}s")),
        _ => to.collect_str(&format_args!("{}ms", duration.as_millis())),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).ok_or_else(|| {
        de::Error::custom(format_args!("expected a duration such as 2s or 200ms, found {text:?}"))
    })
}

fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s')?, 1.0),
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_durations() {
        assert_eq!(parse("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse("200ms"), Some(Duration::from_millis(200)));
        for wrong in ["", "s", "2", "2 s", "-1s", "infs", "nans", "1h"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
