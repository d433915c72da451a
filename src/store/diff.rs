//! Comparing two generations, by path and by bytes, without reading contents: equal chunks have
//! equal names.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::tree::{ChunkIter, Tree, is_at_or_below};
use super::{Error, ListIter, PageFault, Progress, Store};
use crate::format::manifest::{Content, Entry, Node};
use crate::fstree::compare_paths;

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// The content differs.
    Content,
    /// The content is equal; mode, owner, time or attributes differ.
    Metadata,
    /// It is another kind of thing (or a symlink to elsewhere).
    Type,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `member/path`.
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: ChangeKind,
    /// Length of the content in the first, in bytes.
    pub bytes_before: u64,
    /// Length of the content in the second, in bytes.
    pub bytes_after: u64,
    /// Bytes of the second's content that are in chunks which the first's content does not have.
    pub bytes_changed: u64,
}

/// How two generations differ in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffReport {
    /// Paths only in the second.
    pub added: u64,
    /// Paths only in the first.
    pub removed: u64,
    /// Paths whose content or kind differs.
    pub changed: u64,
    /// Paths of which only metadata differs.
    pub metadata: u64,
    /// Bytes of content only in the second.
    pub bytes_added: u64,
    /// Bytes of content of removed paths.
    pub bytes_removed: u64,
}

impl DiffReport {
    /// Says whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn count(&mut self, change: &Change) {
        match change.kind {
            ChangeKind::Added => self.added += 1,
            ChangeKind::Removed => {
                self.removed += 1;
                self.bytes_removed += change.bytes_before;
            }
            ChangeKind::Content | ChangeKind::Type => self.changed += 1,
            ChangeKind::Metadata => self.metadata += 1,
        }
        self.bytes_added += change.bytes_changed;
    }
}

impl Store {
    /// Compares what two references point to. Calls `each` for every path that differs, in order.
    ///
    /// # Errors
    /// A list page cannot be read.
    pub fn diff(
        &self,
        first: &Tree,
        second: &Tree,
        progress: &Progress,
        each: &mut dyn FnMut(Change),
    ) -> Result<DiffReport, Error> {
        let mut report = DiffReport::default();
        let mut names: Vec<_> =
            first.members.iter().chain(&second.members).map(|member| &member.name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let side = |tree: &Tree| Side::new(self, tree, name);
            let (mut one, mut two) = (side(first), side(second));
            loop {
                progress.check()?;
                let change = match (one.peek()?, two.peek()?) {
                    (None, None) => break,
                    (Some(_), None) => removed(name, &one.take()),
                    (None, Some(_)) => added(name, &two.take()),
                    (Some(a), Some(b)) => match compare_paths(&a.path, &b.path) {
                        Ordering::Less => removed(name, &one.take()),
                        Ordering::Greater => added(name, &two.take()),
                        Ordering::Equal => {
                            let (a, b) = (one.take(), two.take());
                            match self.change(name, &a, &b)? {
                                Some(change) => change,
                                None => continue,
                            }
                        }
                    },
                };
                report.count(&change);
                each(change);
            }
        }
        Ok(report)
    }

    fn change(&self, member: &str, a: &Entry, b: &Entry) -> Result<Option<Change>, Error> {
        let bytes = |entry: &Entry| entry.content().map_or(0, |content| content.bytes);
        let change = |kind, bytes_changed| {
            let path = full_path(member, &b.path);
            let (bytes_before, bytes_after) = (bytes(a), bytes(b));
            Some(Change { path, kind, bytes_before, bytes_after, bytes_changed })
        };
        let metadata_equal =
            a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && a.xattrs == b.xattrs;
        Ok(match (&a.node, &b.node) {
            (Node::File(before), Node::File(after)) => {
                if before.bytes == after.bytes && before.checksums.blake3 == after.checksums.blake3
                {
                    let same = metadata_equal && a.mtime == b.mtime;
                    if same { None } else { change(ChangeKind::Metadata, 0) }
                } else {
                    change(ChangeKind::Content, self.bytes_changed(before, after)?)
                }
            }
            (before, after) if before == after => {
                let same = metadata_equal && a.mtime == b.mtime;
                if same { None } else { change(ChangeKind::Metadata, 0) }
            }
            _ => change(ChangeKind::Type, bytes(b)),
        })
    }

    /// Returns the bytes of `after` in chunks that `before` does not have near the same place.
    ///
    /// Chunks are compared in a window that moves along both, so that memory stays bounded
    /// however long the contents are.
    fn bytes_changed(&self, before: &Content, after: &Content) -> Result<u64, PageFault> {
        /// Chunks of the first content that are remembered before they are compared: enough to
        /// find content again that moved by a few hundred megabytes.
        const WINDOW_CHUNKS: usize = 1 << 16;
        let mut known = HashSet::new();
        let mut order = std::collections::VecDeque::new();
        let mut earlier: ChunkIter<'_> = self.chunks(before);
        let (mut ahead, mut at, mut changed) = (0u64, 0u64, 0);
        for chunk in self.chunks(after) {
            let chunk = chunk?;
            at += chunk.bytes;
            while ahead < at.saturating_add(1 << 28) {
                let Some(old) = earlier.next() else { break };
                let old = old?;
                ahead = ahead.saturating_add(old.bytes);
                if known.insert(old.digest) {
                    order.push_back(old.digest);
                }
                if order.len() > WINDOW_CHUNKS
                    && let Some(forgotten) = order.pop_front()
                {
                    known.remove(&forgotten);
                }
            }
            if !known.contains(&chunk.digest) {
                changed += chunk.bytes;
            }
        }
        Ok(changed)
    }
}

/// The entries of one member on one side of a comparison.
struct Side<'s> {
    entries: Option<ListIter<'s, Entry>>,
    root: Vec<u8>,
    next: Option<Entry>,
}

impl<'s> Side<'s> {
    fn new(store: &'s Store, tree: &Tree, member: &str) -> Self {
        let found = tree.members.iter().find(|known| known.name == member);
        let entries = found.map(|member| store.entries(&member.artifact));
        Self { entries, root: tree.path.clone(), next: None }
    }

    fn peek(&mut self) -> Result<Option<&Entry>, PageFault> {
        while self.next.is_none() {
            match self.entries.as_mut().and_then(Iterator::next) {
                None => return Ok(None),
                Some(Err(fault)) => return Err(fault),
                Some(Ok(entry)) if is_at_or_below(&entry.path, &self.root) => {
                    self.next = Some(entry);
                }
                Some(Ok(_)) => {}
            }
        }
        Ok(self.next.as_ref())
    }

    fn take(&mut self) -> Entry {
        self.next.take().expect("peeked before")
    }
}

fn full_path(member: &str, path: &[u8]) -> Vec<u8> {
    let mut full = member.as_bytes().to_vec();
    if !path.is_empty() {
        full.push(b'/');
        full.extend_from_slice(path);
    }
    full
}

fn added(member: &str, entry: &Entry) -> Change {
    let bytes_after = entry.content().map_or(0, |content| content.bytes);
    Change {
        path: full_path(member, &entry.path),
        kind: ChangeKind::Added,
        bytes_before: 0,
        bytes_after,
        bytes_changed: bytes_after,
    }
}

fn removed(member: &str, entry: &Entry) -> Change {
    Change {
        path: full_path(member, &entry.path),
        kind: ChangeKind::Removed,
        bytes_before: entry.content().map_or(0, |content| content.bytes),
        bytes_after: 0,
        bytes_changed: 0,
    }
}
