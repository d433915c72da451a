//! The only place that asks for the time. Time serves people and change detection, never safety:
//! order comes from the commit log (see "Clocks" in `store-format.md`).

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z; negative before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// Returns the present time of the system's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn now() -> Self {
        let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos)
            }
        };
        Self(nanos)
    }

    /// Returns the time `nanos` nanoseconds earlier, saturating.
    #[must_use]
    pub fn minus(self, nanos: i64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }
}
