//! Collection: from condemned to gone. The record is the fence: it is written only at the number
//! right behind everything that was looked at, so whoever commits later has read it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::apply::Prune;
use super::rewrite::may_go;
use super::sparing::{Sparing, can_return};
use super::{PruneReport, PutOff};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::pack::Content;
use crate::format::record::{CommitNumber, Event, GenerationName};
use crate::format::removal::List;
use crate::format::segment::PackEntry;
use crate::index;
use crate::lease::{self, Lease};
use crate::log::{Collection, Generation};
use crate::store::history::check_known;
use crate::store::{Error, manifest_key};
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
                Ok(list) => self.sweep(collection.number, &list)?,
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
        let state = self.prune.log.state();
        let mut lists = Vec::new();
        for due in &plan.due {
            let open = state.condemned().iter().find(|condemned| condemned.number == due.number);
            let Some(list) = open.map(|condemned| condemned.list) else { continue };
            lists.push((due, self.prune.store.removal_list(&list)?));
        }
        let mut good = HashSet::new();
        for (due, list) in &lists {
            self.find_good_copies(list, &due.spared, &mut good)?;
        }
        for (due, list) in lists {
            let spared = due.spared.union(&good).copied().collect();
            if !self.collect(due.number, &list, (&spared, &due.can_return))? {
                break;
            }
        }
        Ok(())
    }

    /// Finds packs with needed chunks whose other copy, which was good when they were condemned, is
    /// not any more.
    fn find_good_copies(
        &mut self,
        list: &List,
        spared: &HashSet<Digest>,
        good: &mut HashSet<Digest>,
    ) -> Result<(), Error> {
        let (store, marks) = (self.prune.store, &self.prune.plan.work.marks);
        let chunks = list.packs.iter().map(|id| (Content::Chunks, *id));
        let pages = list.pages.iter().map(|id| (Content::Pages, *id));
        for (content, id) in chunks.chain(pages) {
            self.prune.progress.check()?;
            if spared.contains(&id) {
                continue;
            }
            let bytes = match store.backend().len(&pack::key(content, &id)) {
                Ok(bytes) => bytes,
                Err(backend::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            // One that cannot be read was condemned by what the index knows of it.
            if let Err(stays) = may_go(store, marks, &PackEntry { id, bytes, content })?
                && !stays.is_unreadable
            {
                good.insert(id);
                good.extend(stays.base_packs(marks));
                self.prune.report.notes.push(stays.reason);
            }
        }
        Ok(())
    }

    /// Collects what one record condemned, but what is spared; `false` if it was put off. What
    /// `can_return` needs was looked at.
    pub fn collect(
        &mut self,
        condemned: CommitNumber,
        list: &List,
        (spared, can_return): (&HashSet<Digest>, &[GenerationName]),
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
        looked_at.extend(can_return.iter().cloned());
        let (number, rest) = loop {
            self.look_again(condemned, list, &mut looked_at, &mut spared)?;
            let rest = without(list, &spared);
            let id = self.prune.put_list(&rest)?;
            let event = Event::Collect { condemned, list: id };
            let now = UnixNanos::now();
            if let Some(number) = self.prune.log.try_append(backend, now, event)? {
                break (number, rest);
            }
            check_known(&self.prune.log)?;
        };
        drop(no_readers);
        self.report().spared += (list.len() - rest.len()) as u64;
        self.sweep(number, &rest)?;
        Ok(true)
    }

    /// Looks at what can be seen or brought back and was not looked at before, and spares what that
    /// needs.
    fn look_again(
        &mut self,
        condemned: CommitNumber,
        list: &List,
        looked_at: &mut HashSet<GenerationName>,
        spared: &mut HashSet<Digest>,
    ) -> Result<(), Error> {
        let (store, log, none) = (self.prune.store, &self.prune.log, HashSet::new());
        let visible = log.generations();
        let new: Vec<_> =
            visible.iter().filter(|found| !looked_at.contains(&found.name())).collect();
        if !new.is_empty() {
            let mut sparing = Sparing::new(store, list, &none)?;
            for generation in &new {
                sparing.visible(generation)?;
            }
            spared.extend(sparing.spared()?);
        }
        looked_at.extend(new.iter().map(|found| found.name()));
        let mut can_return = can_return(log, condemned);
        can_return.retain(|found| !looked_at.contains(&found.name()));
        if !can_return.is_empty() {
            spared.extend(Sparing::of_forgotten(store, list, &none, &can_return)?);
            looked_at.extend(can_return.iter().map(Generation::name));
        }
        Ok(())
    }

    /// Removes everything that a collection lists, and says so.
    fn sweep(&mut self, number: CommitNumber, list: &List) -> Result<(), Error> {
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
        // The list goes when nothing else names it: two condemnations may have the same.
        self.prune.append(Event::Collected { collect: number })?;
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
            if let Some(lease) = Lease::try_index(self.prune.store.backend())? {
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
