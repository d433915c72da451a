//! Retention: which generations of a deployment a policy keeps.
//!
//! The order is the commit log's. A commit time is what some client's clock said, so it never
//! decides alone:
//!
//! - Times are *believed* if they lie on the longest run of times that do not decrease in the order
//!   of the log. Any other generation counts as committed when the believed one before it was (or,
//!   before the first, the believed one after it). So a clock that runs backwards never makes a newer
//!   generation count as older, and one wrong clock moves only its own generations.
//! - What then lies in the future of whoever prunes is kept and fills no rule. So a clock that is
//!   ahead, theirs or ours, never makes room by pushing others out.
//! - The newest generation is always kept.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp, Zoned};

use crate::clock::UnixNanos;
use crate::log::Generation;
use crate::store::Error;

/// What to keep of each deployment. A generation is kept if any rule keeps it.
#[derive(Clone, Debug)]
pub struct Retention {
    /// The newest so many.
    pub last: Option<u32>,
    /// The newest of each of so many days that have one.
    pub daily: Option<u32>,
    /// The newest of each of so many weeks (from Monday) that have one.
    pub weekly: Option<u32>,
    /// The newest of each of so many months that have one.
    pub monthly: Option<u32>,
    /// The newest of each of so many years that have one.
    pub yearly: Option<u32>,
    /// Everything that is no older than this, counted back from the newest.
    pub within: Option<Span>,
    /// Where days begin.
    pub time_zone: TimeZone,
}

/// What keeps a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeptBy {
    /// It is the newest of its deployment.
    Newest,
    /// It is pinned.
    Pin,
    /// It is one of the last.
    Last,
    /// It is the newest of a day.
    Daily,
    /// It is the newest of a week.
    Weekly,
    /// It is the newest of a month.
    Monthly,
    /// It is the newest of a year.
    Yearly,
    /// It is not old enough.
    Within,
    /// By the clock of whoever prunes it was not committed yet.
    Future,
    /// No policy was asked for, or not for this deployment.
    NoPolicy,
}

impl KeptBy {
    /// Returns the name used in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Pin => "pin",
            Self::Last => "last",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Within => "within",
            Self::Future => "future",
            Self::NoPolicy => "no-policy",
        }
    }
}

impl Retention {
    /// Keeps nothing but the newest, in UTC: to be filled.
    #[must_use]
    pub fn none() -> Self {
        Self {
            last: None,
            daily: None,
            weekly: None,
            monthly: None,
            yearly: None,
            within: None,
            time_zone: TimeZone::UTC,
        }
    }

    /// Finds a time zone by its name in the IANA database, which the program carries; the system's
    /// if `name` is empty, or UTC if the system has none.
    ///
    /// # Errors
    /// [`Error::UnknownTimeZone`].
    pub fn time_zone(name: &str) -> Result<TimeZone, Error> {
        if name.is_empty() {
            return Ok(TimeZone::try_system().unwrap_or(TimeZone::UTC));
        }
        let found = TimeZoneDatabase::bundled().get(name);
        found.map_err(|_| Error::UnknownTimeZone { name: name.to_owned() })
    }

    /// Fails if no rule keeps anything.
    ///
    /// # Errors
    /// [`Error::KeepsNothing`].
    pub fn check(&self) -> Result<(), Error> {
        let counts = [self.last, self.daily, self.weekly, self.monthly, self.yearly];
        let within = self.within.is_some_and(|span| !span.is_zero() && !span.is_negative());
        if within || counts.iter().flatten().any(|count| *count > 0) {
            Ok(())
        } else {
            Err(Error::KeepsNothing)
        }
    }

    /// Returns what keeps each of a deployment's visible generations, oldest commit first; nothing
    /// for those that are to be forgotten.
    pub(super) fn choose(&self, generations: &[Generation], now: UnixNanos) -> Vec<Vec<KeptBy>> {
        let times: Vec<_> = generations.iter().map(|generation| generation.committed).collect();
        let times = believed(&times);
        let mut kept = vec![Vec::new(); generations.len()];
        if let Some(newest) = kept.last_mut() {
            newest.push(KeptBy::Newest);
        }
        let mut rules: Vec<_> = self.rules();
        // What is counted back from: the newest that is not in the future.
        let latest = times.iter().copied().filter(|time| *time <= now).max();
        let horizon = latest.and_then(|latest| self.horizon(latest));
        for (age, place) in (0..generations.len()).rev().enumerate() {
            let (kept, time) = (&mut kept[place], times[place]);
            if self.last.is_some_and(|last| age < last as usize) {
                kept.push(KeptBy::Last);
            }
            if time > now {
                kept.push(KeptBy::Future);
                continue;
            }
            let Some(local) = self.local(time) else {
                // Beyond the years that a calendar has.
                kept.push(KeptBy::Future);
                continue;
            };
            for rule in &mut rules {
                if rule.takes(&local) {
                    kept.push(rule.by);
                }
            }
            if horizon.is_some_and(|horizon| time >= horizon) {
                kept.push(KeptBy::Within);
            }
        }
        kept
    }

    fn rules(&self) -> Vec<Rule> {
        let rule = |by, count: Option<u32>, period| Rule {
            by,
            left: count.unwrap_or(0),
            period,
            last: None,
        };
        vec![
            rule(KeptBy::Daily, self.daily, |t| (t.year(), i16::from(t.month()), t.day())),
            rule(KeptBy::Weekly, self.weekly, |t| {
                let week = t.date().iso_week_date();
                (week.year(), i16::from(week.week()), 0)
            }),
            rule(KeptBy::Monthly, self.monthly, |t| (t.year(), i16::from(t.month()), 0)),
            rule(KeptBy::Yearly, self.yearly, |t| (t.year(), 0, 0)),
        ]
    }

    fn local(&self, time: UnixNanos) -> Option<Zoned> {
        let stamp = Timestamp::from_nanosecond(i128::from(time.0)).ok()?;
        Some(stamp.to_zoned(self.time_zone.clone()))
    }

    fn horizon(&self, latest: UnixNanos) -> Option<UnixNanos> {
        let back = self.local(latest)?.checked_sub(self.within?).ok();
        // Further back than a calendar goes: everything is younger.
        let nanos = back.map_or(i64::MIN, |back| {
            i64::try_from(back.timestamp().as_nanosecond()).unwrap_or(i64::MIN)
        });
        Some(UnixNanos(nanos))
    }
}

/// A rule that keeps the newest generation of each of some periods.
struct Rule {
    by: KeptBy,
    left: u32,
    period: fn(&Zoned) -> (i16, i16, i8),
    last: Option<(i16, i16, i8)>,
}

impl Rule {
    /// Says whether a generation, older than all before it, is the first of a new period.
    fn takes(&mut self, local: &Zoned) -> bool {
        let period = (self.period)(local);
        if self.left == 0 || self.last == Some(period) {
            return false;
        }
        self.left -= 1;
        self.last = Some(period);
        true
    }
}

/// Returns the times that generations count as committed at, in the order of the log: never
/// decreasing.
fn believed(times: &[UnixNanos]) -> Vec<UnixNanos> {
    // The longest run that does not decrease: for each length, the place where the least last time
    // of such a run stands; and for each place, the one before it in its run.
    let mut tails: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(times.len());
    for (place, time) in times.iter().enumerate() {
        let len = tails.partition_point(|tail| times[*tail] <= *time);
        before.push(len.checked_sub(1).map(|shorter| tails[shorter]));
        if len == tails.len() { tails.push(place) } else { tails[len] = place }
    }
    let mut is_believed = vec![false; times.len()];
    let mut next = tails.last().copied();
    while let Some(place) = next {
        is_believed[place] = true;
        next = before[place];
    }
    let first = times.iter().zip(&is_believed).find(|(_, believed)| **believed);
    let mut last = first.map_or(UnixNanos(0), |(time, _)| *time);
    let take = |(time, believed): (&UnixNanos, &bool)| {
        if *believed {
            last = *time;
        }
        last
    };
    times.iter().zip(&is_believed).map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::format::record::{CommitNumber, GenerationNumber};

    const HOUR: i64 = 3_600_000_000_000;
    const DAY: i64 = 24 * HOUR;
    /// 2024-01-01T12:00:00Z, a Monday.
    const NOON: i64 = 1_704_110_400_000_000_000;

    fn generations(times: &[i64]) -> Vec<Generation> {
        let made = |(n, time): (usize, &i64)| Generation {
            deployment: "orders".into(),
            number: GenerationNumber(n as u64 + 1),
            manifest: Digest([n as u8; 32]),
            commit: CommitNumber(n as u64 + 1),
            committed: UnixNanos(*time),
        };
        times.iter().enumerate().map(made).collect()
    }

    /// Returns the numbers of the generations that are kept.
    fn kept(policy: &Retention, times: &[i64], now: i64) -> Vec<usize> {
        let kept = policy.choose(&generations(times), UnixNanos(now));
        (1..=times.len()).filter(|number| !kept[number - 1].is_empty()).collect()
    }

    fn days(range: std::ops::Range<i64>) -> Vec<i64> {
        range.map(|day| NOON + day * DAY).collect()
    }

    #[test]
    fn each_rule_keeps_what_it_says() {
        let times = days(0..400);
        let now = times[399];
        let none = Retention::none();
        let last = Retention { last: Some(3), ..none.clone() };
        assert_eq!(kept(&last, &times, now), [398, 399, 400]);
        let daily = Retention { daily: Some(2), ..none.clone() };
        assert_eq!(kept(&daily, &times, now), [399, 400]);
        // 2025-02-03 is a Monday too, the day 400 is number 399.
        let weekly = Retention { weekly: Some(3), ..none.clone() };
        assert_eq!(kept(&weekly, &times, now), [392, 399, 400]);
        let monthly = Retention { monthly: Some(3), ..none.clone() };
        assert_eq!(kept(&monthly, &times, now), [366, 397, 400]);
        let yearly = Retention { yearly: Some(9), ..none.clone() };
        assert_eq!(kept(&yearly, &times, now), [366, 400]);
        let within = Retention { within: Some(Span::new().days(2)), ..none.clone() };
        assert_eq!(kept(&within, &times, now), [398, 399, 400]);
        let all = Retention { last: Some(1), monthly: Some(2), yearly: Some(2), ..none };
        assert_eq!(kept(&all, &times, now), [366, 397, 400]);
    }

    #[test]
    fn several_on_one_day_count_once_and_the_newest_stays() {
        let times: Vec<_> = (0..48).map(|hour| NOON + hour * HOUR).collect();
        let daily = Retention { daily: Some(7), ..Retention::none() };
        assert_eq!(kept(&daily, &times, times[47]), [12, 36, 48]);
    }

    #[test]
    fn days_begin_where_the_time_zone_says_summer_time_included() {
        let zone = Retention::time_zone("Europe/Zurich").unwrap();
        // 2024-03-31T00:30 in Zurich, and 23 hours later, still the same day.
        let start = 1_711_841_400_000_000_000;
        let times = [start, start + 22 * HOUR, start + 23 * HOUR];
        let utc = Retention { daily: Some(9), ..Retention::none() };
        assert_eq!(kept(&utc, &times, times[2]), [1, 3]);
        let local = Retention { time_zone: zone, ..utc };
        assert_eq!(kept(&local, &times, times[2]), [2, 3]);
        assert!(matches!(Retention::time_zone("Nowhere/X"), Err(Error::UnknownTimeZone { .. })));
    }

    #[test]
    fn the_order_is_the_logs_whatever_clocks_say() {
        let daily = Retention { daily: Some(3), ..Retention::none() };
        let mut times = days(0..10);
        let now = times[9];
        assert_eq!(kept(&daily, &times, now), [8, 9, 10]);
        // One clock back at the beginning of time: counts as the day before.
        times[8] = 0;
        assert_eq!(kept(&daily, &times, now), [7, 9, 10]);
        // The newest one.
        let mut times = days(0..10);
        times[9] = 0;
        assert_eq!(kept(&daily, &times, now), [7, 8, 10]);
        // All times equal: one day, and still the newest.
        assert_eq!(kept(&daily, &[NOON; 5], now), [5]);
        // All running backwards.
        let backwards: Vec<_> = days(0..5).into_iter().rev().collect();
        assert!(kept(&daily, &backwards, now).contains(&5));
    }

    #[test]
    fn a_clock_ahead_pushes_nobody_out() {
        let daily = Retention { daily: Some(3), ..Retention::none() };
        let within = Retention { within: Some(Span::new().days(3)), ..Retention::none() };
        let mut times = days(0..10);
        let now = times[9];
        times.extend([1000, 2000, 3000, 4000].map(|day| NOON + day * DAY));
        assert_eq!(kept(&daily, &times, now), [8, 9, 10, 11, 12, 13, 14]);
        assert_eq!(kept(&within, &times, now), [7, 8, 9, 10, 11, 12, 13, 14]);
        // Ours is behind: nothing is forgotten.
        assert_eq!(kept(&daily, &times, 0).len(), 14);
        // Ours is ahead: the same as in time.
        let times = days(0..10);
        assert_eq!(kept(&daily, &times, i64::MAX), [8, 9, 10]);
        assert_eq!(kept(&within, &times, i64::MAX), [7, 8, 9, 10]);
    }

    #[test]
    fn a_policy_must_keep_something() {
        let none = Retention::none();
        assert!(none.check().is_err());
        assert!(Retention { last: Some(0), daily: Some(0), ..none.clone() }.check().is_err());
        assert!(Retention { within: Some(Span::new()), ..none.clone() }.check().is_err());
        assert!(Retention { yearly: Some(1), ..none }.check().is_ok());
    }

    #[test]
    fn times_that_are_believed_never_decrease() {
        let check = |times: &[i64], expected: &[i64]| {
            let times: Vec<_> = times.iter().copied().map(UnixNanos).collect();
            let found: Vec<_> = believed(&times).iter().map(|time| time.0).collect();
            assert_eq!(found, expected);
        };
        check(&[], &[]);
        check(&[1, 2, 3], &[1, 2, 3]);
        check(&[1, 9, 2, 3], &[1, 1, 2, 3]);
        check(&[5, 6, 1, 7], &[5, 6, 6, 7]);
        check(&[9, 1, 2], &[1, 1, 2]);
        check(&[2, 2, 2], &[2, 2, 2]);
    }
}
