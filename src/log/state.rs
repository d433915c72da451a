//! What the records of the log add up to: which generations are visible, forgotten or gone, what is
//! pinned, and which removals are under way.

use std::collections::{BTreeSet, HashMap};

use super::Generation;
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::record::{CommitNumber, Event, GenerationName, Record};

/// What became of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It can be seen and restored.
    Visible,
    /// It was forgotten by this record, and can be brought back.
    Forgotten {
        /// The record.
        by: CommitNumber,
    },
    /// It was forgotten, and what only it needed may be gone.
    Collected,
}

/// Objects that nobody should begin to rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condemnation {
    /// The record that condemned them.
    pub number: CommitNumber,
    /// When it was written, by the writer's clock.
    pub time: UnixNanos,
    /// The last record that it judged by.
    pub basis: CommitNumber,
    /// The list of objects.
    pub list: Digest,
}

/// Objects that nobody may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// The record since when. If `is_certain` is not set, a damaged record that may be one.
    pub number: CommitNumber,
    /// The list of objects.
    pub list: Digest,
    /// Whether there is such a record, and not only a damaged one behind a condemnation.
    pub is_certain: bool,
}

/// What the records of the log add up to.
#[derive(Clone, Debug, Default)]
pub struct State {
    promoted: Vec<(Generation, Fate)>,
    /// Places in `promoted`.
    places: HashMap<GenerationName, usize>,
    pins: BTreeSet<GenerationName>,
    condemned: Vec<Condemnation>,
    /// All collections, with the number of the record that ended them.
    collections: Vec<(Collection, Option<CommitNumber>)>,
}

impl State {
    /// Takes the records in order. `damaged` are numbers of records that cannot be trusted.
    pub(super) fn of(records: &[Record], damaged: impl Iterator<Item = CommitNumber>) -> Self {
        let mut state = Self::default();
        for record in records {
            state.take(record);
        }
        // A damaged record behind an open condemnation may be the one that collects it.
        let last_damaged = damaged.max();
        for condemned in &state.condemned {
            if let Some(number) = last_damaged.filter(|number| *number > condemned.number) {
                let list = condemned.list;
                state.collections.push((Collection { number, list, is_certain: false }, None));
            }
        }
        state
    }

    fn take(&mut self, record: &Record) {
        let number = record.number;
        match &record.event {
            Event::Promote { deployment, generation, manifest } => {
                let (deployment, generation) = (deployment.clone(), *generation);
                let name = GenerationName { deployment: deployment.clone(), generation };
                self.places.insert(name, self.promoted.len());
                let made = Generation {
                    deployment,
                    number: generation,
                    manifest: *manifest,
                    commit: number,
                    committed: record.time,
                };
                self.promoted.push((made, Fate::Visible));
            }
            Event::Forget(names) => self.change(names, |fate| match fate {
                Fate::Visible => Fate::Forgotten { by: number },
                fate => fate,
            }),
            Event::Undo(names) => self.change(names, |fate| match fate {
                Fate::Forgotten { .. } => Fate::Visible,
                fate => fate,
            }),
            Event::Pin(name) => drop(self.pins.insert(name.clone())),
            Event::Unpin(name) => drop(self.pins.remove(name)),
            Event::Condemn { basis, list } => {
                let (basis, list, time) = (*basis, *list, record.time);
                self.condemned.push(Condemnation { number, time, basis, list });
            }
            Event::Collect { condemned, list } => self.collect(number, *condemned, *list),
            Event::Collected { collect } => {
                for (collection, end) in &mut self.collections {
                    if collection.number == *collect {
                        *end = Some(number);
                    }
                }
            }
            Event::Unknown { .. } => {}
        }
    }

    fn change(&mut self, names: &[GenerationName], change: impl Fn(Fate) -> Fate) {
        for name in names {
            if let Some(place) = self.places.get(name) {
                let fate = &mut self.promoted[*place].1;
                *fate = change(*fate);
            }
        }
    }

    fn collect(&mut self, number: CommitNumber, condemned: CommitNumber, list: Digest) {
        self.collections.push((Collection { number, list, is_certain: true }, None));
        let found = self.condemned.iter().position(|known| known.number == condemned);
        // What was condemned by a damaged record was judged by what came before it.
        let basis = found.map_or(condemned, |place| self.condemned.remove(place).basis);
        for (_, fate) in &mut self.promoted {
            if matches!(fate, Fate::Forgotten { by } if *by <= basis) {
                *fate = Fate::Collected;
            }
        }
    }

    /// Returns all generations that were ever visible, oldest commit first, with their fates.
    #[must_use]
    pub fn promoted(&self) -> &[(Generation, Fate)] {
        &self.promoted
    }

    /// Returns what became of a generation; `None` if there never was one of this name.
    #[must_use]
    pub fn find(&self, name: &GenerationName) -> Option<&(Generation, Fate)> {
        self.places.get(name).map(|place| &self.promoted[*place])
    }

    /// Returns the generations that are pinned, visible or not.
    #[must_use]
    pub fn pins(&self) -> &BTreeSet<GenerationName> {
        &self.pins
    }

    /// Returns condemnations that were not collected yet, oldest first.
    #[must_use]
    pub fn condemned(&self) -> &[Condemnation] {
        &self.condemned
    }

    /// Returns collections whose objects may still be there in part.
    pub fn collecting(&self) -> impl Iterator<Item = &Collection> {
        self.collections.iter().filter(|(_, end)| end.is_none()).map(|(collection, _)| collection)
    }

    /// Returns collections behind record `number`, ended or not.
    pub fn collections_after(&self, number: CommitNumber) -> impl Iterator<Item = &Collection> {
        let all = self.collections.iter().map(|(collection, _)| collection);
        all.filter(move |collection| collection.number > number)
    }
}
