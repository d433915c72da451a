//! Cutting content where the chunker says, and, where bytes changed in place, where the previous
//! generation was cut.
//!
//! A change inside a chunk can move its end, and the chunk then resembles none of before. If the
//! previous end is followed by content that is cut as it was, nothing has moved: the previous end is
//! kept, and the changed chunk stands exactly where its base does. Content is looked for where it
//! was, and where it would be if all that the file grew or shrank by lay before it. A chunk that is
//! found unchanged there is kept without looking for its end.

use super::previous::Range;
use crate::chunker::Cutter;
use crate::digest::Digest;

/// Returns the lengths of the chunks that `bytes` begins with, which lie at `offset` of the file;
/// bytes behind the last of them need more bytes to be cut, unless `last`.
pub(super) fn cut(
    cutter: Cutter,
    bytes: &[u8],
    last: bool,
    offset: u64,
    previous: &Range,
    growth: Growth,
) -> Vec<usize> {
    let (mut lens, mut at) = (Vec::new(), 0);
    loop {
        let place = offset + at as u64;
        let mut places = growth.places(place).into_iter().flatten();
        if let Some(len) = places.find_map(|place| unchanged(&bytes[at..], place, previous)) {
            lens.push(len);
            at += len;
            continue;
        }
        let Some(natural) = cutter.next_len(&bytes[at..], last) else { break };
        let kept = growth.places(place).into_iter().flatten().find_map(|place| {
            let kept = previous.len_at(place)?;
            let next = cutter.next_len(bytes.get(at + kept..)?, last)?;
            (previous.len_at(place + kept as u64) == Some(next)).then_some(kept)
        });
        let len = kept.unwrap_or(natural);
        lens.push(len);
        at += len;
    }
    lens
}

/// Returns the length of the chunk of the previous generation at `place` if `bytes` begins with it.
/// A digest costs less than a third of what looking for a cut does, and this is done in order.
fn unchanged(bytes: &[u8], place: u64, previous: &Range) -> Option<usize> {
    let chunk = previous.beginning_at(place)?;
    let same = bytes.get(..chunk.bytes as usize)?;
    (Digest::of(same) == chunk.digest).then_some(same.len())
}

/// By how many bytes a file is longer than its previous generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth(i64);

/// Content that moved by more is not looked for: what the previous generation had there would take
/// too much memory.
const GROWTH_MAX: u64 = 64 << 20;

impl Growth {
    /// Returns the growth from `before` to `after`; none if it is too much.
    pub fn new(before: u64, after: u64) -> Self {
        let growth = after.cast_signed().wrapping_sub(before.cast_signed());
        Self(if growth.unsigned_abs() <= GROWTH_MAX { growth } else { 0 })
    }

    /// Returns the range that may hold what now lies at `start..end`.
    pub fn widen(self, start: u64, end: u64) -> (u64, u64) {
        match u64::try_from(self.0) {
            Ok(grown) => (start.saturating_sub(grown), end),
            Err(_) => (start, end.saturating_add(self.0.unsigned_abs())),
        }
    }

    /// Returns where content that is now at `place` may have been.
    fn places(self, place: u64) -> [Option<u64>; 2] {
        let moved = place.checked_add_signed(-self.0).filter(|_| self.0 != 0);
        [moved, Some(place)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::Params;
    use crate::format::page::ChunkRef;

    fn noise(seed: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn range(bytes: &[u8], lens: &[usize]) -> Range {
        let mut at = 0;
        let chunk = |len: &usize| {
            at += len;
            let digest = Digest::of(&bytes[at - len..at]);
            ((at - len) as u64, ChunkRef { bytes: *len as u64, digest })
        };
        Range::of(lens.iter().map(chunk).collect())
    }

    fn all(bytes: &[u8], previous: &Range, growth: Growth) -> Vec<usize> {
        cut(Cutter::new(Params::default().cdc()), bytes, true, 0, previous, growth)
    }

    #[test]
    fn pages_changed_in_place_leave_every_cut_where_it_was() {
        let mut bytes = noise(1, 4 << 20);
        let before = all(&bytes, &Range::default(), Growth::new(0, 0));
        let previous = range(&bytes, &before);
        for page in (3..1024).step_by(60) {
            bytes[page * 4096..][..4096].copy_from_slice(&noise(page as u8, 4096));
        }
        let natural = all(&bytes, &Range::default(), Growth::new(0, 0));
        let kept = all(&bytes, &previous, Growth::new(0, 0));
        assert_ne!(natural, before, "the changes move cuts");
        let moved = kept.iter().zip(&before).filter(|(a, b)| a != b).count();
        assert_eq!(moved, 0);
    }

    #[test]
    fn unchanged_chunks_keep_their_cuts_whatever_the_chunker_says() {
        let bytes = noise(7, 1 << 20);
        let odd: Vec<usize> = std::iter::repeat_n(5000, (1 << 20) / 5000).collect();
        let kept = all(&bytes, &range(&bytes, &odd), Growth::new(0, 0));
        assert_eq!(kept[..odd.len()], odd);
    }

    #[test]
    fn cuts_that_were_kept_are_found_again_behind_an_insertion() {
        let mut bytes = noise(1, 4 << 20);
        let before = all(&bytes, &Range::default(), Growth::new(0, 0));
        let previous = range(&bytes, &before);
        bytes[2 << 20..][..4096].copy_from_slice(&noise(9, 4096));
        let second = all(&bytes, &previous, Growth::new(0, 0));
        let previous = range(&bytes, &second);
        bytes.splice(1000..1000, noise(5, 10_001));
        let third = all(&bytes, &previous, Growth::new(4 << 20, bytes.len() as u64));
        let tail = |lens: &[usize]| lens[lens.len() - 150..].to_vec();
        assert_eq!(tail(&third), tail(&second));
    }
}
