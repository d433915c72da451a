//! The third stage: takes outcomes back into source order and makes of them packs, list pages and
//! artifacts.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::super::random;
use super::packer::Packed;
use super::pieces::{Coder, Encoded, Fate, Piece, base_of};
use super::unit::{self, Item};
use super::walk::{Draft, Opened, check_entry};
use super::{Error, IngestStats, MemberSummary, Shared, SourceFault};
use crate::chunker::Chunking;
use crate::clock::UnixNanos;
use crate::codec::Level;
use crate::digest::Digest;
use crate::format::manifest::{Artifact, Chunks, Content, Counts, Entry, Node};
use crate::format::pack::Content as PackContent;
use crate::format::page::{ChunkRef, Item as _, ListRef};
use crate::format::segment::PackEntry;
use crate::fstree::{Kind, compare_paths};
use crate::limits::{INLINE_CHUNKS_MAX, MIB, PACK_BYTES_TARGET};
use crate::pack::PackBuilder;
use crate::store::buffers::Buffer;
use crate::store::checksum::{ArtifactChecksum, OrderedChecksum};
use crate::store::chunks::read_present;
use crate::store::list::{ListBuilder, PageSink};
use crossbeam_channel::{Receiver, Sender};

/// What a unit or the walk has to say, in source order.
pub(super) enum Outcome {
    /// The member with this ordinal begins.
    Begin(usize),
    /// Small things.
    Batch { items: Vec<Item>, new: Vec<Encoded>, stored: Buffer },
    /// A large file begins, which is cut like this and whose chunks were in this list.
    FileBegin { chunking: Chunking, previous: Option<ListRef> },
    /// The next range of a large file.
    Range { pieces: Vec<Piece>, new: Vec<Encoded>, stored: Option<Buffer> },
    /// The large file is complete.
    FileEnd {
        draft: Arc<Draft>,
        file: Arc<File>,
        chunking: Chunking,
        checksum: Arc<OrderedChecksum>,
    },
    /// A path failed, and its member with it.
    Fault(SourceFault),
    /// The store failed.
    Fatal(Error),
    /// The member ends.
    End,
}

/// Most faults that are kept of one member; a member with that many is not read further into.
const FAULTS_MAX: usize = 20;

/// One member as it came out.
#[derive(Debug)]
pub(in crate::store) struct CollectedMember {
    pub member: String,
    pub result: Result<Artifact, Vec<SourceFault>>,
    pub summary: MemberSummary,
}

/// What an ingest collected.
#[derive(Debug, Default)]
pub(in crate::store) struct Collected {
    pub members: Vec<CollectedMember>,
    pub packs: Vec<PackEntry>,
    pub stats: IngestStats,
}

impl Collected {
    /// Adds what the packer published.
    pub(super) fn add_packed(&mut self, packed: Packed) {
        for pack in &packed.packs {
            self.stats.bytes_stored += pack.bytes;
            match pack.content {
                PackContent::Chunks => self.stats.packs_written += 1,
                PackContent::Pages => self.stats.page_packs_written += 1,
            }
        }
        self.stats.bytes_stored += packed.index_bytes;
        self.packs = packed.packs;
    }
}

pub(super) struct Collector<'a, 's> {
    started: UnixNanos,
    opened: &'a [Opened],
    previous: &'a [Option<Artifact>],
    out: Output<'a, 's>,
    member: Option<MemberState<'s>>,
    collected: Collected,
}

impl<'a, 's> Collector<'a, 's> {
    pub fn new(
        shared: &'a Shared<'s>,
        started: UnixNanos,
        opened: &'a [Opened],
        previous: &'a [Option<Artifact>],
        packs: Sender<PackBuilder>,
        fresh: Receiver<Vec<u8>>,
    ) -> Self {
        let out = Output {
            shared,
            packs,
            fresh,
            buffers_made: 0,
            chunks: None,
            pages: None,
            pages_seen: HashSet::new(),
            stats: IngestStats::default(),
        };
        Self { started, opened, previous, out, member: None, collected: Collected::default() }
    }

    /// Takes outcomes until there are no more, then closes the last packs. An interrupted ingest
    /// closes them too: what it stored is found again.
    pub fn run(mut self, arriving: &Receiver<(u64, Outcome)>) -> Result<Collected, Error> {
        let (mut next, mut early) = (0, BTreeMap::new());
        for (number, outcome) in arriving {
            early.insert(number, outcome);
            while let Some(outcome) = early.remove(&next) {
                next += 1;
                self.take(outcome)?;
            }
        }
        self.out.close(PackContent::Chunks)?;
        self.out.close(PackContent::Pages)?;
        self.collected.stats = self.out.stats;
        Ok(self.collected)
    }

    fn take(&mut self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Begin(ordinal) => {
                let previous = self.previous.get(ordinal).and_then(Option::as_ref);
                let entries = previous.map(|artifact| &artifact.entries);
                self.member = Some(MemberState::new(ordinal, self.out.shared, entries));
            }
            Outcome::Batch { items, new, stored } => {
                for item in items {
                    self.item(item, &new, &stored)?;
                }
            }
            Outcome::FileBegin { chunking, previous } => {
                if let Some(member) = &mut self.member {
                    member.large = ChunkList::replacing(chunking, previous);
                }
            }
            Outcome::Range { pieces, new, stored } => {
                let Some(member) = &mut self.member else { return Ok(()) };
                let stored = stored.as_deref().map_or(&[][..], |stored| stored);
                for piece in &pieces {
                    self.out.store(piece, &new, stored)?;
                    member.large.push(piece.chunk, &mut self.out)?;
                }
                let bytes = pieces.iter().map(|piece| piece.chunk.bytes).sum::<u64>();
                if !stored.is_empty() || pieces.iter().any(|piece| !piece.chunk.is_hole()) {
                    member.summary.bytes_read += bytes;
                }
            }
            Outcome::FileEnd { draft, file, chunking, checksum } => {
                self.file_end(&draft, &file, chunking, &checksum)?;
            }
            Outcome::Fault(fault) => self.fault(fault),
            Outcome::Fatal(error) => return Err(error),
            Outcome::End => self.end()?,
        }
        Ok(())
    }

    fn fault(&mut self, fault: SourceFault) {
        if let Some(member) = &mut self.member {
            member.large = ChunkList::default();
            if member.faults.len() < FAULTS_MAX {
                member.faults.push(fault);
            }
        }
    }

    fn item(&mut self, item: Item, new: &[Encoded], stored: &[u8]) -> Result<(), Error> {
        match item {
            Item::Entry(entry, links) => {
                if let Some(member) = &mut self.member
                    && entry.content().is_some()
                {
                    member.summary.files_unchanged += 1;
                }
                self.entry(entry, links)
            }
            Item::Fault(fault) => {
                self.fault(fault);
                Ok(())
            }
            Item::File(file) => {
                let mut list = ChunkList::replacing(file.chunking, file.previous.clone());
                for piece in &file.pieces {
                    self.out.store(piece, new, stored)?;
                    list.push(piece.chunk, &mut self.out)?;
                }
                if let Some(member) = &mut self.member {
                    member.summary.bytes_read += file.draft.stat.size_bytes;
                }
                let (links, chunks) = (file.draft.stat.links, list.finish(&mut self.out)?);
                self.entry(file.into_entry(chunks), links)
            }
        }
    }

    fn file_end(
        &mut self,
        draft: &Arc<Draft>,
        file: &File,
        chunking: Chunking,
        checksum: &OrderedChecksum,
    ) -> Result<(), Error> {
        let Some(member) = &mut self.member else { return Ok(()) };
        let list = std::mem::take(&mut member.large);
        let bytes = draft.stat.size_bytes;
        if list.bytes != bytes {
            // A range of it failed, and was reported.
            return Ok(());
        }
        if let Err(fault) = unit::check_unchanged(file, draft) {
            self.fault(fault);
            return Ok(());
        }
        let checksums = match checksum.finish(bytes) {
            Ok((checksums, _)) => checksums,
            Err(source) => {
                self.fault(SourceFault::Read { path: draft.path.clone(), source });
                return Ok(());
            }
        };
        let chunks = list.finish(&mut self.out)?;
        let content = Content { bytes, chunking, checksums, chunks };
        let draft = Draft {
            path: draft.path.clone(),
            stat: draft.stat.clone(),
            xattrs: draft.xattrs.clone(),
        };
        let xattrs = draft.xattrs.clone();
        self.out.shared.progress.item();
        let links = draft.stat.links;
        self.entry(draft.entry(Node::File(content), xattrs), links)
    }

    /// Takes a complete entry of something that has this many names.
    fn entry(&mut self, entry: Entry, links: u64) -> Result<(), Error> {
        if let Err(fault) = check_entry(&entry) {
            self.fault(fault);
            return Ok(());
        }
        let Some(member) = &mut self.member else { return Ok(()) };
        let last = member.last_path.replace(entry.path.clone());
        if last.is_some_and(|last| compare_paths(&last, &entry.path).is_ge()) {
            // A directory that changed while it was listed may give out a name twice.
            self.fault(SourceFault::Changed { path: entry.path });
            return Ok(());
        }
        member.count(&entry, links);
        member.entries.push(&entry, &mut self.out)
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(state) = self.member.take() else { return Ok(()) };
        let opened = &self.opened[state.ordinal];
        let entries = state.entries.finish(&mut self.out)?;
        self.out.stats.bytes_read += state.summary.bytes_read;
        let result = if state.faults.is_empty() {
            Ok(Artifact {
                member: opened.member.clone(),
                source: opened.path.as_os_str().as_bytes().to_vec(),
                started: self.started,
                counts: state.counts,
                algorithm: state.checksum.algorithm(),
                checksum: state.checksum.finish(),
                entries,
                extensions: Vec::new(),
            })
        } else {
            Err(state.faults)
        };
        let (member, summary) = (opened.member.clone(), state.summary);
        self.collected.members.push(CollectedMember { member, result, summary });
        Ok(())
    }
}

/// The member being collected.
struct MemberState<'s> {
    ordinal: usize,
    entries: ListBuilder<'s, Entry>,
    /// Chunks of the large file under way.
    large: ChunkList<'s>,
    counts: Counts,
    /// Path of the last entry: a list of entries is sorted.
    last_path: Option<Vec<u8>>,
    checksum: ArtifactChecksum,
    faults: Vec<SourceFault>,
    summary: MemberSummary,
}

impl<'s> MemberState<'s> {
    fn new(ordinal: usize, shared: &Shared<'s>, previous: Option<&ListRef>) -> Self {
        Self {
            ordinal,
            entries: ListBuilder::new(shared.store, previous),
            large: ChunkList::default(),
            counts: Counts::default(),
            last_path: None,
            checksum: ArtifactChecksum::new(shared.options.algorithm),
            faults: Vec::new(),
            summary: MemberSummary::default(),
        }
    }

    fn count(&mut self, entry: &Entry, links: u64) {
        let counts = &mut self.counts;
        match &entry.node {
            Node::File(content) => {
                counts.files += 1;
                counts.bytes += content.bytes;
            }
            Node::HardLink(_) => counts.files += 1,
            Node::Other(Kind::Dir) => counts.dirs += 1,
            Node::Other(Kind::Symlink { .. }) => counts.symlinks += 1,
            Node::Other(_) => counts.specials += 1,
        }
        self.checksum.add(entry, links > 1);
    }
}

/// The chunks of one file: inline while they are few, then a list. Adjacent holes become one.
#[derive(Default)]
struct ChunkList<'s> {
    bytes: u64,
    hole: u64,
    inline: Vec<ChunkRef>,
    list: Option<ListBuilder<'s, ChunkRef>>,
    previous: Option<ListRef>,
    span_bytes: Option<u64>,
}

impl<'s> ChunkList<'s> {
    /// Starts the list of content that is cut like this and replaces that of `previous`.
    fn replacing(chunking: Chunking, previous: Option<ListRef>) -> Self {
        let span_bytes = match chunking {
            Chunking::Fixed { chunk_bytes } => {
                Some(u64::from(chunk_bytes) * ChunkRef::PAGE_ITEMS as u64)
            }
            Chunking::Whole | Chunking::Cdc { .. } => None,
        };
        Self { previous, span_bytes, ..Self::default() }
    }

    fn push(&mut self, chunk: ChunkRef, out: &mut Output<'_, 's>) -> Result<(), Error> {
        self.bytes += chunk.bytes;
        if chunk.is_hole() {
            self.hole += chunk.bytes;
            return Ok(());
        }
        self.push_hole(out)?;
        self.append(chunk, out)
    }

    fn push_hole(&mut self, out: &mut Output<'_, 's>) -> Result<(), Error> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            bytes => self.append(ChunkRef::hole(bytes), out),
        }
    }

    fn append(&mut self, chunk: ChunkRef, out: &mut Output<'_, 's>) -> Result<(), Error> {
        if let Some(list) = &mut self.list {
            return list.push(&chunk, out);
        }
        self.inline.push(chunk);
        if self.inline.len() > INLINE_CHUNKS_MAX {
            let previous = self.previous.take();
            let list = ListBuilder::new(out.shared.store, previous.as_ref());
            let list = self.list.insert(list.with_span(self.span_bytes));
            for chunk in self.inline.drain(..) {
                list.push(&chunk, out)?;
            }
        }
        Ok(())
    }

    fn finish(mut self, out: &mut Output<'_, 's>) -> Result<Chunks, Error> {
        self.push_hole(out)?;
        match self.list {
            Some(list) => Ok(Chunks::List(list.finish(out)?)),
            None => Ok(Chunks::Inline(self.inline)),
        }
    }
}

/// Where chunks and pages go: packs being filled.
struct Output<'a, 's> {
    shared: &'a Shared<'s>,
    packs: Sender<PackBuilder>,
    fresh: Receiver<Vec<u8>>,
    buffers_made: usize,
    chunks: Option<PackBuilder>,
    pages: Option<PackBuilder>,
    /// Pages stored by this ingest, which the index may not have yet.
    pages_seen: HashSet<Digest>,
    stats: IngestStats,
}

impl Output<'_, '_> {
    /// Stores a piece if it is new, and counts it.
    fn store(&mut self, piece: &Piece, new: &[Encoded], stored: &[u8]) -> Result<(), Error> {
        match piece.fate {
            Fate::Hole => {}
            Fate::InPlace => {
                self.stats.chunks_reused += 1;
                self.stats.chunks_in_place += 1;
            }
            Fate::Known => self.stats.chunks_reused += 1,
            Fate::New(ordinal) => {
                let Encoded { encoding, base, body, alone_bytes } = &new[ordinal];
                self.stats.chunks_new += 1;
                self.stats.chunks_encoded += 1;
                self.stats.bytes_new += piece.chunk.bytes;
                if base.is_some() {
                    self.stats.chunks_delta += 1;
                    self.stats.bytes_saved_by_deltas +=
                        u64::from(*alone_bytes).saturating_sub(body.len() as u64);
                }
                let body = &stored[body.clone()];
                let pack = self.builder(PackContent::Chunks, body.len())?;
                pack.push(piece.chunk.digest, piece.chunk.bytes as u32, *encoding, *base, body);
            }
        }
        Ok(())
    }

    /// Returns the pack of this content that has room, closing the one before if it has not.
    fn builder(
        &mut self,
        content: PackContent,
        stored_bytes: usize,
    ) -> Result<&mut PackBuilder, Error> {
        let open = match content {
            PackContent::Chunks => &self.chunks,
            PackContent::Pages => &self.pages,
        };
        if open.as_ref().is_some_and(|pack| !pack.has_room(stored_bytes)) {
            self.close(content)?;
        }
        let store_id = self.shared.store.id();
        let open = match content {
            PackContent::Chunks => &mut self.chunks,
            PackContent::Pages => &mut self.pages,
        };
        if open.is_none() {
            let buffer = match content {
                // At most three: one being filled, one waiting, one being written.
                PackContent::Chunks if self.buffers_made < 3 => {
                    self.buffers_made += 1;
                    Vec::with_capacity(PACK_BYTES_TARGET + MIB)
                }
                PackContent::Chunks => self.fresh.recv().unwrap_or_default(),
                PackContent::Pages => Vec::new(),
            };
            let pack = PackBuilder::new(content, store_id, buffer);
            *open = Some(if self.shared.salted { pack.salted(random()?) } else { pack });
        }
        Ok(open.as_mut().expect("just made"))
    }

    /// Closes the open pack of this content, if there is one.
    fn close(&mut self, content: PackContent) -> Result<(), Error> {
        let open = match content {
            PackContent::Chunks => self.chunks.take(),
            PackContent::Pages => self.pages.take(),
        };
        match open {
            // The packer is gone only after an error of its own, which is reported first.
            Some(pack) => self.packs.send(pack).map_err(|_| Error::Interrupted),
            None => Ok(()),
        }
    }
}

impl PageSink for Output<'_, '_> {
    fn page(&mut self, bytes: Vec<u8>, base: Option<Digest>) -> Result<Digest, Error> {
        let digest = Digest::of(&bytes);
        let index = self.shared.index.snapshot();
        if index.has(&digest) || !self.pages_seen.insert(digest) {
            return Ok(digest);
        }
        let base = base.filter(|_| self.shared.options.deltas);
        let location = base.and_then(|base| base_of(&index, &base));
        let plain_base = location.and_then(|location| {
            let read = read_present(self.shared.store, &index, &location.record.digest);
            read.ok().map(|plain| (location, plain))
        });
        let mut stored = Vec::new();
        let against = plain_base.as_ref().map(|(location, plain)| (location, plain.as_slice()));
        let encoded = Coder::new()?.encode(&bytes, Level::DENSE, against, &mut stored)?;
        let pack = self.builder(PackContent::Pages, stored.len())?;
        pack.push(digest, bytes.len() as u32, encoded.encoding, encoded.base, &stored);
        Ok(digest)
    }
}
