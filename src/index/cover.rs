//! Bringing the index into line with the packs that are there: packs that no segment knows (a
//! writer was killed before its segment) are added from their own directories, and packs that a
//! segment knows but nobody finds, or finds at another length, are set aside.

use std::collections::{HashMap, HashSet};

use super::{Doubtful, Error, Index, SegmentBuilder, Snapshot};
use crate::backend::{self, Backend};
use crate::digest::Digest;
use crate::format::pack::Content;
use crate::limits::PENDING_CHUNKS_MAX;
use crate::pack;

/// A pack that could not be used.
#[derive(Debug)]
pub struct PackFault {
    /// The pack.
    pub id: Digest,
    /// What it should hold.
    pub content: Content,
    /// What is wrong with it.
    pub source: pack::Error,
}

/// What [`cover`] and [`rebuild`] found.
#[derive(Debug, Default)]
pub struct Cover {
    /// Packs that were added to the index.
    pub packs_added: u64,
    /// Packs without usable directory, or not of the length that the index says; their chunks are
    /// not found in the index.
    pub faults: Vec<PackFault>,
    /// Packs that the index knows and that are not there.
    pub missing: Vec<Digest>,
}

/// Packs that are under removal, as the commit log tells. It must have been read before.
#[derive(Clone, Debug, Default)]
pub struct Removals {
    /// Being removed: they count as not there, and nobody misses them.
    pub gone: HashSet<Digest>,
    /// To be removed, if nothing needs them then.
    pub condemned: HashSet<Digest>,
}

/// Adds packs that no segment knows, and sets packs aside that are not there or are under removal.
///
/// With `writable`, new segments are stored; otherwise they live in memory only.
///
/// # Errors
/// The storage failed. Damaged packs are no error but [`Cover::faults`].
pub fn cover(
    index: &Index,
    backend: &dyn Backend,
    writable: bool,
    removals: &Removals,
) -> Result<Cover, Error> {
    let mut known = HashMap::new();
    for segment in index.snapshot().segments() {
        known.extend(segment.packs().filter_map(Result::ok).map(|pack| (pack.id, pack.bytes)));
    }
    add_packs(index, backend, writable, known, removals)
}

/// Makes the whole index anew from the packs, replacing all segments that were there. What they
/// know of lost packs is kept: that chunks are missing must not be forgotten before they are
/// stored again.
///
/// # Errors
/// The storage failed; the old segments are still there then.
pub fn rebuild(
    index: &Index,
    backend: &dyn Backend,
    writable: bool,
    removals: &Removals,
) -> Result<Cover, Error> {
    let mut old = Vec::new();
    backend.list(super::FOLDER, &mut |key, _| old.push(key))?;
    let before = index.snapshot();
    index.change(|segments, doubtful| {
        segments.clear();
        *doubtful = Doubtful::default();
    });
    let mut cover = add_packs(index, backend, writable, HashMap::new(), removals)?;
    keep_lost_packs(index, backend, writable, &before, &mut cover)?;
    if writable {
        let kept: HashSet<_> =
            index.snapshot().segments().iter().map(|segment| segment.key()).collect();
        for key in old.iter().filter(|key| !kept.contains(key)) {
            backend.delete(key)?;
        }
    }
    Ok(cover)
}

fn add_packs(
    index: &Index,
    backend: &dyn Backend,
    writable: bool,
    mut known: HashMap<Digest, u64>,
    removals: &Removals,
) -> Result<Cover, Error> {
    known.retain(|id, _| !removals.gone.contains(id));
    let mut cover = Cover::default();
    let mut builder = SegmentBuilder::default();
    let mut listed = Vec::new();
    for content in [Content::Chunks, Content::Pages] {
        backend.list(content.folder(), &mut |key, bytes| {
            let Ok(id) = key.name().parse::<Digest>() else { return };
            if removals.gone.contains(&id) {
                return;
            }
            match known.remove(&id) {
                None => listed.push((content, id, bytes)),
                Some(expected) if expected != bytes => {
                    let short = backend::Error::Short { key, expected, actual: bytes };
                    cover.faults.push(PackFault { id, content, source: short.into() });
                }
                Some(_) => {}
            }
        })?;
    }
    for (content, id, bytes) in listed {
        match pack::read_directory(backend, content, &id, bytes, index.store_id) {
            Ok(directory) => {
                let entry = super::PackEntry { id, bytes, content };
                builder.add_pack(entry, &directory.records);
                cover.packs_added += 1;
            }
            Err(source) => cover.faults.push(PackFault { id, content, source }),
        }
        if builder.len() >= PENDING_CHUNKS_MAX {
            flush(index, backend, writable, &mut builder)?;
        }
    }
    flush(index, backend, writable, &mut builder)?;
    cover.missing = known.into_keys().collect();
    cover.missing.sort_unstable();
    let unusable = cover.faults.iter().map(|fault| fault.id).chain(cover.missing.iter().copied());
    let missing: HashSet<_> = unusable.collect();
    let Removals { gone, condemned } = removals.clone();
    index.change(|_, doubtful| *doubtful = Doubtful { missing, gone, condemned });
    Ok(cover)
}

/// Adds packs that intact segments of `before` know, that are not there, and that hold chunks which
/// no other pack has, to the index as missing ones.
fn keep_lost_packs(
    index: &Index,
    backend: &dyn Backend,
    writable: bool,
    before: &Snapshot,
    cover: &mut Cover,
) -> Result<(), Error> {
    let now = index.snapshot();
    let there: HashSet<_> = now
        .segments()
        .iter()
        .flat_map(|segment| segment.packs().filter_map(Result::ok))
        .map(|pack| pack.id)
        .collect();
    let mut builder = SegmentBuilder::default();
    let mut lost = HashSet::new();
    for segment in before.segments() {
        let packs = segment.packs().filter_map(Result::ok);
        let is_lost = |id: &Digest| !there.contains(id) && !now.doubtful.gone.contains(id);
        let gone: HashSet<_> = packs.map(|pack| pack.id).filter(is_lost).collect();
        if gone.is_empty() || segment.check().is_err() {
            continue;
        }
        let mut records: HashMap<u32, Vec<_>> = HashMap::new();
        for entry in segment.entries().filter_map(Result::ok) {
            let pack = segment.pack(entry.pack).filter(|pack| gone.contains(&pack.id));
            if pack.is_some() && !now.has(&entry.record.digest) {
                records.entry(entry.pack).or_default().push(entry.record);
            }
        }
        for (ordinal, records) in records {
            if let Some(pack) = segment.pack(ordinal) {
                lost.insert(pack.id);
                builder.add_pack(pack, &records);
            }
        }
    }
    flush(index, backend, writable, &mut builder)?;
    lost.retain(|id| cover.faults.iter().all(|fault| fault.id != *id));
    cover.missing.extend(lost.iter().copied());
    cover.missing.sort_unstable();
    index.change(|_, doubtful| doubtful.missing.extend(lost));
    Ok(())
}

fn flush(
    index: &Index,
    backend: &dyn Backend,
    writable: bool,
    builder: &mut SegmentBuilder,
) -> Result<(), Error> {
    if writable {
        return builder.flush(index, backend);
    }
    let SegmentBuilder { packs, entries } = std::mem::take(builder);
    if packs.is_empty() { Ok(()) } else { index.add_in_memory(&packs, entries) }
}
