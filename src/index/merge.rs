//! Merging segments, so that a look-up asks few of them; and leaving packs out of the index.
//!
//! What counts is how many segments overlap at a digest. Where these are more than
//! [`SEGMENTS_MAX`], the thinnest of them are merged: those with the fewest entries for the width of
//! their range. The result is denser than each of its parts, so an entry is written again only a
//! number of times that grows with the logarithm of the store. Small segments are merged by their
//! number too, whether they overlap or not.
//!
//! The result is cut by digest into parts of bounded size, so that neither merging nor a part's
//! encoding needs memory in proportion to the store, and a digest lies in one part only. The parts
//! are durable before the merged segments are deleted. All places of a chunk stay known: prune
//! may be about to remove any but one of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use super::{Error, Index, Segment, key};
use crate::backend::Backend;
use crate::digest::Digest;
use crate::format::segment::{Entry, PackEntry};
use crate::limits::{MERGED_ENTRIES_MAX, PART_ENTRIES_MAX, SEGMENTS_MAX};

/// Merges segments until no more than [`SEGMENTS_MAX`] overlap anywhere or are small, or until
/// [`MERGED_ENTRIES_MAX`] entries were written: the next call goes on. Returns how many segments
/// were merged.
///
/// # Errors
/// The storage failed or a segment is damaged; nothing is lost then.
pub fn merge(index: &Index, backend: &dyn Backend) -> Result<usize, Error> {
    let (mut merged, mut entries) = (0, 0);
    while entries < MERGED_ENTRIES_MAX {
        let snapshot = index.snapshot();
        let Some(thin) = too_many(snapshot.segments()) else { break };
        entries += thin.iter().map(|segment| segment.entry_count()).sum::<u64>();
        merged += thin.len();
        rewrite(index, backend, &thin, &HashSet::new())?;
        // Where one chunk is in so many packs, there stay as many segments.
        if index.snapshot().segments().len() >= snapshot.segments().len() {
            break;
        }
    }
    Ok(merged)
}

/// Writes the segments that know one of `packs` anew without these, and deletes the old ones.
/// Returns how many there were.
///
/// # Errors
/// The storage failed or a segment is damaged; nothing is lost then.
pub fn drop_packs(index: &Index, backend: &dyn Backend, packs: &[Digest]) -> Result<usize, Error> {
    let packs: HashSet<_> = packs.iter().copied().collect();
    let snapshot = index.snapshot();
    let knows =
        |segment: &&Arc<Segment>| segment.packs().any(|p| p.is_ok_and(|p| packs.contains(&p.id)));
    let old: Vec<_> = snapshot.segments().iter().filter(knows).cloned().collect();
    rewrite(index, backend, &old, &packs)?;
    Ok(old.len())
}

/// The first 8 bytes of a digest.
fn prefix(digest: &Digest) -> u64 {
    digest.0[..8].iter().fold(0, |prefix, byte| prefix << 8 | u64::from(*byte))
}

/// Returns segments to be merged, if there are too many.
fn too_many(segments: &[Arc<Segment>]) -> Option<Vec<Arc<Segment>>> {
    overlapping(segments).or_else(|| small(segments))
}

/// Returns the thinnest segments where too many overlap.
fn overlapping(segments: &[Arc<Segment>]) -> Option<Vec<Arc<Segment>>> {
    let mut ranges: Vec<_> = segments
        .iter()
        .filter_map(|segment| {
            let (first, last) = segment.view.range()?;
            let (first, last) = (prefix(&first), prefix(&last));
            (first <= last).then_some((first, last, segment))
        })
        .collect();
    ranges.sort_unstable_by_key(|(first, ..)| *first);
    // Where most begin before and end after.
    let (mut ends, mut most, mut place) = (BinaryHeap::new(), 0, 0);
    for (first, last, _) in &ranges {
        while ends.peek().is_some_and(|Reverse(end)| end < first) {
            ends.pop();
        }
        ends.push(Reverse(*last));
        if ends.len() > most {
            (most, place) = (ends.len(), *first);
        }
    }
    ranges.retain(|(first, last, _)| *first <= place && place <= *last);
    let weighed = ranges.into_iter().map(|(first, last, segment)| {
        let width = (last - first) as f64 + 1.0;
        (segment.entry_count() as f64 / width, segment)
    });
    lightest(weighed.collect())
}

/// Returns the smallest segments if there are too many that are much smaller than a part.
fn small(segments: &[Arc<Segment>]) -> Option<Vec<Arc<Segment>>> {
    let small = segments.iter().filter(|segment| segment.entry_count() < PART_ENTRIES_MAX / 4);
    lightest(small.map(|segment| (segment.entry_count() as f64, segment)).collect())
}

/// Of more than [`SEGMENTS_MAX`], returns the lightest: at least so many that half of that are left,
/// and more as long as one is no heavier than all before it together. So what is merged is at least
/// about as heavy as what it is merged with, and an entry is not written again and again.
fn lightest(mut weighed: Vec<(f64, &Arc<Segment>)>) -> Option<Vec<Arc<Segment>>> {
    if weighed.len() <= SEGMENTS_MAX {
        return None;
    }
    weighed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let enough = weighed.len() - SEGMENTS_MAX / 2;
    let (mut chosen, mut sum) = (Vec::new(), 0.0);
    for (weight, segment) in weighed {
        if chosen.len() >= enough && weight > sum {
            break;
        }
        sum += weight;
        chosen.push(Arc::clone(segment));
    }
    Some(chosen)
}

/// Writes the entries of `old` into new segments, without those that point into `dropped`, and
/// deletes `old`.
fn rewrite(
    index: &Index,
    backend: &dyn Backend,
    old: &[Arc<Segment>],
    dropped: &HashSet<Digest>,
) -> Result<(), Error> {
    for segment in old {
        // A damaged one may point anywhere. The next opening makes the index anew.
        segment.check().map_err(|source| Error::Format { key: segment.key(), source })?;
    }
    let mut written = HashSet::new();
    let mut unplaced = all_packs(old)?;
    unplaced.retain(|id, _| !dropped.contains(id));
    let mut parts = Vec::new();
    cut(old, 0, 0, &mut parts);
    let parts = join(old, &parts);
    for (number, part) in parts.iter().enumerate() {
        let (mut packs, entries) = part_entries(old, part, dropped)?;
        for pack in &packs {
            unplaced.remove(&pack.id);
        }
        if number + 1 == parts.len() {
            // Packs whose chunks all stand in other packs too must stay known.
            packs.extend(unplaced.drain().map(|(_, pack)| pack));
        }
        if !packs.is_empty() {
            written.extend(index.write_segments(backend, &packs, entries)?);
        }
    }
    if !unplaced.is_empty() {
        let packs: Vec<_> = unplaced.into_values().collect();
        written.insert(index.write_entries(backend, &packs, &[])?);
    }
    let merged: HashSet<_> =
        old.iter().map(|segment| segment.id).filter(|id| !written.contains(id)).collect();
    index.change(|segments, _| segments.retain(|segment| !merged.contains(&segment.id)));
    for segment in old.iter().filter(|segment| segment.is_stored && merged.contains(&segment.id)) {
        backend.delete(&key(&segment.id))?;
    }
    Ok(())
}

/// A range of digests: those whose first so many bits are this number.
type Range = (u64, u32);

fn count(segments: &[Arc<Segment>], (part, bits): Range) -> u64 {
    let count = |segment: &Arc<Segment>| {
        let (from, to) = segment.view.part(&segment.bytes, part, bits);
        to.saturating_sub(from)
    };
    segments.iter().map(count).sum()
}

/// Cuts a range into such as have no more than [`PART_ENTRIES_MAX`] entries each.
fn cut(segments: &[Arc<Segment>], part: u64, bits: u32, parts: &mut Vec<Range>) {
    /// Digests with more equal bits than these do not occur.
    const BITS_MAX: u32 = 48;
    match count(segments, (part, bits)) {
        0 => {}
        many if many > PART_ENTRIES_MAX && bits < BITS_MAX => {
            cut(segments, part * 2, bits + 1, parts);
            cut(segments, part * 2 + 1, bits + 1, parts);
        }
        _ => parts.push((part, bits)),
    }
}

/// Joins neighbours that have room together.
fn join(segments: &[Arc<Segment>], parts: &[Range]) -> Vec<Vec<Range>> {
    let (mut joined, mut room): (Vec<Vec<Range>>, u64) = (Vec::new(), 0);
    for range in parts {
        let entries = count(segments, *range);
        match joined.last_mut() {
            Some(last) if entries <= room => {
                last.push(*range);
                room -= entries;
            }
            _ => {
                joined.push(vec![*range]);
                room = PART_ENTRIES_MAX.saturating_sub(entries);
            }
        }
    }
    joined
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

/// Collects the entries in `ranges`, with the packs that they point into.
fn part_entries(
    segments: &[Arc<Segment>],
    ranges: &[Range],
    dropped: &HashSet<Digest>,
) -> Result<(Vec<PackEntry>, Vec<Entry>), Error> {
    let (mut packs, mut ordinals, mut entries) = (Vec::new(), HashMap::new(), Vec::new());
    for segment in segments {
        let wrong = |source| Error::Format { key: segment.key(), source };
        for (part, bits) in ranges {
            let (from, to) = segment.view.part(&segment.bytes, *part, *bits);
            for ordinal in from..to {
                let mut entry = segment.view.entry(&segment.bytes, ordinal).map_err(wrong)?;
                let pack = segment.view.pack(&segment.bytes, entry.pack as usize).map_err(wrong)?;
                if dropped.contains(&pack.id) {
                    continue;
                }
                entry.pack = *ordinals.entry(pack.id).or_insert_with(|| {
                    packs.push(pack);
                    packs.len() as u32 - 1
                });
                entries.push(entry);
            }
        }
    }
    Ok((packs, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::format::header::StoreId;
    use crate::format::pack::{Content, Record};
    use crate::values::Encoding;

    fn record(number: u64, base: Option<Digest>) -> Record {
        let encoding = if base.is_some() { Encoding::ZstdWithBase } else { Encoding::Raw };
        let digest = Digest::of(&number.to_le_bytes());
        Record { digest, offset: 64, stored_bytes: 10, plain_bytes: 10, encoding, base }
    }

    fn pack(number: u8) -> PackEntry {
        PackEntry { id: Digest([number; 32]), bytes: 1000, content: Content::Chunks }
    }

    fn add(index: &Index, backend: &MemoryBackend, number: u8, records: &[Record]) {
        let entries = records.iter().map(|&record| Entry { pack: 0, record }).collect();
        index.write_segment(backend, &[pack(number)], entries).unwrap();
    }

    fn fresh() -> (MemoryBackend, Index) {
        let backend = MemoryBackend::new();
        let index = Index::open(&backend, StoreId([1; 16])).unwrap();
        (backend, index)
    }

    /// Returns how many segments overlap at most, by asking for every digest.
    fn depth(index: &Index, numbers: u64) -> usize {
        let snapshot = index.snapshot();
        let covers = |digest: &Digest| {
            let holds = |segment: &&Arc<Segment>| {
                segment.view.range().is_some_and(|(a, b)| a <= *digest && *digest <= b)
            };
            snapshot.segments().iter().filter(holds).count()
        };
        (0..numbers).map(|n| covers(&Digest::of(&n.to_le_bytes()))).max().unwrap()
    }

    #[test]
    fn few_segments_overlap_whatever_their_sizes_and_nothing_is_lost() {
        let (backend, index) = fresh();
        let mut number = 0;
        for round in 0..200u64 {
            let len = [3, 500, 40, 7, 1000][round as usize % 5];
            let records: Vec<_> = (number..number + len).map(|n| record(n, None)).collect();
            number += len;
            add(&index, &backend, round as u8, &records);
            merge(&index, &backend).unwrap();
            assert!(depth(&index, 500) <= SEGMENTS_MAX, "round {round}");
        }
        assert!(index.snapshot().segments().len() <= SEGMENTS_MAX);
        let again = Index::open(&backend, StoreId([1; 16])).unwrap().snapshot();
        assert!((0..number).all(|n| again.has(&Digest::of(&n.to_le_bytes()))));
        let packs: HashSet<_> =
            again.segments().iter().flat_map(|s| s.packs()).map(|p| p.unwrap().id).collect();
        assert_eq!(packs.len(), 200);
    }

    /// Segments of one large ingest hold entries over the whole range of digests.
    #[test]
    fn large_segments_are_merged_too_and_cut_by_digest() {
        let (backend, index) = fresh();
        let each = PART_ENTRIES_MAX / 8;
        for number in 0..14u64 {
            let records: Vec<_> =
                (number * each..(number + 1) * each).map(|n| record(n, None)).collect();
            add(&index, &backend, number as u8, &records);
        }
        assert_eq!(depth(&index, 100), 14);
        assert!(merge(&index, &backend).unwrap() > 1);
        assert!(depth(&index, 1000) <= SEGMENTS_MAX);
        for segment in index.snapshot().segments() {
            assert!(segment.entry_count() <= PART_ENTRIES_MAX);
        }
        assert_eq!(merge(&index, &backend).unwrap(), 0, "merging is not repeated");
    }

    #[test]
    fn entries_are_not_written_again_and_again() {
        let (backend, index) = fresh();
        let (mut number, mut written) = (0, 0);
        for round in 0..600u64 {
            let records: Vec<_> = (number..number + 20).map(|n| record(n, None)).collect();
            number += 20;
            add(&index, &backend, round as u8, &records);
            let before: HashSet<_> = index.snapshot().segments().iter().map(|s| s.id).collect();
            merge(&index, &backend).unwrap();
            let snapshot = index.snapshot();
            let new = snapshot.segments().iter().filter(|s| !before.contains(&s.id));
            written += new.map(|segment| segment.entry_count()).sum::<u64>();
        }
        assert!(written < 6 * number, "{written} entries written for {number}");
    }

    #[test]
    fn of_two_places_the_one_that_can_be_a_base_stays() {
        let (backend, index) = fresh();
        let base = Digest::of(b"base");
        for number in 0..=SEGMENTS_MAX as u8 {
            let base = (number != 4).then_some(base);
            add(&index, &backend, number, &[record(1, base), record(u64::from(number) + 2, None)]);
        }
        merge(&index, &backend).unwrap();
        let found: Vec<_> = index.snapshot().locations(&record(1, None).digest).collect();
        assert!(found.iter().any(|location| location.record.base.is_none()), "{found:?}");
    }

    /// Of two copies one was left out by merging, and its pack stayed known; then prune, which had
    /// made its plan before, removed the pack with the other.
    #[test]
    fn every_place_of_a_chunk_stays_known_when_segments_are_merged_and_rewritten() {
        let (backend, index) = fresh();
        let packs = SEGMENTS_MAX as u8 + 3;
        for number in 0..packs {
            add(&index, &backend, number, &[record(1, None), record(u64::from(number) + 2, None)]);
            merge(&index, &backend).unwrap();
        }
        let of_one = |index: &Index| {
            let snapshot = index.snapshot();
            let digest = record(1, None).digest;
            snapshot.locations(&digest).map(|place| place.pack.id).collect::<HashSet<_>>().len()
        };
        assert_eq!(of_one(&index), usize::from(packs));
        for number in 0..packs - 1 {
            drop_packs(&index, &backend, &[pack(number).id]).unwrap();
            assert_eq!(of_one(&index), usize::from(packs - 1 - number));
        }
        let again = Index::open(&backend, StoreId([1; 16])).unwrap();
        assert_eq!(of_one(&again), 1);
    }

    #[test]
    fn dropped_packs_are_unknown_and_all_others_known() {
        let (backend, index) = fresh();
        for number in 0..6u8 {
            add(&index, &backend, number, &[record(u64::from(number), None), record(99, None)]);
        }
        let dropped = [pack(1).id, pack(4).id];
        assert_eq!(drop_packs(&index, &backend, &dropped).unwrap(), 2);
        let again = Index::open(&backend, StoreId([1; 16])).unwrap().snapshot();
        let has = |n: u64| again.has(&record(n, None).digest);
        assert_eq!([0, 1, 2, 3, 4, 5, 99].map(has), [true, false, true, true, false, true, true]);
        let all = again.segments().iter().flat_map(|segment| segment.packs());
        assert!(all.into_iter().all(|pack| !dropped.contains(&pack.unwrap().id)));
        assert_eq!(again.segments().len(), 4);
    }
}
