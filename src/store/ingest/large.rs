//! Large files: handed to units range by range. Fixed pieces are read and cut by the units; content
//! that is cut where its bytes say so is read and cut here, and digested by the units.

use std::fs::File;
use std::sync::Arc;

use rayon::ScopeFifo;

use super::collect::Outcome;
use super::cut::{Growth, cut};
use super::pieces::{Fate, Piece};
use super::previous::{PreviousChunks, Range};
use super::unit::{self, Buffers, RangeBytes, RangeUnit};
use super::walk::Draft;
use super::{Error, Sequence, Shared, SourceFault};
use crate::chunker::{Chunking, Cutter, choose};
use crate::digest::Algorithm;
use crate::format::manifest::{Chunks, Content};
use crate::format::page::{ChunkRef, ListRef};
use crate::fstree;
use crate::limits::UNIT_BYTES;
use crate::store::checksum::{OrderedChecksum, Part};

/// Holes are handed on in pieces of at most this length, so that what the previous generation had
/// there stays small.
const HOLE_BYTES_MAX: u64 = 1 << 30;

/// One large file on its way to the units.
pub(super) struct Large<'a, 's, 'scope> {
    shared: &'scope Shared<'s>,
    units: &'a ScopeFifo<'scope>,
    sequence: &'a mut Sequence,
    draft: Arc<Draft>,
    file: Arc<File>,
    chunking: Chunking,
    previous: PreviousChunks<'s>,
    /// The list that the file's new list replaces.
    previous_list: Option<ListRef>,
    growth: Growth,
    checksum: Arc<OrderedChecksum>,
}

impl<'a, 's: 'scope, 'scope> Large<'a, 's, 'scope> {
    pub fn new(
        shared: &'scope Shared<'s>,
        units: &'a ScopeFifo<'scope>,
        sequence: &'a mut Sequence,
        draft: Draft,
        file: Arc<File>,
        previous: Option<&Content>,
    ) -> Self {
        let mut head = [0; 512];
        let read = std::os::unix::fs::FileExt::read_at(&*file, &mut head, 0).unwrap_or(0);
        let chunking = choose(
            &shared.store.header().chunking,
            previous.map(|content| content.chunking),
            &unit::probe(&draft.path, &draft.stat, &head[..read]),
        );
        let with_sha256 = shared.options.algorithm == Algorithm::Sha256;
        let bytes_before = previous.map_or(draft.stat.size_bytes, |content| content.bytes);
        let growth = Growth::new(bytes_before, draft.stat.size_bytes);
        let before = previous.map(|content| (content.bytes, content.checksums));
        let checksum = OrderedChecksum::comparing(Arc::clone(&file), with_sha256, before);
        Self {
            shared,
            units,
            sequence,
            draft: Arc::new(draft),
            file,
            chunking,
            previous: PreviousChunks::new(shared.store, previous),
            previous_list: previous.and_then(list_of),
            growth,
            checksum: Arc::new(checksum),
        }
    }

    /// Hands out the whole file.
    pub fn run(mut self) -> Result<(), Error> {
        self.sequence.send(Outcome::FileBegin {
            chunking: self.chunking,
            previous: self.previous_list.take(),
        });
        let read = match self.chunking {
            Chunking::Fixed { chunk_bytes } => self.fixed(u64::from(chunk_bytes))?,
            Chunking::Whole | Chunking::Cdc { .. } => self.by_content()?,
        };
        match read {
            Ok(()) => self.sequence.send(Outcome::FileEnd {
                draft: self.draft,
                file: self.file,
                chunking: self.chunking,
                checksum: self.checksum,
            }),
            Err(fault) => {
                self.checksum.abandon();
                self.sequence.send(Outcome::Fault(fault));
            }
        }
        Ok(())
    }

    /// Checks whether to go on.
    fn check(&self) -> Result<(), Error> {
        self.shared.progress.check()?;
        if self.shared.is_aborted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn fixed(&mut self, chunk_bytes: u64) -> Result<Result<(), SourceFault>, Error> {
        let size = self.draft.stat.size_bytes;
        let sparse = self.draft.stat.allocated_bytes < size;
        let mut at = 0;
        while at < size {
            self.check()?;
            let mut end = size.min(at + UNIT_BYTES as u64);
            if sparse {
                let data = match fstree::next_data(&self.file, at, size) {
                    Ok(data) => data.unwrap_or(size..size),
                    Err(source) => {
                        let path = self.draft.path.clone();
                        return Ok(Err(SourceFault::Read { path, source }));
                    }
                };
                // Data is read in whole pieces, so that places do not depend on the file system.
                let begin = data.start - data.start % chunk_bytes;
                if begin > at {
                    let hole_end = begin.min(at + HOLE_BYTES_MAX);
                    self.hole(at, hole_end);
                    at = hole_end;
                    continue;
                }
                end = end.min(data.end.next_multiple_of(chunk_bytes)).min(size);
            }
            let previous = self.previous.range(at, end);
            let bytes = RangeBytes::Unread((end - at) as usize);
            self.spawn(at, previous, bytes, Buffers::take(self.shared));
            at = end;
        }
        Ok(Ok(()))
    }

    /// A range that the file system says is a hole: not read.
    fn hole(&mut self, start: u64, end: u64) {
        let bytes = end - start;
        let equal = self.previous.range(start, end).is_hole(start, end);
        self.checksum.submit(start, Part::Zeros(bytes), equal);
        self.shared.progress.add(bytes);
        let pieces = vec![Piece { chunk: ChunkRef::hole(bytes), fate: Fate::Hole }];
        self.sequence.send(Outcome::Range { pieces, new: Vec::new(), stored: None });
    }

    fn by_content(&mut self) -> Result<Result<(), SourceFault>, Error> {
        let size = self.draft.stat.size_bytes;
        let cutter = Cutter::new(self.chunking);
        let (mut start, mut read) = (0, 0);
        let mut carry = Vec::new();
        while start < size {
            self.check()?;
            let mut buffers = Buffers::take(self.shared);
            let plain = &mut buffers.plain;
            let more = (UNIT_BYTES - carry.len()).min((size - read) as usize);
            plain.resize(carry.len() + more, 0);
            let (front, fresh) = plain.split_at_mut(carry.len());
            front.copy_from_slice(&carry);
            if let Err(fault) = unit::read_exact(&self.file, fresh, read, &self.draft) {
                return Ok(Err(fault));
            }
            read += more as u64;
            let (from, to) = self.growth.widen(start, start + plain.len() as u64);
            let previous = self.previous.range(from, to);
            let lens = cut(cutter, plain, read == size, start, &previous, self.growth);
            let cut = lens.iter().sum();
            carry.clear();
            carry.extend_from_slice(&plain[cut..]);
            plain.truncate(cut);
            self.spawn(start, previous, RangeBytes::Cut(lens), buffers);
            start += cut as u64;
        }
        Ok(Ok(()))
    }

    fn spawn(&mut self, offset: u64, previous: Range, bytes: RangeBytes, buffers: Buffers) {
        let unit = RangeUnit {
            draft: Arc::clone(&self.draft),
            file: Arc::clone(&self.file),
            chunking: self.chunking,
            offset,
            previous,
            checksum: Arc::clone(&self.checksum),
        };
        let (shared, slot) = (self.shared, self.sequence.take());
        self.units.spawn_fifo(move |_| unit.run(shared, bytes, buffers, slot));
    }
}

/// Returns the list of a content's chunks, if they are not in its entry.
pub(super) fn list_of(content: &Content) -> Option<ListRef> {
    match &content.chunks {
        Chunks::List(list) => Some(list.clone()),
        Chunks::Inline(_) => None,
    }
}
