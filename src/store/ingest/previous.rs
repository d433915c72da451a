//! The previous generation of what is being ingested: the first thing that every entry and every
//! chunk is compared with.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use super::super::tree::ChunkIter;
use super::super::{ListIter, Store};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::manifest::{Artifact, Content, Entry};
use crate::format::page::ChunkRef;
use crate::fstree::{Stat, Time, compare_paths};
use crate::limits::{RACY_COARSE_NANOS, RACY_NANOS};

/// Entries of the previous artifact, in step with the walk.
pub(super) struct PreviousEntries<'s> {
    entries: Option<ListIter<'s, Entry>>,
    next: Option<Entry>,
    /// When the backup that read them began.
    started: UnixNanos,
}

impl<'s> PreviousEntries<'s> {
    pub fn new(store: &'s Store, artifact: Option<&Artifact>) -> Self {
        let started = artifact.map_or(UnixNanos(i64::MIN), |artifact| artifact.started);
        let entries = artifact.map(|artifact| ListIter::new(store, &artifact.entries));
        Self { entries, next: None, started }
    }

    /// Returns the entry at `path`. Paths must be asked for in order. A list page that cannot be
    /// read counts as having no entries: then the files are read.
    pub fn at(&mut self, path: &[u8]) -> Option<Entry> {
        loop {
            if self.next.is_none() {
                self.next = self.entries.as_mut()?.find_map(Result::ok);
            }
            match compare_paths(&self.next.as_ref()?.path, path) {
                Ordering::Less => self.next = None,
                Ordering::Equal => return self.next.take(),
                Ordering::Greater => return None,
            }
        }
    }

    /// Says whether an entry is surely what it was: same length, times and inode, and times
    /// clearly older than the start of the backup that read it.
    pub fn is_unchanged(&self, entry: &Entry, stat: &Stat) -> bool {
        let bytes = entry.content().map_or(0, |content| content.bytes);
        let clearly_older = |time: Time| {
            let tick = if time.nanos == 0 { RACY_COARSE_NANOS } else { RACY_NANOS };
            nanos(time) < i128::from(self.started.minus(tick).0)
        };
        entry.inode == stat.inode
            && entry.mtime == stat.mtime
            && entry.ctime == stat.ctime
            && (entry.content().is_none() || bytes == stat.size_bytes)
            && clearly_older(stat.mtime)
            && clearly_older(stat.ctime)
    }
}

fn nanos(time: Time) -> i128 {
    i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos)
}

/// The chunks of a file's previous content, handed out range by range.
pub(super) struct PreviousChunks<'s> {
    chunks: Option<ChunkIter<'s>>,
    /// Chunks that were read and may still be asked for.
    window: VecDeque<(u64, ChunkRef)>,
    /// Offset behind the window.
    end: u64,
}

impl<'s> PreviousChunks<'s> {
    pub fn new(store: &'s Store, content: Option<&Content>) -> Self {
        let chunks = content.map(|content| store.chunks(content));
        Self { chunks, window: VecDeque::new(), end: 0 }
    }

    /// Returns the previous chunks that overlap `start..end`. Starts must not decrease.
    pub fn range(&mut self, start: u64, end: u64) -> Range {
        while self.end < end {
            match self.chunks.as_mut().and_then(Iterator::next) {
                Some(Ok(chunk)) => {
                    if self.end + chunk.bytes > start {
                        self.window.push_back((self.end, chunk));
                    }
                    self.end = self.end.saturating_add(chunk.bytes);
                }
                // Behind an unreadable page offsets are unknown: nothing more is compared.
                Some(Err(_)) | None => {
                    self.chunks = None;
                    break;
                }
            }
        }
        while self.window.front().is_some_and(|(begin, chunk)| begin + chunk.bytes <= start) {
            self.window.pop_front();
        }
        Range(self.window.iter().take_while(|(begin, _)| *begin < end).copied().collect())
    }
}

/// Previous chunks with their offsets.
#[derive(Default)]
pub(super) struct Range(Vec<(u64, ChunkRef)>);

impl Range {
    /// Returns what the previous generation had at `offset`, if a chunk of the same length began
    /// there, or a hole reached from there at least as far.
    pub fn at(&self, offset: u64, bytes: u64) -> Option<ChunkRef> {
        let after = self.0.partition_point(|(start, _)| *start <= offset);
        let (start, chunk) = self.0.get(after.checked_sub(1)?)?;
        if chunk.is_hole() {
            (start + chunk.bytes >= offset + bytes).then(|| ChunkRef::hole(bytes))
        } else {
            (*start == offset && chunk.bytes == bytes).then_some(*chunk)
        }
    }

    /// Returns the chunk that began at `place`, if it was no hole.
    pub fn beginning_at(&self, place: u64) -> Option<ChunkRef> {
        let found = self.0.binary_search_by_key(&place, |(begin, _)| *begin).ok()?;
        Some(self.0[found].1).filter(|chunk| !chunk.is_hole())
    }

    /// Returns the length of the chunk that began at `place`.
    pub fn len_at(&self, place: u64) -> Option<usize> {
        self.beginning_at(place).map(|chunk| chunk.bytes as usize)
    }

    /// Makes a range from chunks with their offsets, in order.
    #[cfg(test)]
    pub fn of(chunks: Vec<(u64, ChunkRef)>) -> Self {
        Self(chunks)
    }

    /// Returns the chunk that has most in common with `start..end`, if that is not a hole.
    pub fn overlapping(&self, start: u64, end: u64) -> Option<ChunkRef> {
        let from = self.0.partition_point(|(begin, chunk)| begin + chunk.bytes <= start);
        let common = |begin: u64, chunk: &ChunkRef| {
            end.min(begin + chunk.bytes).saturating_sub(start.max(begin))
        };
        let overlapping = self.0[from..].iter().take_while(|(begin, _)| *begin < end);
        let most = overlapping.max_by_key(|(begin, chunk)| common(*begin, chunk));
        most.map(|(_, chunk)| *chunk).filter(|chunk| !chunk.is_hole())
    }

    /// Returns where each chunk was.
    pub fn places(&self) -> HashMap<Digest, u64> {
        self.0.iter().map(|(begin, chunk)| (chunk.digest, *begin)).collect()
    }

    /// Says whether `start..end` was all zeros.
    pub fn is_hole(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for (begin, chunk) in &self.0 {
            if *begin > at || !chunk.is_hole() {
                break;
            }
            at = at.max(begin + chunk.bytes);
        }
        at >= end
    }
}
