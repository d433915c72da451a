//! Collection: from condemned to gone. The record is the fence: it is written only at the number
//! right behind everything that was looked at, so whoever commits later has read it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::apply::Prune;
use super::{PruneReport, PutOff};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::pack::Content;
use crate::format::record::{CommitNumber, Event, GenerationName};
use crate::format::removal::List;
use crate::index::{self, Location, Snapshot};
use crate::lease::{self, Lease};
use crate::log::Collection;
use crate::store::history::check_known;
use crate::store::keeping::removal_key;
use crate::store::reach::{Reach, walk_artifact};
use crate::store::{Error, PageFault, Store, manifest_key};
use crate::{backend, pack};

/// Longest wait for another process that keeps the index.
const INDEX_WAIT: Duration = Duration::from_mins(2);

/// Removes what was condemned.
pub(super) struct Collector<'p, 'a> {
    prune: &'p mut Prune<'a>,
}

impl<'p, 'a> Collector<'p, 'a> {
    pub fn new(prune: &'p mut Prune<'a>) -> Self {
        Self { prune }
    }

    fn report(&mut self) -> &mut PruneReport {
        &mut self.prune.report
    }

    /// Completes collections that were interrupted.
    pub fn finish_open(&mut self) -> Result<(), Error> {
        let state = self.prune.log.state();
        let open: Vec<Collection> = state.collecting().copied().collect();
        for collection in open.into_iter().filter(|collection| collection.is_certain) {
            let read = self.prune.store.removal_list(&collection.list);
            match read {
                Ok(list) => self.sweep(collection.number, collection.list, &list)?,
                Err(Error::Backend(error)) if !error.is_damage() => return Err(error.into()),
                // Nobody else removes anything while this holds the lock, and nobody knows what is
                // left: it counts as there again.
                Err(error) => {
                    let number = collection.number.0;
                    let text =
                        format!("what commit record {number} collects is not known: {error}");
                    self.report().notes.push(text);
                    self.prune.append(Event::Collected { collect: collection.number })?;
                }
            }
        }
        Ok(())
    }

    /// Collects what is due by the plan.
    pub fn collect_due(&mut self) -> Result<(), Error> {
        let plan = self.prune.plan;
        for due in &plan.due {
            let state = self.prune.log.state();
            let open = state.condemned().iter().find(|condemned| condemned.number == due.number);
            let Some(list) = open.map(|condemned| condemned.list) else { continue };
            let list = self.prune.store.removal_list(&list)?;
            if !self.collect(due.number, &list, &due.spared)? {
                break;
            }
        }
        Ok(())
    }

    /// Collects what one record condemned, but what is spared; `false` if it was put off.
    pub fn collect(
        &mut self,
        condemned: CommitNumber,
        list: &List,
        spared: &HashSet<Digest>,
    ) -> Result<bool, Error> {
        self.prune.progress.check()?;
        let backend = self.prune.store.backend();
        // For the moment of the record: who reads later has read it too.
        let no_readers = match Lease::no_readers(backend) {
            Ok(lease) => lease,
            Err(lease::Error::Read) => {
                self.report().put_off.push(PutOff::Readers);
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let mut spared = spared.clone();
        // What these need is marked.
        let kept = self.prune.plan.kept.iter();
        let mut looked_at: HashSet<_> = kept.map(|kept| kept.generation.name()).collect();
        let (number, id, rest) = loop {
            self.look_again(list, &mut looked_at, &mut spared)?;
            let rest = without(list, &spared);
            let id = self.prune.put_list(&rest)?;
            let event = Event::Collect { condemned, list: id };
            let now = UnixNanos::now();
            if let Some(number) = self.prune.log.try_append(backend, now, event)? {
                break (number, id, rest);
            }
            check_known(&self.prune.log)?;
        };
        drop(no_readers);
        self.report().spared += (list.len() - rest.len()) as u64;
        self.sweep(number, id, &rest)?;
        Ok(true)
    }

    /// Looks at what became visible since the marks were made, and spares what that needs.
    fn look_again(
        &mut self,
        list: &List,
        looked_at: &mut HashSet<GenerationName>,
        spared: &mut HashSet<Digest>,
    ) -> Result<(), Error> {
        let store = self.prune.store;
        let visible = self.prune.log.generations();
        let mut walk = None;
        for generation in visible {
            if !looked_at.insert(generation.name()) {
                continue;
            }
            let walk = match &mut walk {
                Some(walk) => walk,
                None => walk.insert(Sparing::new(store, list)?),
            };
            walk.manifest(&generation.manifest);
            for member in store.generation(&generation.manifest)?.members {
                walk.manifest(&member.artifact);
                walk_artifact(store, &store.artifact(&member.artifact)?, walk);
            }
        }
        let Some(walk) = walk else { return Ok(()) };
        if let Some(fault) = walk.fault {
            return Err(fault.into());
        }
        if let Some(digest) = walk.lost {
            // Its pack may be back tomorrow, and what it needs is not known.
            let (what, reason) = (format!("chunk {digest}"), "it is in no pack".to_owned());
            return Err(Error::NotKnown { what, reason });
        }
        spared.extend(walk.spared);
        Ok(())
    }

    /// Removes everything that a collection lists, and says so.
    fn sweep(&mut self, number: CommitNumber, id: Digest, list: &List) -> Result<(), Error> {
        let store = self.prune.store;
        let gone: Vec<_> = list.packs.iter().chain(&list.pages).copied().collect();
        self.drop_from_index(&gone)?;
        let packs = list.packs.iter().map(|id| pack::key(Content::Chunks, id));
        let pages = list.pages.iter().map(|id| pack::key(Content::Pages, id));
        let manifests = list.manifests.iter().map(manifest_key);
        for key in packs.chain(pages).chain(manifests) {
            self.prune.progress.check()?;
            let bytes = match store.backend().len(&key) {
                Ok(bytes) => bytes,
                Err(backend::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            store.backend().delete(&key)?;
            self.prune.progress.item();
            let report = self.report();
            report.removed_objects += 1;
            report.removed_bytes += bytes;
        }
        self.prune.append(Event::Collected { collect: number })?;
        // What is left of the lists, the next prune removes.
        store.backend().delete(&removal_key(&id))?;
        Ok(())
    }

    /// Leaves packs out of the index.
    pub fn drop_from_index(&self, packs: &[Digest]) -> Result<(), Error> {
        if packs.is_empty() {
            return Ok(());
        }
        let _keeper = self.keep_index()?;
        let (store, index) = (self.prune.store, self.prune.store.index()?);
        index.refresh(store.backend())?;
        index::drop_packs(index, store.backend(), packs)?;
        Ok(())
    }

    /// Waits until nobody else keeps the index.
    fn keep_index(&self) -> Result<Lease, Error> {
        let started = Instant::now();
        loop {
            if let Some(lease) = Lease::index(self.prune.store.backend()) {
                return Ok(lease);
            }
            self.prune.progress.check()?;
            if started.elapsed() > INDEX_WAIT {
                return Err(lease::Error::Indexed.into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn without(list: &List, spared: &HashSet<Digest>) -> List {
    let rest = |ids: &[Digest]| ids.iter().filter(|id| !spared.contains(*id)).copied().collect();
    List { packs: rest(&list.packs), pages: rest(&list.pages), manifests: rest(&list.manifests) }
}

/// Finds out what of a list a generation needs.
struct Sparing {
    index: Snapshot,
    listed: HashSet<Digest>,
    pages: HashSet<Digest>,
    spared: HashSet<Digest>,
    fault: Option<PageFault>,
    lost: Option<Digest>,
}

impl Sparing {
    fn new(store: &Store, list: &List) -> Result<Self, Error> {
        // The packs of whoever committed meanwhile are in segments that are new too.
        let index = store.fresh_index()?.snapshot();
        let listed = list.packs.iter().chain(&list.pages).chain(&list.manifests).copied();
        Ok(Self {
            index,
            listed: listed.collect(),
            pages: HashSet::new(),
            spared: HashSet::new(),
            fault: None,
            lost: None,
        })
    }

    fn manifest(&mut self, id: &Digest) {
        if self.listed.contains(id) {
            self.spared.insert(*id);
        }
    }

    fn is_good(&self, location: &Location) -> bool {
        !self.index.is_absent(location) && !self.listed.contains(&location.pack.id)
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
        let there = |place: &Location| !index.is_absent(place);
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

impl Reach for Sparing {
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
        self.fault.get_or_insert(fault);
    }
}
