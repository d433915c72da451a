//! Index: which pack holds a chunk, and where.
//!
//! A set of immutable sorted segments (`format::segment`), memory-mapped, so that resident memory
//! does not grow with the store. Segments are a cache: everything in them stands in the packs'
//! directories too, and [`rebuild`] makes them anew from there. A look-up asks each segment whose
//! range holds the digest; [`merge()`] keeps these few. Does not own: what the chunks mean.
//!
//! I3: a segment is written only for packs that are durable. Whoever writes segments for packs of
//! others ([`cover()`], [`rebuild`], [`merge()`], [`drop_packs`]) keeps others from doing the same
//! meanwhile: see "Locks" in `store-format.md`.

mod cover;
mod groups;
mod merge;
mod writing;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::backend::{self, Backend, Key, ObjectBytes};
use crate::digest::Digest;
use crate::format;
use crate::format::header::StoreId;
use crate::format::pack::Record;
use crate::format::segment::{Entry, PackEntry, SegmentView};
use crate::limits::MIB;

pub use cover::{Cover, PackFault, Removals, cover, rebuild};
pub use groups::{Copy as EntryCopy, Groups};
pub use merge::{drop_packs, merge};
pub use writing::SegmentBuilder;

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
    /// Whether it is an object of the store, and not only in memory.
    is_stored: bool,
}

impl Segment {
    fn open(id: Digest, bytes: ObjectBytes, store_id: StoreId) -> Result<Self, format::Error> {
        let view = SegmentView::parse(&bytes, store_id)?;
        if bytes.len() <= CHECKED_BYTES_MAX {
            view.check(&bytes)?;
        }
        Ok(Self { id, bytes, view, is_stored: true })
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
        self.location(self.view.find(&self.bytes, digest)?).ok()
    }

    fn location(&self, ordinal: u64) -> Result<Location, format::Error> {
        let entry = self.view.entry(&self.bytes, ordinal)?;
        let pack = self.view.pack(&self.bytes, entry.pack as usize)?;
        Ok(Location { pack, record: entry.record })
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

/// Packs that are not to be relied on.
#[derive(Clone, Debug, Default)]
struct Doubtful {
    /// Not there, or not whole, as far as is known.
    missing: HashSet<Digest>,
    /// Being removed.
    gone: HashSet<Digest>,
    /// To be removed: they can be read, and nobody should begin to rely on them.
    condemned: HashSet<Digest>,
}

impl Doubtful {
    fn is_absent(&self, location: &Location) -> bool {
        let id = &location.pack.id;
        (!self.missing.is_empty() && self.missing.contains(id))
            || (!self.gone.is_empty() && self.gone.contains(id))
    }

    fn is_lost(&self, location: &Location) -> bool {
        self.is_absent(location)
            || (!self.condemned.is_empty() && self.condemned.contains(&location.pack.id))
    }

    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.gone.is_empty() && self.condemned.is_empty()
    }
}

/// The place of an entry in a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Ordinal of the segment.
    pub segment: u32,
    /// Ordinal of the entry in it.
    pub entry: u64,
}

/// A view of the index at one moment, for many look-ups without locking.
#[derive(Clone, Debug)]
pub struct Snapshot {
    segments: Arc<Vec<Arc<Segment>>>,
    /// For each first byte of a digest, the segments that may hold it, newest first: merged
    /// segments have a range of digests each, so that these are few however many there are.
    by_first_byte: Arc<Vec<Vec<u32>>>,
    doubtful: Arc<Doubtful>,
}

impl Snapshot {
    fn new(segments: Vec<Arc<Segment>>, doubtful: Doubtful) -> Self {
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
        let (segments, doubtful) = (Arc::new(segments), Arc::new(doubtful));
        Self { segments, by_first_byte: Arc::new(by_first_byte), doubtful }
    }

    /// Returns the segments that may hold `digest`, newest first.
    fn candidates(&self, digest: &Digest) -> impl Iterator<Item = &Arc<Segment>> {
        let ordinals = self.by_first_byte[usize::from(digest.0[0])].iter();
        ordinals.map(|ordinal| &self.segments[*ordinal as usize])
    }
}

impl Snapshot {
    /// Finds a chunk, in a pack that can be relied on if there is one.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<Location> {
        self.locations(digest).next()
    }

    /// Finds a chunk where others can be decoded with it: a base has no base.
    #[must_use]
    pub fn find_base(&self, digest: &Digest) -> Option<Location> {
        self.locations(digest).find(|location| location.record.base.is_none())
    }

    /// Finds every place of a chunk, newest segment first, those in packs that cannot be relied on
    /// (missing, cut short, condemned) last.
    pub fn locations<'a>(&'a self, digest: &'a Digest) -> impl Iterator<Item = Location> + 'a {
        let all = || self.candidates(digest).filter_map(|segment| segment.find(digest));
        let lost = || all().filter(|location| self.is_lost(location));
        let lost = (!self.doubtful.is_empty()).then(lost).into_iter().flatten();
        all().filter(|location| !self.is_lost(location)).chain(lost)
    }

    /// Says whether a chunk is in a pack that can be relied on, and so is its base if it has one.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.is_in(digest, |location| !self.is_lost(location))
    }

    /// Says whether a chunk is in a pack that is there and stays unless it is collected, and so is
    /// its base if it has one: as [`Snapshot::has`], but condemned packs will do.
    #[must_use]
    pub fn keeps(&self, digest: &Digest) -> bool {
        self.is_in(digest, |location| !self.doubtful.is_absent(location))
    }

    /// Says whether a chunk is encoded against one that no pack holds as a base, as far as is known;
    /// what is being removed counts as gone.
    /// Prune leaves such behind in packs that stay, where nothing needs them.
    #[must_use]
    pub fn dangles(&self, record: &Record) -> bool {
        let is_base = |place: Location| {
            place.record.base.is_none() && !self.doubtful.gone.contains(&place.pack.id)
        };
        record.base.is_some_and(|base| !self.locations(&base).any(is_base))
    }

    fn is_in(&self, digest: &Digest, good: impl Fn(&Location) -> bool) -> bool {
        let base_is_there =
            |base: Digest| self.locations(&base).any(|l| good(&l) && l.record.base.is_none());
        self.locations(digest)
            .any(|location| good(&location) && location.record.base.is_none_or(base_is_there))
    }

    /// Says whether a place is in a pack that cannot be relied on.
    #[must_use]
    pub fn is_lost(&self, location: &Location) -> bool {
        self.doubtful.is_lost(location)
    }

    /// Says whether a place is in a pack that is not there, or will not be soon.
    #[must_use]
    pub fn is_absent(&self, location: &Location) -> bool {
        self.doubtful.is_absent(location)
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
        &self.doubtful.missing
    }

    /// Returns the newest entry for a chunk: the one that stands for all of them.
    #[must_use]
    pub fn place(&self, digest: &Digest) -> Option<Place> {
        let ordinals = self.by_first_byte[usize::from(digest.0[0])].iter();
        ordinals.copied().find_map(|segment| {
            let held = &self.segments[segment as usize];
            let entry = held.view.find(&held.bytes, digest)?;
            Some(Place { segment, entry })
        })
    }

    /// Returns all entries for a chunk, newest segment first.
    ///
    /// A damaged entry is left out.
    #[must_use]
    pub fn copies(&self, digest: &Digest) -> Vec<EntryCopy> {
        let copy = |segment: u32| {
            let held = &self.segments[segment as usize];
            let entry = held.view.find(&held.bytes, digest)?;
            let location = held.location(entry).ok()?;
            Some(EntryCopy { place: Place { segment, entry }, location })
        };
        self.by_first_byte[usize::from(digest.0[0])].iter().copied().filter_map(copy).collect()
    }

    /// Walks all entries by digest.
    #[must_use]
    pub fn groups(&self) -> Groups<'_> {
        Groups::new(&self.segments)
    }
}

/// The index of an open store.
#[derive(Debug)]
pub struct Index {
    store_id: StoreId,
    current: RwLock<Snapshot>,
    damaged: Vec<DamagedSegment>,
    /// How often segments in memory only were left.
    left: AtomicU64,
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
        let current = RwLock::new(Snapshot::new(segments, Doubtful::default()));
        Ok(Self { store_id, current, damaged, left: AtomicU64::new(0) })
    }

    /// Returns segments that could not be used.
    #[must_use]
    pub fn damaged(&self) -> &[DamagedSegment] {
        &self.damaged
    }

    /// Returns how often [`Index::refresh`] has left what was kept in memory only. Whoever had put
    /// it there, because the stored segments lacked it, has to do that again.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Returns the index as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes notice of what others did to the segments: opens those that are new, and leaves those
    /// that are no longer there. What was kept in memory only is left too: see [`cover()`].
    ///
    /// # Errors
    /// The storage failed.
    pub fn refresh(&self, backend: &dyn Backend) -> Result<(), Error> {
        for attempt in 0.. {
            match self.refresh_listed(backend) {
                Err(Error::Backend(backend::Error::NotFound { .. })) if attempt < 10 => {}
                result => return result,
            }
        }
        unreachable!("the loop returns")
    }

    fn refresh_listed(&self, backend: &dyn Backend) -> Result<(), Error> {
        let mut listed = HashSet::new();
        backend.list(FOLDER, &mut |key, _| listed.extend(key.name().parse::<Digest>().ok()))?;
        let mut unknown = listed.clone();
        for segment in self.snapshot().segments().iter().filter(|segment| segment.is_stored) {
            unknown.remove(&segment.id);
        }
        for damaged in &self.damaged {
            unknown.retain(|id| key(id) != damaged.key);
        }
        let keys: Vec<_> = unknown.iter().map(key).collect();
        let mut opened = Vec::new();
        for segment in open_all(backend, self.store_id, &keys) {
            // What a damaged one would tell is found in the packs.
            opened.extend(segment?.ok().map(Arc::new));
        }
        self.change(|segments, _| {
            if segments.iter().any(|segment| !segment.is_stored) {
                self.left.fetch_add(1, Ordering::Relaxed);
            }
            segments.retain(|segment| segment.is_stored && listed.contains(&segment.id));
            opened.retain(|new| segments.iter().all(|known| known.id != new.id));
            segments.append(&mut opened);
        });
        Ok(())
    }

    fn add(&self, id: Digest, bytes: ObjectBytes, is_stored: bool) -> Result<(), Error> {
        let mut segment = Segment::open(id, bytes, self.store_id)
            .map_err(|source| Error::Format { key: key(&id), source })?;
        segment.is_stored = is_stored;
        self.change(|segments, _| {
            segments.retain(|known| known.id != id);
            segments.push(Arc::new(segment));
        });
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>, &mut Doubtful)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut segments = current.segments.to_vec();
        let mut doubtful = (*current.doubtful).clone();
        change(&mut segments, &mut doubtful);
        *current = Snapshot::new(segments, doubtful);
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
