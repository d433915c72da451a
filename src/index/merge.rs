//! Merging segments, so that a look-up asks few of them.
//!
//! The result is cut by digest range into parts of bounded size, so that neither merging nor a
//! part's encoding needs memory in proportion to the store, and a digest lies in one part only.
//! The parts are durable before the merged segments are deleted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Error, Index, Segment, key};
use crate::backend::Backend;
use crate::digest::Digest;
use crate::format::segment::{Entry, PackEntry};
use crate::limits::SEGMENTS_MAX;

/// Most entries of one part: about 55 MB while it is merged.
const PART_ENTRIES_MAX: u64 = 1 << 19;

/// Merges the smaller segments if there are more than [`SEGMENTS_MAX`] of them. Returns how many
/// were merged.
///
/// # Errors
/// The storage failed or a segment is damaged; nothing is lost then.
pub fn merge(index: &Index, backend: &dyn Backend) -> Result<usize, Error> {
    let snapshot = index.snapshot();
    let small: Vec<_> = snapshot
        .segments()
        .iter()
        .filter(|segment| segment.entry_count() < PART_ENTRIES_MAX / 4)
        .cloned()
        .collect();
    if small.len() <= SEGMENTS_MAX {
        return Ok(0);
    }
    let entries: u64 = small.iter().map(|segment| segment.entry_count()).sum();
    let part_bits = entries.div_ceil(PART_ENTRIES_MAX).next_power_of_two().ilog2();
    let mut written = HashSet::new();
    let mut unplaced = all_packs(&small)?;
    for part in 0..1u64 << part_bits {
        let (mut packs, entries) = part_entries(&small, part, part_bits)?;
        for pack in &packs {
            unplaced.remove(&pack.id);
        }
        if part + 1 == 1 << part_bits {
            // Packs whose chunks all stand in other packs too must stay known.
            packs.extend(unplaced.values());
        }
        if !packs.is_empty() {
            index.write_segment(backend, &packs, entries)?;
            written.extend(index.snapshot().segments().last().map(|segment| segment.id));
        }
    }
    let merged: HashSet<_> =
        small.iter().map(|segment| segment.id).filter(|id| !written.contains(id)).collect();
    index.change(|segments, _| segments.retain(|segment| !merged.contains(&segment.id)));
    for id in &merged {
        backend.delete(&key(id))?;
    }
    Ok(merged.len())
}

fn all_packs(segments: &[Arc<Segment>]) -> Result<HashMap<Digest, PackEntry>, Error> {
    let mut packs = HashMap::new();
    for segment in segments {
        for pack in segment.packs() {
            let pack = pack.map_err(|source| Error::Format { key: segment.key(), source })?;
            packs.insert(pack.id, pack);
        }
    }
    Ok(packs)
}

/// Collects the entries whose leading bits equal `part`, with the packs that they point into.
fn part_entries(
    segments: &[Arc<Segment>],
    part: u64,
    part_bits: u32,
) -> Result<(Vec<PackEntry>, Vec<Entry>), Error> {
    let (mut packs, mut ordinals, mut entries) = (Vec::new(), HashMap::new(), Vec::new());
    for segment in segments {
        let wrong = |source| Error::Format { key: segment.key(), source };
        let (from, to) = segment.view.part(&segment.bytes, part, part_bits);
        for ordinal in from..to {
            let mut entry = segment.view.entry(&segment.bytes, ordinal).map_err(wrong)?;
            let pack = segment.view.pack(&segment.bytes, entry.pack as usize).map_err(wrong)?;
            entry.pack = *ordinals.entry(pack.id).or_insert_with(|| {
                packs.push(pack);
                packs.len() as u32 - 1
            });
            entries.push(entry);
        }
    }
    Ok((packs, entries))
}
