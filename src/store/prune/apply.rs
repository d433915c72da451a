//! Execution of a plan, step by step. Between any two steps the store is whole, and the next prune
//! goes on from there.

use std::collections::HashSet;

use super::collect::Collector;
use super::rewrite::{Rewriter, may_go};
use super::{Condemned, PrunePlan, PruneReport, PutOff};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::header::Access;
use crate::format::pack::Content;
use crate::format::record::{CommitNumber, Event};
use crate::format::removal::List;
use crate::format::segment::PackEntry;
use crate::lease::Lease;
use crate::limits::RECORD_NAMES_MAX;
use crate::log::{Generation, Log};
use crate::store::history::check_known;
use crate::store::keeping::{REMOVALS, removal_key};
use crate::store::{Error, Progress, Store};
use crate::{backend, index};

/// A prune at work.
pub(super) struct Prune<'a> {
    pub store: &'a Store,
    pub plan: &'a PrunePlan,
    pub progress: &'a Progress,
    pub log: Log,
    pub report: PruneReport,
}

/// Executes a plan.
pub(super) fn run(
    store: &Store,
    plan: &PrunePlan,
    progress: &Progress,
) -> Result<PruneReport, Error> {
    if store.access() == Access::ReadOnly {
        return Err(Error::NeedsNewer { write_version: store.header().write_version });
    }
    let _alone_with_others = Lease::prune(store.backend())?;
    // Nobody writes until the end, or as long as nobody else holds it now.
    let no_writers = Lease::no_writers(store.backend());
    let alone = match (no_writers, plan.grace_nanos) {
        (Ok(lease), 0) => Alone::Throughout(lease),
        (Ok(_), _) => Alone::Now,
        (Err(crate::lease::Error::Written), grace) if grace != 0 => Alone::Not,
        (Err(error), _) => return Err(error.into()),
    };
    let log = store.log()?;
    check_known(&log)?;
    if log.position() != plan.position {
        let (planned, actual) = (plan.position.number.0, log.position().number.0);
        return Err(Error::Moved { planned, actual });
    }
    let mut prune = Prune { store, plan, progress, log, report: PruneReport::default() };
    let basis = prune.forget()?;
    let mut collector = Collector::new(&mut prune);
    collector.finish_open()?;
    collector.collect_due()?;
    collector.drop_from_index(&plan.work.stale)?;
    let condemned = prune.condemn(basis, matches!(alone, Alone::Not))?;
    if let (Some((number, list)), Alone::Throughout(_)) = (condemned, &alone) {
        Collector::new(&mut prune).collect(number, &list, (&HashSet::new(), &[]))?;
    }
    prune.clean()?;
    Ok(prune.report)
}

/// Whether anybody else writes.
enum Alone {
    /// Nobody, until the lease is given back.
    Throughout(#[expect(dead_code, reason = "held")] Lease),
    /// Nobody did when it was asked, after the plan was made.
    Now,
    /// Somebody does.
    Not,
}

impl Prune<'_> {
    /// Writes the records that forget. Returns the last record that the marks take into account.
    fn forget(&mut self) -> Result<CommitNumber, Error> {
        let names: Vec<_> = self.plan.forgotten.iter().map(Generation::name).collect();
        for names in names.chunks(RECORD_NAMES_MAX) {
            let event = Event::Forget(names.to_vec());
            let now = UnixNanos::now();
            if self.log.try_append(self.store.backend(), now, event)?.is_none() {
                let (planned, actual) = (self.plan.position.number.0, self.log.position().number.0);
                return Err(Error::Moved { planned, actual });
            }
            self.report.forgotten.extend_from_slice(names);
        }
        Ok(self.log.position().number)
    }

    /// Writes packs anew, and condemns what the plan says. Returns the record and the list.
    fn condemn(
        &mut self,
        basis: CommitNumber,
        others_write: bool,
    ) -> Result<Option<(CommitNumber, List)>, Error> {
        let work = &self.plan.work;
        let mine = |id: &Digest| !others_write || !work.unexplained.contains(id);
        if others_write && !work.unexplained.is_empty() {
            self.report.put_off.push(PutOff::Writers);
        }
        let mut going: Vec<(PackEntry, u64)> = Vec::new();
        // What packs that stay are encoded against.
        let mut bases = HashSet::new();
        for entry in work.dead.iter().filter(|entry| mine(&entry.id)) {
            self.progress.check()?;
            match may_go(self.store, &work.marks, entry)? {
                Ok(()) => going.push((*entry, 0)),
                Err(stays) => {
                    bases.extend(stays.base_packs(&work.marks));
                    self.report.notes.push(stays.reason);
                }
            }
            self.progress.item();
        }
        for entry in work.broken.iter().filter(|entry| mine(&entry.id)) {
            going.push((*entry, 0));
        }
        let (mut rewriter, mut full) = (Rewriter::new(self.store, &work.marks)?, false);
        for entry in work.rewrite.iter().filter(|entry| mine(&entry.id)) {
            self.progress.check()?;
            match rewriter.rewrite(entry) {
                Ok(Ok(bytes)) => going.push((*entry, bytes)),
                Ok(Err(stays)) => {
                    bases.extend(stays.base_packs(&work.marks));
                    self.report.notes.push(stays.reason);
                }
                Err(error) if is_full(&error) => {
                    full = true;
                    break;
                }
                Err(error) => return Err(error),
            }
            self.progress.item();
            self.progress.add(entry.bytes);
        }
        match rewriter.finish() {
            Err(error) if is_full(&error) => full = true,
            finished => finished?,
        }
        if full {
            // What was copied is there twice, until there is room.
            self.report.put_off.push(PutOff::Room);
            going.retain(|(_, copied)| *copied == 0);
        }
        going.retain(|(entry, _)| !bases.contains(&entry.id));
        let manifests: Vec<_> = work.manifests.iter().filter(|id| mine(id)).copied().collect();
        self.write_condemnation(basis, &going, manifests)
    }

    fn write_condemnation(
        &mut self,
        basis: CommitNumber,
        going: &[(PackEntry, u64)],
        mut manifests: Vec<Digest>,
    ) -> Result<Option<(CommitNumber, List)>, Error> {
        let of = |content| {
            let going = going.iter().filter(|(entry, _)| entry.content == content);
            let mut ids: Vec<_> = going.map(|(entry, _)| entry.id).collect();
            ids.sort_unstable();
            ids
        };
        manifests.sort_unstable();
        let list = List { packs: of(Content::Chunks), pages: of(Content::Pages), manifests };
        if list.is_empty() {
            return Ok(None);
        }
        let rewritten = going.iter().filter(|(_, copied)| *copied > 0);
        self.report.condemned = Condemned {
            packs: going.len() as u64,
            manifests: list.manifests.len() as u64,
            bytes: going.iter().map(|(entry, _)| entry.bytes).sum::<u64>()
                + self.manifest_bytes(&list.manifests),
            rewritten_packs: rewritten.clone().count() as u64,
            rewritten_bytes: rewritten.map(|(_, copied)| copied).sum(),
        };
        self.progress.check()?;
        let id = self.put_list(&list)?;
        let number = self.append(Event::Condemn { basis, list: id })?;
        Ok(Some((number, list)))
    }

    /// Returns the length of manifests that are there.
    pub fn manifest_bytes(&self, ids: &[Digest]) -> u64 {
        let length = |id| self.store.backend().len(&crate::store::manifest_key(id)).ok();
        ids.iter().filter_map(length).sum()
    }

    /// Stores a list of objects.
    pub fn put_list(&self, list: &List) -> Result<Digest, Error> {
        let bytes = list.encode();
        let id = Digest::of(&bytes);
        let _ = backend::put_or_repair(self.store.backend(), &removal_key(&id), &bytes)?;
        Ok(id)
    }

    /// Writes a record that does not depend on what others write before it.
    pub fn append(&mut self, event: Event) -> Result<CommitNumber, Error> {
        let backend = self.store.backend();
        self.log.append(backend, UnixNanos::now(), |log| {
            check_known(log)?;
            Ok::<_, Error>(event.clone())
        })
    }

    /// Removes lists that no open condemnation or collection names.
    fn clean(&mut self) -> Result<(), Error> {
        let state = self.log.state();
        let open: HashSet<_> = state
            .condemned()
            .iter()
            .map(|condemned| condemned.list)
            .chain(state.collecting().map(|collection| collection.list))
            .collect();
        // A damaged record may name any.
        if !self.log.damaged().is_empty() {
            return Ok(());
        }
        let mut unnamed = Vec::new();
        self.store.backend().list(REMOVALS, &mut |key, _| {
            if key.name().parse().is_ok_and(|id: Digest| !open.contains(&id)) {
                unnamed.push(key);
            }
        })?;
        for key in unnamed {
            self.store.backend().delete(&key)?;
        }
        Ok(())
    }
}

/// Says whether there was no room: then what needs none is done all the same.
fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind;
    let (Error::Backend(error) | Error::Index(index::Error::Backend(error))) = error else {
        return false;
    };
    let backend::Error::Io { source, .. } = error else { return false };
    matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
