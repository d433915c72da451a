//! Units: the work done in parallel. A unit cuts, digests, drops what is known, encodes the rest and
//! decodes it again to be sure.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::collect::Outcome;
use super::previous::Range;
use super::walk::{Draft, Todo};
use super::{Error, Shared, Slot, SourceFault};
use crate::chunker::{Chunking, Cutter, Probe, choose, is_zero};
use crate::codec::{Decoder, Encoder, Encoding, Level};
use crate::digest::{Checksums, Digest};
use crate::format::manifest::{Content, Entry, Node};
use crate::format::page::ChunkRef;
use crate::fstree::{self, Source, Stat};
use crate::index::Snapshot;
use crate::store::buffers::Buffer;
use crate::store::checksum::{OrderedChecksum, Part};

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
    /// To be stored: its body in the unit's buffer of stored bytes.
    New { encoding: Encoding, body: std::ops::Range<usize> },
}

/// A small file that was read.
pub(super) struct SmallFile {
    pub draft: Draft,
    pub chunking: Chunking,
    pub checksums: Checksums,
    pub pieces: Vec<Piece>,
}

/// An entry of a batch.
pub(super) enum Item {
    /// A complete entry, and how many names it has.
    Entry(Entry, u64),
    File(Box<SmallFile>),
    Fault(SourceFault),
}

/// After this many incompressible chunks in a row, only one in [`PROBE_EVERY`] is tried.
const RAW_STREAK: u32 = 4;
const PROBE_EVERY: u32 = 8;

/// Turns plain chunks into pieces.
struct Pieces<'a, 's> {
    shared: &'a Shared<'s>,
    index: Snapshot,
    encoder: Encoder<'static>,
    decoder: Decoder<'static>,
    check: Vec<u8>,
    stored: Buffer,
    raw_streak: u32,
}

impl<'a, 's> Pieces<'a, 's> {
    fn new(shared: &'a Shared<'s>, stored: Buffer) -> Result<Self, Error> {
        Ok(Self {
            shared,
            index: shared.index.snapshot(),
            encoder: Encoder::new().map_err(|_| Error::Encoder)?,
            decoder: Decoder::new().map_err(|_| Error::Encoder)?,
            check: Vec::new(),
            stored,
            raw_streak: 0,
        })
    }

    /// Decides what becomes of `plain`, where the previous generation had `previous`.
    fn piece(
        &mut self,
        plain: &[u8],
        previous: Option<ChunkRef>,
        level: Level,
    ) -> Result<Piece, Error> {
        let bytes = plain.len() as u64;
        if is_zero(plain) {
            return Ok(Piece { chunk: ChunkRef::hole(bytes), fate: Fate::Hole });
        }
        let digest = Digest::of(plain);
        let chunk = ChunkRef { bytes, digest };
        let fate = if self.shared.trust_previous && previous == Some(chunk) {
            Fate::InPlace
        } else if self.index.find(&digest).is_some() || !self.shared.claims.claim(digest) {
            Fate::Known
        } else {
            self.encode(plain, level)?
        };
        Ok(Piece { chunk, fate })
    }

    fn encode(&mut self, plain: &[u8], level: Level) -> Result<Fate, Error> {
        let start = self.stored.len();
        let skip = self.raw_streak >= RAW_STREAK && !self.raw_streak.is_multiple_of(PROBE_EVERY);
        let encoding = if skip {
            self.stored.extend_from_slice(plain);
            Encoding::Raw
        } else {
            self.encoder.encode(plain, level, &mut self.stored)
        };
        let body = start..self.stored.len();
        if encoding == Encoding::Raw {
            self.raw_streak += 1;
            return Ok(Fate::New { encoding, body });
        }
        self.raw_streak = 0;
        // Encoders have bugs: nothing is stored that does not decode to what went in.
        self.check.resize(plain.len(), 0);
        let decoded =
            self.decoder.decode(encoding, &self.stored[body.clone()], None, &mut self.check);
        if decoded.is_err() || self.check != plain {
            return Err(Error::Encoder);
        }
        Ok(Fate::New { encoding, body })
    }
}

fn level(chunking: Chunking) -> Level {
    match chunking {
        Chunking::Fixed { .. } => Level::FAST,
        Chunking::Whole | Chunking::Cdc { .. } => Level::DENSE,
    }
}

/// The two buffers of a unit. They are taken together and in source order, so that the unit that
/// the collector waits for always has both.
pub(super) struct Buffers {
    pub plain: Buffer,
    pub stored: Buffer,
}

impl Buffers {
    /// Takes both, waiting until they are free.
    pub fn take(shared: &Shared<'_>) -> Self {
        Self { plain: shared.plain.take(), stored: shared.stored.take() }
    }
}

/// A range of a large file.
pub(super) struct RangeUnit {
    pub draft: Arc<Draft>,
    pub file: Arc<File>,
    pub chunking: Chunking,
    pub offset: u64,
    pub previous: Range,
    pub checksum: Arc<OrderedChecksum>,
}

/// How the bytes of a range come into the plain buffer.
pub(super) enum RangeBytes {
    /// The unit reads this many and cuts them at fixed places.
    Unread(usize),
    /// They are there already, cut into chunks of these lengths.
    Cut(Vec<usize>),
}

impl RangeUnit {
    /// Does the unit's work.
    pub fn run(self, shared: &Shared<'_>, bytes: RangeBytes, buffers: Buffers, slot: Slot) {
        let checksum = Arc::clone(&self.checksum);
        let outcome = match self.pieces(shared, bytes, buffers) {
            Ok(Ok((pieces, stored))) => Outcome::Range { pieces, stored: Some(stored) },
            Ok(Err(fault)) => {
                checksum.abandon();
                Outcome::Fault(fault)
            }
            Err(error) => {
                checksum.abandon();
                Outcome::Fatal(error)
            }
        };
        slot.send(outcome);
    }

    #[expect(clippy::type_complexity, reason = "a store error outside, a source fault inside")]
    fn pieces(
        self,
        shared: &Shared<'_>,
        bytes: RangeBytes,
        buffers: Buffers,
    ) -> Result<Result<(Vec<Piece>, Buffer), SourceFault>, Error> {
        let Buffers { mut plain, stored } = buffers;
        let mut work = Pieces::new(shared, stored)?;
        let lens = match bytes {
            RangeBytes::Cut(lens) => lens,
            RangeBytes::Unread(len) => {
                plain.resize(len, 0);
                if let Err(fault) = read_exact(&self.file, &mut plain, self.offset, &self.draft) {
                    return Ok(Err(fault));
                }
                let Chunking::Fixed { chunk_bytes } = self.chunking else {
                    unreachable!("only fixed pieces are cut in units")
                };
                plain.chunks(chunk_bytes as usize).map(<[u8]>::len).collect()
            }
        };
        shared.progress.add(plain.len() as u64);
        let level = level(self.chunking);
        let (mut pieces, mut start, mut equal) = (Vec::with_capacity(lens.len()), 0, true);
        for len in lens {
            let offset = self.offset + start as u64;
            let previous = self.previous.at(offset, len as u64);
            let piece = work.piece(&plain[start..start + len], previous, level)?;
            equal &= previous == Some(piece.chunk);
            pieces.push(piece);
            start += len;
        }
        let part = Part::Bytes(Arc::new(plain), 0..start);
        self.checksum.submit(self.offset, part, equal);
        Ok(Ok((pieces, work.stored)))
    }
}

/// Reads exactly the wanted bytes of a file.
pub(super) fn read_exact(
    file: &File,
    mut buffer: &mut [u8],
    mut offset: u64,
    draft: &Draft,
) -> Result<(), SourceFault> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => {
                return Err(SourceFault::Shrank {
                    path: draft.path.clone(),
                    expected: draft.stat.size_bytes,
                    actual: offset,
                });
            }
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(SourceFault::Read { path: draft.path.clone(), source }),
        }
    }
    Ok(())
}

/// Fails if a file is not what it was when it was opened.
pub(super) fn check_unchanged(file: &File, draft: &Draft) -> Result<(), SourceFault> {
    let failed = |source| SourceFault::Read { path: draft.path.clone(), source };
    let (before, now) = (&draft.stat, fstree::stat_of(file).map_err(failed)?);
    let same = now.size_bytes == before.size_bytes
        && now.mtime == before.mtime
        && now.ctime == before.ctime;
    if same { Ok(()) } else { Err(SourceFault::Changed { path: draft.path.clone() }) }
}

/// Does the work of a batch of small things.
pub(super) fn run_batch(
    shared: &Shared<'_>,
    source: &Source,
    todos: Vec<Todo>,
    buffers: Buffers,
    slot: Slot,
) {
    let outcome = match batch(shared, source, todos, buffers) {
        Ok((items, stored)) => Outcome::Batch { items, stored },
        Err(error) => Outcome::Fatal(error),
    };
    slot.send(outcome);
}

fn batch(
    shared: &Shared<'_>,
    source: &Source,
    todos: Vec<Todo>,
    buffers: Buffers,
) -> Result<(Vec<Item>, Buffer), Error> {
    let Buffers { mut plain, stored } = buffers;
    let mut work = Pieces::new(shared, stored)?;
    let mut items = Vec::with_capacity(todos.len());
    for todo in todos {
        let item = match todo {
            Todo::Ready(entry, links) => Item::Entry(entry, links),
            Todo::Bare(draft, node) => match source.xattrs(&draft.path, &draft.stat.kind) {
                Ok(xattrs) => Item::Entry(draft.entry(node, xattrs), 1),
                Err(error) => Item::Fault(error.into()),
            },
            Todo::Read(draft, previous) => {
                match small_file(&mut work, source, draft, previous.as_deref(), &mut plain)? {
                    Ok(file) => Item::File(Box::new(file)),
                    Err(fault) => Item::Fault(fault),
                }
            }
        };
        shared.progress.item();
        items.push(item);
    }
    Ok((items, work.stored))
}

/// Reads, cuts and encodes one small file.
fn small_file(
    work: &mut Pieces<'_, '_>,
    source: &Source,
    mut draft: Draft,
    previous: Option<&Entry>,
    plain: &mut Vec<u8>,
) -> Result<Result<SmallFile, SourceFault>, Error> {
    if let Err(fault) = read_small(source, &mut draft, plain) {
        return Ok(Err(fault));
    }
    work.shared.progress.add(plain.len() as u64);
    let before = previous.and_then(Entry::content);
    let chunking = choose(
        &work.shared.store.header().chunking,
        before.map(|content| content.chunking),
        &probe(&draft.path, &draft.stat, plain),
    );
    let mut range = super::previous::PreviousChunks::new(work.shared.store, before);
    let range = range.range(0, plain.len() as u64);
    let cutter = Cutter::new(chunking);
    let (mut pieces, mut start, mut equal) = (Vec::new(), 0, true);
    while let Some(len) = cutter.next_len(&plain[start..], true) {
        let previous = range.at(start as u64, len as u64);
        let piece = work.piece(&plain[start..start + len], previous, level(chunking))?;
        equal &= previous == Some(piece.chunk);
        pieces.push(piece);
        start += len;
    }
    let with_sha256 = work.shared.options.algorithm == crate::digest::Algorithm::Sha256;
    let checksums = match (before, &pieces[..]) {
        (Some(content), _)
            if equal
                && content.bytes == plain.len() as u64
                && (content.checksums.sha256.is_some() || !with_sha256) =>
        {
            content.checksums
        }
        // A chunk's name is BLAKE3 of its plain bytes, so of the content if it is the only one.
        (_, [Piece { chunk, .. }]) if !with_sha256 && !chunk.is_hole() => {
            Checksums { blake3: chunk.digest, sha256: None }
        }
        _ => Checksums::of(plain, with_sha256),
    };
    Ok(Ok(SmallFile { draft, chunking, checksums, pieces }))
}

fn read_small(source: &Source, draft: &mut Draft, plain: &mut Vec<u8>) -> Result<(), SourceFault> {
    let file = source.open_file(&draft.path)?;
    let path = draft.path.clone();
    let failed = |source| SourceFault::Read { path: path.clone(), source };
    draft.stat = fstree::stat_of(&file).map_err(failed)?;
    plain.clear();
    let bytes = usize::try_from(draft.stat.size_bytes).unwrap_or(usize::MAX);
    if bytes > crate::limits::UNIT_BYTES {
        // It was small when the directory was read.
        return Err(SourceFault::Changed { path: draft.path.clone() });
    }
    plain.resize(bytes, 0);
    read_exact(&file, plain, 0, draft)?;
    draft.xattrs = fstree::xattrs_of_file(&file).map_err(failed)?;
    check_unchanged(&file, draft)
}

/// Returns what the chunking policy asks of a file.
pub(super) fn probe<'a>(path: &'a [u8], stat: &Stat, head: &'a [u8]) -> Probe<'a> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    Probe {
        name,
        size_bytes: stat.size_bytes,
        allocated_bytes: stat.allocated_bytes,
        head: &head[..head.len().min(512)],
    }
}

impl SmallFile {
    /// Returns the entry, given what its chunks have become.
    pub fn into_entry(self, chunks: crate::format::manifest::Chunks) -> Entry {
        let Self { draft, chunking, checksums, .. } = self;
        let content = Content { bytes: draft.stat.size_bytes, chunking, checksums, chunks };
        let xattrs = draft.xattrs.clone();
        draft.entry(Node::File(content), xattrs)
    }
}
