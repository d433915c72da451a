//! Walking all segments side by side, by digest: memory for one entry a segment.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::{Error, Location, Place, Segment};
use crate::digest::Digest;

/// One entry for a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// Which entry.
    pub place: Place,
    /// Where the chunk is.
    pub location: Location,
}

/// A walk over all entries, those of one digest together.
#[derive(Debug)]
pub struct Groups<'a> {
    segments: &'a [Arc<Segment>],
    /// The next entry of every segment that has more.
    next: BinaryHeap<Reverse<(Digest, Reverse<u32>, u64)>>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(segments: &'a [Arc<Segment>]) -> Self {
        let mut groups = Self { segments, next: BinaryHeap::with_capacity(segments.len()) };
        for ordinal in 0..segments.len() {
            groups.push(ordinal as u32, 0);
        }
        groups
    }

    fn push(&mut self, segment: u32, entry: u64) {
        let held = &self.segments[segment as usize];
        if entry < held.view.entry_count() {
            let digest = held.view.digest(&held.bytes, entry);
            self.next.push(Reverse((digest, Reverse(segment), entry)));
        }
    }

    /// Puts all entries of the next digest into `copies`, the newest segment's first; `None` at the
    /// end.
    ///
    /// # Errors
    /// A segment is damaged.
    pub fn next(&mut self, copies: &mut Vec<Copy>) -> Result<Option<Digest>, Error> {
        copies.clear();
        let Some(Reverse((digest, ..))) = self.next.peek().copied() else { return Ok(None) };
        while let Some(Reverse((found, Reverse(segment), entry))) = self.next.peek().copied() {
            if found != digest {
                break;
            }
            self.next.pop();
            self.push(segment, entry + 1);
            let held = &self.segments[segment as usize];
            let wrong = |source| Error::Format { key: held.key(), source };
            let location = held.location(entry).map_err(wrong)?;
            copies.push(Copy { place: Place { segment, entry }, location });
        }
        Ok(Some(digest))
    }
}
