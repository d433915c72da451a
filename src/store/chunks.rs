//! Reading chunks: look-up, coalesced reads from packs, decoding, and the check of every digest.
//!
//! Nothing leaves this module that does not have the digest it was asked for by. A chunk that
//! cannot be had from one place is tried at every other place that the index knows.

use std::collections::HashMap;
use std::fmt;

use super::Store;
use crate::backend::{self, Key};
use crate::codec::{self, Decoder, Encoding};
use crate::digest::Digest;
use crate::format::page::ChunkRef;
use crate::index::{Location, Snapshot};
use crate::limits::{COALESCE_GAP_BYTES, READ_BYTES_MAX};
use crate::pack;

/// A chunk that cannot be had.
#[derive(Debug)]
pub struct ChunkFault {
    /// The chunk.
    pub digest: Digest,
    /// Where it should be: pack and offset; `None` if no pack is known to hold it.
    pub place: Option<(Key, u32)>,
    /// What is wrong.
    pub reason: ChunkReason,
}

impl fmt::Display for ChunkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((key, offset)) => {
                write!(f, "{key}: chunk {} at {offset:#x}: {}", self.digest.short(), self.reason)
            }
            None => write!(f, "chunk {}: {}", self.digest, self.reason),
        }
    }
}

impl std::error::Error for ChunkFault {}

impl ChunkFault {
    /// Says whether the index knows no place of the chunk or of its base.
    fn is_unknown(&self) -> bool {
        match &self.reason {
            ChunkReason::Base(fault) => fault.is_unknown(),
            _ => self.place.is_none(),
        }
    }

    /// Says whether the pack is not there that should hold the chunk or its base.
    fn is_without_pack(&self) -> bool {
        match &self.reason {
            ChunkReason::Base(fault) => fault.is_without_pack(),
            ChunkReason::Backend(error) => matches!(error, backend::Error::NotFound { .. }),
            _ => false,
        }
    }

    /// Says whether stored bytes are missing or wrong (and not only could not be read this time).
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match &self.reason {
            ChunkReason::Backend(error) => error.is_damage(),
            ChunkReason::Base(fault) => fault.is_damage(),
            ChunkReason::Index(_) => false,
            _ => true,
        }
    }
}

/// Why a chunk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ChunkReason {
    /// No pack that is there holds it.
    #[error("in no pack of this store")]
    Unknown,
    /// The index cannot be opened.
    #[error("the index cannot be opened: {0}")]
    Index(String),
    /// Its pack cannot be read.
    #[error(transparent)]
    Backend(backend::Error),
    /// Its stored bytes do not decode.
    #[error(transparent)]
    Codec(codec::Error),
    /// It decodes to other bytes.
    #[error("digest mismatch (found {actual})")]
    Digest {
        /// The digest of the decoded bytes.
        actual: Digest,
    },
    /// The manifest says another length than the pack.
    #[error("the manifest says {expected} bytes, the pack {actual}")]
    Length {
        /// The length in the manifest.
        expected: u64,
        /// The length in the pack.
        actual: u64,
    },
    /// The chunk that it is encoded against cannot be had.
    #[error("its base cannot be had: {0}")]
    Base(Box<ChunkFault>),
    /// The chunk that it is encoded against is itself encoded against another.
    #[error("its base {base} has a base itself")]
    BaseDepth {
        /// The base.
        base: Digest,
    },
}

/// A chunk that is wanted, and where its bytes go.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The chunk; not a hole.
    pub chunk: ChunkRef,
    /// Where its bytes begin in the output buffer.
    pub at: usize,
}

/// Reads many chunks at once.
#[derive(Debug)]
pub struct ChunkReader<'s> {
    store: &'s Store,
    index: Snapshot,
    /// Whether `index` was made anew because it lacked a chunk.
    recovered: bool,
    scratch: Vec<u8>,
    /// A buffer for plain bytes of bases.
    base_bytes: Vec<u8>,
}

/// A wanted chunk with its place; `order` is its position among those wanted.
#[derive(Clone, Copy)]
struct Placed {
    order: usize,
    location: Location,
}

impl<'s> ChunkReader<'s> {
    /// Makes a reader over the index as it is now.
    #[must_use]
    pub fn new(store: &'s Store, index: Snapshot) -> Self {
        Self { store, index, recovered: false, scratch: Vec::new(), base_bytes: Vec::new() }
    }

    /// Reads the `wanted` chunks into `out`. Returns those that cannot be had, with their position
    /// among the wanted; their bytes in `out` are undefined.
    pub fn read(&mut self, wanted: &[Wanted], out: &mut [u8]) -> Vec<(usize, ChunkFault)> {
        let (mut placed, mut faults) = (Vec::with_capacity(wanted.len()), Vec::new());
        for (order, want) in wanted.iter().enumerate() {
            match self.find(&want.chunk.digest) {
                Some(location) => placed.push(Placed { order, location }),
                None => faults.push((order, unknown(want.chunk.digest))),
            }
        }
        placed.sort_unstable_by_key(|placed| {
            (placed.location.pack.id, placed.location.record.offset)
        });
        let bases = self.read_bases(&placed);
        self.read_placed(&placed, wanted, &bases, out, &mut faults);
        if !bases.bytes.is_empty() {
            self.base_bytes = bases.bytes;
        }
        faults
    }

    /// Reads the bases that chunks among `placed` need, each once.
    fn read_bases(&mut self, placed: &[Placed]) -> Bases {
        let (mut wanted, mut bases, mut end) = (Vec::new(), Bases::default(), 0);
        let mut base_places = Vec::new();
        for digest in placed.iter().filter_map(|placed| placed.location.record.base) {
            if bases.places.contains_key(&digest) {
                continue;
            }
            let Some(location) = self.find(&digest) else { continue };
            let bytes = u64::from(location.record.plain_bytes);
            base_places.push(Placed { order: wanted.len(), location });
            wanted.push(Wanted { chunk: ChunkRef { bytes, digest }, at: end });
            bases.places.insert(digest, end..end + bytes as usize);
            end += bytes as usize;
        }
        if wanted.is_empty() {
            return bases;
        }
        base_places.sort_unstable_by_key(|placed| {
            (placed.location.pack.id, placed.location.record.offset)
        });
        let mut faults = Vec::new();
        bases.bytes = std::mem::take(&mut self.base_bytes);
        bases.bytes.resize(end, 0);
        let mut plain = std::mem::take(&mut bases.bytes);
        // A base has no base: one that says so fails here, and its chunks with it.
        self.read_placed(&base_places, &wanted, &Bases::default(), &mut plain, &mut faults);
        bases.bytes = plain;
        for (order, _) in faults {
            bases.places.remove(&wanted[order].chunk.digest);
        }
        bases
    }

    fn read_placed(
        &mut self,
        placed: &[Placed],
        wanted: &[Wanted],
        bases: &Bases,
        out: &mut [u8],
        faults: &mut Vec<(usize, ChunkFault)>,
    ) {
        let mut rest = placed;
        while !rest.is_empty() {
            let (run, after) = rest.split_at(run_len(rest));
            self.read_run(run, wanted, bases, out, faults);
            rest = after;
        }
    }

    fn find(&mut self, digest: &Digest) -> Option<Location> {
        let found = self.index.find(digest);
        if found.is_some() || self.recovered {
            return found;
        }
        self.recovered = true;
        self.index = self.store.recover_index()?;
        self.index.find(digest)
    }

    /// Reads one range of a pack and decodes the chunks in it.
    fn read_run(
        &mut self,
        run: &[Placed],
        wanted: &[Wanted],
        bases: &Bases,
        out: &mut [u8],
        faults: &mut Vec<(usize, ChunkFault)>,
    ) {
        let first = &run[0].location;
        let start = u64::from(first.record.offset);
        // A forged index may place one chunk inside another.
        let end = run.iter().map(|placed| end_of(&placed.location)).max().unwrap_or(start);
        let len = (end - start) as usize;
        if self.scratch.len() < len {
            self.scratch.resize(len, 0);
        }
        let key = pack::key(first.pack.content, &first.pack.id);
        let read = self.store.backend().read_at(&key, start, &mut self.scratch[..len]).is_ok();
        let mut decoder = Decoder::new();
        for placed in run {
            let record = &placed.location.record;
            let want = &wanted[placed.order];
            let at = (u64::from(record.offset) - start) as usize;
            let plain = &mut out[want.at..want.at + want.chunk.bytes as usize];
            let good = read
                && u64::from(record.plain_bytes) == want.chunk.bytes
                && decoder.as_mut().is_ok_and(|decoder| {
                    let body = &self.scratch[at..at + record.stored_bytes as usize];
                    decode_known(decoder, &placed.location, body, bases, plain).is_ok()
                });
            if !good && let Err(fault) = self.read_elsewhere(&want.chunk, plain) {
                faults.push((placed.order, fault));
            }
        }
    }

    /// The slow way, after the fast one failed: every place in turn, and a precise fault.
    fn read_elsewhere(&self, chunk: &ChunkRef, plain: &mut [u8]) -> Result<(), ChunkFault> {
        let (backend, digest) = (self.store.backend(), &chunk.digest);
        let read = |index: &Snapshot| {
            read_anywhere(backend, index, digest, Some(chunk.bytes), Depth::Chunk)
        };
        let bytes = read(&self.index).or_else(|fault| read_again(self.store, fault, read))?;
        plain.copy_from_slice(&bytes);
        Ok(())
    }
}

/// Plain bytes of bases, and where in them each base is.
#[derive(Default)]
struct Bases {
    places: HashMap<Digest, std::ops::Range<usize>>,
    bytes: Vec<u8>,
}

impl Bases {
    fn get(&self, digest: &Digest) -> Option<&[u8]> {
        self.places.get(digest).map(|range| &self.bytes[range.clone()])
    }
}

fn unknown(digest: Digest) -> ChunkFault {
    ChunkFault { digest, place: None, reason: ChunkReason::Unknown }
}

fn end_of(location: &Location) -> u64 {
    u64::from(location.record.offset) + u64::from(location.record.stored_bytes)
}

/// Returns how many of the places, from the first on, are read as one range.
fn run_len(placed: &[Placed]) -> usize {
    let first = &placed[0].location;
    let start = u64::from(first.record.offset);
    let mut end = end_of(first);
    let mut len = 1;
    for next in &placed[1..] {
        let next = &next.location;
        if next.pack.id != first.pack.id
            || u64::from(next.record.offset) > end + COALESCE_GAP_BYTES
            || end_of(next) - start > READ_BYTES_MAX as u64
        {
            break;
        }
        end = end.max(end_of(next));
        len += 1;
    }
    len
}

fn decode_known<'b>(
    decoder: &mut Decoder<'b>,
    location: &Location,
    body: &[u8],
    bases: &'b Bases,
    plain: &mut [u8],
) -> Result<(), ChunkReason> {
    let record = &location.record;
    let base = match record.base {
        None => None,
        Some(base) => match bases.get(&base) {
            Some(bytes) => Some(bytes),
            None => return Err(ChunkReason::Codec(codec::Error::BaseMissing)),
        },
    };
    decoder.decode(record.encoding, body, base, plain).map_err(ChunkReason::Codec)?;
    let actual = Digest::of(plain);
    if actual == record.digest { Ok(()) } else { Err(ChunkReason::Digest { actual }) }
}

/// Whether a chunk may have a base: bases may not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Chunk,
    Base,
}

/// Reads one chunk from the first place that has it.
fn read_anywhere(
    backend: &dyn backend::Backend,
    index: &Snapshot,
    digest: &Digest,
    bytes: Option<u64>,
    depth: Depth,
) -> Result<Vec<u8>, ChunkFault> {
    let mut first_fault = None;
    for location in index.locations(digest) {
        match read_at(backend, index, &location, bytes, depth) {
            Ok(plain) => return Ok(plain),
            Err(reason) => {
                let key = pack::key(location.pack.content, &location.pack.id);
                let place = Some((key, location.record.offset));
                first_fault.get_or_insert(ChunkFault { digest: *digest, place, reason });
            }
        }
    }
    Err(first_fault.unwrap_or_else(|| unknown(*digest)))
}

fn read_at(
    backend: &dyn backend::Backend,
    index: &Snapshot,
    location: &Location,
    bytes: Option<u64>,
    depth: Depth,
) -> Result<Vec<u8>, ChunkReason> {
    let record = &location.record;
    let actual = u64::from(record.plain_bytes);
    if let Some(expected) = bytes
        && expected != actual
    {
        return Err(ChunkReason::Length { expected, actual });
    }
    let mut bases = Bases::default();
    if record.encoding == Encoding::ZstdWithBase
        && let Some(base) = record.base
    {
        if depth == Depth::Base {
            return Err(ChunkReason::BaseDepth { base: record.digest });
        }
        let plain = read_anywhere(backend, index, &base, None, Depth::Base)
            .map_err(|fault| ChunkReason::Base(Box::new(fault)))?;
        bases.places.insert(base, 0..plain.len());
        bases.bytes = plain;
    }
    let key = pack::key(location.pack.content, &location.pack.id);
    // Both lengths were bounded when the record was decoded.
    let mut body = vec![0; record.stored_bytes as usize];
    backend.read_at(&key, u64::from(record.offset), &mut body).map_err(ChunkReason::Backend)?;
    let mut plain = vec![0; record.plain_bytes as usize];
    let mut decoder = Decoder::new().map_err(ChunkReason::Codec)?;
    decode_known(&mut decoder, location, &body, &bases, &mut plain)?;
    Ok(plain)
}

/// Reads one chunk from one place, and compares it with its name.
pub(super) fn read_place(
    store: &Store,
    index: &Snapshot,
    location: &Location,
) -> Result<Vec<u8>, ChunkFault> {
    read_at(store.backend(), index, location, None, Depth::Chunk).map_err(|reason| {
        let key = pack::key(location.pack.content, &location.pack.id);
        let place = Some((key, location.record.offset));
        ChunkFault { digest: location.record.digest, place, reason }
    })
}

/// Reads one chunk whose length is not known, such as a list page.
pub(super) fn read_chunk(store: &Store, digest: &Digest) -> Result<Vec<u8>, ChunkFault> {
    let index = match store.index() {
        Ok(index) => index.snapshot(),
        Err(error) => {
            let reason = ChunkReason::Index(error.to_string());
            return Err(ChunkFault { digest: *digest, place: None, reason });
        }
    };
    let read = |index: &Snapshot| read_anywhere(store.backend(), index, digest, None, Depth::Chunk);
    read(&index).or_else(|fault| read_again(store, fault, read))
}

/// Reads once more, with another index, if that may help: the index lacks the chunk or its base,
/// names a pack that is not there while one that no segment names may hold it, or has been found to
/// be damaged.
fn read_again<T>(
    store: &Store,
    fault: ChunkFault,
    read: impl Fn(&Snapshot) -> Result<T, ChunkFault>,
) -> Result<T, ChunkFault> {
    let index = if fault.is_unknown() {
        store.recover_index()
    } else if fault.is_without_pack() {
        store.covered_index()
    } else {
        store.recover_damaged_index()
    };
    match index {
        Some(index) => read(&index),
        None => Err(fault),
    }
}

/// Reads one chunk whose length is not known from the packs that `index` knows, without looking
/// for others.
pub(super) fn read_present(
    store: &Store,
    index: &Snapshot,
    digest: &Digest,
) -> Result<Vec<u8>, ChunkFault> {
    read_anywhere(store.backend(), index, digest, None, Depth::Chunk)
}
