//! Pieces: what becomes of each chunk of a unit.
//!
//! Three steps for a whole unit, so that bases are read together: digest and look up every chunk;
//! read the bases of those that are new (`delta`); encode these, and decode them again to be sure.

use std::collections::HashMap;
use std::ops::Range;

use super::previous;
use super::{Error, Shared};
use crate::chunker::is_zero;
use crate::codec::{Decoder, Encoder, Encoding, Level};
use crate::digest::Digest;
use crate::format::page::ChunkRef;
use crate::index::{Location, Snapshot};
use crate::store::buffers::Buffer;
use crate::store::chunks::{ChunkReader, Wanted};

/// A piece of content and what becomes of it.
pub(super) struct Piece {
    pub chunk: ChunkRef,
    pub fate: Fate,
}

/// What becomes of a piece.
pub(super) enum Fate {
    /// All zero.
    Hole,
    /// Equal to the previous generation's at the same place.
    InPlace,
    /// In the store already, or claimed by another unit.
    Known,
    /// To be stored: its ordinal among the new ones of the unit.
    New(usize),
}

/// A new chunk, encoded.
pub(super) struct Encoded {
    pub encoding: Encoding,
    pub base: Option<Digest>,
    /// Its body in the unit's buffer of stored bytes.
    pub body: Range<usize>,
    /// What it would take without the base, as far as that is known: what its base takes.
    pub alone_bytes: u32,
}

/// After this many incompressible chunks in a row, only one in [`PROBE_EVERY`] is tried.
const RAW_STREAK: u32 = 4;
const PROBE_EVERY: u32 = 8;

/// A delta is taken if it takes at most this part of what its base takes alone (a stand-in for
/// what the chunk itself would take), less [`DELTA_COST_BYTES`]. Otherwise it has drifted too far,
/// or has nothing to do with its base, and is stored in full: then later deltas are small again.
/// Measured on memory images: 1/2 and 3/4 store the same within 1%, 1/2 with fewer bases to read.
const DELTA_PART: (usize, usize) = (1, 2);
/// What a delta costs beside its body: the base's digest in the pack and in the index.
const DELTA_COST_BYTES: usize = 64;

/// A new chunk before it is encoded.
struct New {
    /// Its bytes in the unit's plain buffer.
    plain: Range<usize>,
    level: Level,
    /// The chunk that it may be encoded against.
    base: Option<Location>,
}

/// The pieces of a unit.
pub(super) struct Pieces<'a, 's> {
    shared: &'a Shared<'s>,
    index: Snapshot,
    new: Vec<New>,
}

impl<'a, 's> Pieces<'a, 's> {
    pub fn new(shared: &'a Shared<'s>) -> Self {
        Self { shared, index: shared.index.snapshot(), new: Vec::new() }
    }

    /// Returns what all units share.
    pub fn shared(&self) -> &'a Shared<'s> {
        self.shared
    }

    /// Decides what becomes of the chunks of one stretch of content: `plain[at..]`, cut into
    /// `lens`, which begins at `offset` of a file that had `previous` there. Also says whether all
    /// of it equals the previous.
    pub fn stretch(
        &mut self,
        plain: &[u8],
        at: usize,
        lens: &[usize],
        offset: u64,
        previous: &previous::Range,
        level: Level,
    ) -> (Vec<Piece>, bool) {
        let (mut pieces, mut start, mut equal) = (Vec::with_capacity(lens.len()), at, true);
        let mut shift = Shift::new(previous);
        for len in lens {
            let place = offset + (start - at) as u64;
            let before = previous.at(place, *len as u64);
            let range = start..start + len;
            let piece = self.piece(&plain[range.clone()], before);
            match &piece.fate {
                Fate::InPlace => shift.reset(),
                Fate::Known => shift.follow(place, &piece.chunk),
                Fate::New(_) => {
                    let base = shift.base(place, &piece.chunk).and_then(|base| self.base(&base));
                    self.new.push(New { plain: range, level, base });
                }
                Fate::Hole => {}
            }
            equal &= before == Some(piece.chunk);
            pieces.push(piece);
            start += len;
        }
        (pieces, equal)
    }

    fn piece(&mut self, plain: &[u8], previous: Option<ChunkRef>) -> Piece {
        let bytes = plain.len() as u64;
        if is_zero(plain) {
            return Piece { chunk: ChunkRef::hole(bytes), fate: Fate::Hole };
        }
        let digest = Digest::of(plain);
        let chunk = ChunkRef { bytes, digest };
        let fate = if self.shared.trust_previous && previous == Some(chunk) {
            Fate::InPlace
        } else if self.index.has(&digest) || !self.shared.claims.claim(digest) {
            Fate::Known
        } else {
            Fate::New(self.new.len())
        };
        Piece { chunk, fate }
    }

    /// Returns where the base for a chunk that replaces `previous` is, if deltas are wanted.
    fn base(&self, previous: &ChunkRef) -> Option<Location> {
        if !self.shared.options.deltas {
            return None;
        }
        base_of(&self.index, &previous.digest)
    }

    /// Encodes what is new of `plain`; bodies are appended to `stored`.
    pub fn encode(self, plain: &[u8], stored: &mut Buffer) -> Result<Vec<Encoded>, Error> {
        if self.new.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = self.wanted_bases();
        let mut bytes = None;
        let mut bases = HashMap::new();
        if !wanted.is_empty() {
            let buffer = bytes.insert(self.shared.bases.take_used());
            let end = wanted.last().map_or(0, |want| want.at + want.chunk.bytes as usize);
            buffer.resize(end, 0);
            let mut reader = ChunkReader::new(self.shared.store, self.index.clone());
            let faults = reader.read(&wanted, buffer);
            // A base that cannot be had is not used; `verify` is who reports it.
            let lost: Vec<usize> = faults.into_iter().map(|(order, _)| order).collect();
            for (order, want) in wanted.iter().enumerate() {
                if !lost.contains(&order) {
                    bases.insert(want.chunk.digest, want.at..want.at + want.chunk.bytes as usize);
                }
            }
        }
        let bytes: &[u8] = bytes.as_deref().map_or(&[], |buffer| buffer);
        let mut coder = Coder::new()?;
        let new = self.new.iter();
        new.map(|new| {
            let base = new.base.as_ref().and_then(|location| {
                bases.get(&location.record.digest).map(|range| (location, &bytes[range.clone()]))
            });
            coder.encode(&plain[new.plain.clone()], new.level, base, stored)
        })
        .collect()
    }

    /// Returns each base once, with a place in a buffer.
    fn wanted_bases(&self) -> Vec<Wanted> {
        let (mut wanted, mut at) = (Vec::new(), 0);
        let mut seen = std::collections::HashSet::new();
        for location in self.new.iter().filter_map(|new| new.base) {
            let (digest, bytes) = (location.record.digest, location.record.plain_bytes);
            if at + bytes as usize <= crate::limits::UNIT_BYTES && seen.insert(digest) {
                wanted.push(Wanted { chunk: ChunkRef { bytes: u64::from(bytes), digest }, at });
                at += bytes as usize;
            }
        }
        wanted
    }
}

/// Returns where the base for a chunk that replaces the chunk `previous` is: that chunk, or its own
/// base, because a base has none itself.
pub(super) fn base_of(index: &Snapshot, previous: &Digest) -> Option<Location> {
    let location = index.find(previous)?;
    let base = match location.record.base {
        None => Some(location),
        Some(base) => index.find_base(&base),
    };
    // What is condemned, or not there, is nothing to build on.
    base.filter(|found| !index.is_lost(found))
}

/// Encodes chunks and checks what came out.
pub(super) struct Coder<'b> {
    encoder: Encoder<'b>,
    decoder: Decoder<'b>,
    check: Vec<u8>,
    raw_streak: u32,
}

impl<'b> Coder<'b> {
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            encoder: Encoder::new().map_err(|_| Error::Encoder)?,
            decoder: Decoder::new().map_err(|_| Error::Encoder)?,
            check: Vec::new(),
            raw_streak: 0,
        })
    }

    /// Encodes `plain`, against `base` where that saves; the body is appended to `stored`.
    pub fn encode(
        &mut self,
        plain: &[u8],
        level: Level,
        base: Option<(&Location, &'b [u8])>,
        stored: &mut Vec<u8>,
    ) -> Result<Encoded, Error> {
        let start = stored.len();
        if let Some((location, bytes)) = base {
            let alone_bytes = location.record.stored_bytes;
            let room = (alone_bytes as usize * DELTA_PART.0 / DELTA_PART.1)
                .saturating_sub(DELTA_COST_BYTES)
                .min(plain.len());
            if self.encoder.encode_with_base(plain, bytes, level.with_base(), room, stored) {
                let body = start..stored.len();
                self.check(Encoding::ZstdWithBase, &stored[body.clone()], Some(bytes), plain)?;
                let base = Some(location.record.digest);
                return Ok(Encoded { encoding: Encoding::ZstdWithBase, base, body, alone_bytes });
            }
        }
        let skip = self.raw_streak >= RAW_STREAK && !self.raw_streak.is_multiple_of(PROBE_EVERY);
        let encoding = if skip {
            stored.extend_from_slice(plain);
            Encoding::Raw
        } else {
            self.encoder.encode(plain, level, stored)
        };
        let body = start..stored.len();
        if encoding == Encoding::Raw {
            self.raw_streak += 1;
        } else {
            self.raw_streak = 0;
            self.check(encoding, &stored[body.clone()], None, plain)?;
        }
        let alone_bytes = body.len() as u32;
        Ok(Encoded { encoding, base: None, body, alone_bytes })
    }

    /// Encoders have bugs: nothing is stored that does not decode to what went in.
    fn check(
        &mut self,
        encoding: Encoding,
        body: &[u8],
        base: Option<&'b [u8]>,
        plain: &[u8],
    ) -> Result<(), Error> {
        if self.check.len() < plain.len() {
            self.check.resize(plain.len(), 0);
        }
        let check = &mut self.check[..plain.len()];
        match self.decoder.decode(encoding, body, base, check) {
            Ok(()) if check == plain => Ok(()),
            _ => Err(Error::Encoder),
        }
    }
}

/// How far content has moved against the previous generation, as far as chunks that were found
/// again tell: a new chunk between them most resembles the previous one at the place between.
struct Shift<'p> {
    previous: &'p previous::Range,
    places: Option<HashMap<Digest, u64>>,
    by: i64,
}

impl<'p> Shift<'p> {
    fn new(previous: &'p previous::Range) -> Self {
        Self { previous, places: None, by: 0 }
    }

    fn reset(&mut self) {
        self.by = 0;
    }

    /// Takes notice of a chunk that is known from elsewhere.
    fn follow(&mut self, place: u64, chunk: &ChunkRef) {
        let previous = self.previous;
        let places = self.places.get_or_insert_with(|| previous.places());
        if let Some(before) = places.get(&chunk.digest) {
            self.by = before.cast_signed().wrapping_sub(place.cast_signed());
        }
    }

    /// Returns the previous chunk that a new one at `place` replaces.
    fn base(&self, place: u64, chunk: &ChunkRef) -> Option<ChunkRef> {
        let start = place.saturating_add_signed(self.by);
        self.previous.overlapping(start, start + chunk.bytes)
    }
}
