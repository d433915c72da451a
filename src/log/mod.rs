//! Commit log: numbered, hash-chained records, published by put-if-absent of the next number.
//! The only thing that makes a generation visible or forgotten.
//!
//! Who writes record *n* has read all before it ([`Log::append`] looks again whenever another was
//! faster). That order is what removal relies on: see `docs/decisions/013-prune.md`.
//!
//! A damaged record is set aside and reported; it never hides the others. Does not own: what a
//! manifest says.

use std::collections::{BTreeMap, HashMap};

use crate::backend::{self, Backend, Key, Put};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::frame::FRAME_BYTES_MAX;
use crate::format::record::{
    CommitNumber, Event, GenerationName, GenerationNumber, KINDS_OPTIONAL, Record,
};
use crate::limits::GENERATION_MAX;

mod fault;
mod state;

pub use fault::{Damaged, Fault};
pub use state::{Collection, Condemnation, Fate, State};

/// Folder of the records.
pub const FOLDER: &str = "log";

/// What can go wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// Other writers took the next number every time.
    #[error("commit {number}: other writers committed first in {attempts} attempts")]
    Contended {
        /// The number last tried.
        number: u64,
        /// How often.
        attempts: u32,
    },
    /// There is no next record.
    #[error("the commit log has no number left: a stray record stands at the end of all numbers")]
    NoNumber,
    /// There is no next generation.
    #[error("deployment '{deployment}' has no generation number left: a record was forged")]
    NoGeneration {
        /// Its name.
        deployment: String,
    },
}

/// A visible generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its deployment.
    pub deployment: String,
    /// Its number.
    pub number: GenerationNumber,
    /// Its manifest.
    pub manifest: Digest,
    /// The record that made it visible.
    pub commit: CommitNumber,
    /// When that was written.
    pub committed: UnixNanos,
}

impl Generation {
    /// Returns the name by which records refer to it.
    #[must_use]
    pub fn name(&self) -> GenerationName {
        GenerationName { deployment: self.deployment.clone(), generation: self.number }
    }
}

/// Where the log ends: what was decided by it holds only while it ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The highest number that is there; 0 for an empty log.
    pub number: CommitNumber,
    /// The digest of that record's object.
    pub digest: Digest,
}

/// The log as it was read.
#[derive(Debug, Clone)]
pub struct Log {
    records: Vec<Record>,
    damaged: Vec<Damaged>,
    next: u64,
    last_digest: Digest,
    /// The highest generation of each deployment.
    highest: HashMap<String, GenerationNumber>,
}

/// Returns the key of a record.
///
/// # Panics
/// Never: 20 digits are a valid name.
#[must_use]
pub fn key(number: CommitNumber) -> Key {
    Key::new(format!("{FOLDER}/{:020}", number.0)).expect("digits are a valid name")
}

impl Log {
    /// Reads the whole log.
    ///
    /// # Errors
    /// The folder cannot be listed. A record that cannot be read or trusted is no error but
    /// [`Log::damaged`].
    pub fn read(backend: &dyn Backend) -> Result<Self, Error> {
        let mut numbers = Vec::new();
        backend.list(FOLDER, &mut |key, _| {
            if let (20, Ok(number)) = (key.name().len(), key.name().parse()) {
                numbers.push(number);
            }
        })?;
        let mut log = Self {
            records: Vec::new(),
            damaged: Vec::new(),
            next: 1,
            last_digest: Digest::ZERO,
            highest: HashMap::new(),
        };
        for number in numbers {
            log.take(backend, number);
        }
        Ok(log)
    }

    /// Takes up record `number`, which follows all taken so far.
    fn take(&mut self, backend: &dyn Backend, number: u64) {
        for lost in self.next..number.min(self.next.saturating_add(1000)) {
            self.damage(lost, Fault::Missing);
        }
        let gap = number != self.next;
        self.next = number.saturating_add(1);
        let (previous, previous_number) = (self.last_digest, number.saturating_sub(1));
        let bytes = match backend.read(&key(CommitNumber(number)), FRAME_BYTES_MAX as u64) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.last_digest = Digest::ZERO;
                return self.damage(number, Fault::Unreadable { reason: error.to_string() });
            }
        };
        self.last_digest = Digest::of(&bytes);
        let record = match Record::decode(&bytes) {
            Ok(record) => record,
            Err(error) => return self.damage(number, Fault::Format(error)),
        };
        if record.number.0 != number {
            return self.damage(number, Fault::Number { actual: record.number.0 });
        }
        let known_damaged =
            self.damaged.last().is_some_and(|damaged| damaged.number.0 == previous_number);
        if record.previous != previous && !gap && !known_damaged {
            let fault = Fault::Chain { expected: record.previous, actual: previous };
            self.damage(previous_number, fault);
        }
        self.check_generation(&record);
        self.records.push(record);
    }

    /// Reports a record that makes a generation visible a second time, or too late.
    fn check_generation(&mut self, record: &Record) {
        let Event::Promote { deployment, generation, .. } = &record.event else { return };
        match self.highest.get_mut(deployment) {
            Some(last) if *last >= *generation => {
                let name =
                    GenerationName { deployment: deployment.clone(), generation: *generation };
                let fault = Fault::Generation { name, last: *last };
                self.damage(record.number.0, fault);
            }
            Some(last) => *last = *generation,
            None => drop(self.highest.insert(deployment.clone(), *generation)),
        }
    }

    fn damage(&mut self, number: u64, fault: Fault) {
        self.damaged.push(Damaged { number: CommitNumber(number), fault });
    }

    /// Returns the records that can be trusted, in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Returns the records that cannot be trusted, in order.
    #[must_use]
    pub fn damaged(&self) -> &[Damaged] {
        &self.damaged
    }

    /// Returns a kind of record that a writer has to know and this program does not.
    #[must_use]
    pub fn unknown_kind(&self) -> Option<u16> {
        self.records.iter().find_map(|record| match record.event {
            Event::Unknown { kind, .. } if kind < KINDS_OPTIONAL => Some(kind),
            _ => None,
        })
    }

    /// Returns what the records add up to.
    #[must_use]
    pub fn state(&self) -> State {
        State::of(&self.records, self.damaged.iter().map(|damaged| damaged.number))
    }

    /// Returns where the log ends.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { number: CommitNumber(self.next - 1), digest: self.last_digest }
    }

    /// Returns the visible generations, oldest commit first.
    #[must_use]
    pub fn generations(&self) -> Vec<Generation> {
        let state = self.state();
        let visible = state.promoted().iter().filter(|(_, fate)| *fate == Fate::Visible);
        visible.map(|(generation, _)| generation.clone()).collect()
    }

    /// Returns generation numbers that are missing between those of a deployment: what a damaged
    /// record hides.
    #[must_use]
    pub fn hidden(&self) -> Vec<(String, GenerationNumber)> {
        let mut by_deployment: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for record in &self.records {
            if let Event::Promote { deployment, generation, .. } = &record.event {
                by_deployment.entry(deployment.clone()).or_default().push(generation.0);
            }
        }
        let mut hidden = Vec::new();
        for (deployment, numbers) in by_deployment {
            let last = numbers.iter().copied().max().unwrap_or(0);
            let mut lost = (1..last).filter(|number| !numbers.contains(number));
            hidden.extend(
                lost.by_ref().take(1000).map(|n| (deployment.clone(), GenerationNumber(n))),
            );
        }
        hidden
    }

    /// Returns the number that the next generation of `deployment` gets. Damaged records after its
    /// last known one may hide generations; their numbers are left out.
    #[must_use]
    pub fn next_generation(&self, deployment: &str) -> GenerationNumber {
        let (mut last, mut last_commit) = (0, 0);
        for record in &self.records {
            if let Event::Promote { deployment: name, generation, .. } = &record.event
                && name == deployment
            {
                last = last.max(generation.0);
                last_commit = record.number.0;
            }
        }
        let hidden = self.damaged.iter().filter(|damaged| damaged.number.0 > last_commit).count();
        GenerationNumber(last.saturating_add(1 + hidden as u64))
    }

    /// Returns the newest visible generation of each deployment.
    #[must_use]
    pub fn newest(&self) -> HashMap<String, Generation> {
        self.generations()
            .into_iter()
            .map(|generation| (generation.deployment.clone(), generation))
            .collect()
    }

    /// Writes the next record, which is durable when this returns. `event` is asked what to write;
    /// if another writer takes the number, what that wrote is read, and `event` is asked again.
    ///
    /// # Errors
    /// The storage failed, others were always faster, or what `event` returns.
    pub fn append<E: From<Error>>(
        &mut self,
        backend: &dyn Backend,
        time: UnixNanos,
        mut event: impl FnMut(&Self) -> Result<Event, E>,
    ) -> Result<CommitNumber, E> {
        const ATTEMPTS: u32 = 1000;
        for _ in 0..ATTEMPTS {
            let event = event(self)?;
            if let Some(number) = self.try_append(backend, time, event)? {
                return Ok(number);
            }
        }
        Err(Error::Contended { number: self.next, attempts: ATTEMPTS }.into())
    }

    /// Writes the next record if nobody else has taken its number; otherwise reads what is there
    /// and returns `None`.
    ///
    /// # Errors
    /// The storage failed, or a stray record has the highest number that there is.
    pub fn try_append(
        &mut self,
        backend: &dyn Backend,
        time: UnixNanos,
        event: Event,
    ) -> Result<Option<CommitNumber>, Error> {
        if self.next == u64::MAX {
            return Err(Error::NoNumber);
        }
        let number = CommitNumber(self.next);
        let record = Record { number, previous: self.last_digest, time, event };
        let bytes = record.encode();
        match backend.put(&key(number), &[&bytes])? {
            Put::Created => {
                self.next += 1;
                self.last_digest = Digest::of(&bytes);
                self.check_generation(&record);
                self.records.push(record);
                Ok(Some(number))
            }
            Put::Existed => {
                self.take(backend, number.0);
                Ok(None)
            }
        }
    }

    /// Makes a generation visible.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn promote(
        &mut self,
        backend: &dyn Backend,
        time: UnixNanos,
        deployment: &str,
        manifest: Digest,
    ) -> Result<Generation, Error> {
        self.promote_if(backend, time, deployment, manifest, |_| Ok(()))
    }

    /// Makes a generation visible. `check` is asked before each attempt.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn promote_if<E: From<Error>>(
        &mut self,
        backend: &dyn Backend,
        time: UnixNanos,
        deployment: &str,
        manifest: Digest,
        mut check: impl FnMut(&Self) -> Result<(), E>,
    ) -> Result<Generation, E> {
        let mut number = GenerationNumber(0);
        let commit = self.append(backend, time, |log| {
            check(log)?;
            number = log.next_generation(deployment);
            let deployment = deployment.to_owned();
            if number.0 > GENERATION_MAX {
                return Err(Error::NoGeneration { deployment }.into());
            }
            Ok::<_, E>(Event::Promote { deployment, generation: number, manifest })
        })?;
        let deployment = deployment.to_owned();
        Ok(Generation { deployment, number, manifest, commit, committed: time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    fn promote(log: &mut Log, backend: &dyn Backend, name: &str) -> Generation {
        log.promote(backend, UnixNanos(0), name, Digest::of(name.as_bytes())).unwrap()
    }

    #[test]
    fn numbers_count_per_deployment_and_survive_reading() {
        let backend = MemoryBackend::new();
        let mut log = Log::read(&backend).unwrap();
        for name in ["a", "b", "a"] {
            promote(&mut log, &backend, name);
        }
        let read = Log::read(&backend).unwrap();
        assert_eq!(read.generations(), log.generations());
        let numbers: Vec<_> = read.generations().iter().map(|g| g.number.0).collect();
        assert_eq!(numbers, [1, 1, 2]);
        assert!(read.damaged().is_empty());
    }

    #[test]
    fn two_writers_both_commit() {
        let backend = MemoryBackend::new();
        let mut one = Log::read(&backend).unwrap();
        let mut two = Log::read(&backend).unwrap();
        assert_eq!(promote(&mut one, &backend, "a").number.0, 1);
        assert_eq!(promote(&mut two, &backend, "a").number.0, 2);
        assert_eq!(promote(&mut one, &backend, "a").number.0, 3);
        assert!(Log::read(&backend).unwrap().damaged().is_empty());
    }

    #[test]
    fn a_record_of_another_history_or_another_place_is_damage() {
        let backend = MemoryBackend::new();
        let mut log = Log::read(&backend).unwrap();
        let names = ["a", "b", "c"];
        for name in names {
            promote(&mut log, &backend, name);
        }
        let other = MemoryBackend::new();
        let mut log = Log::read(&other).unwrap();
        for name in names.into_iter().rev() {
            promote(&mut log, &other, name);
        }
        let bytes = |number| other.read(&key(CommitNumber(number)), 1 << 20).unwrap().to_vec();
        let faults = |place, bytes| {
            let copy = MemoryBackend::new();
            for number in 1..=3 {
                let key = key(CommitNumber(number));
                copy.replace(&key, backend.read(&key, 1 << 20).unwrap().to_vec());
            }
            copy.replace(&key(CommitNumber(place)), bytes);
            let read = Log::read(&copy).unwrap();
            read.damaged().iter().map(|found| (found.number.0, found.fault.clone())).collect()
        };
        let found: Vec<_> = faults(1, bytes(1));
        // What stands there now is promoted again by the third.
        let is_found =
            matches!(found[..], [(1, Fault::Chain { .. }), (3, Fault::Generation { .. })]);
        assert!(is_found, "{found:?}");
        let found: Vec<_> = faults(3, bytes(2));
        assert!(matches!(found[..], [(3, Fault::Number { actual: 2 })]), "{found:?}");
    }

    #[test]
    fn numbers_at_the_very_end_are_an_error_and_not_the_first_ones_again() {
        for number in [u64::MAX - 1, u64::MAX] {
            let backend = MemoryBackend::new();
            let mut log = Log::read(&backend).unwrap();
            promote(&mut log, &backend, "a");
            let first = backend.read(&key(CommitNumber(1)), 1 << 20).unwrap().to_vec();
            backend.replace(&key(CommitNumber(number)), first);
            let mut read = Log::read(&backend).unwrap();
            let written = read.try_append(&backend, UnixNanos(5), Event::Pin(name(1)));
            assert!(matches!(written, Err(Error::NoNumber)), "{written:?}");
            assert_eq!(Log::read(&backend).unwrap().generations()[0].number.0, 1);
        }
    }

    #[test]
    fn the_last_generation_of_all_is_not_given_twice() {
        let backend = MemoryBackend::new();
        let mut log = Log::read(&backend).unwrap();
        let (deployment, generation) = ("a".to_owned(), GenerationNumber(GENERATION_MAX - 1));
        let event = Event::Promote { deployment, generation, manifest: Digest([3; 32]) };
        write(&mut log, &backend, event);
        assert_eq!(promote(&mut log, &backend, "a").number.0, GENERATION_MAX);
        let refused = log.promote(&backend, UnixNanos(5), "a", Digest([3; 32]));
        assert!(matches!(refused, Err(Error::NoGeneration { .. })), "{refused:?}");
        assert_eq!(promote(&mut log, &backend, "b").number.0, 1);
    }

    #[test]
    fn a_generation_that_is_promoted_twice_is_reported() {
        let backend = MemoryBackend::new();
        let mut log = Log::read(&backend).unwrap();
        promote(&mut log, &backend, "a");
        promote(&mut log, &backend, "a");
        let (deployment, generation) = ("a".to_owned(), GenerationNumber(1));
        let event = Event::Promote { deployment, generation, manifest: Digest([3; 32]) };
        let forged = write(&mut log, &backend, event);
        promote(&mut log, &backend, "a");
        let read = Log::read(&backend).unwrap();
        let fault = Fault::Generation { name: name(1), last: GenerationNumber(2) };
        assert_eq!(read.damaged(), [Damaged { number: forged, fault }]);
        assert_eq!(read.damaged(), log.damaged());
        assert_eq!(read.generations().len(), 4);
    }

    #[test]
    fn a_damaged_record_hides_only_itself_and_its_number_is_not_given_again() {
        let backend = MemoryBackend::new();
        let mut log = Log::read(&backend).unwrap();
        for _ in 0..3 {
            promote(&mut log, &backend, "a");
        }
        let second = key(CommitNumber(2));
        let mut bytes = backend.read(&second, 1 << 20).unwrap().to_vec();
        bytes[40] ^= 1;
        backend.replace(&second, bytes);
        let mut read = Log::read(&backend).unwrap();
        assert_eq!(read.damaged().len(), 1);
        assert_eq!(read.damaged()[0].number, CommitNumber(2));
        assert_eq!(read.hidden(), [("a".to_owned(), GenerationNumber(2))]);
        assert_eq!(promote(&mut read, &backend, "a").number.0, 4);

        let third = key(CommitNumber(4));
        backend.replace(&third, vec![0; 80]);
        let mut read = Log::read(&backend).unwrap();
        assert_eq!(promote(&mut read, &backend, "a").number.0, 5);
        assert!(backend.remove_raw(&key(CommitNumber(1))).is_some());
        let read = Log::read(&backend).unwrap();
        assert!(read.damaged().iter().any(|d| d.number.0 == 1 && d.fault == Fault::Missing));
    }

    fn name(generation: u64) -> GenerationName {
        GenerationName { deployment: "a".into(), generation: GenerationNumber(generation) }
    }

    fn write(log: &mut Log, backend: &dyn Backend, event: Event) -> CommitNumber {
        log.try_append(backend, UnixNanos(0), event).unwrap().unwrap()
    }

    fn visible(backend: &dyn Backend) -> Vec<u64> {
        let log = Log::read(backend).unwrap();
        log.generations().iter().map(|generation| generation.number.0).collect()
    }

    #[test]
    fn forgotten_generations_come_back_until_they_are_collected_and_numbers_are_not_reused() {
        let backend = MemoryBackend::new();
        let mut log = Log::read(&backend).unwrap();
        for _ in 0..3 {
            promote(&mut log, &backend, "a");
        }
        let forget = |names: &[u64]| Event::Forget(names.iter().map(|n| name(*n)).collect());
        let undo = |names: &[u64]| Event::Undo(names.iter().map(|n| name(*n)).collect());
        let by = write(&mut log, &backend, forget(&[1, 3]));
        assert_eq!(visible(&backend), [2]);
        assert_eq!(log.next_generation("a").0, 4);
        assert_eq!(log.hidden(), []);
        let condemned = Event::Condemn { basis: by, list: Digest([1; 32]) };
        let condemned = write(&mut log, &backend, condemned);
        write(&mut log, &backend, undo(&[3]));
        assert_eq!(visible(&backend), [2, 3]);
        // Forgotten behind the basis: not a part of what is collected.
        write(&mut log, &backend, forget(&[2]));
        let collect = Event::Collect { condemned, list: Digest([2; 32]) };
        let collect = write(&mut log, &backend, collect);
        assert_eq!(log.state().find(&name(1)).unwrap().1, Fate::Collected);
        assert_eq!(log.state().collecting().count(), 1);
        write(&mut log, &backend, undo(&[1, 2, 3]));
        assert_eq!(visible(&backend), [2, 3]);
        write(&mut log, &backend, Event::Collected { collect });
        let state = log.state();
        assert_eq!((state.condemned(), state.collecting().count()), (&[][..], 0));
        assert_eq!(state.collections_after(condemned).count(), 1);
        assert_eq!(state.collections_after(collect).count(), 0);
        assert_eq!(promote(&mut log, &backend, "a").number.0, 4);
    }

    #[test]
    fn a_damaged_record_behind_a_condemnation_may_have_collected_it() {
        let backend = MemoryBackend::new();
        let mut log = Log::read(&backend).unwrap();
        promote(&mut log, &backend, "a");
        let (basis, list) = (CommitNumber(1), Digest([1; 32]));
        write(&mut log, &backend, Event::Condemn { basis, list });
        let lost = write(&mut log, &backend, Event::Pin(name(1)));
        assert_eq!(log.state().collecting().count(), 0);
        backend.replace(&key(lost), vec![0; 80]);
        let state = Log::read(&backend).unwrap().state();
        let expected = Collection { number: lost, list, is_certain: false };
        assert_eq!(state.collecting().collect::<Vec<_>>(), [&expected]);
        assert_eq!(state.collections_after(basis).count(), 1);
    }
}
