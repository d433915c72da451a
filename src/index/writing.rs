//! Writing segments. All places of a chunk stay known: which of them will be needed is not known
//! here, and prune may be about to remove any but one.

use std::collections::HashMap;

use super::{Error, Index, Location, SEGMENT_BYTES_MAX, key};
use crate::backend::{self, Backend, ObjectBytes};
use crate::digest::Digest;
use crate::format::pack::Record;
use crate::format::segment::{self, Entry, PackEntry};

impl Index {
    /// Writes a segment for chunks of durable packs and adds it to the index. Chunks that are in
    /// several of the packs stay known in all of them: which copy will be needed is not known here.
    /// Prune may have decided already which one goes.
    ///
    /// # Errors
    /// The storage failed; the index is as before, or has all but some copies.
    pub fn write_segment(
        &self,
        backend: &dyn Backend,
        packs: &[PackEntry],
        entries: Vec<Entry>,
    ) -> Result<(), Error> {
        self.write_segments(backend, packs, entries).map(drop)
    }

    /// As [`Index::write_segment`]; a segment has a chunk only once, so more are written for the
    /// copies. Returns all.
    pub(super) fn write_segments(
        &self,
        backend: &dyn Backend,
        packs: &[PackEntry],
        entries: Vec<Entry>,
    ) -> Result<Vec<Digest>, Error> {
        let (kept, copies) = self.one_each(packs, entries);
        let mut written = Vec::new();
        if !copies.is_empty() {
            let (packs, copies) = with_used(packs, copies);
            written = self.write_segments(backend, &packs, copies)?;
        }
        written.push(self.write_entries(backend, packs, &kept)?);
        Ok(written)
    }

    pub(super) fn write_entries(
        &self,
        backend: &dyn Backend,
        packs: &[PackEntry],
        entries: &[Entry],
    ) -> Result<Digest, Error> {
        let bytes = segment::encode(self.store_id, packs, entries);
        let id = Digest::of(&bytes);
        let _ = backend::put_or_repair(backend, &key(&id), &bytes)?;
        drop(bytes);
        let bytes = backend.read(&key(&id), SEGMENT_BYTES_MAX)?;
        self.add(id, bytes, true)?;
        Ok(id)
    }

    /// As [`Index::write_segment`], with segments that are kept in memory only.
    pub(super) fn add_in_memory(
        &self,
        packs: &[PackEntry],
        entries: Vec<Entry>,
    ) -> Result<(), Error> {
        let (kept, copies) = self.one_each(packs, entries);
        if !copies.is_empty() {
            let (packs, copies) = with_used(packs, copies);
            self.add_in_memory(&packs, copies)?;
        }
        let bytes = segment::encode(self.store_id, packs, &kept);
        let id = Digest::of(&bytes);
        self.add(id, ObjectBytes::owned(bytes), false)
    }

    /// Sorts entries, and keeps one for each chunk: one in a pack that is there, that can be decoded
    /// and that can be a base, as far as that is known. Returns the copies apart.
    fn one_each(&self, packs: &[PackEntry], mut entries: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
        let snapshot = self.snapshot();
        let rank = |entry: &Entry| {
            let location = Location { pack: packs[entry.pack as usize], record: entry.record };
            let record = &entry.record;
            (snapshot.is_absent(&location), snapshot.dangles(record), record.base.is_some())
        };
        entries.sort_unstable_by_key(|entry| entry.record.digest);
        for copies in entries.chunk_by_mut(|a, b| a.record.digest == b.record.digest) {
            if copies.len() > 1 {
                copies.sort_by_cached_key(rank);
            }
        }
        let (mut kept, mut left): (Vec<Entry>, Vec<Entry>) =
            (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            let same = kept.last().filter(|last| last.record.digest == entry.record.digest);
            let Some(same) = same else {
                kept.push(entry);
                continue;
            };
            let place = |entry: &Entry| (entry.pack, entry.record.offset);
            let of_this = left.iter().rev().take_while(|l| l.record.digest == entry.record.digest);
            if place(same) != place(&entry)
                && !of_this.into_iter().any(|l| place(l) == place(&entry))
            {
                left.push(entry);
            }
        }
        (kept, left)
    }
}

/// Returns entries with only those packs that they point into.
fn with_used(packs: &[PackEntry], mut entries: Vec<Entry>) -> (Vec<PackEntry>, Vec<Entry>) {
    let (mut used, mut ordinals) = (Vec::new(), HashMap::new());
    for entry in &mut entries {
        entry.pack = *ordinals.entry(entry.pack).or_insert_with(|| {
            used.push(packs[entry.pack as usize]);
            used.len() as u32 - 1
        });
    }
    (used, entries)
}

/// Collects the entries of packs until a segment is written for them.
#[derive(Debug, Default)]
pub struct SegmentBuilder {
    pub(super) packs: Vec<PackEntry>,
    pub(super) entries: Vec<Entry>,
}

impl SegmentBuilder {
    /// Adds all chunks of a durable pack.
    pub fn add_pack(&mut self, pack: PackEntry, records: &[Record]) {
        let ordinal = self.packs.len() as u32;
        self.packs.push(pack);
        self.entries.extend(records.iter().map(|&record| Entry { pack: ordinal, record }));
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Says whether no pack was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// Writes the segment, if there is anything in it, and starts over.
    ///
    /// # Errors
    /// As [`Index::write_segment`].
    pub fn flush(&mut self, index: &Index, backend: &dyn Backend) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let Self { packs, entries } = std::mem::take(self);
        index.write_segment(backend, &packs, entries)?;
        // A lost pack that is stored again is not lost any more.
        index.change(|_, doubtful| {
            doubtful.missing.retain(|id| packs.iter().all(|pack| pack.id != *id));
        });
        Ok(())
    }
}
