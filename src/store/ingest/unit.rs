//! Units: the work done in parallel. A unit cuts, digests, drops what is known, encodes the rest and
//! decodes it again to be sure.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::collect::Outcome;
use super::cut::{Growth, cut};
use super::pieces::{Encoded, Piece, Pieces};
use super::previous::Range;
use super::walk::{Draft, Todo};
use super::{Error, Shared, Slot, SourceFault};
use crate::chunker::{Chunking, Cutter, Probe, choose, is_memory_image};
use crate::codec::Level;
use crate::digest::Checksums;
use crate::format::manifest::{Content, Entry, Node};
use crate::format::page::ListRef;
use crate::fstree::{self, Source, Stat};
use crate::limits::UNIT_BYTES;
use crate::store::buffers::Buffer;
use crate::store::checksum::{OrderedChecksum, Part};

/// A small file that was read.
pub(super) struct SmallFile {
    pub draft: Draft,
    pub chunking: Chunking,
    pub checksums: Checksums,
    pub pieces: Vec<Piece>,
    /// The list that the file's new list replaces.
    pub previous: Option<ListRef>,
}

/// An entry of a batch.
pub(super) enum Item {
    /// A complete entry, and how many names it has.
    Entry(Entry, u64),
    File(Box<SmallFile>),
    Fault(SourceFault),
}

fn level(chunking: Chunking, path: &[u8]) -> Level {
    match chunking {
        Chunking::Fixed { .. } if is_memory_image(name_of(path)) => Level::IMAGE,
        Chunking::Fixed { .. } => Level::PAGED,
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
    /// Takes both, waiting until they are free. The plain one is as its last user left it.
    pub fn take(shared: &Shared<'_>) -> Self {
        Self { plain: shared.plain.take_used(), stored: shared.stored.take() }
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

/// Pieces of a unit with what is new of them, or the fault of the source that ended it.
type Taken<T> = Result<(T, Vec<Encoded>, Buffer), SourceFault>;

impl RangeUnit {
    /// Does the unit's work.
    pub fn run(self, shared: &Shared<'_>, bytes: RangeBytes, buffers: Buffers, slot: Slot) {
        let checksum = Arc::clone(&self.checksum);
        let outcome = match self.pieces(shared, bytes, buffers) {
            Ok(Ok((pieces, new, stored))) => Outcome::Range { pieces, new, stored: Some(stored) },
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

    fn pieces(
        self,
        shared: &Shared<'_>,
        bytes: RangeBytes,
        buffers: Buffers,
    ) -> Result<Taken<Vec<Piece>>, Error> {
        let Buffers { mut plain, mut stored } = buffers;
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
        let mut work = Pieces::new(shared);
        let level = level(self.chunking, &self.draft.path);
        let (pieces, equal) = work.stretch(&plain, 0, &lens, self.offset, &self.previous, level);
        let new = work.encode(&plain, &mut stored)?;
        let len = plain.len();
        self.checksum.submit(self.offset, Part::Bytes(Arc::new(plain), 0..len), equal);
        Ok(Ok((pieces, new, stored)))
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
        Ok((items, new, stored)) => Outcome::Batch { items, new, stored },
        Err(error) => Outcome::Fatal(error),
    };
    slot.send(outcome);
}

fn batch(
    shared: &Shared<'_>,
    source: &Source,
    todos: Vec<Todo>,
    buffers: Buffers,
) -> Result<(Vec<Item>, Vec<Encoded>, Buffer), Error> {
    let Buffers { mut plain, mut stored } = buffers;
    plain.clear();
    let mut work = Pieces::new(shared);
    let mut items = Vec::with_capacity(todos.len());
    for todo in todos {
        let item = match todo {
            Todo::Ready(entry, links) => Item::Entry(entry, links),
            Todo::Bare(draft, node) => match source.xattrs(&draft.path, &draft.stat.kind) {
                Ok(xattrs) => Item::Entry(draft.entry(node, xattrs), 1),
                Err(error) => Item::Fault(error.into()),
            },
            Todo::Read(draft, previous) => {
                match small_file(&mut work, source, draft, previous.as_deref(), &mut plain) {
                    Ok(file) => Item::File(Box::new(file)),
                    Err(fault) => Item::Fault(fault),
                }
            }
        };
        shared.progress.item();
        items.push(item);
    }
    let new = work.encode(&plain, &mut stored)?;
    Ok((items, new, stored))
}

/// Reads and cuts one small file; its bytes are appended to `plain`.
fn small_file(
    work: &mut Pieces<'_, '_>,
    source: &Source,
    mut draft: Draft,
    previous: Option<&Entry>,
    plain: &mut Vec<u8>,
) -> Result<SmallFile, SourceFault> {
    let shared = work.shared();
    let at = plain.len();
    read_small(source, &mut draft, plain)?;
    let content = &plain[at..];
    shared.progress.add(content.len() as u64);
    let before = previous.and_then(Entry::content);
    let chunking = choose(
        &shared.store.header().chunking,
        before.map(|content| content.chunking),
        &probe(&draft.path, &draft.stat, content),
    );
    let mut range = super::previous::PreviousChunks::new(shared.store, before);
    let bytes = content.len() as u64;
    let growth = Growth::new(before.map_or(bytes, |content| content.bytes), bytes);
    let (from, to) = growth.widen(0, bytes);
    let range = range.range(from, to);
    let lens = cut(Cutter::new(chunking), content, true, 0, &range, growth);
    let level = level(chunking, &draft.path);
    let (pieces, equal) = work.stretch(plain, at, &lens, 0, &range, level);
    let content = &plain[at..];
    let with_sha256 = shared.options.algorithm == crate::digest::Algorithm::Sha256;
    let checksums = match (before, &pieces[..]) {
        (Some(before), _)
            if equal
                && before.bytes == content.len() as u64
                && (before.checksums.sha256.is_some() || !with_sha256) =>
        {
            before.checksums
        }
        // A chunk's name is BLAKE3 of its plain bytes, so of the content if it is the only one.
        (_, [Piece { chunk, .. }]) if !with_sha256 && !chunk.is_hole() => {
            Checksums { blake3: chunk.digest, sha256: None }
        }
        _ => Checksums::of(content, with_sha256),
    };
    let previous = before.and_then(super::large::list_of);
    Ok(SmallFile { draft, chunking, checksums, pieces, previous })
}

fn read_small(source: &Source, draft: &mut Draft, plain: &mut Vec<u8>) -> Result<(), SourceFault> {
    let file = source.open_file(&draft.path)?;
    let path = draft.path.clone();
    let failed = |source| SourceFault::Read { path: path.clone(), source };
    draft.stat = fstree::stat_of(&file).map_err(failed)?;
    let bytes = usize::try_from(draft.stat.size_bytes).unwrap_or(usize::MAX);
    let at = plain.len();
    if bytes > UNIT_BYTES || at + bytes > 2 * UNIT_BYTES {
        // It was small when the directory was read.
        return Err(SourceFault::Changed { path: draft.path.clone() });
    }
    plain.resize(at + bytes, 0);
    if let Err(fault) = read_exact(&file, &mut plain[at..], 0, draft) {
        plain.truncate(at);
        return Err(fault);
    }
    draft.xattrs = fstree::xattrs_of_file(&file).map_err(failed)?;
    check_unchanged(&file, draft)
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Returns what the chunking policy asks of a file.
pub(super) fn probe<'a>(path: &'a [u8], stat: &Stat, head: &'a [u8]) -> Probe<'a> {
    Probe {
        name: name_of(path),
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
