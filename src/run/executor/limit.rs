//! Time limits in configurations: texts such as `90s`, `10m` or `24h`.

use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

fn parse<E: de::Error>(text: &str) -> Result<Duration, E> {
    let parsed = text.parse::<SignedDuration>().ok().map(Duration::try_from);
    match parsed {
        Some(Ok(limit)) if !limit.is_zero() => Ok(limit),
        _ => Err(E::custom(format!("{text:?} is no time limit such as 90s, 10m or 24h"))),
    }
}

/// Reads a limit.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(from)?)
}

/// Writes a limit.
pub fn serialize<S: Serializer>(limit: &Duration, to: S) -> Result<S::Ok, S::Error> {
    let signed = SignedDuration::try_from(*limit).unwrap_or(SignedDuration::MAX);
    format!("{signed:#}").serialize(to)
}

/// A limit that may not be there.
pub mod option {
    use super::{Deserialize, Deserializer, Duration, Serialize, Serializer, parse};

    /// Reads a limit.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| parse(&text)).transpose()
    }

    /// Writes a limit.
    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(limit: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match limit {
            Some(limit) => super::serialize(limit, to),
            None => None::<String>.serialize(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Limits {
        #[serde(with = "super")]
        one: Duration,
        #[serde(default, with = "super::option")]
        other: Option<Duration>,
    }

    #[test]
    fn limits_are_written_as_they_are_read() {
        let limits: Limits = toml::from_str("one = '1h 30m'\nother = '90s'").unwrap();
        assert_eq!(limits.one, Duration::from_mins(90));
        assert_eq!(limits.other, Some(Duration::from_secs(90)));
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits, "{text}");
        for wrong in ["one = 5", "one = '0s'", "one = '-1s'", "one = 'soon'", "one = '5'"] {
            assert!(toml::from_str::<Limits>(wrong).is_err(), "{wrong}");
        }
    }
}
