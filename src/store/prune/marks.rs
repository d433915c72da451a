//! Marks: what is needed, one bit for each entry of the index.
//!
//! A chunk that is in several segments is marked at its newest entry, which stands for all of them.
//! Which copy of it is kept is chosen in a walk over all entries by digest, and marked at that copy's
//! own entries. 10 million entries take 1.3 MB for each kind of mark.

use crate::digest::Digest;
use crate::index::{EntryCopy, Location, Place, Snapshot};
use crate::store::PageFault;
use crate::store::reach::Reach;

/// One bit for each entry of each segment.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<Vec<u64>>);

impl Bits {
    fn new(index: &Snapshot) -> Self {
        let words = |entries: u64| vec![0; entries.div_ceil(64) as usize];
        Self(index.segments().iter().map(|segment| words(segment.entry_count())).collect())
    }

    /// Sets a bit; `false` if it was set.
    fn set(&mut self, place: Place) -> bool {
        let word = &mut self.0[place.segment as usize][(place.entry / 64) as usize];
        let bit = 1 << (place.entry % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn get(&self, place: Place) -> bool {
        self.0[place.segment as usize][(place.entry / 64) as usize] >> (place.entry % 64) & 1 == 1
    }
}

/// What is marked.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    pub index: Snapshot,
    /// At the newest entry of a chunk or page: something that stays needs it.
    needed: Bits,
    /// At the newest entry: something that was forgotten needs it.
    explained: Bits,
    /// At every entry of the copy that stays.
    chosen: Bits,
}

impl Marks {
    pub fn new(index: Snapshot) -> Self {
        let empty = Bits::new(&index);
        Self { needed: empty.clone(), explained: empty.clone(), chosen: empty, index }
    }

    /// Says whether something that stays needs a chunk.
    pub fn is_needed(&self, digest: &Digest) -> bool {
        self.index.place(digest).is_some_and(|place| self.needed.get(place))
    }

    /// Says whether a group, whose newest entry comes first, is needed.
    pub fn is_group_needed(&self, copies: &[EntryCopy]) -> bool {
        copies.first().is_some_and(|copy| self.needed.get(copy.place))
    }

    /// Says whether something that was forgotten explains a group.
    pub fn is_group_explained(&self, copies: &[EntryCopy]) -> bool {
        copies.first().is_some_and(|copy| self.explained.get(copy.place))
    }

    /// Marks a chunk as needed, or only as explained; `None` if the index does not know it, `false`
    /// if it was marked so before.
    pub fn mark(&mut self, digest: &Digest, purpose: Purpose) -> Option<bool> {
        let place = self.index.place(digest)?;
        Some(match purpose {
            Purpose::Needed => self.needed.set(place),
            Purpose::Explained => self.explained.set(place),
        })
    }

    /// Marks the copy that stays.
    pub fn choose(&mut self, place: Place) {
        self.chosen.set(place);
    }

    pub fn is_chosen(&self, place: Place) -> bool {
        self.chosen.get(place)
    }

    /// Returns the copy of a needed chunk that stays.
    pub fn chosen_copy(&self, digest: &Digest) -> Option<Location> {
        let copies = self.index.copies(digest);
        copies.into_iter().find(|copy| self.is_chosen(copy.place)).map(|copy| copy.location)
    }
}

/// Why something is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It must stay.
    Needed,
    /// It was needed by what is forgotten: it belongs to nobody else who may come.
    Explained,
}

/// Most faults, and missing chunks, that are kept for telling people.
const TOLD_MAX: usize = 20;

/// Marks everything that artifacts need but bases.
pub(super) struct Marking<'m> {
    pub marks: &'m mut Marks,
    pub purpose: Purpose,
    /// Chunks that no pack is known to hold; the first few.
    pub missing: Vec<Digest>,
    pub missing_count: u64,
    /// Pages that cannot be read; the first few.
    pub faults: Vec<PageFault>,
    pub is_stopped: &'m dyn Fn() -> bool,
}

impl<'m> Marking<'m> {
    pub fn new(marks: &'m mut Marks, purpose: Purpose, is_stopped: &'m dyn Fn() -> bool) -> Self {
        let (missing, faults) = (Vec::new(), Vec::new());
        Self { marks, purpose, missing, missing_count: 0, faults, is_stopped }
    }
}

impl Reach for Marking<'_> {
    fn page(&mut self, digest: &Digest) -> bool {
        // An unknown page is entered: the fault says what is wrong with it.
        !(self.is_stopped)() && self.marks.mark(digest, self.purpose).unwrap_or(true)
    }

    fn chunk(&mut self, digest: &Digest) {
        if self.marks.mark(digest, self.purpose).is_none() {
            self.missing_count += 1;
            if self.missing.len() < TOLD_MAX {
                self.missing.push(*digest);
            }
        }
    }

    fn fault(&mut self, fault: PageFault) {
        if self.faults.len() < TOLD_MAX {
            self.faults.push(fault);
        }
    }
}
