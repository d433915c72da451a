//! Packs: their directories, their bytes, and every chunk in them.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

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
    /// Chunks that do not decode to what they are called.
    bad: Vec<(Record, String)>,
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
        let mut seed = [0; 8];
        getrandom::fill(&mut seed)
            .map_err(|source| Error::Random { reason: source.to_string() })?;
        let depth_of = |entry: &PackEntry| match scope {
            Scope::Structure => Depth::Directory,
            Scope::Full => Depth::Chunks,
            Scope::Read(_) if is_drawn(&entry.id, seed, share) => Depth::Bytes,
            Scope::Read(_) => Depth::Directory,
        };
        let plan: Vec<_> = listed.into_iter().map(|entry| (entry, depth_of(&entry))).collect();
        let to_read = plan.iter().filter(|(_, depth)| *depth != Depth::Directory);
        self.progress.expect(to_read.map(|(entry, _)| entry.bytes).sum());
        let results = Mutex::new(Vec::new());
        let (store, index, progress) = (self.store, &self.index, self.progress);
        plan.par_iter().try_for_each(|(entry, depth)| {
            progress.check()?;
            let found = look_at(store, index, entry, *depth, progress);
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
        for (record, reason) in &found.bad {
            let object = format!("{key}: chunk {} at {:#x}", record.digest.short(), record.offset);
            let kind = match entry.content {
                Content::Chunks => DamageKind::Chunk,
                Content::Pages => DamageKind::Page,
            };
            let known = self.bad_chunks.get(&record.digest).copied();
            let damage = known.unwrap_or_else(|| self.damage(Damage::new(object, kind, reason)));
            self.bad_chunks.insert(record.digest, damage);
        }
        if let Some(actual) = found.misnamed
            && found.bad.is_empty()
        {
            let reason = format!("its bytes have digest {actual}, not the one in its name");
            let damage = self.damage(Damage::new(key, DamageKind::Pack, reason));
            self.bad_packs.insert(entry.id, damage);
        }
    }

    /// Returns the packs to be looked at, as the storage lists them.
    fn listed_packs(&self) -> Result<Vec<PackEntry>, Error> {
        let mut listed = Vec::new();
        for content in [Content::Chunks, Content::Pages] {
            self.store.backend().list(content.folder(), &mut |key, bytes| {
                if let Ok(id) = key.name().parse::<Digest>() {
                    listed.push(PackEntry { id, bytes, content });
                }
            })?;
        }
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
            .filter(|digest| !self.bad_chunks.contains_key(digest))
            .copied()
            .collect();
        unknown.sort_unstable();
        for digest in unknown {
            let object = format!("chunk {digest}");
            let damage = Damage::new(object, DamageKind::Chunk, "in no pack of this store");
            let damage = self.damage(damage);
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

fn look_at(
    store: &Store,
    index: &Snapshot,
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
        index.locations(&record.digest).any(|l| l.pack.id == *id && l.record == *record)
    };
    let depth = match depth {
        Depth::Directory if !directory.records.iter().all(is_known) => Depth::Bytes,
        depth => depth,
    };
    if depth != Depth::Directory
        && let Err(error) = read_pack(store, index, entry, &directory.records, depth, &mut found)
    {
        found.fault = Some(error.into());
    }
    progress.add(if depth == Depth::Directory { 0 } else { entry.bytes });
    found
}

/// Reads a whole pack, piece by piece at the bounds of records.
fn read_pack(
    store: &Store,
    index: &Snapshot,
    entry: &PackEntry,
    records: &[Record],
    depth: Depth,
    found: &mut Found,
) -> Result<(), backend::Error> {
    let key = pack::key(entry.content, &entry.id);
    let mut hasher = blake3::Hasher::new();
    let (mut buffer, mut plain) = (vec![0; MIB + CHUNK_BYTES_MAX], vec![0; CHUNK_BYTES_MAX]);
    let mut decoder = Decoder::new();
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
                let plain = &mut plain[..record.plain_bytes as usize];
                found.chunks_checked += 1;
                if let Err(reason) = check(store, index, record, body, plain, &mut decoder) {
                    found.bad.push((*record, reason));
                }
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

/// Decodes one chunk and compares its digest with its name.
fn check(
    store: &Store,
    index: &Snapshot,
    record: &Record,
    body: &[u8],
    plain: &mut [u8],
    decoder: &mut Result<Decoder<'static>, crate::codec::Error>,
) -> Result<(), String> {
    if record.encoding == Encoding::ZstdWithBase {
        let read: Result<Vec<u8>, ChunkFault> = chunks::read_present(store, index, &record.digest);
        return read.map(drop).map_err(|fault| fault.reason.to_string());
    }
    let decoder = decoder.as_mut().map_err(|error| error.to_string())?;
    decoder.decode(record.encoding, body, None, plain).map_err(|error| error.to_string())?;
    let (expected, actual) = (record.digest, Digest::of(plain));
    if actual == expected {
        Ok(())
    } else {
        Err(format!("digest mismatch (expected {expected}, found {actual})"))
    }
}
