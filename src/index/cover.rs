//! Bringing the index into line with the packs that are there: packs that no segment knows (a
//! writer was killed before its segment) are added from their own directories, and packs that a
//! segment knows but nobody finds are set aside.

use std::collections::HashSet;

use super::{Error, Index, SegmentBuilder};
use crate::backend::Backend;
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
    /// Packs without usable directory; their chunks are not in the index.
    pub faults: Vec<PackFault>,
    /// Packs that the index knows and that are not there.
    pub missing: Vec<Digest>,
}

/// Adds packs that no segment knows, and sets packs aside that are not there.
///
/// With `writable`, new segments are stored; otherwise they live in memory only.
///
/// # Errors
/// The storage failed. Damaged packs are no error but [`Cover::faults`].
pub fn cover(index: &Index, backend: &dyn Backend, writable: bool) -> Result<Cover, Error> {
    let mut known = HashSet::new();
    for segment in index.snapshot().segments() {
        known.extend(segment.packs().filter_map(Result::ok).map(|pack| pack.id));
    }
    add_packs(index, backend, writable, known)
}

/// Makes the whole index anew from the packs, replacing all segments that were there.
///
/// # Errors
/// The storage failed; the old segments are still there then.
pub fn rebuild(index: &Index, backend: &dyn Backend, writable: bool) -> Result<Cover, Error> {
    let mut old = Vec::new();
    backend.list(super::FOLDER, &mut |key, _| old.push(key))?;
    index.change(|segments, _| segments.clear());
    let cover = add_packs(index, backend, writable, HashSet::new())?;
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
    mut known: HashSet<Digest>,
) -> Result<Cover, Error> {
    let mut cover = Cover::default();
    let mut builder = SegmentBuilder::default();
    let mut listed = Vec::new();
    for content in [Content::Chunks, Content::Pages] {
        backend.list(content.folder(), &mut |key, bytes| {
            if let Ok(id) = key.name().parse::<Digest>()
                && !known.remove(&id)
            {
                listed.push((content, id, bytes));
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
    cover.missing = known.iter().copied().collect();
    cover.missing.sort_unstable();
    index.change(|_, missing| *missing = known);
    Ok(cover)
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
