//! Ingest: from source trees to durable packs and list pages, in one direction.
//!
//! ```text
//! walk (this thread)  →  units (rayon)        →  collect (one thread)      →  pack (one thread)
//! what is unchanged,     read, cut, digest,      in source order: packs,      publish, then an
//! what is read, where    drop the known,         list pages, entries,         index segment
//! large files are cut    encode and check        artifacts
//! ```
//!
//! Bounded: every unit holds one buffer of plain and one of stored bytes from two pools
//! (`limits::UNIT_BYTES`), and at most three packs are in memory. Order of writes: packs and list
//! pages, then index segments (I3); manifests are `promote`'s.
//! A source that cannot be read, or changes while it is read, fails its member; the others go on.

mod claims;
mod collect;
mod cut;
mod large;
mod packer;
mod pieces;
mod previous;
mod unit;
mod walk;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Sender, bounded};

use super::buffers::Pool;
use super::fence::Baseline;
use super::keeping::{Covered, Lists};
use super::promote::Staged;
use super::{Error, Progress, Store};
use crate::clock::UnixNanos;
use crate::digest::Algorithm;
use crate::format::manifest::Artifact;
use crate::fstree;
use crate::index::Index;
use crate::limits::UNIT_BYTES;
use claims::Claims;
pub(super) use collect::Collected;
use collect::{Collector, Outcome};

/// A member and where its artifact is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSource {
    /// The member's name.
    pub member: String,
    /// A directory or a single file.
    pub path: PathBuf,
}

/// How to ingest.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// The whole-content checksum to state. BLAKE3 is always computed; SHA-256 beside it if chosen.
    pub algorithm: Algorithm,
    /// Read every file, also those that look unchanged.
    pub reread: bool,
    /// Threads that read, hash and compress; 0 means one per processor.
    pub threads: usize,
    /// Encode a chunk that replaces another of the previous generation against that one, where
    /// this saves.
    pub deltas: bool,
    /// Directories (device, inode) that are left out, such as the store itself.
    pub exclude: Vec<(u64, u64)>,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Blake3,
            reread: false,
            threads: 0,
            deltas: true,
            exclude: Vec::new(),
        }
    }
}

/// Why a path of a source could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum SourceFault {
    /// The file system failed.
    #[error(transparent)]
    Tree(#[from] crate::fstree::Error),
    /// Reading failed.
    #[error("{}: cannot be read: {source}", display(.path))]
    Read {
        /// The path below the member's root.
        path: Vec<u8>,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file ended before the length that it had when it was opened.
    #[error("{}: shrank while it was read ({expected} bytes at first, end at {actual})", display(.path))]
    Shrank {
        /// The path below the member's root.
        path: Vec<u8>,
        /// Its length when it was opened.
        expected: u64,
        /// Where reading ended.
        actual: u64,
    },
    /// The file's length or times changed while it was read.
    #[error("{}: changed while it was read", display(.path))]
    Changed {
        /// The path below the member's root.
        path: Vec<u8>,
    },
    /// A path or attribute that the format cannot keep.
    #[error("{}: {source}", display(.path))]
    Unsupported {
        /// The path below the member's root.
        path: Vec<u8>,
        /// What is wrong.
        source: crate::format::Error,
    },
}

fn display(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}

/// What was ingested of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberSummary {
    /// Bytes of content that were read.
    pub bytes_read: u64,
    /// Files whose content was taken from the previous generation without reading.
    pub files_unchanged: u64,
}

/// What an ingest did, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestStats {
    /// Bytes of content that were read from sources.
    pub bytes_read: u64,
    /// Plain bytes of chunks that the store did not have.
    pub bytes_new: u64,
    /// Bytes written to the store: packs, list pages, index segments.
    pub bytes_stored: u64,
    /// Chunks that the store did not have.
    pub chunks_new: u64,
    /// Chunks that were read and were there already. Chunks of files that were not read do not
    /// count.
    pub chunks_reused: u64,
    /// Of these, chunks equal to the previous generation's at the same place, for which the index
    /// was not asked.
    pub chunks_in_place: u64,
    /// Chunks that went through the compressor.
    pub chunks_encoded: u64,
    /// Chunks stored as deltas.
    pub chunks_delta: u64,
    /// Bytes that this saved: what the bases take alone, less what the deltas take.
    pub bytes_saved_by_deltas: u64,
    /// Packs of chunks written.
    pub packs_written: u64,
    /// Packs of list pages written.
    pub page_packs_written: u64,
}

/// What all stages share.
struct Shared<'a> {
    store: &'a Store,
    index: &'a Index,
    options: &'a IngestOptions,
    progress: &'a Progress,
    claims: Claims,
    plain: Pool,
    stored: Pool,
    /// Plain bytes of bases, for units while they run.
    bases: Pool,
    /// Whether chunks of the previous generation need no look-up: false while packs are or may be
    /// lost, so that what they held is stored again.
    trust_previous: bool,
    /// Whether packs get names that no pack had before, because packs are under removal.
    salted: bool,
    /// A later stage has failed; nothing more needs to be produced.
    aborted: AtomicBool,
}

impl Shared<'_> {
    fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }
}

impl Store {
    /// Reads the sources and stores what is new. When it returns, packs, list pages and index
    /// segments are durable; nothing is visible yet.
    ///
    /// `previous` are the artifacts of the same members in an earlier generation, if there are.
    ///
    /// # Errors
    /// The storage failed, or the work was interrupted. A source that fails is no error here but
    /// a failed member of the result.
    pub fn ingest(
        &self,
        sources: &[MemberSource],
        previous: &[Option<Artifact>],
        options: &IngestOptions,
        progress: &Progress,
    ) -> Result<Staged<'_>, Error> {
        let known = previous.iter().any(Option::is_some);
        let baseline = if known { Baseline::NONE } else { self.baseline()? };
        self.ingest_since(baseline, sources, previous, options, progress)
    }

    /// Returns the baseline of a writer that begins to choose now what to reuse.
    pub(super) fn baseline(&self) -> Result<Baseline, Error> {
        Ok(Baseline(self.log()?.position().number))
    }

    /// As [`Store::ingest`], with `previous` chosen after `baseline`.
    pub(super) fn ingest_since(
        &self,
        baseline: Baseline,
        sources: &[MemberSource],
        previous: &[Option<Artifact>],
        options: &IngestOptions,
        progress: &Progress,
    ) -> Result<Staged<'_>, Error> {
        let lease = self.writer()?;
        let Covered { cover, removal, .. } = self.cover(true, Lists::Needed)?;
        let index = self.index()?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let units = (threads * 2 + 1).min(24);
        let maybe_lost = !cover.missing.is_empty()
            || !cover.faults.is_empty()
            || self.rebuilt.load(Ordering::Relaxed);
        let shared = Shared {
            store: self,
            index,
            options,
            progress,
            claims: Claims::default(),
            plain: Pool::new(units, UNIT_BYTES),
            stored: Pool::new(units, UNIT_BYTES),
            bases: Pool::new(threads, UNIT_BYTES),
            trust_previous: !maybe_lost,
            salted: !(removal.packs.gone.is_empty() && removal.packs.condemned.is_empty()),
            aborted: AtomicBool::new(false),
        };
        let started = UnixNanos::now();
        let (opened, failed) = walk::open_sources(sources);
        let collected = run(&shared, threads, started, &opened, failed, previous)?;
        self.merge_index()?;
        progress.check()?;
        Ok(Staged::new(self, lease, baseline, started, options.algorithm, collected))
    }
}

/// Runs all stages to their end.
fn run(
    shared: &Shared<'_>,
    threads: usize,
    started: UnixNanos,
    opened: &[walk::Opened],
    failed: Vec<Option<fstree::Error>>,
    previous: &[Option<Artifact>],
) -> Result<Collected, Error> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|n| format!("ingest-{n}"))
        .build()?;
    // Outcomes are bounded by the buffers that they hold; the few without are small.
    let (outcomes, arriving) = bounded(1024);
    let (packs, packing) = bounded(1);
    let (spent, fresh) = bounded(4);
    std::thread::scope(|scope| {
        let packer = scope.spawn(move || packer::run(shared, &packing, &spent));
        let collector = scope.spawn(move || {
            let result =
                Collector::new(shared, started, opened, previous, packs, fresh).run(&arriving);
            if result.is_err() {
                shared.aborted.store(true, Ordering::Relaxed);
                // Let the units before this stage finish; they hold buffers that others wait for.
                arriving.iter().for_each(drop);
            }
            result
        });
        let walked = pool.in_place_scope_fifo(|units| {
            let sequence = Sequence { next: 0, outcomes };
            walk::run(shared, units, sequence, opened, failed, previous)
        });
        let collected = collector.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let packed = packer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The cause lies in the last stage that failed.
        let packed = packed?;
        let mut collected = collected?;
        walked?;
        collected.add_packed(packed);
        Ok(collected)
    })
}

/// Numbers outcomes in source order; the collector puts them back into it.
struct Sequence {
    next: u64,
    outcomes: Sender<(u64, Outcome)>,
}

impl Sequence {
    /// Returns the place of the next outcome.
    fn take(&mut self) -> Slot {
        self.next += 1;
        Slot { number: self.next - 1, outcomes: self.outcomes.clone() }
    }

    /// Sends an outcome that needs no work.
    fn send(&mut self, outcome: Outcome) {
        self.take().send(outcome);
    }
}

/// The place of one outcome. A unit must send exactly one.
struct Slot {
    number: u64,
    outcomes: Sender<(u64, Outcome)>,
}

impl Slot {
    fn send(self, outcome: Outcome) {
        // The collector receives until all senders are gone; if it died, its error is reported.
        let _ = self.outcomes.send((self.number, outcome));
    }
}
