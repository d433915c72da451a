//! The first stage: walks the sources in order, compares every entry with the previous generation,
//! and hands out what has to be read.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::ScopeFifo;

use super::large::Large;
use super::previous::PreviousEntries;
use super::unit::{self, Buffers};
use super::{Error, MemberSource, Sequence, Shared, SourceFault};
use crate::format::manifest::{Artifact, Entry, Node};
use crate::format::page::Item as _;
use crate::fstree::{self, Kind, Source, Stat, WalkOptions, Xattr};
use crate::limits::{MIB, UNIT_BYTES, UNIT_FILES_MAX};
use crate::store::ingest::collect::Outcome;

/// Files from this length on are read range by range, by several threads.
const LARGE_BYTES_MIN: u64 = MIB as u64;

/// A member's source, opened or failed.
pub(super) struct Opened {
    pub member: String,
    pub path: std::path::PathBuf,
    /// `None` if it could not be opened.
    pub source: Option<Source>,
}

/// Opens all sources; one that fails takes only its member with it. Returns the failures apart.
pub(super) fn open_sources(sources: &[MemberSource]) -> (Vec<Opened>, Vec<Option<fstree::Error>>) {
    let open = |source: &MemberSource| {
        let (opened, failed) = match Source::open(&source.path) {
            Ok(opened) => (Some(opened), None),
            Err(error) => (None, Some(error)),
        };
        let (member, path) = (source.member.clone(), source.path.clone());
        (Opened { member, path, source: opened }, failed)
    };
    sources.iter().map(open).unzip()
}

/// An entry without its content.
pub(super) struct Draft {
    pub path: Vec<u8>,
    pub stat: Stat,
    pub xattrs: Vec<Xattr>,
}

impl Draft {
    /// Completes the entry.
    pub fn entry(self, node: Node, xattrs: Vec<Xattr>) -> Entry {
        let Stat { mode, uid, gid, mtime, ctime, inode, .. } = self.stat;
        Entry { path: self.path, node, mode, uid, gid, mtime, ctime, inode, xattrs }
    }
}

/// Something small to be done by a unit.
pub(super) enum Todo {
    /// Nothing: the entry is complete. With how many names it has.
    Ready(Entry, u64),
    /// Only the extended attributes are missing.
    Bare(Draft, Node),
    /// A small file to be read, with its previous entry.
    Read(Draft, Option<Box<Entry>>),
}

/// Walks all members.
pub(super) fn run<'s: 'scope, 'scope>(
    shared: &'scope Shared<'s>,
    units: &ScopeFifo<'scope>,
    sequence: Sequence,
    opened: &'scope [Opened],
    failed: Vec<Option<fstree::Error>>,
    previous: &[Option<Artifact>],
) -> Result<(), Error> {
    let mut sequence = sequence;
    for (ordinal, (opened, failed)) in opened.iter().zip(failed).enumerate() {
        sequence.send(Outcome::Begin(ordinal));
        if let Some(error) = failed {
            sequence.send(Outcome::Fault(error.into()));
        }
        if let Some(source) = &opened.source {
            let previous = previous.get(ordinal).and_then(Option::as_ref);
            let walk = Walk {
                shared,
                units,
                sequence: &mut sequence,
                source,
                previous: PreviousEntries::new(shared.store, previous),
                links: HashMap::new(),
                todos: Vec::new(),
                todo_bytes: 0,
            };
            walk.run()?;
        }
        sequence.send(Outcome::End);
    }
    Ok(())
}

/// The walk of one member.
struct Walk<'a, 's, 'scope> {
    shared: &'scope Shared<'s>,
    units: &'a ScopeFifo<'scope>,
    sequence: &'a mut Sequence,
    source: &'scope Source,
    previous: PreviousEntries<'s>,
    /// First paths of files with several names, and how many names are still to come.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
    todos: Vec<Todo>,
    todo_bytes: u64,
}

impl<'s: 'scope, 'scope> Walk<'_, 's, 'scope> {
    fn run(mut self) -> Result<(), Error> {
        let options = WalkOptions {
            exclude_dir: self.shared.options.exclude.clone(),
            ..WalkOptions::default()
        };
        let source = self.source;
        for node in source.walk(options) {
            self.shared.progress.check()?;
            if self.shared.is_aborted() {
                return Ok(());
            }
            match node {
                Ok(node) => {
                    let draft = Draft { path: node.path, stat: node.stat, xattrs: Vec::new() };
                    self.node(draft)?;
                }
                Err(error) => self.fault(error.into()),
            }
        }
        self.flush();
        Ok(())
    }

    /// Sends a fault, in order behind everything before it.
    fn fault(&mut self, fault: SourceFault) {
        self.flush();
        self.sequence.send(Outcome::Fault(fault));
    }

    fn node(&mut self, draft: Draft) -> Result<(), Error> {
        let previous = self.previous.at(&draft.path);
        let unchanged =
            previous.as_ref().is_some_and(|entry| self.previous.is_unchanged(entry, &draft.stat));
        if draft.stat.kind != Kind::File {
            let node = Node::Other(draft.stat.kind.clone());
            let todo = match previous {
                Some(entry) if unchanged && entry.node == node => {
                    let xattrs = entry.xattrs;
                    Todo::Ready(draft.entry(node, xattrs), 1)
                }
                _ => Todo::Bare(draft, node),
            };
            self.push(todo, 0);
            return Ok(());
        }
        if let Some(target) = self.link_target(&draft) {
            self.push(Todo::Bare(draft, Node::HardLink(target)), 0);
            return Ok(());
        }
        match previous {
            Some(entry) if unchanged && self.may_keep(&entry) => {
                let (xattrs, links) = (entry.xattrs, draft.stat.links);
                self.push(Todo::Ready(draft.entry(entry.node, xattrs), links), 0);
            }
            previous if draft.stat.size_bytes >= LARGE_BYTES_MIN => self.large(draft, previous)?,
            previous => {
                let bytes = draft.stat.size_bytes;
                self.push(Todo::Read(draft, previous.map(Box::new)), bytes);
            }
        }
        Ok(())
    }

    /// Returns the path under which this file was met before.
    fn link_target(&mut self, draft: &Draft) -> Option<Vec<u8>> {
        if draft.stat.links < 2 {
            return None;
        }
        let id = (draft.stat.device, draft.stat.inode);
        match self.links.get_mut(&id) {
            Some((first, ahead)) => {
                *ahead -= 1;
                let first = first.clone();
                if *ahead == 0 {
                    self.links.remove(&id);
                }
                Some(first)
            }
            None => {
                self.links.insert(id, (draft.path.clone(), draft.stat.links - 1));
                None
            }
        }
    }

    /// Says whether an unchanged file's previous content serves: it is a content, has the checksum
    /// that is asked for, and its chunks are there.
    fn may_keep(&self, entry: &Entry) -> bool {
        let Some(content) = entry.content() else { return false };
        let sha256 = self.shared.options.algorithm == crate::digest::Algorithm::Sha256;
        if self.shared.options.reread || (sha256 && content.checksums.sha256.is_none()) {
            return false;
        }
        if self.shared.trust_previous {
            return true;
        }
        let index = self.shared.index.snapshot();
        self.shared
            .store
            .chunks(content)
            .all(|chunk| chunk.is_ok_and(|chunk| chunk.is_hole() || index.has(&chunk.digest)))
    }

    /// Puts something small into the batch.
    fn push(&mut self, todo: Todo, bytes: u64) {
        if let Todo::Ready(entry, _) = &todo
            && let Some(content) = entry.content()
        {
            self.shared.progress.expect(content.bytes);
            self.shared.progress.add(content.bytes);
        }
        self.shared.progress.expect(bytes);
        self.todos.push(todo);
        self.todo_bytes += bytes;
        let full = self.todo_bytes + LARGE_BYTES_MIN > UNIT_BYTES as u64;
        if full || self.todos.len() >= UNIT_FILES_MAX {
            self.flush();
        }
    }

    /// Hands the batch to a unit.
    fn flush(&mut self) {
        if self.todos.is_empty() {
            return;
        }
        let (todos, shared, source) = (std::mem::take(&mut self.todos), self.shared, self.source);
        self.todo_bytes = 0;
        let buffers = Buffers::take(shared);
        let slot = self.sequence.take();
        self.units.spawn_fifo(move |_| unit::run_batch(shared, source, todos, buffers, slot));
    }

    /// Reads a large file, range by range.
    fn large(&mut self, mut draft: Draft, previous: Option<Entry>) -> Result<(), Error> {
        self.flush();
        let opened = self.source.open_file(&draft.path).and_then(|file| {
            let failed = |error| self.source.error("look at", &draft.path, error);
            draft.stat = fstree::stat_of(&file).map_err(failed)?;
            draft.xattrs = fstree::xattrs_of_file(&file).map_err(failed)?;
            Ok(file)
        });
        let file = match opened {
            Ok(file) => Arc::new(file),
            Err(error) => {
                self.sequence.send(Outcome::Fault(error.into()));
                return Ok(());
            }
        };
        self.shared.progress.expect(draft.stat.size_bytes);
        let content = previous.as_ref().and_then(Entry::content);
        Large::new(self.shared, self.units, self.sequence, draft, file, content).run()
    }
}

/// Checks what the format demands of an entry that was read from a source.
pub(super) fn check_entry(entry: &Entry) -> Result<(), SourceFault> {
    entry.check().map_err(|source| SourceFault::Unsupported { path: entry.path.clone(), source })
}
