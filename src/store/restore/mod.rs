//! Restore: a generation, a member or one path back into a directory.
//!
//! ```text
//! entries in order (this thread)  →  units (rayon): read, decode, check, write  →  links,
//! directories' metadata, sync, publish
//! ```
//!
//! Everything is written below `.strongroom-partial` in the target, synced, and only then moved to
//! its place; a restore that was killed goes on there when it is repeated. With `overwrite` the
//! target itself is written to, and only what differs. A path that cannot be restored is removed,
//! reported, and never filled with zeros; it does not stop the others.

mod direct;
mod files;
mod large;
mod target;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::ScopeFifo;

use super::buffers::Pool;
use super::chunks::ChunkReader;
use super::tree::is_at_or_below;
use super::{Error, Member, PageFault, Progress, Store, Tree};
use crate::format::manifest::{Content, Entry, Node};
use crate::fstree::{self, Kind, Meta, Policy};
use crate::index::Snapshot;
use crate::limits::{MIB, UNIT_BYTES, UNIT_FILES_MAX};
use direct::Aligned;
use target::Target;

/// Files from this length on are restored range by range, by several threads.
const LARGE_BYTES_MIN: u64 = MIB as u64;

/// How to restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent choices")]
pub struct RestoreOptions {
    /// Write into a directory that is not empty: files that exist are compared chunk by chunk and
    /// only what differs is written. Nothing else is removed.
    pub overwrite: bool,
    /// Give files their owners; needs privileges.
    pub owner: bool,
    /// Restore set-user-id and set-group-id bits and file capabilities.
    pub set_id_bits: bool,
    /// Make fifos, sockets and devices.
    pub special_files: bool,
    /// Threads that read, decode and write; 0 means two per processor.
    pub threads: usize,
}

/// A path that could not be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreFailure {
    /// `member/path`.
    pub path: String,
    /// Why.
    pub reason: String,
    /// Whether the store is damaged there (otherwise the target refused).
    pub damage: bool,
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Regular files in place, hard links counted.
    pub files: u64,
    /// Directories in place.
    pub dirs: u64,
    /// Symbolic links in place.
    pub symlinks: u64,
    /// Fifos, sockets and devices made.
    pub specials: u64,
    /// Fifos, sockets and devices left out because they were not asked for.
    pub specials_skipped: u64,
    /// Bytes of content in place.
    pub bytes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes of files that were there and already right.
    pub bytes_kept: u64,
    /// Paths that could not be restored.
    pub failures: Vec<RestoreFailure>,
    /// Metadata that could not be set.
    pub warnings: Vec<String>,
}

/// What all units share.
struct Shared<'a> {
    store: &'a Store,
    target: Target,
    policy: Policy,
    progress: &'a Progress,
    index: Snapshot,
    buffers: Pool,
    aligned: Aligned,
    readers: Mutex<Vec<ChunkReader<'a>>>,
    report: Mutex<RestoreReport>,
}

impl<'a> Shared<'a> {
    fn report(&self, change: impl FnOnce(&mut RestoreReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn fail(&self, path: &[u8], failure: Failure) {
        let path = String::from_utf8_lossy(path).into_owned();
        let Failure { reason, damage } = failure;
        self.report(|report| report.failures.push(RestoreFailure { path, reason, damage }));
    }

    /// Returns the paths that failed so far, and whether the store is damaged there.
    fn failed(&self) -> HashMap<String, bool> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.failures.iter().map(|failure| (failure.path.clone(), failure.damage)).collect()
    }

    /// Runs `work` with a chunk reader whose buffers are used again.
    fn with_reader<R>(&self, work: impl FnOnce(&mut ChunkReader<'a>) -> R) -> R {
        let pop = || self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut reader = pop().unwrap_or_else(|| ChunkReader::new(self.store, self.index.clone()));
        let result = work(&mut reader);
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        result
    }

    /// Gives something that is in place its metadata, and counts it.
    fn finish(&self, path: &[u8], entry: &Entry, kind: &Kind, file: Option<&std::fs::File>) {
        let meta = Meta {
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        };
        match self.target.tree().apply(path, file, &meta, &self.policy) {
            Ok(warnings) => self.report(|report| {
                report.warnings.extend(warnings.iter().map(ToString::to_string));
            }),
            Err(error) => self.fail(path, Failure::target(error)),
        }
        self.progress.item();
    }
}

/// Why a path could not be restored.
struct Failure {
    reason: String,
    damage: bool,
}

impl Failure {
    /// The store's side: damage.
    fn store(error: impl std::fmt::Display) -> Self {
        Self { reason: error.to_string(), damage: true }
    }

    /// The target's side.
    fn target(error: impl std::fmt::Display) -> Self {
        Self { reason: error.to_string(), damage: false }
    }
}

impl Store {
    /// Restores what `tree` points to into the directory `to`, which is new or empty unless
    /// `options.overwrite`. Each member becomes `to/member`; if the tree is a path inside a
    /// member, what lies there becomes `to/…` itself (a single file `to/name`).
    ///
    /// A path that cannot be restored does not stop the others; it is in the report. When this
    /// returns, everything restored is durable.
    ///
    /// # Errors
    /// The target cannot be used at all, or the work was interrupted.
    pub fn restore(
        &self,
        tree: &Tree,
        to: &Path,
        options: &RestoreOptions,
        progress: &Progress,
    ) -> Result<RestoreReport, Error> {
        let threads = match options.threads {
            // Twice the processors: a thread that writes waits for the device.
            0 => std::thread::available_parallelism().map_or(2, |count| usize::from(count) * 2),
            threads => threads,
        };
        for member in &tree.members {
            if !tree.path.is_empty() {
                self.entry(member, &tree.path)?;
            }
            progress.expect(member.artifact.counts.bytes);
        }
        let OptionsPolicy(policy) = options.into();
        let shared = Shared {
            store: self,
            target: Target::open(to, options.overwrite, &identity_of(tree, options))?,
            policy,
            progress,
            index: self.index()?.snapshot(),
            buffers: Pool::new((threads * 2 + 1).min(24), UNIT_BYTES),
            aligned: Aligned::default(),
            readers: Mutex::default(),
            report: Mutex::default(),
        };
        for (member, reason) in &tree.unreadable {
            shared.fail(member.as_bytes(), Failure::store(reason));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("restore-{n}"))
            .build()?;
        let mut later = Later::default();
        pool.in_place_scope_fifo(|units| {
            tree.members.iter().try_for_each(|member| {
                let mut batch = Batch { shared: &shared, units, files: Vec::new(), bytes: 0 };
                restore_member(&mut batch, tree, member, &mut later)?;
                batch.flush();
                Ok::<_, Error>(())
            })
        })?;
        later.finish(&shared);
        progress.check()?;
        shared.target.publish().map_err(Error::Target)?;
        Ok(shared.report.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns a name for what is restored and how: the same for the same only.
fn identity_of(tree: &Tree, options: &RestoreOptions) -> String {
    let mut hasher = blake3::Hasher::new();
    for member in &tree.members {
        hasher.update(&member.id.0).update(member.name.as_bytes()).update(&[0]);
    }
    let RestoreOptions { owner, set_id_bits, special_files, .. } = *options;
    hasher.update(&tree.path).update(&[owner, set_id_bits, special_files].map(u8::from));
    hasher.finalize().to_hex()[..32].to_owned()
}

struct OptionsPolicy(Policy);

impl From<&RestoreOptions> for OptionsPolicy {
    fn from(options: &RestoreOptions) -> Self {
        let RestoreOptions { owner, set_id_bits, special_files, .. } = *options;
        Self(Policy { owner, set_id_bits, special_files })
    }
}

/// What can only be done when all files are in place.
#[derive(Default)]
struct Later {
    /// Path, target path and entry of hard links.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Directories, parents first.
    dirs: Vec<(Vec<u8>, Entry)>,
}

impl Later {
    fn finish(self, shared: &Shared<'_>) {
        let tree = shared.target.tree();
        let failed = shared.failed();
        for (path, first) in &self.links {
            if let Some(damage) = failed.get(&*String::from_utf8_lossy(first)) {
                let reason = "the file that it is a name of could not be restored".to_owned();
                shared.fail(path, Failure { reason, damage: *damage });
                continue;
            }
            let linked = shared.target.clear(path).and_then(|()| tree.make_hard_link(first, path));
            match linked {
                Ok(()) => shared.report(|report| report.files += 1),
                Err(error) => shared.fail(path, Failure::target(error)),
            }
        }
        for (path, entry) in self.dirs.iter().rev() {
            shared.finish(path, entry, &Kind::Dir, None);
        }
    }
}

/// Small files on their way to a unit.
struct Batch<'a, 's, 'scope> {
    shared: &'scope Shared<'s>,
    units: &'a ScopeFifo<'scope>,
    files: Vec<(Vec<u8>, Entry)>,
    bytes: u64,
}

impl<'s, 'scope> Batch<'_, 's, 'scope>
where
    's: 'scope,
{
    fn file(&mut self, path: Vec<u8>, entry: Entry, bytes: u64) {
        if self.bytes + bytes > UNIT_BYTES as u64 || self.files.len() >= UNIT_FILES_MAX {
            self.flush();
        }
        self.files.push((path, entry));
        self.bytes += bytes;
    }

    fn flush(&mut self) {
        if self.files.is_empty() {
            return;
        }
        let (files, shared) = (std::mem::take(&mut self.files), self.shared);
        self.bytes = 0;
        let buffer = shared.buffers.take();
        self.units.spawn_fifo(move |_| files::run(shared, files, buffer));
    }
}

fn restore_member(
    batch: &mut Batch<'_, '_, '_>,
    tree: &Tree,
    member: &Member,
    later: &mut Later,
) -> Result<(), Error> {
    let shared = batch.shared;
    let place = Place::new(tree, member);
    if tree.path.is_empty() {
        shared.target.adopt(member.name.as_bytes());
    }
    let mut lost = false;
    for entry in shared.store.entries_below(&member.artifact, &tree.path)? {
        shared.progress.check()?;
        match entry {
            Ok(entry) => {
                if let Some(path) = place.of(&entry.path)
                    && (!lost || survives(shared, member, &path, &entry))
                {
                    restore_entry(batch, &place, path, entry, later)?;
                }
            }
            Err(fault) => {
                lost = true;
                lost_entries(shared, member, &fault);
            }
        }
    }
    Ok(())
}

/// After a page was lost: makes the directories whose entries were in it, and says whether an entry
/// can still be restored, which it cannot if it is a name of a file that was in it.
fn survives(shared: &Shared<'_>, member: &Member, path: &[u8], entry: &Entry) -> bool {
    // What fails here fails again with the entry itself.
    let _ = shared.target.make_parents(path);
    if let Node::HardLink(first) = &entry.node
        && let Err(error) = shared.store.content(member, first)
    {
        shared.fail(path, Failure::store(error));
        return false;
    }
    true
}

fn lost_entries(shared: &Shared<'_>, member: &Member, fault: &PageFault) {
    let path = [member.name.as_bytes(), b"/", &fault.first].concat();
    shared.fail(&path, Failure::store(format!("and what follows is lost: {fault}")));
}

fn restore_entry(
    batch: &mut Batch<'_, '_, '_>,
    place: &Place<'_>,
    path: Vec<u8>,
    entry: Entry,
    later: &mut Later,
) -> Result<(), Error> {
    let shared = batch.shared;
    if !place.member_is_root {
        if entry.path == place.root && matches!(entry.node, Node::Other(Kind::Dir)) {
            return Ok(());
        }
        shared.target.adopt(&path);
    }
    match &entry.node {
        Node::File(content) => {
            let bytes = content.bytes;
            if bytes >= LARGE_BYTES_MIN {
                batch.flush();
                large::restore(shared, batch.units, path, entry)?;
            } else {
                batch.file(path, entry, bytes);
            }
        }
        Node::HardLink(first) => match place.of(first) {
            Some(first) => later.links.push((path, first)),
            // The file itself lies outside of what is restored: its content is taken here.
            None => linked_from_outside(batch, place, path, entry)?,
        },
        Node::Other(Kind::Dir) => match shared.target.make_dir(&path) {
            Ok(()) => {
                shared.report(|report| report.dirs += 1);
                later.dirs.push((path, entry));
            }
            Err(error) => shared.fail(&path, Failure::target(error)),
        },
        Node::Other(kind) => {
            let kind = kind.clone();
            restore_other(shared, &path, &entry, &kind);
        }
    }
    Ok(())
}

fn linked_from_outside(
    batch: &mut Batch<'_, '_, '_>,
    place: &Place<'_>,
    path: Vec<u8>,
    mut entry: Entry,
) -> Result<(), Error> {
    let shared = batch.shared;
    match shared.store.content(place.member, &entry.path) {
        Ok(content) => {
            let large = content.bytes >= LARGE_BYTES_MIN;
            let Content { bytes, .. } = content;
            entry.node = Node::File(content);
            if large {
                batch.flush();
                large::restore(shared, batch.units, path, entry)?;
            } else {
                batch.file(path, entry, bytes);
            }
        }
        Err(error) => shared.fail(&path, Failure::store(error)),
    }
    Ok(())
}

/// Makes a symlink, or a special file if such are asked for.
fn restore_other(shared: &Shared<'_>, path: &[u8], entry: &Entry, kind: &Kind) {
    let tree = shared.target.tree();
    let symlink = matches!(kind, Kind::Symlink { .. });
    if !symlink && !shared.policy.special_files {
        return shared.report(|report| report.specials_skipped += 1);
    }
    let made = shared.target.clear(path).and_then(|()| match kind {
        Kind::Symlink { target } => tree.make_symlink(path, target),
        kind => tree.make_special(path, kind, entry.mode),
    });
    match made {
        Ok(()) => {
            shared.report(|report| {
                *(if symlink { &mut report.symlinks } else { &mut report.specials }) += 1;
            });
            shared.finish(path, entry, kind, None);
        }
        Err(error) => shared.fail(path, Failure::target(error)),
    }
}

/// Where the entries of a member go.
struct Place<'a> {
    member: &'a Member,
    /// The path of the reference, inside the member.
    root: &'a [u8],
    /// Where the entry at `root` goes: the member's name, or the name of a single file; empty if
    /// what lies below `root` goes into the target itself.
    prefix: Vec<u8>,
    member_is_root: bool,
}

impl<'a> Place<'a> {
    fn new(tree: &'a Tree, member: &'a Member) -> Self {
        let root = &tree.path[..];
        let prefix = if root.is_empty() { member.name.as_bytes().to_vec() } else { Vec::new() };
        Self { member, root, prefix, member_is_root: root.is_empty() }
    }

    /// Returns where the entry at `path` goes; `None` if it is not restored.
    fn of(&self, path: &[u8]) -> Option<Vec<u8>> {
        if !is_at_or_below(path, self.root) {
            return None;
        }
        let below = &path[self.root.len()..];
        let below = below.strip_prefix(b"/").unwrap_or(below);
        match (self.prefix.is_empty(), below.is_empty()) {
            (false, true) => Some(self.prefix.clone()),
            (false, false) => Some([&self.prefix[..], b"/", below].concat()),
            (true, false) => Some(below.to_vec()),
            // The reference's own entry; if it is a directory, it is the target itself.
            (true, true) => path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec),
        }
    }
}

/// Reads a range of what is there already; `false` if it is shorter.
fn read_existing(file: &std::fs::File, buffer: &mut [u8], offset: u64) -> bool {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset).is_ok()
}

/// Makes an error of the target's tree.
fn target_error(
    shared: &Shared<'_>,
    action: &'static str,
    path: &[u8],
    error: std::io::Error,
) -> fstree::Error {
    shared.target.tree().error(action, path, error)
}
