//! Structure: index segments, packs that must be there, manifests, list pages, and that every chunk
//! they name is in a pack.

use std::collections::{HashMap, HashSet};

use super::{Damage, DamageKind, Verification, VerifyReport, name_of};
use crate::digest::Digest;
use crate::format::manifest::{Artifact, Chunks, Entry};
use crate::format::page::{ChunkRef, ListRef};
use crate::index::{Cover, Index, Snapshot};
use crate::log::Generation;
use crate::pack;
use crate::store::list::{ListIter, PageFault, PageReason};
use crate::store::{Error, Progress, Store, manifest_key};

/// Checks every index segment as it is stored, and returns those that can be used.
pub(super) fn index_segments(
    store: &Store,
    progress: &Progress,
    report: &mut VerifyReport,
) -> Result<Snapshot, Error> {
    let index = Index::open(store.backend(), store.id())?;
    for damaged in index.damaged() {
        report.damaged.push(Damage::new(&damaged.key, DamageKind::Index, &damaged.source));
    }
    report.objects_checked += index.damaged().len() as u64;
    for segment in index.snapshot().segments() {
        progress.check()?;
        report.objects_checked += 1;
        if let Err(source) = segment.check() {
            report.damaged.push(Damage::new(segment.key(), DamageKind::Index, source));
        }
    }
    Ok(index.snapshot())
}

/// What a walk over manifests has seen: pages and artifacts are shared between generations and
/// looked at once.
#[derive(Default)]
struct Seen {
    pages: HashSet<Digest>,
    manifests: HashSet<Digest>,
}

impl Verification<'_> {
    /// Reports packs that are not there, and packs without a directory. A pack is not missed if all
    /// its chunks are in others too: they were stored again.
    pub(super) fn packs_present(&mut self, cover: &Cover) {
        let missed = self.missed_packs();
        let contents: HashMap<_, _> = self
            .index
            .segments()
            .iter()
            .flat_map(|segment| segment.packs().filter_map(Result::ok))
            .map(|pack| (pack.id, pack.content))
            .collect();
        for id in &cover.missing {
            if let (Some(content), true) = (contents.get(id), missed.contains(id)) {
                let damage = Damage::new(pack::key(*content, id), DamageKind::Pack, "missing");
                let damage = self.damage(damage);
                self.bad_packs.insert(*id, damage);
            }
        }
        for fault in &cover.faults {
            self.pack_fault(pack::key(fault.content, &fault.id), fault.id, &fault.source);
        }
    }

    /// Returns packs that cannot be used and that hold chunks which no other pack has.
    fn missed_packs(&self) -> HashSet<Digest> {
        let mut missed = HashSet::new();
        if self.index.missing_packs().is_empty() {
            return missed;
        }
        for segment in self.index.segments() {
            for entry in segment.entries().filter_map(Result::ok) {
                let pack = segment.pack(entry.pack).map(|pack| pack.id);
                let gone = pack.filter(|id| self.index.missing_packs().contains(id));
                if let Some(id) = gone
                    && !self.index.has(&entry.record.digest)
                {
                    missed.insert(id);
                }
            }
        }
        missed
    }

    /// Reports a pack whose directory cannot be had.
    pub(super) fn pack_fault(&mut self, key: impl ToString, id: Digest, error: &pack::Error) {
        let damage = match error {
            pack::Error::Backend(error) => self.backend_error(key, DamageKind::Pack, error),
            error => Some(self.damage(Damage::new(key, DamageKind::Pack, error))),
        };
        if let Some(damage) = damage {
            self.bad_packs.insert(id, damage);
        }
    }

    /// Walks the trees of generations.
    pub(super) fn generations(&mut self, generations: &[Generation]) -> Result<(), Error> {
        let mut seen = Seen::default();
        for generation in generations {
            self.progress.check()?;
            self.report.generations += 1;
            let (name, store) = (name_of(generation), self.store);
            let read = self
                .manifest(&generation.manifest, &mut seen, &name, "", |id| store.generation(id));
            let Some(manifest) = read else { continue };
            for member in &manifest.members {
                let first = !seen.manifests.contains(&member.artifact);
                let read = self.manifest(&member.artifact, &mut seen, &name, &member.name, |id| {
                    store.artifact(id)
                });
                if let (Some(artifact), true) = (read, first) {
                    self.artifact(&artifact, &mut seen)?;
                }
            }
        }
        Ok(())
    }

    fn manifest<T>(
        &mut self,
        id: &Digest,
        seen: &mut Seen,
        generation: &str,
        member: &str,
        read: impl FnOnce(&Digest) -> Result<T, Error>,
    ) -> Option<T> {
        if seen.manifests.insert(*id) {
            self.report.objects_checked += 1;
        }
        let error = match read(id) {
            Ok(manifest) => return Some(manifest),
            Err(error) => error,
        };
        let key = manifest_key(id);
        let known = self.report.damaged.iter().position(|damage| damage.object == key.as_str());
        let damage = match (known, &error) {
            (Some(known), _) => Some(known),
            (None, Error::Backend(error)) => self.backend_error(key, DamageKind::Manifest, error),
            (None, Error::Manifest { source, .. }) => {
                Some(self.damage(Damage::new(key, DamageKind::Manifest, source)))
            }
            (None, error) => Some(self.damage(Damage::new(key, DamageKind::Manifest, error))),
        };
        if let Some(damage) = damage {
            self.report.damaged[damage].touch(generation, member.to_owned());
        }
        None
    }

    /// Walks the pages of one artifact that were not seen before.
    fn artifact(&mut self, artifact: &Artifact, seen: &mut Seen) -> Result<(), Error> {
        let (mut lists, mut faults): (Vec<ListRef>, Vec<PageFault>) = (Vec::new(), Vec::new());
        let before = seen.pages.len();
        let mut enter = |digest: &Digest| seen.pages.insert(*digest);
        let store = self.store;
        ListIter::new(store, &artifact.entries).walk(&mut enter, |entry: Result<Entry, _>| {
            match entry {
                Err(fault) => faults.push(fault),
                Ok(entry) => match entry.content().map(|content| &content.chunks) {
                    Some(Chunks::Inline(chunks)) => chunks.iter().for_each(|c| self.chunk(c)),
                    Some(Chunks::List(list)) => lists.push(list.clone()),
                    None => {}
                },
            }
        });
        for list in lists {
            self.progress.check()?;
            ListIter::new(store, &list).walk(
                &mut enter,
                |chunk: Result<ChunkRef, _>| match chunk {
                    Ok(chunk) => self.chunk(&chunk),
                    Err(fault) => faults.push(fault),
                },
            );
        }
        self.report.objects_checked += (seen.pages.len() - before) as u64;
        self.progress.item();
        if let Some(packs) = &mut self.packs {
            let index = &self.index;
            let located = seen.pages.iter().filter_map(|page| index.find(page));
            for location in located {
                let base = location.record.base.and_then(|base| index.find_base(&base));
                packs.extend([Some(location), base].into_iter().flatten().map(|l| l.pack.id));
            }
        }
        for fault in faults {
            self.page_fault(&fault);
        }
        Ok(())
    }

    /// Takes notice of a chunk that a manifest names.
    fn chunk(&mut self, chunk: &ChunkRef) {
        if chunk.is_hole() {
            return;
        }
        let index = &self.index;
        let found = index.locations(&chunk.digest).find(|place| !index.dangles(&place.record));
        let Some(location) = found else {
            self.unknown.insert((chunk.digest, chunk.bytes));
            return;
        };
        let actual = u64::from(location.record.plain_bytes);
        if actual != chunk.bytes {
            self.misfit(chunk, actual);
        }
        if let Some(packs) = &mut self.packs {
            packs.insert(location.pack.id);
            let base = location.record.base.and_then(|base| self.index.find_base(&base));
            packs.extend(base.map(|location| location.pack.id));
        }
    }

    /// A manifest that is whole and not true: what names this chunk by this length cannot be read.
    fn misfit(&mut self, chunk: &ChunkRef, actual: u64) {
        let key = (chunk.digest, chunk.bytes);
        if self.misfits.contains_key(&key) {
            return;
        }
        let object = format!("chunk {}", chunk.digest);
        let reason = format!("a manifest says {} bytes, the pack {actual}", chunk.bytes);
        let damage = self.damage(Damage::new(object, DamageKind::Manifest, reason));
        self.misfits.insert(key, damage);
    }

    /// Looks for chunks that the index does not know in an index that is made anew: a pack may have
    /// them all the same.
    pub(super) fn look_again(&mut self) {
        let unknown = std::mem::take(&mut self.unknown);
        if unknown.is_empty() {
            return;
        }
        if let Some(index) = self.store.recover_index() {
            self.index = index;
        }
        for (digest, bytes) in unknown {
            self.chunk(&ChunkRef { bytes, digest });
        }
    }

    fn page_fault(&mut self, fault: &PageFault) {
        let digest = fault.digest;
        if self.bad_chunks.contains_key(&digest) {
            return;
        }
        let mut object = format!("list page {digest}");
        if let PageReason::Chunk(chunk) = &*fault.reason {
            if !chunk.is_damage() {
                return self.unreadable(object, chunk);
            }
            if let Some((key, offset)) = &chunk.place {
                object = format!("{key} at {offset:#x}: {object}");
            }
        }
        let damage = self.damage(Damage::new(object, DamageKind::Page, &fault.reason));
        self.bad_chunks.insert(digest, damage);
    }
}
