//! Index: which pack holds a chunk, and where.
//!
//! A set of immutable sorted segments (`format::segment`), memory-mapped, so that resident memory
//! does not grow with the store. Segments are a cache: everything in them stands in the packs'
//! directories too, and [`rebuild`] makes them anew from there. A look-up asks each segment whose
//! range holds the digest; [`merge()`] keeps these few. Does not own: what the chunks mean.
//!
//! I3: a segment is written only for packs that are durable.

mod cover;
mod merge;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use crate::backend::{self, Backend, Key, ObjectBytes};
use crate::digest::Digest;
use crate::format;
use crate::format::header::StoreId;
use crate::format::pack::Record;
use crate::format::segment::{self, Entry, PackEntry, SegmentView};
use crate::limits::MIB;

pub use cover::{Cover, PackFault, cover, rebuild};
pub use merge::merge;

/// Folder of the segments.
pub const FOLDER: &str = "index";

/// Segments up to this size are checked against their checksum when they are opened; larger ones
/// by `verify` only, because reading them whole would make opening a store take seconds.
const CHECKED_BYTES_MAX: usize = 4 * MIB;

/// Largest segment object that is opened.
const SEGMENT_BYTES_MAX: u64 = 1 << 37;

/// What can go wrong with the index.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A segment is damaged.
    #[error("{key}: {source}")]
    Format {
        /// The segment.
        key: Key,
        /// What is wrong.
        source: format::Error,
    },
}

/// Where a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackEntry,
    /// The place in it.
    pub record: Record,
}

/// One segment, with its bytes.
#[derive(Debug)]
pub struct Segment {
    id: Digest,
    bytes: ObjectBytes,
    view: SegmentView,
}

impl Segment {
    fn open(id: Digest, bytes: ObjectBytes, store_id: StoreId) -> Result<Self, format::Error> {
        let view = SegmentView::parse(&bytes, store_id)?;
        if bytes.len() <= CHECKED_BYTES_MAX {
            view.check(&bytes)?;
        }
        Ok(Self { id, bytes, view })
    }

    /// Returns the segment's key.
    #[must_use]
    pub fn key(&self) -> Key {
        key(&self.id)
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.view.entry_count()
    }

    /// Returns the length of the segment in bytes.
    #[must_use]
    pub fn bytes_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Checks the checksum over the whole segment.
    ///
    /// # Errors
    /// It does not hold.
    pub fn check(&self) -> Result<(), format::Error> {
        self.view.check(&self.bytes)
    }

    /// Returns the packs that the segment points into.
    pub fn packs(&self) -> impl Iterator<Item = Result<PackEntry, format::Error>> + '_ {
        (0..self.view.pack_count()).map(|ordinal| self.view.pack(&self.bytes, ordinal))
    }

    /// Returns the pack at `ordinal` of the segment's pack table.
    #[must_use]
    pub fn pack(&self, ordinal: u32) -> Option<PackEntry> {
        self.view.pack(&self.bytes, ordinal as usize).ok()
    }

    /// Returns the entries in order of digest.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, format::Error>> + '_ {
        (0..self.view.entry_count()).map(|ordinal| self.view.entry(&self.bytes, ordinal))
    }

    fn find(&self, digest: &Digest) -> Option<Location> {
        let ordinal = self.view.find(&self.bytes, digest)?;
        let entry = self.view.entry(&self.bytes, ordinal).ok()?;
        let pack = self.view.pack(&self.bytes, entry.pack as usize).ok()?;
        Some(Location { pack, record: entry.record })
    }
}

/// Returns the key of a segment.
fn key(id: &Digest) -> Key {
    Key::new(format!("{FOLDER}/{id}")).expect("a digest is a valid name")
}

/// A segment that could not be used.
#[derive(Debug)]
pub struct DamagedSegment {
    /// The object.
    pub key: Key,
    /// What is wrong with it.
    pub source: format::Error,
}

/// A view of the index at one moment, for many look-ups without locking.
#[derive(Clone, Debug)]
pub struct Snapshot {
    segments: Arc<Vec<Arc<Segment>>>,
    /// For each first byte of a digest, the segments that may hold it, newest first: merged
    /// segments have a range of digests each, so that these are few however many there are.
    by_first_byte: Arc<Vec<Vec<u32>>>,
    missing: Arc<HashSet<Digest>>,
}

impl Snapshot {
    fn new(segments: Vec<Arc<Segment>>, missing: HashSet<Digest>) -> Self {
        let mut by_first_byte = vec![Vec::new(); 256];
        for (ordinal, segment) in segments.iter().enumerate().rev() {
            if let Some((first, last)) = segment.view.range() {
                // A damaged segment may have its range the wrong way round: then it has nothing.
                let bytes = usize::from(first.0[0])..=usize::from(last.0[0]);
                for list in by_first_byte.get_mut(bytes).into_iter().flatten() {
                    list.push(ordinal as u32);
                }
            }
        }
        let (segments, missing) = (Arc::new(segments), Arc::new(missing));
        Self { segments, by_first_byte: Arc::new(by_first_byte), missing }
    }

    /// Returns the segments that may hold `digest`, newest first.
    fn candidates(&self, digest: &Digest) -> impl Iterator<Item = &Arc<Segment>> {
        let ordinals = self.by_first_byte[usize::from(digest.0[0])].iter();
        ordinals.map(|ordinal| &self.segments[*ordinal as usize])
    }
}

impl Snapshot {
    /// Finds a chunk, in a pack that is not known to be missing or cut short if there is one.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<Location> {
        self.locations(digest).next()
    }

    /// Finds every place of a chunk, newest segment first, those in packs that are known to be
    /// missing or cut short last.
    pub fn locations<'a>(&'a self, digest: &'a Digest) -> impl Iterator<Item = Location> + 'a {
        let all = || self.candidates(digest).filter_map(|segment| segment.find(digest));
        let lost = || all().filter(|location| self.is_lost(location));
        let lost = (!self.missing.is_empty()).then(lost).into_iter().flatten();
        all().filter(|location| !self.is_lost(location)).chain(lost)
    }

    /// Says whether a chunk is in a pack that is not known to be missing or cut short, and so is
    /// its base if it has one.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        let base_is_there = |base: Digest| {
            self.missing.is_empty()
                || self.locations(&base).any(|l| !self.is_lost(&l) && l.record.base.is_none())
        };
        self.locations(digest).any(|location| {
            !self.is_lost(&location) && location.record.base.is_none_or(base_is_there)
        })
    }

    fn is_lost(&self, location: &Location) -> bool {
        !self.missing.is_empty() && self.missing.contains(&location.pack.id)
    }

    /// Returns the segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Returns the packs that segments point into and that are known not to be there, or not to be
    /// whole.
    #[must_use]
    pub fn missing_packs(&self) -> &HashSet<Digest> {
        &self.missing
    }
}

/// The index of an open store.
#[derive(Debug)]
pub struct Index {
    store_id: StoreId,
    current: RwLock<Snapshot>,
    damaged: Vec<DamagedSegment>,
}

impl Index {
    /// Opens all segments. A damaged segment is set aside and reported by [`Index::damaged`]; it
    /// blocks nothing, but the index then knows less than the packs: see [`rebuild`].
    ///
    /// # Errors
    /// The storage failed.
    pub fn open(backend: &dyn Backend, store_id: StoreId) -> Result<Self, Error> {
        // A segment may be merged away between listing and opening: list again then.
        for attempt in 0.. {
            match Self::open_listed(backend, store_id) {
                Err(Error::Backend(backend::Error::NotFound { .. })) if attempt < 10 => {}
                result => return result,
            }
        }
        unreachable!("the loop returns")
    }

    fn open_listed(backend: &dyn Backend, store_id: StoreId) -> Result<Self, Error> {
        let mut listed = Vec::new();
        backend.list(FOLDER, &mut |key, _| listed.push(key))?;
        listed.retain(|key| key.name().parse::<Digest>().is_ok());
        let (mut segments, mut damaged) = (Vec::new(), Vec::new());
        for (key, opened) in listed.iter().zip(open_all(backend, store_id, &listed)) {
            match opened? {
                Ok(segment) => segments.push(Arc::new(segment)),
                Err(source) => damaged.push(DamagedSegment { key: key.clone(), source }),
            }
        }
        let current = RwLock::new(Snapshot::new(segments, HashSet::new()));
        Ok(Self { store_id, current, damaged })
    }

    /// Returns segments that could not be used.
    #[must_use]
    pub fn damaged(&self) -> &[DamagedSegment] {
        &self.damaged
    }

    /// Returns the index as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a segment for chunks of durable packs and adds it to the index.
    ///
    /// # Errors
    /// The storage failed; the index is as before.
    pub fn write_segment(
        &self,
        backend: &dyn Backend,
        packs: &[PackEntry],
        mut entries: Vec<Entry>,
    ) -> Result<(), Error> {
        entries.sort_unstable_by_key(|entry| entry.record.digest);
        entries.dedup_by_key(|entry| entry.record.digest);
        let bytes = segment::encode(self.store_id, packs, &entries);
        drop(entries);
        let id = Digest::of(&bytes);
        let _ = backend::put_or_repair(backend, &key(&id), &bytes)?;
        drop(bytes);
        let bytes = backend.read(&key(&id), SEGMENT_BYTES_MAX)?;
        self.add(id, bytes)
    }

    /// Adds a segment that is kept in memory only, for stores that cannot be written to.
    fn add_in_memory(&self, packs: &[PackEntry], mut entries: Vec<Entry>) -> Result<(), Error> {
        entries.sort_unstable_by_key(|entry| entry.record.digest);
        entries.dedup_by_key(|entry| entry.record.digest);
        let bytes = segment::encode(self.store_id, packs, &entries);
        let id = Digest::of(&bytes);
        self.add(id, ObjectBytes::owned(bytes))
    }

    fn add(&self, id: Digest, bytes: ObjectBytes) -> Result<(), Error> {
        let segment = Segment::open(id, bytes, self.store_id)
            .map_err(|source| Error::Format { key: key(&id), source })?;
        self.change(|segments, _| {
            segments.retain(|known| known.id != id);
            segments.push(Arc::new(segment));
        });
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>, &mut HashSet<Digest>)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut segments = current.segments.to_vec();
        let mut missing = (*current.missing).clone();
        change(&mut segments, &mut missing);
        *current = Snapshot::new(segments, missing);
    }
}

type Opened = Result<Result<Segment, format::Error>, Error>;

/// Opens segments, several at a time: each takes a few reads that wait for one another.
fn open_all(backend: &dyn Backend, store_id: StoreId, keys: &[Key]) -> Vec<Opened> {
    const THREADS: usize = 8;
    let open = |key: &Key| -> Opened {
        let id = key.name().parse().map_err(|_| backend::Error::NotFound { key: key.clone() })?;
        Ok(Segment::open(id, backend.read(key, SEGMENT_BYTES_MAX)?, store_id))
    };
    if keys.len() < THREADS {
        return keys.iter().map(open).collect();
    }
    std::thread::scope(|scope| {
        let parts = keys.chunks(keys.len().div_ceil(THREADS));
        let threads: Vec<_> =
            parts.map(|part| scope.spawn(|| part.iter().map(open).collect::<Vec<_>>())).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.flat_map(|part| part.unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    })
}

/// Collects the entries of packs until a segment is written for them.
#[derive(Debug, Default)]
pub struct SegmentBuilder {
    packs: Vec<PackEntry>,
    entries: Vec<Entry>,
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
        index.change(|_, missing| missing.retain(|id| packs.iter().all(|pack| pack.id != *id)));
        Ok(())
    }
}
