//! Deltas: chunks that are encoded against another are checked where that other, their base, is
//! decoded anyway, so that a base is decoded once and not once for every delta.

use std::collections::HashMap;

use crate::backend::{self, Backend};
use crate::codec::{Decoder, Encoding};
use crate::digest::Digest;
use crate::format::pack::Record;
use crate::index::{Location, Snapshot};
use crate::limits::KIB;
use crate::pack;

/// Deltas up to this number are kept in memory by their bases (about 150 bytes each); the rest is
/// checked one by one, which decodes their bases again.
const DELTAS_MAX: usize = 1 << 20;

/// Deltas by their base.
#[derive(Default)]
pub(super) struct Deltas {
    by_base: HashMap<Digest, Vec<Location>>,
    known: usize,
}

impl Deltas {
    /// Collects the deltas that the index knows.
    pub fn collect(index: &Snapshot) -> Self {
        let mut deltas = Self::default();
        for segment in index.segments() {
            for entry in segment.entries().filter_map(Result::ok) {
                // What is being removed may be gone at any moment.
                let is_there = |place: &Location| !index.is_absent(place);
                if let (Some(base), Some(pack)) = (entry.record.base, segment.pack(entry.pack))
                    && let location = (Location { pack, record: entry.record })
                    && deltas.known < DELTAS_MAX
                    && is_there(&location)
                    && index.find_base(&base).as_ref().is_some_and(is_there)
                {
                    deltas.known += 1;
                    deltas.by_base.entry(base).or_default().push(location);
                }
            }
        }
        deltas
    }

    /// Says whether the delta in `record` is checked with its base.
    pub fn has(&self, record: &Record) -> bool {
        let deltas = record.base.and_then(|base| self.by_base.get(&base));
        deltas.is_some_and(|deltas| deltas.iter().any(|l| l.record.digest == record.digest))
    }

    /// Returns the deltas against the chunk at `place`, if that is where its deltas are checked.
    pub fn against(&self, index: &Snapshot, pack: &Digest, base: &Record) -> &[Location] {
        let Some(deltas) = self.by_base.get(&base.digest) else { return &[] };
        let here = index.find_base(&base.digest).is_some_and(|found| found.pack.id == *pack);
        if here { deltas } else { &[] }
    }
}

/// Decodes a delta and compares its digest with its name.
pub(super) fn check(
    location: &Location,
    base: &[u8],
    windows: &mut Windows<'_>,
    plain: &mut [u8],
) -> Result<(), String> {
    let record = &location.record;
    let body = windows.body(location).map_err(|error| error.to_string())?;
    let plain = &mut plain[..record.plain_bytes as usize];
    let mut decoder = Decoder::new().map_err(|error| error.to_string())?;
    decoder
        .decode(Encoding::ZstdWithBase, body, Some(base), plain)
        .map_err(|error| error.to_string())?;
    let (expected, actual) = (record.digest, Digest::of(plain));
    if actual == expected {
        Ok(())
    } else {
        Err(format!("digest mismatch (expected {expected}, found {actual})"))
    }
}

/// Parts of a few packs, kept because the next delta is likely to lie behind the one before.
pub(super) struct Windows<'b> {
    backend: &'b dyn Backend,
    held: Vec<Window>,
}

struct Window {
    pack: Digest,
    start: u64,
    bytes: Vec<u8>,
}

const WINDOWS_MAX: usize = 8;
const WINDOW_BYTES: u64 = 128 * KIB as u64;

impl<'b> Windows<'b> {
    pub fn new(backend: &'b dyn Backend) -> Self {
        Self { backend, held: Vec::new() }
    }

    /// Returns the stored bytes of a chunk.
    fn body(&mut self, location: &Location) -> Result<&[u8], backend::Error> {
        let (pack, record) = (&location.pack, &location.record);
        let (start, len) = (u64::from(record.offset), u64::from(record.stored_bytes));
        let inside = |window: &Window| {
            window.pack == pack.id
                && window.start <= start
                && start + len <= window.start + window.bytes.len() as u64
        };
        let position = match self.held.iter().position(inside) {
            Some(position) => position,
            None => {
                let full = self.held.len() == WINDOWS_MAX;
                let same = self.held.iter().position(|window| window.pack == pack.id);
                let old = same.or(full.then_some(0)).map(|at| self.held.remove(at));
                let mut bytes = old.map_or_else(Vec::new, |window| window.bytes);
                // A chunk that a forged index places behind the end of its pack is not read.
                let end = (start + WINDOW_BYTES).min(pack.bytes).max(start + len);
                bytes.resize((end - start) as usize, 0);
                self.backend.read_at(&pack::key(pack.content, &pack.id), start, &mut bytes)?;
                self.held.push(Window { pack: pack.id, start, bytes });
                self.held.len() - 1
            }
        };
        let window = &self.held[position];
        let at = (start - window.start) as usize;
        Ok(&window.bytes[at..at + len as usize])
    }
}
