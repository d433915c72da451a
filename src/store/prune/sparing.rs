//! Sparing: what of a list of condemned objects is needed after all, by generations that became
//! visible since they were condemned or that can still be brought back.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::format::record::CommitNumber;
use crate::format::removal::List;
use crate::index::{Location, Snapshot};
use crate::log::{Fate, Generation, Log};
use crate::store::reach::{Reach, walk_artifact};
use crate::store::{Error, PageFault, Store};

/// Returns the forgotten generations that can still be brought back when what a record condemned has
/// been collected: they were forgotten behind what that record judged by. One of them may have been
/// visible, forgotten and brought back before, so that what it needs is in the list.
pub(super) fn can_return(log: &Log, condemned: CommitNumber) -> Vec<Generation> {
    let state = log.state();
    let found = state.condemned().iter().find(|known| known.number == condemned);
    let basis = found.map_or(condemned, |known| known.basis);
    let returns = |fate: &Fate| matches!(fate, Fate::Forgotten { by } if *by > basis);
    let all = state.promoted().iter().filter(|(_, fate)| returns(fate));
    all.map(|(generation, _)| generation.clone()).collect()
}

/// Finds out what of a list generations need.
pub(super) struct Sparing<'s> {
    store: &'s Store,
    index: Snapshot,
    listed: HashSet<Digest>,
    /// Packs that go before those that are listed.
    gone: &'s HashSet<Digest>,
    pages: HashSet<Digest>,
    spared: HashSet<Digest>,
    fault: Option<PageFault>,
    lost: Option<Digest>,
}

impl<'s> Sparing<'s> {
    pub fn new(store: &'s Store, list: &List, gone: &'s HashSet<Digest>) -> Result<Self, Error> {
        // The packs of whoever committed meanwhile are in segments that are new too.
        let index = store.fresh_index()?.snapshot();
        let listed = list.packs.iter().chain(&list.pages).chain(&list.manifests).copied();
        Ok(Self {
            store,
            index,
            listed: listed.collect(),
            gone,
            pages: HashSet::new(),
            spared: HashSet::new(),
            fault: None,
            lost: None,
        })
    }

    /// Spares what a visible generation needs.
    pub fn visible(&mut self, generation: &Generation) -> Result<(), Error> {
        self.generation(generation, Err)
    }

    /// Spares what a generation needs. `on_error` says what to do about a manifest that cannot be
    /// read.
    fn generation(
        &mut self,
        generation: &Generation,
        on_error: impl Fn(Error) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.manifest(&generation.manifest);
        let members = match self.store.generation(&generation.manifest) {
            Ok(manifest) => manifest.members,
            Err(error) => return on_error(error),
        };
        for member in members {
            self.manifest(&member.artifact);
            match self.store.artifact(&member.artifact) {
                Ok(artifact) => walk_artifact(self.store, &artifact, self),
                Err(error) => on_error(error)?,
            }
        }
        Ok(())
    }

    /// Returns what is spared, if everything could be read that says so.
    pub fn spared(self) -> Result<HashSet<Digest>, Error> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        if let Some(digest) = self.lost {
            // Its pack may be back tomorrow, and what it needs is not known.
            let (what, reason) = (format!("chunk {digest}"), "it is in no pack".to_owned());
            return Err(Error::NotKnown { what, reason });
        }
        Ok(self.spared)
    }

    /// Returns what of a list forgotten generations need. What is behind damage of theirs cannot be
    /// found when they are brought back either, and is not spared.
    pub fn of_forgotten(
        store: &'s Store,
        list: &List,
        gone: &'s HashSet<Digest>,
        generations: &[Generation],
    ) -> Result<HashSet<Digest>, Error> {
        let mut sparing = Self::new(store, list, gone)?;
        let pass_over = |error: Error| if error.is_damage() { Ok(()) } else { Err(error) };
        for generation in generations {
            sparing.generation(generation, pass_over)?;
        }
        match sparing.fault {
            Some(fault) if !fault.is_damage() => Err(fault.into()),
            _ => Ok(sparing.spared),
        }
    }

    fn manifest(&mut self, id: &Digest) {
        if self.listed.contains(id) {
            self.spared.insert(*id);
        }
    }

    fn is_there(&self, location: &Location) -> bool {
        !self.index.is_absent(location) && !self.gone.contains(&location.pack.id)
    }

    fn is_good(&self, location: &Location) -> bool {
        self.is_there(location) && !self.listed.contains(&location.pack.id)
    }

    /// Says whether a chunk can be had without anything that is listed.
    fn is_elsewhere(&self, digest: &Digest) -> bool {
        let base_is_elsewhere = |base: &Digest| {
            let mut places = self.index.locations(base);
            places.any(|place| place.record.base.is_none() && self.is_good(&place))
        };
        self.index.locations(digest).any(|place| {
            self.is_good(&place) && place.record.base.as_ref().is_none_or(base_is_elsewhere)
        })
    }

    /// Spares a pack that has the chunk, and one that has its base.
    fn spare(&mut self, digest: &Digest) {
        let index = self.index.clone();
        let there =
            |place: &Location| !index.is_absent(place) && !self.gone.contains(&place.pack.id);
        let base_of = |base: &Digest| {
            let mut places = index.locations(base);
            places.find(|place| place.record.base.is_none() && there(place))
        };
        for place in index.locations(digest).filter(there) {
            let base = match place.record.base {
                None => None,
                Some(base) => match base_of(&base) {
                    Some(found) => Some(found),
                    None => continue,
                },
            };
            let packs = [Some(place), base].into_iter().flatten().map(|place| place.pack.id);
            self.spared.extend(packs.filter(|id| self.listed.contains(id)));
            return;
        }
        self.lost.get_or_insert(*digest);
    }
}

impl Reach for Sparing<'_> {
    fn page(&mut self, digest: &Digest) -> bool {
        self.chunk(digest);
        self.pages.insert(*digest)
    }

    fn chunk(&mut self, digest: &Digest) {
        if !self.is_elsewhere(digest) {
            self.spare(digest);
        }
    }

    fn fault(&mut self, fault: PageFault) {
        // What may be read next time comes before what is damaged.
        if self.fault.as_ref().is_none_or(PageFault::is_damage) {
            self.fault = Some(fault);
        }
    }
}
