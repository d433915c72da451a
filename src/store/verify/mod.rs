//! Verify: is everything there, is it what it should be, and if not, what does that touch?
//!
//! ```text
//! log → manifests → list pages → chunks in the index → packs in the store   (structure)
//! packs' bytes against their names                                          (read)
//! every chunk decoded and digested                                          (full)
//! damaged chunks and pages → generations and paths                          (affects)
//! ```
//!
//! Damage is never an error here but a line of the report; what could not be looked at is told
//! apart from what is damaged.

mod affects;
mod deltas;
mod entries;
mod packs;
mod structure;

use std::collections::{HashMap, HashSet};

use super::keeping::{Covered, Lists, removal_key};
use super::{Error, Progress, Reference, Store};
use crate::backend;
use crate::digest::Digest;
use crate::index::Snapshot;
use crate::lease::Lease;
use crate::log::{Fault, Generation, Log};

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scope {
    /// Log, manifests, list pages, index, pack directories: everything but the bodies of chunks.
    Structure,
    /// And the stored bytes of packs against the packs' names: all of them, or this share of them
    /// (over 0 to 1), chosen anew each time.
    Read(f64),
    /// And every chunk, decoded and digested.
    Full,
}

/// What kind of thing is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// A record of the commit log.
    Commit,
    /// A manifest.
    Manifest,
    /// A list page.
    Page,
    /// A pack as a whole: missing, truncated, or not what its name says.
    Pack,
    /// A chunk in a pack.
    Chunk,
    /// A segment of the index; rebuilt from packs at the next use.
    Index,
}

impl DamageKind {
    /// Returns the name used in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Manifest => "manifest",
            Self::Page => "page",
            Self::Pack => "pack",
            Self::Chunk => "chunk",
            Self::Index => "index",
        }
    }
}

/// Something that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The object, and the place in it.
    pub object: String,
    /// What kind of thing.
    pub kind: DamageKind,
    /// What is wrong.
    pub reason: String,
    /// What it touches.
    pub affects: Vec<Affected>,
    /// How many more paths it touches than `affects` lists.
    pub affects_more: u64,
}

impl Damage {
    fn new(object: impl ToString, kind: DamageKind, reason: impl ToString) -> Self {
        Self {
            object: object.to_string(),
            kind,
            reason: reason.to_string(),
            affects: Vec::new(),
            affects_more: 0,
        }
    }

    /// Adds something that it touches, once.
    fn touch(&mut self, generation: &str, path: String) {
        /// Most that are listed of one damage.
        const AFFECTED_MAX: usize = 1000;
        let affected = Affected { generation: generation.to_owned(), path };
        if self.affects.last() == Some(&affected) {
            return;
        }
        if self.affects.len() < AFFECTED_MAX {
            self.affects.push(affected);
        } else {
            self.affects_more += 1;
        }
    }
}

/// Something that damage touches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Affected {
    /// The generation, `name@gN`.
    pub generation: String,
    /// `member/path`, or the member, or nothing for the whole generation.
    pub path: String,
}

/// Something that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The object.
    pub object: String,
    /// Why.
    pub reason: String,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Generations whose trees were walked.
    pub generations: u64,
    /// Objects looked at: commit records, manifests, pages, packs, index segments.
    pub objects_checked: u64,
    /// Chunks decoded and digested.
    pub chunks_checked: u64,
    /// Bytes read from packs.
    pub bytes_read: u64,
    /// What is damaged.
    pub damaged: Vec<Damage>,
    /// What could not be looked at.
    pub unreadable: Vec<Unreadable>,
}

impl VerifyReport {
    /// Says whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.unreadable.is_empty()
    }
}

/// A verification under way.
struct Verification<'s> {
    store: &'s Store,
    progress: &'s Progress,
    report: VerifyReport,
    /// The index as it is stored.
    stored: Snapshot,
    /// Segments of it that are damaged: nobody believes them.
    damaged_segments: HashSet<String>,
    /// The index as it was when the verification began, packs included that are missing.
    index: Snapshot,
    /// Chunks that manifests name and no pack has, with the lengths that they say.
    unknown: HashSet<(Digest, u64)>,
    /// Chunks that manifests name by a length that is not theirs, with their damage.
    misfits: HashMap<(Digest, u64), usize>,
    /// Chunks and pages that cannot be had, with the damage that is the cause (its place in the
    /// report).
    bad_chunks: HashMap<Digest, usize>,
    /// Packs that are missing or damaged, with their damage.
    bad_packs: HashMap<Digest, usize>,
    /// Packs that hold what was asked for; `None` means all.
    packs: Option<HashSet<Digest>>,
    /// Packs that are being removed: what is left of them is nobody's.
    gone: HashSet<Digest>,
}

impl Store {
    /// Verifies the store, or what the references point to if there are any.
    ///
    /// # Errors
    /// The work was interrupted, or a reference does not resolve. What is damaged is no error but
    /// in the report.
    pub fn verify(
        &self,
        scope: Scope,
        references: &[Reference],
        progress: &Progress,
    ) -> Result<VerifyReport, Error> {
        // Before the log is read: what it shows now stays until the end.
        let _lease = Lease::reader(self.backend());
        let log = self.log()?;
        let generations = if references.is_empty() {
            log.generations()
        } else {
            references
                .iter()
                .map(|reference| super::naming::resolve(&log, reference))
                .collect::<Result<_, _>>()?
        };
        let mut report = VerifyReport::default();
        let stored = if references.is_empty() {
            structure::index_segments(self, progress, &mut report)?
        } else {
            self.index()?.snapshot()
        };
        let damaged_segments: HashSet<_> =
            report.damaged.iter().map(|damage| damage.object.clone()).collect();
        if !damaged_segments.is_empty() {
            self.recover_index();
        }
        // From here on the index is whole: rebuilt from packs if it was not.
        let Covered { cover, removal, .. } = self.cover(false, Lists::Wanted)?;
        let mut verification = Verification {
            store: self,
            progress,
            report,
            stored,
            damaged_segments,
            index: self.index()?.snapshot(),
            unknown: HashSet::new(),
            misfits: HashMap::new(),
            bad_chunks: HashMap::new(),
            bad_packs: HashMap::new(),
            packs: (!references.is_empty()).then(HashSet::new),
            gone: removal.packs.gone,
        };
        if references.is_empty() {
            verification.log(&log);
        }
        verification.packs_present(&cover);
        verification.generations(&generations)?;
        verification.look_again();
        verification.packs(scope)?;
        verification.doubtful_chunks()?;
        verification.affects(&generations)?;
        Ok(verification.report)
    }
}

impl Verification<'_> {
    /// Adds damage and returns its place in the report.
    fn damage(&mut self, damage: Damage) -> usize {
        self.report.damaged.push(damage);
        self.report.damaged.len() - 1
    }

    fn unreadable(&mut self, object: impl ToString, reason: impl ToString) {
        let (object, reason) = (object.to_string(), reason.to_string());
        self.report.unreadable.push(Unreadable { object, reason });
    }

    /// Reports an error of the backend: an object that is missing or too short is damaged, one
    /// that the storage does not give could not be looked at. Returns the damage.
    fn backend_error(
        &mut self,
        object: impl ToString,
        kind: DamageKind,
        error: &backend::Error,
    ) -> Option<usize> {
        if error.is_damage() {
            return Some(self.damage(Damage::new(object, kind, error)));
        }
        self.unreadable(object, error);
        None
    }

    /// Checks the log, and finds the generations that damaged records hide.
    fn log(&mut self, log: &Log) {
        self.report.objects_checked += (log.records().len() + log.damaged().len()) as u64;
        for collection in log.state().collecting().filter(|collection| collection.is_certain) {
            self.report.objects_checked += 1;
            if let Err(error) = self.store.removal_list(&collection.list) {
                // Prune may have ended it meanwhile.
                let is_open = |log: Log| log.state().collecting().any(|open| open == collection);
                if self.store.log().is_ok_and(|log| !is_open(log)) {
                    continue;
                }
                // Writers refuse until the next prune has ended it.
                let object = removal_key(&collection.list);
                self.damage(Damage::new(object, DamageKind::Commit, error));
            }
        }
        let mut hidden = log.hidden();
        let mut lost_manifests = affects::unreferenced_generations(self.store, log);
        for damaged in log.damaged() {
            let object = crate::log::key(damaged.number);
            if let Fault::Unreadable { reason } = &damaged.fault {
                self.unreadable(object, reason);
                continue;
            }
            let mut damage = Damage::new(object, DamageKind::Commit, &damaged.fault);
            if let Fault::Generation { name, .. } = &damaged.fault {
                damage.touch(&name.to_string(), String::new());
                self.damage(damage);
                continue;
            }
            // What the record made visible is told by what is missing.
            if let Some((deployment, number)) = hidden.pop() {
                lost_manifests.retain(|(name, _)| *name != deployment);
                damage.touch(&format!("{deployment}@{number}"), String::new());
            } else if let Some((deployment, manifest)) = lost_manifests.pop() {
                let number = log.next_generation(&deployment).0.saturating_sub(1);
                damage.touch(&format!("{deployment}@g{number}"), format!("(manifest {manifest})"));
            }
            self.damage(damage);
        }
    }
}

/// Returns `name@gN`.
fn name_of(generation: &Generation) -> String {
    format!("{}@{}", generation.deployment, generation.number)
}
