//! Counting: what a store holds, what each generation adds, and what retiring it would free.
//!
//! One number a chunk is kept in memory: which generations refer to it, as far as that matters
//! (none, one, or several). Bases count with the chunks that need them.

use std::collections::{HashMap, HashSet};

use super::keeping::REMOVALS;
use super::list::ListIter;
use super::{Error, Progress, Reference, Store, naming};
use crate::digest::Digest;
use crate::format::manifest::{Artifact, Chunks, Entry};
use crate::format::page::{ChunkRef, ListRef};
use crate::index::{Location, Snapshot};
use crate::lease::Lease;
use crate::log::Generation;

/// Numbers of one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationStats {
    /// `name@gN`.
    pub generation: String,
    /// Its deployment.
    pub deployment: String,
    /// Length of all its files, in bytes.
    pub logical_bytes: u64,
    /// Plain bytes of its distinct chunks.
    pub unique_bytes: u64,
    /// Plain bytes of chunks that no generation committed before it has.
    pub added_bytes: u64,
    /// Stored bytes of these.
    pub added_stored_bytes: u64,
    /// Stored bytes of chunks that no other generation has: what retiring it would free.
    pub freed_stored_bytes: u64,
}

/// Numbers of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsReport {
    /// Length of all files of all generations, in bytes.
    pub logical_bytes: u64,
    /// Plain bytes of distinct chunks that generations refer to.
    pub unique_bytes: u64,
    /// Stored bytes of these chunks.
    pub referenced_stored_bytes: u64,
    /// Distinct chunks that generations refer to.
    pub chunks: u64,
    /// Of these, chunks stored as deltas.
    pub delta_chunks: u64,
    /// Stored bytes of deltas.
    pub delta_stored_bytes: u64,
    /// What deltas save: what their bases take alone, less what they take.
    pub delta_saved_bytes: u64,
    /// Packs of chunks.
    pub packs: u64,
    /// Bytes of packs of chunks.
    pub pack_bytes: u64,
    /// Bytes of packs of list pages.
    pub page_bytes: u64,
    /// Bytes of index segments.
    pub index_bytes: u64,
    /// Bytes of manifests.
    pub manifest_bytes: u64,
    /// Bytes of the commit log.
    pub log_bytes: u64,
    /// The generations asked for, oldest commit first.
    pub generations: Vec<GenerationStats>,
}

impl StatsReport {
    /// Returns the bytes of all objects.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.pack_bytes + self.page_bytes + self.index_bytes + self.manifest_bytes + self.log_bytes
    }
}

/// What is remembered of a chunk: the generation that had it first, and whether others have it.
#[derive(Clone, Copy)]
struct Owner {
    first: u32,
    last: u32,
    shared: bool,
    stored_bytes: u32,
}

/// A count under way.
struct Count<'s> {
    store: &'s Store,
    progress: &'s Progress,
    index: Snapshot,
    owners: HashMap<Digest, Owner>,
    deltas: HashSet<Digest>,
    report: StatsReport,
}

impl Store {
    /// Counts the store; `references` choose which generations are listed (all if empty).
    ///
    /// # Errors
    /// Manifests or list pages cannot be read, or a reference does not resolve.
    pub fn stats(
        &self,
        references: &[Reference],
        progress: &Progress,
    ) -> Result<StatsReport, Error> {
        let _lease = Lease::reader(self.backend());
        let log = self.log()?;
        let chosen: HashSet<_> = references
            .iter()
            .map(|reference| naming::resolve(&log, reference).map(|found| found.commit))
            .collect::<Result<_, _>>()?;
        let mut count = Count {
            store: self,
            progress,
            index: self.fresh_index()?.snapshot(),
            owners: HashMap::new(),
            deltas: HashSet::new(),
            report: StatsReport::default(),
        };
        count.objects()?;
        let generations = log.generations();
        for (ordinal, generation) in generations.iter().enumerate() {
            count.generation(ordinal as u32, generation)?;
        }
        for owner in count.owners.values().filter(|owner| !owner.shared) {
            let stats = &mut count.report.generations[owner.first as usize];
            stats.freed_stored_bytes += u64::from(owner.stored_bytes);
        }
        let mut report = count.report;
        if !chosen.is_empty() {
            let mut kept = generations.iter().map(|generation| chosen.contains(&generation.commit));
            report.generations.retain(|_| kept.next().unwrap_or(false));
        }
        Ok(report)
    }
}

impl Count<'_> {
    /// Adds up the objects of each folder.
    fn objects(&mut self) -> Result<(), Error> {
        let backend = self.store.backend();
        let report = &mut self.report;
        backend.list("packs", &mut |_, bytes| {
            report.packs += 1;
            report.pack_bytes += bytes;
        })?;
        backend.list("pages", &mut |_, bytes| report.page_bytes += bytes)?;
        backend.list("index", &mut |_, bytes| report.index_bytes += bytes)?;
        backend.list("manifests", &mut |_, bytes| report.manifest_bytes += bytes)?;
        backend.list(REMOVALS, &mut |_, bytes| report.manifest_bytes += bytes)?;
        backend.list("log", &mut |_, bytes| report.log_bytes += bytes)?;
        Ok(())
    }

    fn generation(&mut self, ordinal: u32, generation: &Generation) -> Result<(), Error> {
        let mut stats = GenerationStats {
            generation: format!("{}@{}", generation.deployment, generation.number),
            deployment: generation.deployment.clone(),
            ..GenerationStats::default()
        };
        for member in self.store.generation(&generation.manifest)?.members {
            let artifact = self.store.artifact(&member.artifact)?;
            stats.logical_bytes += artifact.counts.bytes;
            self.artifact(ordinal, &artifact, &mut stats)?;
            self.progress.item();
        }
        self.report.logical_bytes += stats.logical_bytes;
        self.report.generations.push(stats);
        Ok(())
    }

    fn artifact(
        &mut self,
        ordinal: u32,
        artifact: &Artifact,
        stats: &mut GenerationStats,
    ) -> Result<(), Error> {
        for entry in self.store.entries(artifact) {
            self.progress.check()?;
            let entry: Entry = entry?;
            match entry.content().map(|content| &content.chunks) {
                None => {}
                Some(Chunks::Inline(chunks)) => {
                    for chunk in chunks {
                        self.chunk(ordinal, chunk, stats);
                    }
                }
                Some(Chunks::List(list)) => self.list(ordinal, list, stats)?,
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        ordinal: u32,
        list: &ListRef,
        stats: &mut GenerationStats,
    ) -> Result<(), Error> {
        for chunk in ListIter::<ChunkRef>::new(self.store, list) {
            self.chunk(ordinal, &chunk?, stats);
        }
        Ok(())
    }

    fn chunk(&mut self, ordinal: u32, chunk: &ChunkRef, stats: &mut GenerationStats) {
        if chunk.is_hole() {
            return;
        }
        let Some(location) = self.own(ordinal, &chunk.digest, stats) else { return };
        stats.unique_bytes += u64::from(location.record.plain_bytes);
        let Some(base) = location.record.base else { return };
        let found = self.own(ordinal, &base, stats).or_else(|| self.index.find(&base));
        if self.deltas.insert(chunk.digest) {
            let alone = found.map_or(0, |base| base.record.stored_bytes);
            let saved = alone.saturating_sub(location.record.stored_bytes);
            self.report.delta_chunks += 1;
            self.report.delta_stored_bytes += u64::from(location.record.stored_bytes);
            self.report.delta_saved_bytes += u64::from(saved);
        }
    }

    /// Counts a chunk for a generation. Returns where it is, unless this generation has it
    /// already.
    fn own(
        &mut self,
        ordinal: u32,
        digest: &Digest,
        stats: &mut GenerationStats,
    ) -> Option<Location> {
        if let Some(owner) = self.owners.get_mut(digest) {
            let known = owner.last == ordinal;
            owner.shared |= !known;
            owner.last = ordinal;
            return if known { None } else { self.index.find(digest) };
        }
        let location = self.index.find(digest);
        let (plain, stored) =
            location.map_or((0, 0), |l| (l.record.plain_bytes, l.record.stored_bytes));
        let owner = Owner { first: ordinal, last: ordinal, shared: false, stored_bytes: stored };
        self.owners.insert(*digest, owner);
        stats.added_bytes += u64::from(plain);
        stats.added_stored_bytes += u64::from(stored);
        self.report.chunks += 1;
        self.report.unique_bytes += u64::from(plain);
        self.report.referenced_stored_bytes += u64::from(stored);
        location
    }
}
