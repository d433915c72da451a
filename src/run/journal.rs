//! Journal: the records of a run, in the store. Appending a record is a put-if-absent of the next
//! number; it is durable when [`Journal::append`] returns, and it is never changed.
//!
//! A bad last record is a torn tail: it is set aside (moved to a name of its own) and the run goes
//! on from the record before. A bad or missing record with another behind it is damage: the journal
//! is refused, and what is durable is found in the commit log.
//!
//! When a run has ended, its records become one object, so that years of runs are not millions of
//! objects, and a listing tells which runs have not ended.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backend::{self, Backend, Key, Put};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::frame::FRAME_BYTES_MAX;
use crate::format::journal::{ENDED_BYTES_MAX, EndedJournal, JournalRecord, is_run_name};
use crate::format::{self};

/// Folder of the journals.
pub const FOLDER: &str = "runs";
/// Name of the object that the records of an ended run become.
const ENDED: &str = "ended";

/// What can go wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The name is none of a run.
    #[error("{name:?} is not the name of a run")]
    BadName {
        /// The name.
        name: String,
    },
    /// There is no such run.
    #[error("no run {name} in this store")]
    Unknown {
        /// The run.
        name: String,
    },
    /// A record in the middle is missing or damaged.
    #[error("journal of {run}: record {number} {reason}, and there are records after it")]
    Hole {
        /// The run.
        run: String,
        /// The record.
        number: u64,
        /// What is wrong.
        reason: String,
    },
    /// A record was written by a newer version.
    #[error("journal of {run}: record {number} needs a newer program: {source}")]
    Newer {
        /// The run.
        run: String,
        /// The record.
        number: u64,
        /// What is new.
        source: format::Error,
    },
    /// An event is not one that this version knows.
    #[error("journal of {run}: record {number} cannot be read: {reason}")]
    Event {
        /// The run.
        run: String,
        /// The record.
        number: u64,
        /// What is wrong.
        reason: String,
    },
    /// The one object of an ended run is damaged.
    #[error("journal of {run}: {source}")]
    Ended {
        /// The run.
        run: String,
        /// What is wrong.
        source: format::Error,
    },
    /// Another process appended to the same journal.
    #[error("journal of {run}: another process wrote record {number}")]
    Taken {
        /// The run.
        run: String,
        /// The record.
        number: u64,
    },
}

/// A record that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded<E> {
    /// Its number.
    pub number: u64,
    /// When it was written.
    pub time: UnixNanos,
    /// What happened.
    pub event: E,
}

/// The journal of one run, ready to be appended to.
#[derive(Debug)]
pub struct Journal {
    run: String,
    next: u64,
    last: Digest,
}

fn key(run: &str, number: u64) -> Result<Key, Error> {
    let bad = |_| Error::BadName { name: run.to_owned() };
    Key::new(format!("{FOLDER}/{run}/{number:020}")).map_err(bad)
}

fn ended_key(run: &str) -> Result<Key, Error> {
    let bad = |_| Error::BadName { name: run.to_owned() };
    Key::new(format!("{FOLDER}/{run}/{ENDED}")).map_err(bad)
}

/// Returns the number of a record, if the key is that of one.
fn number_of(key: &Key) -> Option<u64> {
    let is_number = key.name().len() == 20 && key.name().bytes().all(|byte| byte.is_ascii_digit());
    key.name().parse().ok().filter(|_| is_number)
}

/// Returns the names of all runs, oldest first as their names sort.
///
/// # Errors
/// The storage cannot be listed.
pub fn runs(backend: &dyn Backend) -> Result<Vec<String>, Error> {
    Ok(listed(backend)?.into_keys().collect())
}

/// Returns the names of the runs whose journals were not closed, or not to the end, oldest first as
/// their names sort.
///
/// # Errors
/// The storage cannot be listed.
pub fn open_runs(backend: &dyn Backend) -> Result<Vec<String>, Error> {
    let runs = listed(backend)?.into_iter();
    Ok(runs.filter(|(_, closed)| !closed).map(|(name, _)| name).collect())
}

/// Returns all runs, with whether their journals were closed.
fn listed(backend: &dyn Backend) -> Result<BTreeMap<String, bool>, Error> {
    // Whether it has the one object, and whether it has records.
    let mut found: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    backend.list(FOLDER, &mut |key, _| {
        let name = key.as_str().split('/').nth(1).unwrap_or_default();
        if is_run_name(name) {
            let (ended, records) = found.entry(name.to_owned()).or_default();
            *ended |= key.name() == ENDED;
            *records |= number_of(&key).is_some();
        }
    })?;
    Ok(found.into_iter().map(|(name, (ended, records))| (name, ended && !records)).collect())
}

/// Returns the name of a run's first event, which says of what kind the run is.
///
/// # Errors
/// There is no such run, or its first record cannot be read.
pub fn first_event(backend: &dyn Backend, run: &str) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Head {
        event: String,
    }
    first::<Head>(backend, run).map(|head| head.event)
}

/// Returns what the first record of a run says.
///
/// # Errors
/// There is no such run, or its first record cannot be read.
pub fn first<E: DeserializeOwned>(backend: &dyn Backend, run: &str) -> Result<E, Error> {
    if !is_run_name(run) {
        return Err(Error::BadName { name: run.to_owned() });
    }
    let mut journal = Journal { run: run.to_owned(), next: 1, last: Digest::ZERO };
    if Journal::ended(backend, run)?.is_none()
        && let Ok(record) = journal.take::<E>(backend, 1)?
    {
        return Ok(record.event);
    }
    // Another process may have closed it since, or whoever reads all of it finds what is wrong.
    let (_, records) = Journal::open::<serde_json::Value>(backend, run, false)?;
    let failed = |reason: String| Error::Event { run: run.to_owned(), number: 1, reason };
    let first = records.into_iter().next().ok_or_else(|| failed("is missing".into()))?;
    serde_json::from_value(first.event).map_err(|error| failed(error.to_string()))
}

impl Journal {
    /// Begins the journal of a new run.
    ///
    /// # Errors
    /// The name is none, or is taken.
    pub fn create(backend: &dyn Backend, run: &str) -> Result<Self, Error> {
        if !is_run_name(run) {
            return Err(Error::BadName { name: run.to_owned() });
        }
        match backend.len(&key(run, 1)?) {
            Err(backend::Error::NotFound { .. }) => {
                Ok(Self { run: run.to_owned(), next: 1, last: Digest::ZERO })
            }
            Ok(_) => Err(Error::Taken { run: run.to_owned(), number: 1 }),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the journal of a run. A torn tail is left out and, if `repair`, set aside.
    ///
    /// # Errors
    /// There is no such run, a record in the middle is missing or damaged, or an event is unknown.
    pub fn open<E: DeserializeOwned>(
        backend: &dyn Backend,
        run: &str,
        repair: bool,
    ) -> Result<(Self, Vec<Recorded<E>>), Error> {
        if !is_run_name(run) {
            return Err(Error::BadName { name: run.to_owned() });
        }
        if let Some(ended) = Self::ended(backend, run)? {
            return Self::open_ended(run, &ended.records);
        }
        match Self::open_records(backend, run, repair) {
            // Another process may have closed it meanwhile.
            Err(error @ (Error::Hole { .. } | Error::Unknown { .. })) => {
                match Self::ended(backend, run)? {
                    Some(ended) => Self::open_ended(run, &ended.records),
                    None => Err(error),
                }
            }
            opened => opened,
        }
    }

    fn open_records<E: DeserializeOwned>(
        backend: &dyn Backend,
        run: &str,
        repair: bool,
    ) -> Result<(Self, Vec<Recorded<E>>), Error> {
        let mut numbers = Vec::new();
        backend.list(&format!("{FOLDER}/{run}"), &mut |key, _| {
            numbers.extend(number_of(&key));
        })?;
        let Some(last) = numbers.iter().copied().max() else {
            return Err(Error::Unknown { name: run.to_owned() });
        };
        let mut journal = Self { run: run.to_owned(), next: 1, last: Digest::ZERO };
        let mut records = Vec::with_capacity(numbers.len());
        for number in 1..=last {
            match journal.take(backend, number)? {
                Ok(record) => records.push(record),
                Err(_) if number == last && number > 1 => {
                    if repair {
                        journal.set_aside(backend, number)?;
                    }
                }
                Err(reason) => return Err(Error::Hole { run: run.to_owned(), number, reason }),
            }
        }
        Ok((journal, records))
    }

    /// Reads one record, which follows those before it; what is wrong with its bytes is the inner
    /// error.
    fn take<E: DeserializeOwned>(
        &mut self,
        backend: &dyn Backend,
        number: u64,
    ) -> Result<Result<Recorded<E>, String>, Error> {
        match backend.read(&key(&self.run, number)?, FRAME_BYTES_MAX as u64) {
            Ok(bytes) => self.take_bytes(&bytes, number),
            Err(backend::Error::NotFound { .. }) => Ok(Err("is missing".into())),
            Err(error) if error.is_damage() => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the bytes of a record.
    fn take_bytes<E: DeserializeOwned>(
        &mut self,
        bytes: &[u8],
        number: u64,
    ) -> Result<Result<Recorded<E>, String>, Error> {
        let record = match JournalRecord::decode(bytes) {
            Ok(record) => record,
            Err(source) if !source.is_damage() => {
                return Err(Error::Newer { run: self.run.clone(), number, source });
            }
            Err(source) => return Ok(Err(format!("is damaged ({source})"))),
        };
        if record.run != self.run || record.number != number {
            let place = format!("is record {} of {}", record.number, record.run);
            return Ok(Err(place));
        }
        if record.previous != self.last {
            return Ok(Err("continues another record than the one before it".into()));
        }
        let event = serde_json::from_slice(&record.event).map_err(|error| Error::Event {
            run: self.run.clone(),
            number,
            reason: error.to_string(),
        })?;
        self.next = number + 1;
        self.last = Digest::of(bytes);
        Ok(Ok(Recorded { number, time: record.time, event }))
    }

    /// Returns the object of a run that has ended, if it was made.
    fn ended(backend: &dyn Backend, run: &str) -> Result<Option<EndedJournal>, Error> {
        let bytes = match backend.read(&ended_key(run)?, FRAME_BYTES_MAX as u64) {
            Ok(bytes) => bytes,
            Err(backend::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let ended = EndedJournal::decode(&bytes)
            .map_err(|source| Error::Ended { run: run.to_owned(), source })?;
        Ok(Some(ended))
    }

    fn open_ended<E: DeserializeOwned>(
        run: &str,
        objects: &[Vec<u8>],
    ) -> Result<(Self, Vec<Recorded<E>>), Error> {
        let mut journal = Self { run: run.to_owned(), next: 1, last: Digest::ZERO };
        let mut records = Vec::with_capacity(objects.len());
        for (number, bytes) in (1..).zip(objects) {
            let record = journal.take_bytes(bytes, number)?;
            let hole = |reason| Error::Hole { run: run.to_owned(), number, reason };
            records.push(record.map_err(hole)?);
        }
        Ok((journal, records))
    }

    /// Makes one object of the records of a run that has ended. Repeating it is safe, and so is
    /// being killed in it: the one object counts as soon as it is there. The journal of a very large
    /// run stays as it is.
    ///
    /// # Errors
    /// The storage failed.
    pub fn close(&self, backend: &dyn Backend) -> Result<(), Error> {
        let ended = match Self::ended(backend, &self.run)? {
            Some(ended) => ended,
            None => {
                let (mut records, mut sum) = (Vec::new(), 0);
                for number in 1..self.next {
                    let bytes = backend.read(&key(&self.run, number)?, FRAME_BYTES_MAX as u64)?;
                    sum += bytes.len() + size_of::<u64>();
                    if sum > ENDED_BYTES_MAX {
                        return Ok(());
                    }
                    records.push(bytes.to_vec());
                }
                let ended = EndedJournal { records };
                let _ = backend.put(&ended_key(&self.run)?, &[&ended.encode()])?;
                ended
            }
        };
        // From the last to the first, so that what a crash leaves is never a hole.
        for number in (1..=ended.records.len() as u64).rev() {
            match backend.delete(&key(&self.run, number)?) {
                Ok(()) | Err(backend::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Moves a bad last record out of the way, so that its number can be written; its bytes stay.
    fn set_aside(&self, backend: &dyn Backend, number: u64) -> Result<(), Error> {
        let from = key(&self.run, number)?;
        let bytes = match backend.read(&from, FRAME_BYTES_MAX as u64) {
            Ok(bytes) => bytes.to_vec(),
            Err(_) => Vec::new(),
        };
        let name = format!("{FOLDER}/{}/torn-{number}-{}", self.run, Digest::of(&bytes).short());
        let aside = Key::new(name).map_err(|_| Error::BadName { name: self.run.clone() })?;
        let _ = backend.put(&aside, &[&bytes])?;
        Ok(backend.delete(&from)?)
    }

    /// Appends a record of something that happened at `time`; it is durable when this returns.
    ///
    /// # Errors
    /// The storage failed, or another process wrote the record.
    ///
    /// # Panics
    /// If the event is no JSON: a bug of the run layer.
    pub fn append<E: Serialize>(
        &mut self,
        backend: &dyn Backend,
        time: UnixNanos,
        event: &E,
    ) -> Result<(), Error> {
        let record = JournalRecord {
            run: self.run.clone(),
            number: self.next,
            previous: self.last,
            time,
            event: serde_json::to_vec(event).expect("events are JSON"),
        };
        let bytes = record.encode();
        let key = key(&self.run, self.next)?;
        if backend.put(&key, &[&bytes])? == Put::Existed {
            // A put whose answer was lost: the object is ours if it has our bytes.
            let found = backend.read(&key, FRAME_BYTES_MAX as u64)?;
            if found[..] != bytes[..] {
                return Err(Error::Taken { run: self.run.clone(), number: self.next });
            }
        }
        self.next += 1;
        self.last = Digest::of(&bytes);
        Ok(())
    }

    /// Returns the run's name.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Returns how many records it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.next - 1
    }

    /// Says whether nothing was recorded yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    fn three() -> MemoryBackend {
        let backend = MemoryBackend::new();
        let mut journal = Journal::create(&backend, "run-1").unwrap();
        for event in ["a", "b", "c"] {
            journal.append(&backend, UnixNanos(0), &event).unwrap();
        }
        backend
    }

    fn events(backend: &MemoryBackend, repair: bool) -> Result<(Journal, Vec<String>), Error> {
        let (journal, records) = Journal::open::<String>(backend, "run-1", repair)?;
        Ok((journal, records.into_iter().map(|record| record.event).collect()))
    }

    #[test]
    fn records_are_read_in_order_and_appended_to() {
        let backend = three();
        let (mut journal, read) = events(&backend, false).unwrap();
        assert_eq!(read, ["a", "b", "c"]);
        journal.append(&backend, UnixNanos(0), &"d").unwrap();
        assert_eq!(events(&backend, false).unwrap().1, ["a", "b", "c", "d"]);
        assert_eq!(runs(&backend).unwrap(), ["run-1"]);
        assert!(matches!(Journal::create(&backend, "run-1"), Err(Error::Taken { .. })));
        assert!(matches!(
            Journal::open::<String>(&backend, "run-2", false),
            Err(Error::Unknown { .. })
        ));
    }

    #[test]
    fn a_torn_tail_is_set_aside_and_the_journal_goes_on() {
        let backend = three();
        backend.replace(&key("run-1", 3).unwrap(), vec![0; 10]);
        assert_eq!(events(&backend, false).unwrap().1, ["a", "b"]);
        let (mut journal, read) = events(&backend, true).unwrap();
        assert_eq!(read, ["a", "b"]);
        journal.append(&backend, UnixNanos(0), &"again").unwrap();
        assert_eq!(events(&backend, false).unwrap().1, ["a", "b", "again"]);
    }

    #[test]
    fn a_hole_is_damage() {
        for damage in [true, false] {
            let backend = three();
            let second = key("run-1", 2).unwrap();
            if damage {
                backend.replace(&second, vec![0; 10]);
            } else {
                assert!(backend.remove_raw(&second).is_some());
            }
            let error = events(&backend, true).unwrap_err();
            assert!(matches!(error, Error::Hole { number: 2, .. }), "{error}");
        }
    }

    #[test]
    fn a_record_of_another_journal_is_damage() {
        let (backend, other) = (three(), MemoryBackend::new());
        let mut journal = Journal::create(&other, "run-1").unwrap();
        journal.append(&other, UnixNanos(0), &"x").unwrap();
        let first = key("run-1", 1).unwrap();
        backend.replace(&first, other.read(&first, 1 << 20).unwrap().to_vec());
        let error = events(&backend, true).unwrap_err();
        assert!(matches!(error, Error::Hole { number: 2, .. }), "{error}");
    }

    #[test]
    fn a_closed_journal_is_one_object_and_reads_the_same() {
        let backend = three();
        let (journal, before) = events(&backend, false).unwrap();
        assert_eq!(open_runs(&backend).unwrap(), ["run-1"]);
        journal.close(&backend).unwrap();
        journal.close(&backend).unwrap();
        assert_eq!(events(&backend, true).unwrap().1, before);
        assert_eq!(open_runs(&backend).unwrap(), [""; 0]);
        assert_eq!(runs(&backend).unwrap(), ["run-1"]);
        let mut keys = Vec::new();
        backend.list(FOLDER, &mut |key, _| keys.push(key)).unwrap();
        assert_eq!(keys, [ended_key("run-1").unwrap()]);
        backend.replace(&keys[0], vec![0; 90]);
        assert!(matches!(events(&backend, true), Err(Error::Ended { .. })));
    }

    #[test]
    fn two_writers_of_one_journal_do_not_mix() {
        let backend = three();
        let (mut one, _) = events(&backend, false).unwrap();
        let (mut two, _) = events(&backend, false).unwrap();
        one.append(&backend, UnixNanos(0), &"one").unwrap();
        assert!(matches!(
            two.append(&backend, UnixNanos(0), &"two"),
            Err(Error::Taken { number: 4, .. })
        ));
    }
}
