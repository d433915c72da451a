//! Packs: their directories, their bytes, and every chunk in them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::deltas::{self, Deltas, Windows};
use super::entries::Entries;
use super::{Damage, DamageKind, Scope, Verification};
use crate::backend;
use crate::codec::{Decoder, Encoding};
use crate::digest::Digest;
use crate::format::pack::{Content, Record};
use crate::format::segment::PackEntry;
use crate::index::Snapshot;
use crate::limits::{CHUNK_BYTES_MAX, MIB};
use crate::pack;
use crate::store::{ChunkFault, Error, Store, chunks};

/// What was found in one pack.
#[derive(Default)]
struct Found {
    bytes_read: u64,
    chunks_checked: u64,
    /// The pack as a whole.
    fault: Option<pack::Error>,
    /// Not what its name says.
    misnamed: Option<Digest>,
    /// Chunks that do not decode to what they are called: of this pack, and deltas against chunks
    /// of this pack.
    bad: Vec<(PackEntry, Record, String)>,
    /// What is in it, if the index says something else.
    contradicted: Option<Vec<Record>>,
}

/// How a pack is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Directory,
    Bytes,
    Chunks,
}

impl Verification<'_> {
    /// Looks at all packs, or those that hold what was asked for, as far as `scope` says.
    pub(super) fn packs(&mut self, scope: Scope) -> Result<(), Error> {
        let share = if let Scope::Read(share) = scope { share } else { 1.0 };
        let listed = self.listed_packs()?;
        let listed_len = listed.len();
        let seed: [u8; 8] = crate::store::random()?;
        let depth_of = |entry: &PackEntry| match scope {
            Scope::Full => Depth::Chunks,
            Scope::Read(_) if is_drawn(&entry.id, seed, share) => Depth::Bytes,
            Scope::Structure | Scope::Read(_) => Depth::Directory,
        };
        let mut plan: Vec<_> = listed.into_iter().map(|entry| (entry, depth_of(&entry))).collect();
        // A share of few packs is at least one of them.
        if matches!(scope, Scope::Read(_))
            && !plan.iter().any(|(_, depth)| *depth == Depth::Bytes)
            && let Some((_, depth)) = plan.get_mut(usize::from(seed[0]) % listed_len.max(1))
        {
            *depth = Depth::Bytes;
        }
        let to_read = plan.iter().filter(|(_, depth)| *depth != Depth::Directory);
        self.progress.expect(to_read.map(|(entry, _)| entry.bytes).sum());
        let results = Mutex::new(Vec::new());
        let (store, progress) = (self.store, self.progress);
        let deltas =
            if scope == Scope::Full { Deltas::collect(&self.index) } else { Deltas::default() };
        let entries =
            Entries::count(self.stored.clone(), &self.damaged_segments, || progress.check())?;
        let known = Known { index: &self.index, deltas: &deltas, entries: &entries };
        plan.par_iter().try_for_each(|(entry, depth)| {
            progress.check()?;
            let found = look_at(store, known, entry, *depth, progress);
            progress.item();
            results.lock().unwrap_or_else(PoisonError::into_inner).push((*entry, found));
            Ok::<_, Error>(())
        })?;
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_unstable_by_key(|(entry, _)| (entry.content as u8, entry.id));
        for (entry, found) in results {
            self.found(entry, found);
        }
        Ok(())
    }

    fn found(&mut self, entry: PackEntry, found: Found) {
        self.report.objects_checked += 1;
        self.report.bytes_read += found.bytes_read;
        self.report.chunks_checked += found.chunks_checked;
        let key = pack::key(entry.content, &entry.id);
        if self.bad_packs.contains_key(&entry.id) {
            return;
        }
        if let Some(fault) = &found.fault {
            return self.pack_fault(key, entry.id, fault);
        }
        for (pack, record, reason) in &found.bad {
            let key = pack::key(pack.content, &pack.id);
            let object = format!("{key}: chunk {} at {:#x}", record.digest.short(), record.offset);
            let kind = match pack.content {
                Content::Chunks => DamageKind::Chunk,
                Content::Pages => DamageKind::Page,
            };
            let known = self.bad_chunks.get(&record.digest).copied();
            let damage = known.unwrap_or_else(|| self.damage(Damage::new(object, kind, reason)));
            self.bad_chunks.insert(record.digest, damage);
        }
        if let Some(actual) = found.misnamed
            && !found.bad.iter().any(|(pack, ..)| pack.id == entry.id)
        {
            let reason = format!("its bytes have digest {actual}, not the one in its name");
            let damage = self.damage(Damage::new(key, DamageKind::Pack, reason));
            self.bad_packs.insert(entry.id, damage);
        } else if let Some(records) = found.contradicted {
            self.contradicted(&entry, &records);
        }
    }

    /// Returns the packs to be looked at, as the storage lists them. Those that a writer has added
    /// since the verification began are left to the next one: the index knows nothing of them yet,
    /// so their deltas could not be decoded.
    fn listed_packs(&self) -> Result<Vec<PackEntry>, Error> {
        let packs = self.index.segments().iter().flat_map(|segment| segment.packs());
        let known: HashSet<_> = packs.filter_map(Result::ok).map(|pack| pack.id).collect();
        let mut listed = Vec::new();
        for content in [Content::Chunks, Content::Pages] {
            self.store.backend().list(content.folder(), &mut |key, bytes| {
                if let Ok(id) = key.name().parse::<Digest>() {
                    listed.push(PackEntry { id, bytes, content });
                }
            })?;
        }
        listed.retain(|entry| !self.gone.contains(&entry.id) && known.contains(&entry.id));
        if let Some(packs) = &self.packs {
            listed.retain(|entry| packs.contains(&entry.id));
        }
        Ok(listed)
    }

    /// Finds out which chunks cannot be had because their packs are damaged or missing, and which
    /// are lost because their base is.
    pub(super) fn doubtful_chunks(&mut self) -> Result<(), Error> {
        if !self.bad_packs.is_empty() {
            let snapshot = self.index.clone();
            for segment in snapshot.segments() {
                for entry in segment.entries().filter_map(Result::ok) {
                    self.progress.check()?;
                    let pack = segment.pack(entry.pack).map(|pack| pack.id);
                    let damage = pack.and_then(|id| self.bad_packs.get(&id)).copied();
                    let digest = entry.record.digest;
                    let Some(damage) = damage else { continue };
                    if !self.bad_chunks.contains_key(&digest)
                        && chunks::read_present(self.store, &snapshot, &digest).is_err()
                    {
                        self.bad_chunks.insert(digest, damage);
                    }
                }
            }
        }
        let mut unknown: Vec<_> = self
            .unknown
            .iter()
            .map(|(digest, _)| *digest)
            .filter(|digest| !self.bad_chunks.contains_key(digest))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        for digest in unknown {
            let object = format!("chunk {digest}");
            let reason = if self.index.find(&digest).is_some() {
                "what it is encoded against is in no pack of this store"
            } else {
                "in no pack of this store"
            };
            let damage = self.damage(Damage::new(object, DamageKind::Chunk, reason));
            self.bad_chunks.insert(digest, damage);
        }
        self.chunks_without_base();
        Ok(())
    }

    fn chunks_without_base(&mut self) {
        if self.bad_chunks.is_empty() {
            return;
        }
        let snapshot = self.index.clone();
        for segment in snapshot.segments() {
            for entry in segment.entries().filter_map(Result::ok) {
                let lost = entry.record.base.and_then(|base| self.bad_chunks.get(&base)).copied();
                if let Some(damage) = lost {
                    self.bad_chunks.entry(entry.record.digest).or_insert(damage);
                }
            }
        }
    }
}

/// Draws a share of the packs, evenly, differently for every seed.
fn is_drawn(id: &Digest, seed: [u8; 8], share: f64) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed).update(&id.0);
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) < share * f64::from(u32::MAX)
}

/// What is known beside the pack that is being looked at.
#[derive(Clone, Copy)]
struct Known<'a> {
    index: &'a Snapshot,
    deltas: &'a Deltas,
    entries: &'a Entries,
}

fn look_at(
    store: &Store,
    known: Known<'_>,
    entry: &PackEntry,
    depth: Depth,
    progress: &crate::store::Progress,
) -> Found {
    let mut found = Found::default();
    let (backend, content, id) = (store.backend(), entry.content, &entry.id);
    let directory = match pack::read_directory(backend, content, id, entry.bytes, store.id()) {
        Ok(directory) => directory,
        Err(fault) => {
            found.fault = Some(fault);
            return found;
        }
    };
    // A pack that is not where the index has it may stand under another's name.
    let is_known = |record: &Record| {
        let mut places = known.index.locations(&record.digest);
        places.any(|place| place.pack.id == *id && place.record == *record)
    };
    let depth = match depth {
        Depth::Directory if !directory.records.iter().all(is_known) => Depth::Bytes,
        depth => depth,
    };
    if depth != Depth::Directory
        && let Err(error) = read_pack(store, known, entry, &directory.records, depth, &mut found)
    {
        found.fault = Some(error.into());
    }
    progress.add(if depth == Depth::Directory { 0 } else { entry.bytes });
    if !known.entries.agree_with(entry, &directory.records) {
        found.contradicted = Some(directory.records);
    }
    found
}

/// Reads a whole pack, piece by piece at the bounds of records.
fn read_pack(
    store: &Store,
    known: Known<'_>,
    entry: &PackEntry,
    records: &[Record],
    depth: Depth,
    found: &mut Found,
) -> Result<(), backend::Error> {
    let key = pack::key(entry.content, &entry.id);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; MIB + CHUNK_BYTES_MAX];
    let mut chunks = Chunks::new(store, known, entry);
    let mut rest = records;
    let mut at = 0;
    while at < entry.bytes {
        // Bodies lie back to back, so a piece that ends at a record's end begins at the next.
        let inside =
            rest.iter().take_while(|record| record_end(record) - at <= buffer.len() as u64).count();
        let (here, after) = rest.split_at(inside);
        let end = here.last().map_or((at + MIB as u64).min(entry.bytes), record_end);
        let piece = &mut buffer[..(end - at) as usize];
        store.backend().read_at(&key, at, piece)?;
        hasher.update(piece);
        found.bytes_read += end - at;
        if depth == Depth::Chunks {
            for record in here {
                let start = (u64::from(record.offset) - at) as usize;
                let body = &piece[start..start + record.stored_bytes as usize];
                chunks.check(record, body, found);
            }
        }
        (at, rest) = (end, after);
    }
    let actual = Digest(*hasher.finalize().as_bytes());
    if actual != entry.id {
        found.misnamed = Some(actual);
    }
    Ok(())
}

fn record_end(record: &Record) -> u64 {
    u64::from(record.offset) + u64::from(record.stored_bytes)
}

/// Checks the chunks of one pack, and the deltas against them.
struct Chunks<'a> {
    store: &'a Store,
    known: Known<'a>,
    entry: &'a PackEntry,
    decoder: Result<Decoder<'static>, crate::codec::Error>,
    windows: Windows<'a>,
    plain: Vec<u8>,
    delta_plain: Vec<u8>,
}

impl<'a> Chunks<'a> {
    fn new(store: &'a Store, known: Known<'a>, entry: &'a PackEntry) -> Self {
        Self {
            store,
            known,
            entry,
            decoder: Decoder::new(),
            windows: Windows::new(store.backend()),
            plain: vec![0; CHUNK_BYTES_MAX],
            delta_plain: vec![0; CHUNK_BYTES_MAX],
        }
    }

    fn check(&mut self, record: &Record, body: &[u8], found: &mut Found) {
        if record.encoding == Encoding::ZstdWithBase {
            // If anything needs it, the walk over what is needed has found that.
            if self.known.index.dangles(record) {
                return;
            }
            if !self.known.deltas.has(record) {
                found.chunks_checked += 1;
                let index = self.known.index;
                let read: Result<Vec<u8>, ChunkFault> =
                    chunks::read_present(self.store, index, &record.digest);
                if let Err(fault) = read {
                    found.bad.push((*self.entry, *record, fault.reason.to_string()));
                }
            }
            return;
        }
        found.chunks_checked += 1;
        if let Err(reason) = self.decode(record, body) {
            // Its deltas are lost with it; they are named later.
            found.bad.push((*self.entry, *record, reason));
            return;
        }
        let base = &self.plain[..record.plain_bytes as usize];
        for delta in self.known.deltas.against(self.known.index, &self.entry.id, record) {
            found.chunks_checked += 1;
            let checked = deltas::check(delta, base, &mut self.windows, &mut self.delta_plain);
            if let Err(reason) = checked {
                found.bad.push((delta.pack, delta.record, reason));
            }
        }
    }

    /// Decodes one chunk and compares its digest with its name.
    fn decode(&mut self, record: &Record, body: &[u8]) -> Result<(), String> {
        let decoder = self.decoder.as_mut().map_err(|error| error.to_string())?;
        let plain = &mut self.plain[..record.plain_bytes as usize];
        decoder.decode(record.encoding, body, None, plain).map_err(|error| error.to_string())?;
        let (expected, actual) = (record.digest, Digest::of(plain));
        if actual == expected {
            Ok(())
        } else {
            Err(format!("digest mismatch (expected {expected}, found {actual})"))
        }
    }
}
